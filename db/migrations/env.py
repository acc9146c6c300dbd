"""Alembic's environment: migrations run on the connection that `db.schema` hands over, or on `DATABASE_URL`."""

from __future__ import annotations

import os

from alembic import context
from sqlalchemy import Connection

from db.models import Base
from db.schema import create_engine


def run_migrations(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()


if "connection" in context.config.attributes:
    run_migrations(context.config.attributes["connection"])
else:
    # Alembic's own command line, as a developer uses it to write a migration.
    with create_engine(os.environ["DATABASE_URL"]).connect() as own_connection:
        run_migrations(own_connection)
