"""Only the Authorization header says who asks, refusals are logged, and browsers ask from configured origins alone."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.attacks import call
from support.people import SECRET, make_token
from support.service import running, running_process


@pytest.mark.requirement("FR-01")
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_the_case_of_the_scheme_does_not_matter(client: httpx.Client, service_url: str, scheme: str) -> None:
    response = call(client, service_url, "list_tasks", "alice", f"{scheme} {make_token('alice')}")

    assert response.status_code == 200


@pytest.mark.requirement("FR-02")
@pytest.mark.parametrize(
    "others",
    [
        {"aud": "somebody else"},
        {"aud": ["a", "b"]},
        {"iss": "somebody else"},
        {"email": 1, "name": ["x"]},
        {"jti": 7},
        {"iat": None},
    ],
    ids=["aud", "aud-list", "iss", "odd-profile", "odd-jti", "without-iat"],
)
def test_claims_that_nobody_configured_are_not_looked_at(
    client: httpx.Client, service_url: str, others: dict[str, Any]
) -> None:
    response = call(client, service_url, "create_task", "alice", f"Bearer {make_token('alice', **others)}")

    assert response.status_code == 201


@pytest.mark.requirement("FR-05")
def test_percent_encoding_of_the_own_path_does_not_matter(client: httpx.Client, service_url: str) -> None:
    response = call(client, service_url, "list_tasks", "%61l%69ce", f"Bearer {make_token('alice')}")

    assert response.status_code == 200


@pytest.mark.requirement("SR-06", "SR-11")
def test_failures_are_logged_with_their_reason_and_without_the_token(
    client: httpx.Client, database_url: str, tmp_path: Path
) -> None:
    expired = make_token("alice", exp=int(time.time()) - 60)
    valid = make_token("alice")

    with running_process(database_url, tmp_path / "log", LOG_FORMAT="json") as url:
        call(client, url, "list_tasks", "alice", f"Bearer {expired}")
        call(client, url, "list_tasks", "bob", f"Bearer {valid}")
        call(client, url, "create_task", "alice", None)
    logged = (tmp_path / "log").read_text()

    events = {(line["event"], line.get("reason")) for line in map(json.loads, logged.splitlines())}
    assert ("authentication_failed", "Signature has expired") in events
    assert ("authorization_failed", "the path names another user") in events
    assert ("authentication_failed", "There is no bearer token.") in events
    for secret in (expired, valid, SECRET, expired.rpartition(".")[2]):
        assert secret not in logged


@pytest.mark.requirement("FR-19", "FR-20")
@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://app.example", True),
        ("http://localhost:3000", True),
        ("https://app.example.evil.example", False),
        ("http://app.example", False),
        ("null", False),
    ],
)
def test_cors_allows_the_configured_origins_and_no_other(database_url: str, origin: str, allowed: bool) -> None:
    with running(database_url, CORS_ORIGINS="https://app.example, http://localhost:3000") as url:
        preflight = httpx.options(
            f"{url}/api/alice/tasks",
            headers={
                "Origin": origin,
                "Access-Control-Request-Method": "PATCH",
                "Access-Control-Request-Headers": "authorization,content-type,if-match",
            },
        )
        refused = httpx.get(f"{url}/api/alice/tasks", headers={"Origin": origin})

    assert preflight.status_code == 200
    assert refused.status_code == 401
    for response in (preflight, refused):
        assert response.headers.get("access-control-allow-origin") == (origin if allowed else None)
    if allowed:
        assert refused.headers["access-control-allow-credentials"] == "true"
        assert "ETag" in refused.headers["access-control-expose-headers"]
