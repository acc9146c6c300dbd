"""Which version of the schema a database has, and whether this service runs on it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import psycopg
from sqlalchemy import Connection, text

from db.statements import SCHEMA_VERSION
from db.wire.pool import Pool

VERSIONS = Path(__file__).parents[1] / "migrations" / "versions"
"""The folder of the migrations; each file's name begins with its version."""

VERSION_FORMAT = re.compile("[0-9]{4}")


class SchemaMismatch(Exception):
    """The database has an older version than the service needs, or one that this release does not know. Becomes 503."""


@cache
def head() -> str:
    """The newest version of this release, which the service needs."""
    return max(path.name for path in VERSIONS.glob("[0-9]*.py")).partition("_")[0]


def current(connection: Connection) -> str | None:
    """The version of the database's schema, None if it has no schema."""
    if connection.scalar(text("select to_regclass('alembic_version')")) is None:
        return None
    version: str | None = connection.scalar(text("select version_num from alembic_version"))
    return version


def suffices(version: str | None) -> bool:
    """Whether this service runs on that version of the schema: its own or a newer one.

    A newer one suffices because a migration keeps everything that the release before it uses. So releases are upgraded
    one at a time (docs/operations.md).
    """
    return version is not None and VERSION_FORMAT.fullmatch(version) is not None and version >= head()


async def check_version(pool: Pool) -> None:
    """Reads the version over the service's own pool, with a statement like those of the operations.

    Raises:
        DatabaseUnavailable: the database does not answer (503).
        SchemaMismatch: its version does not suffice, or cannot be read (503).
    """
    try:
        rows = await pool.run("", SCHEMA_VERSION, ())
    except psycopg.Error as error:
        raise SchemaMismatch from error
    if not any(suffices(version.decode()) for (version,) in rows if version is not None):
        raise SchemaMismatch
