"""The spellings of a database's URL."""

from __future__ import annotations

import re

SCHEME = re.compile(r"^(postgresql|postgres)(\+[a-z0-9]+)?://")


def to_conninfo(url: str) -> str:
    """The URL as libpq reads it: `postgres://`, and SQLAlchemy's `postgresql+driver://`, become `postgresql://`.

    All that follows passes through as it is: TLS, several hosts, time-outs.

    Raises:
        ValueError: another scheme. The message does not repeat the URL, which may hold a password.
    """
    if not SCHEME.match(url):
        raise ValueError("the URL must begin with postgresql:// or postgres://")
    return SCHEME.sub("postgresql://", url, count=1)
