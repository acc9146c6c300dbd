"""Alembic's environment, which Alembic runs for each of its commands.

`db.schema.migrate` hands over a connection, or asks for the SQL only. Without either, a developer uses Alembic's own
command line: then the migrations run on `DATABASE_URL`.
"""

from __future__ import annotations

import os

from alembic import context
from sqlalchemy import Connection

from db.models import Base
from db.schema.engine import create_engine
from db.schema.migrate import MIGRATION_GUARDS


def run_migrations(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()


def print_migrations() -> None:
    # With its default parameters, SQLAlchemy would double each percent sign, and psql would read them doubled.
    context.configure(dialect_name="postgresql", dialect_opts={"paramstyle": "named"})
    with context.begin_transaction():
        for guard in (*MIGRATION_GUARDS, f"set local search_path = {context.config.attributes['search_path']}"):
            context.execute(guard)
        context.run_migrations()


if context.is_offline_mode():
    print_migrations()
elif "connection" in context.config.attributes:
    run_migrations(context.config.attributes["connection"])
else:
    # Alembic's own command line, for example `alembic revision`.
    with create_engine(os.environ["DATABASE_URL"]).connect() as own_connection:
        run_migrations(own_connection)
