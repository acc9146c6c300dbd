"""Reads If-Match and If-None-Match, and makes entity tags. A tag is the task's version in quotation marks."""

from __future__ import annotations

import re

ENTITY_TAG = re.compile(r'(?:^|,)[ \t]*(W/)?"([^"]*)"[ \t]*(?=,|$)')
"""One whole member of a list. werkzeug's `parse_etags` accepts `1` for `"1"`, although `1` is not an entity tag."""

VERSION = re.compile(r"[1-9][0-9]{0,17}")


def entity_tag(version: int) -> str:
    """Returns the strong entity tag of a task with this version (RFC 9110, section 8.8.3)."""
    return f'"{version}"'


def versions(if_match: str | None) -> list[int] | None:
    """Returns the versions that an If-Match header names, or None if any version matches (RFC 9110, section 13.1.1).

    The comparison is strong, so weak tags match no version. Tags that the service did not make match no version either.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    return [int(tag) for weak, tag in ENTITY_TAG.findall(if_match) if not weak and VERSION.fullmatch(tag)]


def matches(if_none_match: str, version: int) -> bool:
    """Whether an If-None-Match header names this version, by weak comparison (RFC 9110, section 13.1.2)."""
    return if_none_match.strip() == "*" or any(tag == str(version) for _, tag in ENTITY_TAG.findall(if_none_match))
