"""The service with an issuer: when it asks, what it answers without keys, and which addresses of keys it takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from app.settings import SettingsError, read_settings
from support.issuer import Issuer, hang_up, send
from support.keys import FIRST, SECOND
from support.service import running

pytestmark = pytest.mark.requirement("FR-02")

SLOW_SECONDS = 1.5


@pytest.fixture
def service(database_url: str, issuer: Issuer) -> Iterator[httpx.Client]:
    """A client of a service that trusts this issuer and has not yet asked it."""
    with (
        running(database_url, JWT_JWKS_URL=issuer.url, JWT_AUDIENCE="any") as url,
        httpx.Client(base_url=url) as client,
    ):
        yield client


def list_tasks(service: httpx.Client, token: str) -> httpx.Response:
    return service.get("/api/alice/tasks", headers={"Authorization": f"Bearer {token}"})


@pytest.mark.requirement("FR-02", "NF-01")
def test_the_issuer_is_asked_when_the_first_token_comes_and_not_before(service: httpx.Client, issuer: Issuer) -> None:
    statuses = [service.get(path).status_code for path in ("/healthz", "/readyz", "/api/alice/tasks")]
    asked_before = len(issuer.asked)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: list_tasks(service, FIRST.token()).status_code, range(32)))

    assert (statuses, asked_before) == ([200, 200, 401], 0)
    assert (set(answers), len(issuer.asked)) == ({200}, 1)


@pytest.mark.requirement("FR-18", "SR-04")
def test_no_keys_at_all_is_503_and_an_unknown_key_401(service: httpx.Client, issuer: Issuer) -> None:
    issuer.answer = hang_up
    no_keys = list_tasks(service, FIRST.token())
    issuer.answer = None
    answers = [list_tasks(service, FIRST.token())]
    issuer.answer = hang_up
    answers += [list_tasks(service, token) for token in (SECOND.token(), FIRST.token(name="Alice"))]

    assert (no_keys.status_code, no_keys.headers["retry-after"]) == (503, "1")
    assert no_keys.headers["content-type"] == "application/problem+json"
    assert no_keys.json()["type"].endswith(":issuer-unavailable")
    assert "www-authenticate" not in no_keys.headers
    assert [answer.status_code for answer in answers] == [200, 401, 200]
    assert answers[1].headers["www-authenticate"] == 'Bearer error="invalid_token"'


@pytest.mark.requirement("NF-01")
def test_nobody_else_waits_while_the_issuer_is_slow(service: httpx.Client, issuer: Issuer) -> None:
    known, release = FIRST.token(), threading.Event()
    list_tasks(service, known)
    issuer.publish(FIRST, SECOND)
    body = issuer.key_set
    issuer.answer = lambda request: (release.wait(10), send(body)(request))

    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(list_tasks, service, SECOND.token()) for _ in range(4)]
        while len(issuer.asked) < 2:
            time.sleep(0.01)
        before_seconds = time.monotonic()
        # A fresh token of a known key is verified, a remembered one recognised, and neither needs the issuer.
        answers = [service.get("/healthz")] + [list_tasks(service, token) for token in (known, FIRST.token(iat=1))]
        took_seconds = time.monotonic() - before_seconds
        still_waiting = [future.done() for future in waiting]
        release.set()
        finally_answered = [future.result().status_code for future in waiting]

    assert [answer.status_code for answer in answers] == [200] * 3
    assert took_seconds < SLOW_SECONDS
    assert (still_waiting, finally_answered) == ([False] * 4, [200] * 4)


@pytest.mark.requirement("NF-03")
@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example/jwks",
        "http://127.0.0.1.issuer.example/jwks",
        "http://localhost@issuer.example/jwks",
        "http://10.0.0.1/jwks",
        "ftp://issuer.example/jwks",
        "file:///jwks",
        "issuer.example/jwks",
        "https:///jwks",
    ],
)
def test_keys_that_could_be_replaced_on_the_way_stop_the_start(url: str) -> None:
    with pytest.raises(SettingsError, match="JWT_JWKS_URL must be an https:// URL"):
        read_settings({"DATABASE_URL": "postgresql://localhost/x", "JWT_JWKS_URL": url, "JWT_AUDIENCE": "tasks"})


@pytest.mark.requirement("NF-03")
@pytest.mark.parametrize(
    "url", ["https://issuer.example/jwks", "http://localhost:3000/jwks", "http://127.0.0.1/jwks", "http://[::1]/jwks"]
)
def test_keys_over_https_or_from_this_machine_are_taken(url: str) -> None:
    variables = {"DATABASE_URL": "postgresql://localhost/x", "JWT_JWKS_URL": url, "JWT_AUDIENCE": "tasks"}
    settings = read_settings(variables)

    assert settings.jwt_jwks_url == url
