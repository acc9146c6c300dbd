"""Users and tasks in PostgreSQL. Knows nothing of HTTP.

tasks        the operations on one user's tasks
statements   the SQL of each operation, compiled once
task_ids     makes the ids of tasks, which sort by time
wire/        sends a statement with the user's claims, in one round trip
models       the tables, as SQLAlchemy maps them
schema/      creates and upgrades the tables, and checks a database before the service uses it
migrations/  the versions of the schema (Alembic)
url          reads `DATABASE_URL`
embedded     a PostgreSQL server for trials and tests

Words that these modules share:

claims     What a transaction tells PostgreSQL before its statement: the role, the user's id, a time-out and the time
           zone. Row-level security compares each row's owner with this user id.
provision  To create a user's row in `users` with the first task that they create (`PROVISION_USERS`).
record     To write the email and name of a user's token to that row, if they differ.
"""
