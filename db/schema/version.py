"""Which version of the schema a database has, and whether this service runs on it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from sqlalchemy import Connection, text

VERSIONS = Path(__file__).parents[1] / "migrations" / "versions"

VERSION = re.compile("[0-9]{4}")


class SchemaMismatch(Exception):
    """The database's schema is not one that this service knows, or not the one that it needs. Becomes 503."""


@cache
def head() -> str:
    """The newest version of the schema, the one that this service needs; versions are in the order of their names."""
    return max(path.name for path in VERSIONS.glob("[0-9]*.py")).partition("_")[0]


def suffices(version: str | None) -> bool:
    """Whether this service runs on that version of the schema: its own or a newer one.

    A migration changes nothing that the release before it needs. What nobody needs any more is removed by a later one.
    """
    return version is not None and VERSION.fullmatch(version) is not None and version >= head()


def current(connection: Connection) -> str | None:
    """The version that the database's schema is at, None where it has none."""
    if connection.scalar(text("select to_regclass('alembic_version')")) is None:
        return None
    version: str | None = connection.scalar(text("select version_num from alembic_version"))
    return version
