"""No operation takes a path that names another user than the token, however the path is written."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest

from support.attacks import WITHOUT_TASK, call, raw, reasons, request_to
from support.operations import OPERATIONS
from support.people import Person, make_token

OWN = 0
"""Stands for what an operation answers on the own path."""

PATHS: dict[bytes, int] = {
    **dict.fromkeys((b"%61lice", b"%61%6c%69%63%65", b"%61%6C%69%63%65"), OWN),
    **dict.fromkeys(
        (
            # Others, and what other APIs take for oneself or for all.
            b"bob", b"me", b"self", b"*", b"%2A", b"null", b"None", b"undefined", b"true", b"0", b"-1", b"[]",
            b"alice,bob",
            b"alice%2Cbob", b"%22alice%22", b"'alice'", b"alice'--", b"'%20or%20'1'='1", b"%25", b"%5F",
            b"alic_", b"al%25",
            # Case, what is cut and what is added.
            b"Alice", b"ALICE", b"alic", b"alicee", b"alice.", b".alice", b"alice..", b"alice~", b"alice-",
            b"alice@x", b"alice:1",
            b"%20alice", b"alice%20", b"alice+", b"+alice", b"alice%09", b"alice%0a",
            b"alice%0D%0AX-User:%20bob", b"alice%00",
            b"%00alice", b"alice%00bob", b"alice%7F", b"alice%08",
            # Slashes, dots, backslashes, parameters, fragments and queries that are not.
            b"alice%2F", b"alice%2f..%2fbob", b"bob%2F..%2Falice", b"%2Falice", b"..%2falice", b"alice%5C",
            b"bob\\..\\alice",
            b"alice\\", b".", b"..", b"%2e", b"%2E%2E", b"alice;", b"alice;a=1", b"alice%3Ba=1", b";alice", b"alice%3F",
            b"alice%23", b"alice&x", b"alice=alice",
            # Encoded twice, too long, by halves, or not in UTF-8.
            b"%2561lice", b"%25%36%31lice", b"alice%252F", b"alice%2500", b"%C1%A1lice", b"%E0%81%A1lice",
            b"%F0%80%81%A1lice",
            b"%u0061lice", b"%", b"alice%", b"alice%2", b"alice%zz", b"%%61lice", b"%ff", b"alice%FF",
            b"alice%C0%80", b"%ED%A0%80",
            b"%2B%41GE-lice", b"%fe%ff%00a", b"&%2397;lice",
            # Look-alikes and what nobody sees.
            *(quote(name).encode() for name in (
                "аlice", "ａlice", "alicе", "aliсe", "ɑlice", "ⓐlice", "𝐚lice", "alice\u200b", "\ufeffalice",
                "ali\u00adce",
                "alice\u0301", "al\u0131ce", "a\u202elice", "alice\u00a0", "alice\ufe0e", "\u2024alice",
                "alice\U000e0001")),
        ),
        403,
    ),
    **dict.fromkeys(
        (b"", b"/", b"alice/.", b"alice/..", b"alice/../alice", b"bob/../alice", b"alice/../bob", b"./alice",
            b"alice/", b"/alice",
         b"alice//", b"alice/%2e%2e/bob", b"..;/alice", b"v1/alice"),
        404,
    ),
}  # fmt: skip


@pytest.mark.requirement("FR-04", "FR-05", "SR-05", "SR-11", "SC-03")
@pytest.mark.parametrize(("segment", "status"), PATHS.items(), ids=lambda value: ascii(value)[2:-1] if value else None)
def test_no_operation_takes_another_path_than_the_tokens(
    urls: dict[str, str], log: list[dict[str, Any]], segment: bytes, status: int
) -> None:
    """The bytes are sent as they stand here: no client has tidied them up before."""
    token = make_token("alice")

    statuses = {}
    for name, one in OPERATIONS.items():
        target = one.path("SEGMENT").encode().replace(b"SEGMENT", segment)
        statuses[name] = [code for code, _ in raw(urls["HS256"], request_to(target, token, one.method, one.body))]

    assert statuses == {name: [status or without_task] for name, without_task in WITHOUT_TASK.items()}
    told = reasons(log, "authorization_failed")
    assert told == (["the path names another user"] * len(OPERATIONS) if status == 403 else [])
    assert token not in repr(log)


@pytest.mark.requirement("FR-05", "SR-05")
@pytest.mark.parametrize("sub_form", ["NFC", "NFD"])
@pytest.mark.parametrize("path_form", ["NFC", "NFD", "NFKC", "NFKD"])
@pytest.mark.parametrize("name", ["José", "Åsa", "ﬁn", "①", "한"])
def test_a_name_is_its_characters_and_not_what_they_look_like(
    client: httpx.Client, urls: dict[str, str], name: str, sub_form: Any, path_form: Any
) -> None:
    sub, path = unicodedata.normalize(sub_form, name), unicodedata.normalize(path_form, name)

    response = call(client, urls["HS256"], "list_tasks", quote(path), f"Bearer {make_token(sub)}")

    assert response.status_code == (200 if sub == path else 403)


@pytest.mark.requirement("FR-04", "FR-05", "FR-06")
@pytest.mark.parametrize(
    "sub",
    ["auth0|507f1f77", "a/b", "../x", "%2e%2e", "a b", "a+b", "a?b#c", "x;y=1", "é", "用户", "🙂", "\u202e",
        "'; drop table users", "-"],
)  # fmt: skip
def test_an_odd_user_reaches_their_own_tasks_at_the_place_that_is_told(
    person: Callable[..., Person], urls: dict[str, str], sub: str
) -> None:
    somebody = person(f"{sub}-{uuid4().hex}", url=urls["HS256"])
    path = f"/api/{quote(somebody.id, safe='')}/tasks"

    created = somebody.client.post(path, json={"title": "x"})
    found = somebody.client.get(created.headers["location"])

    assert (created.status_code, found.status_code, found.json()["user_id"]) == (201, 200, somebody.id)
