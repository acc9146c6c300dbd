"""Users and tasks in PostgreSQL. Knows nothing of HTTP.

models       the tables, as SQLAlchemy maps them
migrations/  how a database gets them (Alembic)
citus        what a sharded database needs beside that
schema       migrate, and what must hold before the service runs
statements   each operation's SQL, compiled once
connection   one server connection: claims and statement in one round trip
sharing      writes of different users, in one transaction
pool         a bounded number of connections
tasks        the operations on one user's tasks
url          the spellings of a database's URL
embedded     a PostgreSQL of our own, for trials
"""
