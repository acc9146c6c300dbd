"""Whoever sends eight times as many bytes costs eight times as much: nobody holds up the others with a long header."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from handlers.headers import matches, prefers_minimal, versions
from openapi.bodies import read_media_type
from openapi.errors import InvalidRequest
from openapi.negotiation import accepts, prefers_gzip
from openapi.parameters import read_query

BYTES = 4_000
TIMES = 8
ROUNDS = 5

LISTS = [
    ",",
    "a,",
    " ",
    ", ",
    "a ",
    "*/*,",
    "a/b;q=0,",
    ";",
    ";a=b",
    ";q=1 ",
    ';a="',
    '"',
    '",',
    '"1",',
    'W/"',
    '"\\',
    '\\"',
]
QUERIES = ["a", "%41", "%", "&", "=", "a=1&", ";", "+", "%c3%a9"]


def query(text: str) -> None:
    with suppress(InvalidRequest):
        read_query(text.encode())


FIELDS: dict[str, tuple[Callable[[str], object], list[str]]] = {
    "accept": (lambda text: accepts.__wrapped__(text.encode(), ("application/json",)), LISTS),
    "accept-encoding": (lambda text: prefers_gzip(text.encode()), LISTS),
    "content-type": (lambda text: read_media_type.__wrapped__(b"application/json" + text.encode()), LISTS),
    "if-match": (versions, LISTS),
    "if-none-match": (lambda text: matches(text, 2), LISTS),
    "prefer": (prefers_minimal, LISTS),
    "query": (query, QUERIES),
}


def seconds(read: Callable[[str], object], text: str, times: int) -> float:
    """The CPU that reading it so many times takes, at the least of several rounds."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(times):
            read(text)
        rounds.append(time.process_time() - began)
    return min(rounds)


@pytest.mark.parametrize("field", FIELDS)
def test_what_is_eight_times_as_long_takes_as_long_as_eight(field: str) -> None:
    read, repeated = FIELDS[field]

    # What is quadratic takes eight times as long.
    slow = [
        (piece, one, eight)
        for piece in repeated
        for one in [seconds(read, piece * (TIMES * BYTES // len(piece)), 1)]
        for eight in [seconds(read, piece * (BYTES // len(piece)), TIMES)]
        if one > 3 * eight + 0.001
    ]

    assert slow == []
