"""Bytes, limits, phases, processes, and who is let in.

protocol    one connection: its phases; what a client may send, and when
transport   what a connection writes through
server      one process: its configuration, how it begins and ends
workers     several processes on one port
admission   who is let in
middleware  what happens to every request
"""
