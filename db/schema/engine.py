"""How migrations and checks connect: synchronously, with one connection for each use.

The service's requests do not come here: they use the pool in `db.wire`.
"""

from __future__ import annotations

import psycopg
import sqlalchemy
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import Engine, NullPool
from sqlalchemy.exc import DBAPIError

from db.url import to_conninfo

CONNECT_SECONDS = 10
"""The time-out for each host of the URL, unless the URL sets `connect_timeout`."""


def connect(url: str) -> psycopg.Connection:
    """A new connection of psycopg. libpq reads the URL, so every parameter that libpq knows may be in it.

    Raises:
        psycopg.OperationalError: the database cannot be reached, or refuses the login.
    """
    parameters = {"connect_timeout": CONNECT_SECONDS} | conninfo_to_dict(to_conninfo(url))
    # psycopg must not prepare statements by itself: a pooler between here and the server may lose them.
    return psycopg.connect(make_conninfo("", **parameters), prepare_threshold=None)


def create_engine(url: str) -> Engine:
    """SQLAlchemy's engine over `connect`. It closes each connection after its use."""
    return sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: connect(url), poolclass=NullPool)


def explain(error: DBAPIError) -> str:
    """The message of libpq or the server, in one line. It may name the host, never the password."""
    said = error.orig.diag.message_primary if isinstance(error.orig, psycopg.Error) else None
    return " ".join((said or str(error.orig)).split())
