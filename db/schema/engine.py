"""How migrations and checks connect: SQLAlchemy on psycopg, one connection for each use."""

from __future__ import annotations

import psycopg
import sqlalchemy
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import Engine, NullPool
from sqlalchemy.exc import DBAPIError

from db.url import to_conninfo

CONNECT_SECONDS = 10


def create_engine(url: str) -> Engine:
    """An engine for migrations and checks; libpq reads the URL, so that it may say all that libpq understands."""
    return sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: connect(url), poolclass=NullPool)


def connect(url: str) -> psycopg.Connection:
    """A connection of psycopg's own, as the engine makes them."""
    parameters = {"connect_timeout": CONNECT_SECONDS} | conninfo_to_dict(to_conninfo(url))
    # Statements are not prepared, since a pooler between here and the server may not know how.
    return psycopg.connect(make_conninfo("", **parameters), prepare_threshold=None)


def explain(error: DBAPIError) -> str:
    """What libpq or the server said, in one line; it may name the host, but not the password."""
    said = error.orig.diag.message_primary if isinstance(error.orig, psycopg.Error) else None
    return " ".join((said or str(error.orig)).split())
