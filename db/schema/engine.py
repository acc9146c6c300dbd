"""How migrations and checks connect: synchronously, with one connection for each use.

The service's requests do not come here: they use the pool in `db.wire`.
"""

from __future__ import annotations

import psycopg
import sqlalchemy
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import Engine, NullPool, event, text
from sqlalchemy.exc import DBAPIError

from db.statements import ISOLATION, SEARCH_PATH
from db.url import CLIENT_ENCODING, to_conninfo

CONNECT_SECONDS = 10
"""The time-out for each host of the URL, unless the URL sets `connect_timeout`."""

PINS = f"select set_config('search_path', {SEARCH_PATH}, true), set_config('quote_all_identifiers', 'off', true)"
"""How names are looked up and written, for one transaction: a pooler gives the session to others after it."""


def connect(url: str) -> psycopg.Connection:
    """A new connection of psycopg. libpq reads the URL, so every parameter that libpq knows may be in it.

    Raises:
        psycopg.OperationalError: the database cannot be reached, or refuses the login.
    """
    parameters = {"connect_timeout": CONNECT_SECONDS} | conninfo_to_dict(to_conninfo(url))
    # psycopg must not prepare statements by itself: a pooler between here and the server may lose them.
    return psycopg.connect(make_conninfo("", **parameters), prepare_threshold=None, client_encoding=CLIENT_ENCODING)


def create_engine(url: str) -> Engine:
    """SQLAlchemy's engine over `connect`, whose transactions begin with `PINS`. Each connection is used once."""
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: connect(url), poolclass=NullPool, isolation_level=ISOLATION.upper()
    )
    event.listen(engine, "begin", lambda connection: connection.execute(text(PINS)))
    return engine


def explain(error: DBAPIError) -> str:
    """The message of libpq or the server, in one line. It may name the host, never the password."""
    said = error.orig.diag.message_primary if isinstance(error.orig, psycopg.Error) else None
    return " ".join((said or str(error.orig)).split())
