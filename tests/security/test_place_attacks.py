"""No operation takes a token from anywhere but one `Authorization` header, nor two tokens."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from support.attacks import NOT_CANONICAL, PARTS, parts, reasons
from support.operations import OPERATIONS
from support.people import make_token

ELSEWHERE: dict[str, dict[str, Any]] = {
    "nowhere": {},
    "query": {"params": {"access_token": "TOKEN", "token": "TOKEN", "Authorization": "Bearer TOKEN"}},
    "cookie": {"headers": {"Cookie": "token=TOKEN; Authorization=Bearer TOKEN; better-auth.session_token=TOKEN"}},
    "other-headers": {
        "headers": {
            "X-User-Id": "alice",
            "X-Authorization": "Bearer TOKEN",
            "X-Forwarded-User": "alice",
            "From": "alice",
        }
    },
    "proxy-authorization": {"headers": {"Proxy-Authorization": "Bearer TOKEN"}},
    "websocket-protocol": {"headers": {"Sec-WebSocket-Protocol": "bearer, TOKEN"}},
    "body": {"json": {"token": "TOKEN", "user_id": "alice", "access_token": "TOKEN"}},
    "form": {"data": {"access_token": "TOKEN"}},
    "underscored-header": {"headers": {"AUTHORIZATION_": "Bearer TOKEN", "HTTP_AUTHORIZATION": "Bearer TOKEN"}},
    "basic": {"headers": {"Authorization": "Basic TOKEN"}},
    "basic-with-the-token-as-password": {"auth": ("alice", "TOKEN")},
    "token-scheme": {"headers": {"Authorization": "Token TOKEN"}},
    "digest": {"headers": {"Authorization": "Digest TOKEN"}},
    "no-scheme": {"headers": {"Authorization": "TOKEN"}},
    "tab-for-space": {"headers": {"Authorization": "Bearer\tTOKEN"}},
    "colon": {"headers": {"Authorization": "Bearer: TOKEN"}},
    "quoted-scheme": {"headers": {"Authorization": '"Bearer" TOKEN'}},
    "comma-before": {"headers": {"Authorization": ", Bearer TOKEN"}},
    "another-scheme-before": {"headers": [("Authorization", "Basic eDp5"), ("Authorization", "Bearer TOKEN")]},
    "empty-header-before": {"headers": [("Authorization", ""), ("Authorization", "Bearer TOKEN")]},
}


@pytest.mark.requirement("FR-01", "SR-01", "SR-02", "SR-04", "SR-11", "SC-02")
@pytest.mark.parametrize("options", ELSEWHERE.values(), ids=ELSEWHERE)
def test_no_operation_takes_a_token_from_elsewhere(
    client: httpx.Client, urls: dict[str, str], log: list[dict[str, Any]], options: dict[str, Any]
) -> None:
    token = make_token("alice")
    filled = json.loads(json.dumps(options).replace("TOKEN", token))
    for name in filled.keys() & {"auth", "headers"}:
        if isinstance(filled[name], list):
            filled[name] = tuple(tuple(one) if isinstance(one, list) else one for one in filled[name])

    answers = {
        name: client.request(one.method, urls["HS256"] + one.path("alice"), **filled)
        for name, one in OPERATIONS.items()
    }

    refused = {name: (answer.status_code, answer.headers["www-authenticate"]) for name, answer in answers.items()}
    assert refused == dict.fromkeys(OPERATIONS, (401, "Bearer"))
    assert reasons(log, "authentication_failed") == ["There is no bearer token."] * len(OPERATIONS)
    told = repr(log) + "".join(answer.text for answer in answers.values())
    assert [part for part in parts(token) if part in told] == []


@pytest.mark.requirement("FR-01", "FR-02", "SR-02")
@pytest.mark.parametrize("subs", [("alice", "bob"), ("bob", "alice"), ("alice", "alice"), ("alice", None)])
@pytest.mark.parametrize("joined", [False, True], ids=["two-headers", "comma-joined"])
def test_two_tokens_are_none_on_every_operation(
    client: httpx.Client, urls: dict[str, str], log: list[dict[str, Any]], subs: tuple[str, str | None], joined: bool
) -> None:
    fields = [f"Bearer {make_token(sub)}" if sub else "" for sub in subs]
    headers = [("Authorization", value) for value in ([", ".join(fields).strip()] if joined else fields)]

    answers = {
        name: client.request(one.method, urls["HS256"] + one.path("alice"), headers=headers)
        for name, one in OPERATIONS.items()
    }

    assert {answer.status_code for answer in answers.values()} == {401}
    assert {*reasons(log, "authentication_failed")} <= {PARTS, NOT_CANONICAL}
    assert not any(part in repr(log) for value in fields for part in parts(value.removeprefix("Bearer ")))
