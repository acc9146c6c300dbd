"""The migrations: Alembic's environment and one file for each version of the schema. `db.schema.migrate` runs them.

The SQL of a released migration is never changed. A new one keeps everything that the release before it uses, because
that release goes on serving while the migration runs. `docs/operations.md` says how an upgrade goes.
"""
