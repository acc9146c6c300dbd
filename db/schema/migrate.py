"""Creates, upgrades and downgrades the schema of a database. Each migration runs in one transaction.

If a migration fails, its transaction is rolled back and the database stays as it was.
"""

from __future__ import annotations

import logging
import random
import time
from io import StringIO
from typing import TYPE_CHECKING

from psycopg import errors
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from db.schema import citus
from db.schema.engine import create_engine
from db.schema.fitness import DatabaseUnfit, unfitness
from db.schema.version import SchemaMismatch, current, suffices

if TYPE_CHECKING:
    from alembic.config import Config

LOCK_SECONDS = 1
"""How long a migration waits for a lock. While it waits, every later transaction on that table waits behind it."""

LOCK_ATTEMPTS = 30
LOCK_PAUSE_SECONDS = (1.0, 3.0)
"""The shortest and the longest pause between two attempts; each is random."""

MIGRATION_GUARDS = (
    f"set local lock_timeout = '{LOCK_SECONDS}s'",
    # Several instances may start at once: one migrates, the others wait and find nothing to do.
    "select pg_advisory_xact_lock(hashtext('taskpact.migrations'))",
)
"""The first statements of each migration's transaction."""

logger = logging.getLogger("taskpact")


class MigrationBlocked(Exception):
    """Other transactions held the locks that the migration needs, at every attempt. Nothing was changed."""


def migrate(url: str, revision: str = "head") -> str | None:
    """Brings the schema to a version, up or down, in one transaction, and returns the version it then has.

    `revision` is a version, `head` for the newest one of this release, or `base` for no schema at all. With `head`, a
    database that a newer release has migrated stays as it is.

    If the database has Citus, `head` distributes the tables, and any other revision makes them plain tables again.

    An attempt that does not get its locks in `LOCK_SECONDS` is rolled back and repeated after a pause, so that other
    transactions can go on meanwhile.

    Raises:
        sqlalchemy.exc.DBAPIError: the database cannot be reached, or refuses a statement.
        SchemaMismatch: the database's version, or `revision`, is unknown to this release.
        DatabaseUnfit: the database cannot be Taskpact's.
        MigrationBlocked: no attempt got the locks.
    """
    for attempt in range(1, LOCK_ATTEMPTS + 1):
        try:
            return _migrate(url, revision)
        except DBAPIError as error:
            if not isinstance(error.orig, errors.LockNotAvailable | errors.DeadlockDetected):
                raise
            if attempt < LOCK_ATTEMPTS:
                logger.warning("Migration attempt %d failed: other transactions hold its locks. Trying again.", attempt)
                time.sleep(random.uniform(*LOCK_PAUSE_SECONDS))  # noqa: S311 - nothing to guess
    raise MigrationBlocked(
        "other transactions hold locks that the migration needs: end them (pg_stat_activity shows them), and try again;"
        " nothing was changed"
    )


def migration_sql(url: str) -> str:
    """The SQL that `migrate` would run to bring the database to the newest version, for psql. It changes nothing.

    The SQL is empty if there is nothing to do.

    Raises:
        sqlalchemy.exc.DBAPIError: the database cannot be reached.
        SchemaMismatch: its version is unknown to this release.
        DatabaseUnfit: the database cannot be Taskpact's.
    """
    from alembic import command  # noqa: PLC0415 - see _alembic
    from alembic.util import CommandError  # noqa: PLC0415

    with create_engine(url).connect() as connection:
        if reason := unfitness(connection):
            raise DatabaseUnfit(reason)
        version = current(connection)
        search_path = connection.scalar(text("show search_path"))
        must_distribute = citus.is_installed(connection) and (
            not citus.is_distributed(connection) or citus.forces_policies(connection)
        )
    output = StringIO()
    try:
        if not suffices(version):
            config = _alembic(output)
            config.attributes["search_path"] = search_path
            command.upgrade(config, f"{version or 'base'}:head", sql=True)
    except CommandError as error:
        raise SchemaMismatch(str(error)) from None
    if must_distribute:
        output.write(f"BEGIN;\nSET LOCAL search_path = {search_path};\n{citus.DISTRIBUTE};\nCOMMIT;\n")
    return output.getvalue()


def _migrate(url: str, revision: str) -> str | None:
    """One attempt of `migrate`."""
    from alembic.util import CommandError  # noqa: PLC0415 - see _alembic

    with create_engine(url).begin() as connection:
        for guard in MIGRATION_GUARDS:
            connection.execute(text(guard))
        if reason := unfitness(connection):
            raise DatabaseUnfit(reason)
        try:
            if revision == "head":
                _upgrade_to_head(connection)
            else:
                _move_to(connection, revision)
        except CommandError as error:
            raise SchemaMismatch(str(error)) from None
        return current(connection)


def _upgrade_to_head(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 - see _alembic

    if not suffices(current(connection)):
        command.upgrade(_alembic(connection=connection), "head")
    if citus.is_installed(connection):
        connection.execute(text(citus.DISTRIBUTE))


def _move_to(connection: Connection, revision: str) -> None:
    from alembic import command  # noqa: PLC0415 - see _alembic

    if citus.is_installed(connection):
        connection.execute(text(citus.UNDISTRIBUTE))
    config = _alembic(connection=connection)
    if revision == "base":
        command.downgrade(config, revision)
        # Alembic would leave its own table behind, without a row.
        connection.execute(text("drop table alembic_version"))
    elif revision < (current(connection) or ""):
        command.downgrade(config, revision)
    else:
        command.upgrade(config, revision)


def _alembic(output: StringIO | None = None, connection: Connection | None = None) -> Config:
    """Alembic's configuration: migrations run on `connection`, or are written to `output` as SQL."""
    # Alembic takes 8 MiB of memory. It is imported only where it is used, so that a serving process does without.
    from alembic.config import Config  # noqa: PLC0415

    config = Config(output_buffer=output)
    config.set_main_option("script_location", "db:migrations")
    if connection is not None:
        config.attributes["connection"] = connection
    return config
