"""Engine, database and contract mean the same by every string."""

from __future__ import annotations

import re
from uuid import uuid4

import psycopg
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import errors

from openapi.schemas import compile_schema
from support.operations import OPERATIONS, Operation
from support.paths import CONTRACT
from support.people import Person

# ECMA-262, "WhiteSpace" and "LineTerminator".
BLANK = frozenset("\t\n\v\f\r \u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff") | set(map(chr, range(0x2000, 0x200B)))
EDGES = "\x1c\x1f\u0085\u180e\u200b\u200d\u2060\u2800\u3164\ufeff\u00a0\u3000\x00\x7f\U000e0020"
CHARACTERS = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]

TITLE = compile_schema(yaml.safe_load(CONTRACT.read_bytes())["components"]["schemas"]["Title"], "")
STRINGS = st.text(st.sampled_from(EDGES) | st.sampled_from(sorted(BLANK)) | st.characters(exclude_categories=["Cs"]))


@pytest.mark.requirement("FR-13", "SC-05")
def test_of_all_characters_the_contract_calls_blank_what_ecma_262_does() -> None:
    assert {character for character in CHARACTERS if not TITLE.is_valid(character)} == BLANK


@pytest.mark.requirement("FR-13", "DR-03")
def test_of_all_characters_the_database_calls_blank_what_ecma_262_does(owner: psycopg.Connection) -> None:
    def refused(titles: list[str]) -> set[str]:
        """Those that the domain refuses. A cast of many fails as a whole; then each half is tried."""
        try:
            with owner.transaction():
                owner.execute("select title::task_title from unnest(%s::text[]) as title", [titles])
        except errors.CheckViolation:
            half = len(titles) // 2
            return refused(titles[:half]) | refused(titles[half:]) if half else set(titles)
        return set()

    assert refused(CHARACTERS[1:]) == BLANK


@pytest.mark.requirement("FR-13", "FR-14", "SR-09", "DR-03")
def test_a_title_is_kept_as_sent_or_refused_by_the_contract(alice: Person) -> None:
    @settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @given(STRINGS)
    def holds(title: str) -> None:
        answer = alice.client.post(alice.tasks, json={"title": title, "description": title})

        if "\0" in title or not TITLE.is_valid(title):
            assert answer.status_code == 422, answer.text
            assert answer.json()["errors"][0]["pointer"] in ("/title", "/description")
        else:
            assert answer.status_code == 201, answer.text
            assert (answer.json()["title"], answer.json()["description"]) == (title, title)

    holds()


@pytest.mark.requirement("SR-09", "FR-18")
@pytest.mark.parametrize(
    ("path", "parameter"),
    [("/api/a%00b/tasks", None), ("{tasks}/%00", "task_id"), ("{tasks}?cursor=%00", "cursor")],
)
def test_u_0000_in_a_url_is_refused(alice: Person, path: str, parameter: str | None) -> None:
    answer = alice.client.get(path.format(tasks=alice.tasks))

    assert answer.status_code == (422 if parameter else 403)
    if parameter:
        assert answer.json()["errors"][0]["parameter"] == parameter


@pytest.mark.requirement("SR-09", "FR-18")
@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (r'{"title": "a\u0000b"}', "/title"),
        (r'{"title": "a", "description": "\u0000"}', "/description"),
        (r'{"title": "\ud800"}', ""),
        (r'{"title": "a\\u0000b"}', None),
    ],
)
def test_u_0000_and_surrogates_in_a_body_are_refused(alice: Person, body: str, pointer: str | None) -> None:
    answer = alice.client.post(alice.tasks, content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == (201 if pointer is None else 422)
    if pointer is not None:
        assert answer.json()["errors"][0]["pointer"] == pointer


HEADERS = [
    (operation, header)
    for operation in OPERATIONS.values()
    for header in (*operation.conditions, *(["Idempotency-Key"] if operation.method == "POST" else []))
]


@pytest.mark.requirement("FR-18", "FR-21", "SC-08")
@pytest.mark.parametrize(("operation", "header"), HEADERS, ids=[f"{each.id}-{header}" for each, header in HEADERS])
@pytest.mark.parametrize("word", ["undefined", "null", ""])
def test_a_header_that_says_that_there_is_no_value_is_refused(
    alice: Person, operation: Operation, header: str, word: str
) -> None:
    path = operation.path(alice.id, uuid4())
    answer = alice.client.request(operation.method, path, json=operation.body, headers={header: word})

    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error == {"parameter": header.lower(), "detail": "a client that means no value leaves the header out"}


@pytest.mark.requirement("FR-06", "SC-08")
def test_times_have_six_digits_of_a_second_and_z(alice: Person) -> None:
    task = alice.client.post(alice.tasks, json={"title": "x"}).json()
    listed = alice.client.get(alice.tasks).json()["items"]

    assert listed == [task]
    for name in ("created_at", "updated_at"):
        assert re.fullmatch(r"[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}\.[0-9]{6}Z", task[name])
