"""What conditional requests and preferences ask for: `ETag`, `If-Match`, `If-None-Match`, `Prefer`."""

from __future__ import annotations

import re

from werkzeug.http import parse_list_header

ENTITY_TAG = re.compile(r'(?:^|,)[ \t]*(W/)?"([^"]*)"[ \t]*(?=,|$)')
"""A whole member of a list. werkzeug's `parse_etags` takes `1` for `"1"`, which is no entity tag."""

VERSION = re.compile(r"[1-9][0-9]{0,17}")


def entity_tag(version: int) -> str:
    """The strong entity tag of a task at this version (RFC 9110, section 8.8.3)."""
    return f'"{version}"'


def versions(if_match: str | None) -> list[int] | None:
    """The versions that an If-Match header names, None where any will do (RFC 9110, section 13.1.1).

    The comparison is a strong one: weak tags match nothing, and neither does what is no entity tag of ours.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    return [int(tag) for weak, tag in ENTITY_TAG.findall(if_match) if not weak and VERSION.fullmatch(tag)]


def matches(if_none_match: str, version: int) -> bool:
    """Whether an If-None-Match header names this version (RFC 9110, section 13.1.2); the comparison is a weak one."""
    return if_none_match.strip() == "*" or any(tag == str(version) for _, tag in ENTITY_TAG.findall(if_none_match))


def prefers_minimal(prefer: str | None) -> bool:
    """Whether a Prefer header asks for `return=minimal`; of several `return`s the first counts (RFC 7240)."""
    for preference in parse_list_header(prefer) if prefer else ():
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "return":
            return value.strip().strip('"') == "minimal"
    return False
