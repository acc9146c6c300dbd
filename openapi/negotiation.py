"""The media types and content codings that a client accepts, each with its weight (RFC 9110, section 12.4)."""

from __future__ import annotations

import re
from functools import lru_cache

TOKEN = r"[!#$%&'*+.^_`|~0-9a-z-]+"  # noqa: S105 - RFC 9110, section 5.6.2, in lower case

MEMBER = re.compile(rf"(?:^|,)[ \t]*({TOKEN}(?:/{TOKEN})?)[ \t]*((?:;[^,]*)?)(?=,|$)")
"""A media range or a coding, and its parameters."""

WEIGHT = re.compile(r";[ \t]*q=([01]|[01]?\.[0-9]{1,9}|[01]\.)[ \t]*(?=;|$)")


FIELD_LIMIT_BYTES = 4_096
"""What a field has beyond is not read: 60 KB would take 8 ms. Browsers send 150 bytes."""


def weights(field: bytes) -> dict[str, float]:
    """The members of a list by name, in lower case, each with its weight; what is malformed is left out.

    Parameters beside the weight are not looked at: no media type or coding of ours has any.
    """
    found: dict[str, float] = {}
    for name, parameters in MEMBER.findall(field[:FIELD_LIMIT_BYTES].decode("latin-1").lower()):
        given = WEIGHT.search(parameters) if parameters else None
        found[name] = max(found.get(name, 0.0), float(given[1]) if given else 1.0)
    return found


# A field has 64 KiB at most: what is remembered takes 4 MiB at most.
@lru_cache(maxsize=64)
def accepts(field: bytes, media_types: tuple[str, ...]) -> bool:
    """Whether an Accept header admits one of the media types; the most specific range counts (section 12.5.1)."""
    ranges = weights(field)
    return not ranges or any(
        ranges.get(media_type, ranges.get(f"{media_type.partition('/')[0]}/*", ranges.get("*/*", 0.0)))
        for media_type in media_types
    )


def prefers_gzip(field: bytes) -> bool:
    """Whether an Accept-Encoding header admits gzip, with at least the weight of no coding (section 12.5.3)."""
    codings = weights(field)
    gzip = codings.get("gzip", codings.get("x-gzip", codings.get("*", 0.0)))
    return gzip > 0 and gzip >= codings.get("identity", 0.0)
