"""Alembic's environment: migrations run on the connection that `db.schema.migrate` hands over, or on `DATABASE_URL`."""

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
    # With named parameters, SQLAlchemy does not double the percent signs of what nobody executes.
    context.configure(dialect_name="postgresql", dialect_opts={"paramstyle": "named"})
    with context.begin_transaction():
        for guard in MIGRATION_GUARDS:
            context.execute(guard)
        context.run_migrations()


if context.is_offline_mode():
    print_migrations()
elif "connection" in context.config.attributes:
    run_migrations(context.config.attributes["connection"])
else:
    # Alembic's own command line, as a developer uses it to write a migration.
    with create_engine(os.environ["DATABASE_URL"]).connect() as own_connection:
        run_migrations(own_connection)
