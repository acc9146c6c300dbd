"""Alembic's environment: migrations run on the connection that `db.schema` hands over, or on `DATABASE_URL`."""

from __future__ import annotations

import os

from alembic import context

from db.models import Base
from db.schema import create_engine


def run_migrations() -> None:
    connection = context.config.attributes.get("connection")
    if connection is None:
        # Alembic's own command line, as a developer uses it to write a migration.
        with create_engine(os.environ["DATABASE_URL"]).connect() as connection:
            context.configure(connection=connection, target_metadata=Base.metadata)
            with context.begin_transaction():
                context.run_migrations()
            return
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()


run_migrations()
