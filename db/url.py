"""The spellings of a database's URL."""

from __future__ import annotations

import re

import psycopg
from psycopg.conninfo import conninfo_to_dict

SCHEME = re.compile(r"^(postgresql|postgres)(\+[a-z0-9]+)?://")

# A password's @ or / that is not encoded moves the rest of the password to where error messages name hosts and ports.
MISPLACED = {"host": re.compile("[^,]@"), "port": re.compile("[^0-9,]"), "dbname": re.compile("@")}


def to_conninfo(url: str) -> str:
    """The URL as libpq reads it: `postgres://`, and SQLAlchemy's `postgresql+driver://`, become `postgresql://`.

    All that follows passes through as it is: TLS, several hosts, time-outs.

    Raises:
        ValueError: it is no such URL. The message repeats nothing of it, where libpq's may quote the password.
    """
    if not SCHEME.match(url):
        raise ValueError("must begin with postgresql:// or postgres://")
    conninfo = SCHEME.sub("postgresql://", url, count=1)
    try:
        parameters = conninfo_to_dict(conninfo)
    except (psycopg.Error, UnicodeError):
        raise ValueError(
            "is not a URL that libpq understands: it has an unknown parameter, or a character that must be encoded"
        ) from None
    if any(pattern.search(str(parameters.get(name, ""))) for name, pattern in MISPLACED.items()):
        raise ValueError("has a user or password in which @, / or : must be encoded, as %40, %2F or %3A")
    return conninfo
