"""Bytes, limits, phases, processes, and who is let in.

protocol    one connection: its phases, and how long each may take
messages    how its bytes become requests; how many there may be
cycle       one request and its answer
heads       what a request's head must say
refusals    answers to what never becomes a request
transport   what a connection writes through
memory      what all connections of a process may hold
listeners   where the service listens
server      one process: its configuration, how it begins and ends
workers     several processes on one port
admission   who is let in
middleware  what happens to every request
"""
