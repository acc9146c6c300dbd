"""What a client accepts, of media types and content codings, and how much it likes each (RFC 9110, section 12.4)."""

from __future__ import annotations

import re
from functools import lru_cache

NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+(/[!#$%&'*+.^_`|~0-9a-z-]+)?")
WEIGHT = re.compile(r"q=([01]|[01]?\.[0-9]{1,9}|[01]\.)")


REMEMBERED_BYTES = 256
"""Longer fields than clients send are read anew each time, so that what is remembered stays small."""


def weights(field: bytes) -> dict[str, float]:
    """The members of a list by name, in lower case, each with its weight; what is malformed is left out.

    Parameters beside the weight are not looked at: no media type or coding of ours has any.
    """
    found: dict[str, float] = {}
    for member in field.decode("latin-1").lower().split(","):
        name, *parameters = (part.strip(" \t") for part in member.split(";"))
        if NAME.fullmatch(name):
            given = next(filter(None, map(WEIGHT.fullmatch, parameters)), None)
            found[name] = max(found.get(name, 0.0), float(given[1]) if given else 1.0)
    return found


def accepts(field: bytes, media_types: tuple[str, ...]) -> bool:
    """Whether an Accept header admits one of the media types; the most specific range counts (section 12.5.1)."""
    return (_accepts if len(field) <= REMEMBERED_BYTES else _accepts.__wrapped__)(field, media_types)


@lru_cache(maxsize=1024)
def _accepts(field: bytes, media_types: tuple[str, ...]) -> bool:
    ranges = weights(field)
    return not ranges or any(
        ranges.get(media_type, ranges.get(f"{media_type.partition('/')[0]}/*", ranges.get("*/*", 0.0)))
        for media_type in media_types
    )


def prefers_gzip(field: bytes) -> bool:
    """Whether an Accept-Encoding header admits gzip and does not like the plain form better (section 12.5.3)."""
    codings = weights(field)
    gzip = codings.get("gzip", codings.get("x-gzip", codings.get("*", 0.0)))
    return gzip > 0 and gzip >= codings.get("identity", 0.0)
