"""Reads `DATABASE_URL`, in any of its usual spellings, without repeating a password in an error message."""

from __future__ import annotations

import re
from ipaddress import IPv6Address

import psycopg
from psycopg.conninfo import conninfo_to_dict

CLIENT_ENCODING = "UTF8"
"""What every connection speaks, whatever PGCLIENTENCODING, the URL, the role or the database say."""

SCHEME = re.compile(r"^(postgresql|postgres)(\+[a-z0-9]+)?://")

# These patterns find a rest of a password in another part of the URL. If an @ or / of a password is not
# percent-encoded, libpq takes what follows it for a host, a port or a database, which its error messages show.
MISPLACED = {"host": re.compile("[^,]@"), "port": re.compile("[^0-9,]"), "dbname": re.compile("@")}


def to_conninfo(url: str) -> str:
    """The URL as libpq reads it: `postgres://`, and SQLAlchemy's `postgresql+driver://`, become `postgresql://`.

    The rest of the URL stays as it is, for example several hosts, TLS and time-outs.

    Raises:
        ValueError: libpq cannot read the URL, or a part of its password would be shown. The message follows the name of
            the setting, and quotes nothing of the URL (libpq's own message may quote the password).
    """
    if not SCHEME.match(url):
        raise ValueError("must begin with postgresql:// or postgres://")
    conninfo = SCHEME.sub("postgresql://", url, count=1)
    try:
        parameters = conninfo_to_dict(conninfo)
    except (psycopg.Error, UnicodeError):
        raise ValueError(
            "is not a URL that libpq can read: correct an unknown parameter, or percent-encode special characters"
        ) from None
    if _lacks_brackets(str(parameters.get("host", "")), str(parameters.get("port", ""))):
        raise ValueError("has an IPv6 address without brackets: write it as [::1], or [::1]:5432")
    if any(pattern.search(str(parameters.get(name, ""))) for name, pattern in MISPLACED.items()):
        raise ValueError("has a user or password with @, / or : in it: write these as %40, %2F or %3A")
    return conninfo


def _lacks_brackets(host: str, port: str) -> bool:
    """Whether an IPv6 address was taken apart at its first colon."""
    if ":" in host or ":" not in port:
        return False
    whole = f"{host}:{port}"
    for text in (whole, whole.rpartition(":")[0]):
        try:
            IPv6Address(text)
        except ValueError:
            continue
        return True
    return False
