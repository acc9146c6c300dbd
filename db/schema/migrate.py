"""How a database gets the schema: migrations, up and down."""

from __future__ import annotations

import logging
import random
import time
from io import StringIO
from typing import TYPE_CHECKING

from psycopg import errors
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from db.schema import citus
from db.schema.engine import create_engine
from db.schema.version import SchemaMismatch, current, suffices

if TYPE_CHECKING:
    from alembic.config import Config

LOCK_SECONDS = 1
"""How long a migration may wait for a lock: meanwhile, whoever comes after it waits too."""

LOCK_ATTEMPTS = 30
LOCK_PAUSE_SECONDS = (1.0, 3.0)

MIGRATION_GUARDS = (
    f"set local lock_timeout = '{LOCK_SECONDS}s'",
    # Several instances may start at once: one migrates, the others wait and find nothing to do.
    "select pg_advisory_xact_lock(hashtext('taskpact.migrations'))",
)
"""What a migration's transaction begins with."""

logger = logging.getLogger("taskpact")


class MigrationBlocked(Exception):
    """Others hold locks that the migration needs, for too long. Nothing was changed."""


def migrate(url: str, revision: str = "head") -> str | None:
    """Brings the database up to a version of the schema (or down, if it is beyond it), in one transaction; tells it.

    One that a newer release has migrated stays as it is. With Citus, the newest version's tables are distributed, those
    of an older one plain. Where others hold locks that the migration needs, it gives up
    soon, so that nobody waits behind it, and tries again.

    Raises:
        sqlalchemy.exc.DBAPIError: the database refused, or cannot be reached.
        SchemaMismatch: one of the versions is none of ours.
        MigrationBlocked: no attempt got the locks.
    """
    for attempt in range(1, LOCK_ATTEMPTS + 1):
        try:
            return _migrate(url, revision)
        except DBAPIError as error:
            if not isinstance(error.orig, errors.LockNotAvailable | errors.DeadlockDetected):
                raise
            if attempt < LOCK_ATTEMPTS:
                logger.warning("The migration waits for other transactions: attempt %d failed.", attempt)
                time.sleep(random.uniform(*LOCK_PAUSE_SECONDS))  # noqa: S311 - nothing to guess
    raise MigrationBlocked(
        "other transactions hold locks that the migration needs: end them (pg_stat_activity shows them), and try again;"
        " nothing was changed"
    )


def migration_sql(url: str) -> str:
    """The SQL that would bring the database to this service's version, for psql; empty where it is there.

    Raises:
        sqlalchemy.exc.DBAPIError: the database cannot be reached.
        SchemaMismatch: its version is none of ours.
    """
    from alembic import command  # noqa: PLC0415 - as below
    from alembic.util import CommandError  # noqa: PLC0415

    with create_engine(url).connect() as connection:
        at = current(connection)
        distribute = citus.is_installed(connection) and not citus.is_distributed(connection)
    output = StringIO()
    try:
        if not suffices(at):
            command.upgrade(_alembic(output), f"{at or 'base'}:head", sql=True)
    except CommandError as error:
        raise SchemaMismatch(str(error)) from None
    if distribute:
        output.write(f"BEGIN;\n{citus.DISTRIBUTE};\nCOMMIT;\n")
    return output.getvalue()


def _alembic(output: StringIO | None = None) -> Config:
    # Alembic takes 8 MiB, which a process that serves does without.
    from alembic.config import Config  # noqa: PLC0415

    config = Config(output_buffer=output)
    config.set_main_option("script_location", "db:migrations")
    return config


def _migrate(url: str, revision: str) -> str | None:
    from alembic import command  # noqa: PLC0415 - as above
    from alembic.util import CommandError  # noqa: PLC0415

    config = _alembic()
    with create_engine(url).begin() as connection:
        config.attributes["connection"] = connection
        for guard in MIGRATION_GUARDS:
            connection.execute(text(guard))
        at = current(connection)
        has_citus = citus.is_installed(connection)
        try:
            if revision == "head":
                if not suffices(at):
                    command.upgrade(config, revision)
                if has_citus:
                    connection.execute(text(citus.DISTRIBUTE))
                return current(connection)
            if has_citus:
                connection.execute(text(citus.UNDISTRIBUTE))
            if revision == "base":
                command.downgrade(config, revision)
                # Alembic's own table would stay, empty.
                connection.execute(text("drop table alembic_version"))
            elif revision < (at or ""):
                command.downgrade(config, revision)
            else:
                command.upgrade(config, revision)
        except CommandError as error:
            raise SchemaMismatch(str(error)) from None
        return current(connection)
