"""The schema of a database: how it gets there, and what must hold before the service runs.

version   which version it is at, and whether that suffices
engine    how the others connect
migrate   brings it to a version, up and down
checks    what must hold
citus     what a sharded database needs beside that
"""
