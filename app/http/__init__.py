"""Bytes, limits, phases, processes, and who is let in.

protocol    one connection: what a client may send, and when
server      one process: how it begins and ends
workers     several processes on one port
admission   who is let in
middleware  what happens to every request
"""
