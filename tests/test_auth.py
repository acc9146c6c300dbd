"""Who may ask: a matrix of tokens, each tried on every operation, and what the log says of it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import jwt
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from conftest import SECRET, Person, make_token, running, running_process

OPERATIONS = {
    "list_tasks": ("GET", "", None),
    "create_task": ("POST", "", {"title": "x"}),
    "get_task": ("GET", "/{task}", None),
    "replace_task": ("PUT", "/{task}", {"title": "x"}),
    "update_task": ("PATCH", "/{task}", {"title": "x"}),
    "delete_task": ("DELETE", "/{task}", None),
    "toggle_task_completion": ("PATCH", "/{task}/complete", None),
}


def call(url: str, operation: str, user_id: str, authorization: str | None, task: object = None) -> httpx.Response:
    """Calls an operation on a user's path with this Authorization header."""
    method, suffix, body = OPERATIONS[operation]
    headers = {} if authorization is None else {"Authorization": authorization}
    path = f"/api/{user_id}/tasks{suffix.format(task=task or uuid4())}"
    return httpx.request(method, url + path, json=body, headers=headers)


def encode(header: Any, claims: Any, secret: str = SECRET) -> str:
    """A token with just this header and just these claims, signed with HS256 whatever the header says."""
    texts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)]
    parts = [base64.urlsafe_b64encode(text).rstrip(b"=") for text in texts]
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(
        b".".join(parts), secret.encode()
    )
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def claims(**others: Any) -> dict[str, Any]:
    return {"sub": "alice", "exp": int(time.time()) + 60} | others


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in claims().items() if key != name}


HS256 = {"alg": "HS256", "typ": "JWT"}
RSA_KEY = rsa.generate_private_key(65537, 2048)

FORGERIES: dict[str, Callable[[], str]] = {
    "not-a-jwt": lambda: "x",
    "two-parts": lambda: "a.b",
    "five-parts": lambda: "a.b.c.d.e",
    "not-base64": lambda: "!.!.!",
    "unsigned": lambda: make_token("alice").rpartition(".")[0] + ".",
    "alg-none": lambda: jwt.encode(claims(), "", algorithm="none"),
    "alg-none-in-other-case": lambda: encode({"alg": "nOnE"}, claims()),
    "another-secret": lambda: make_token("alice", secret=SECRET + "!"),
    "empty-secret": lambda: encode(HS256, claims(), ""),
    "hs512": lambda: jwt.encode(claims(), SECRET * 2, "HS512"),
    "rs256": lambda: jwt.encode(claims(), RSA_KEY, "RS256"),
    "alg-missing": lambda: encode({"typ": "JWT"}, claims()),
    "alg-a-list": lambda: encode({"alg": ["HS256"]}, claims()),
    "header-a-list": lambda: encode([HS256], claims()),
    "critical-extension": lambda: encode(HS256 | {"crit": ["exp"]}, claims()),
    "another-type": lambda: encode(HS256 | {"typ": "secevent+jwt"}, claims()),
    "claims-a-list": lambda: encode(HS256, [claims()]),
    "tampered-claims": lambda: make_token("alice").replace(".", ".e30", 1),
    "padded": lambda: make_token("alice") + "=",
    "non-canonical": lambda: make_token("alice")[:-1] + "B",
    "expired": lambda: make_token("alice", exp=int(time.time()) - 1),
    "without-exp": lambda: make_token("alice", exp=None),
    "exp-a-string": lambda: encode(HS256, claims(exp="tomorrow")),
    "exp-infinite": lambda: encode(HS256, claims(exp=float("inf"))),
    "exp-a-list": lambda: encode(HS256, claims(exp=[1])),
    "not-yet-valid": lambda: make_token("alice", nbf=int(time.time()) + 60),
    "issued-in-the-future": lambda: make_token("alice", iat=int(time.time()) + 60),
    "without-sub": lambda: encode(HS256, without("sub")),
    "sub-null": lambda: encode(HS256, claims(sub=None)),
    "sub-empty": lambda: encode(HS256, claims(sub="")),
    "sub-a-number": lambda: encode(HS256, claims(sub=1)),
    "sub-a-list": lambda: encode(HS256, claims(sub=["alice"])),
    "sub-too-long": lambda: encode(HS256, claims(sub="x" * 256)),
    "sub-with-nul": lambda: encode(HS256, claims(sub="ali\0ce")),
    "sub-with-a-lone-surrogate": lambda: encode(HS256, claims(sub="\ud800")),
    "too-long": lambda: make_token("alice", padding="x" * 20_000),
    "deep": lambda: encode(HS256, b'{"sub":"alice","x":' + b"[" * 5000 + b"]" * 5000 + b"}"),
}


@pytest.mark.requirement("FR-02", "FR-03", "SR-01", "SR-04", "SC-02")
@pytest.mark.parametrize("forgery", FORGERIES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_operation_takes_a_token_that_is_not_valid(service_url: str, operation: str, forgery: str) -> None:
    response = call(service_url, operation, "alice", f"Bearer {FORGERIES[forgery]()}")

    assert (response.status_code, response.headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')


@pytest.mark.requirement("SR-01", "SR-02", "SC-02")
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    "request_options",
    [
        pytest.param({}, id="nowhere"),
        pytest.param({"params": {"access_token": "TOKEN"}}, id="query"),
        pytest.param({"cookies": {"token": "TOKEN", "better-auth.session_token": "TOKEN"}}, id="cookie"),
        pytest.param({"headers": {"X-User-Id": "alice", "X-Authorization": "Bearer TOKEN"}}, id="other-headers"),
        pytest.param({"json": {"token": "TOKEN", "user_id": "alice"}}, id="body"),
    ],
)
def test_no_operation_takes_a_token_from_elsewhere(
    service_url: str, operation: str, request_options: dict[str, Any]
) -> None:
    method, suffix, _ = OPERATIONS[operation]
    options = json.loads(json.dumps(request_options).replace("TOKEN", make_token("alice")))
    with httpx.Client(cookies=options.pop("cookies", None)) as client:
        response = client.request(method, f"{service_url}/api/alice/tasks{suffix.format(task=uuid4())}", **options)

    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.requirement("FR-01")
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_the_case_of_the_scheme_does_not_matter(service_url: str, scheme: str) -> None:
    response = call(service_url, "list_tasks", "alice", f"{scheme} {make_token('alice')}")

    assert response.status_code == 200


@pytest.mark.requirement("FR-02")
def test_two_authorization_headers_are_none(service_url: str) -> None:
    headers = [("Authorization", f"Bearer {make_token(name)}") for name in ("alice", "bob")]

    for order in (headers, headers[::-1], [headers[0], headers[0]]):
        assert httpx.get(f"{service_url}/api/alice/tasks", headers=order).status_code == 401


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
def test_claims_that_nobody_configured_are_not_looked_at(service_url: str, others: dict[str, Any]) -> None:
    response = call(service_url, "create_task", "alice", f"Bearer {make_token('alice', **others)}")

    assert response.status_code == 201


@pytest.mark.parametrize(
    "profile", [{"email": "a\0b"}, {"name": "\ud800"}, {"email": "x" * 5000}], ids=["nul", "surrogate", "long"]
)
def test_a_profile_that_cannot_be_stored_is_left_out(
    person: Callable[..., Person], owner: psycopg.Connection, profile: dict[str, str]
) -> None:
    somebody = person(**profile)

    assert somebody.client.post(somebody.tasks, json={"title": "x"}).status_code == 201
    row = owner.execute("select email, name from users where id = %s", [somebody.id]).fetchone()
    assert row == (None, None)


@pytest.mark.requirement("FR-04", "FR-05", "SR-05")
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    "path_user",
    [
        "bob",
        "Alice",
        "alice ",
        "alic",
        "alicee",
        "аlice",
        "ａlice",
        "alice%00",
        "alice%20",
        "%ff",
        "alice%2F",
        "alice%252F",
        "me",
        "*",
    ],
)
def test_no_operation_takes_another_path_than_the_tokens(service_url: str, operation: str, path_user: str) -> None:
    response = call(service_url, operation, path_user, f"Bearer {make_token('alice')}")

    assert response.status_code == 403


@pytest.mark.requirement("FR-05")
def test_percent_encoding_of_the_own_path_does_not_matter(service_url: str) -> None:
    response = call(service_url, "list_tasks", "%61l%69ce", f"Bearer {make_token('alice')}")

    assert response.status_code == 200


@pytest.mark.requirement("FR-03")
def test_a_remembered_token_ends_when_it_expires(service_url: str) -> None:
    token = make_token("alice", exp=time.time() + 1)

    before = call(service_url, "list_tasks", "alice", f"Bearer {token}")
    time.sleep(1.1)
    after = call(service_url, "list_tasks", "alice", f"Bearer {token}")

    assert (before.status_code, after.status_code) == (200, 401)


@pytest.fixture(scope="module")
def strict_url(database_url: str) -> Iterator[str]:
    """A service that wants an issuer and an audience, and grants ten seconds."""
    with running(
        database_url, JWT_ISSUER="https://issuer.example", JWT_AUDIENCE="taskpact", JWT_LEEWAY_SECONDS="10"
    ) as url:
        yield url


@pytest.mark.requirement("FR-02", "FR-03")
@pytest.mark.parametrize(
    ("others", "status"),
    [
        pytest.param({}, 200, id="both"),
        pytest.param({"aud": ["other", "taskpact"]}, 200, id="audience-among-others"),
        pytest.param({"aud": None}, 401, id="no-audience"),
        pytest.param({"aud": "other"}, 401, id="another-audience"),
        pytest.param({"aud": []}, 401, id="empty-audience"),
        pytest.param({"aud": [1]}, 401, id="odd-audience"),
        pytest.param({"iss": None}, 401, id="no-issuer"),
        pytest.param({"iss": "https://issuer.example/"}, 401, id="another-issuer"),
        pytest.param({"iss": ["https://issuer.example"]}, 401, id="issuer-a-list"),
        pytest.param({"exp": -5}, 200, id="expired-within-leeway"),
        pytest.param({"exp": -11}, 401, id="expired-beyond-leeway"),
        pytest.param({"nbf": 5}, 200, id="early-within-leeway"),
        pytest.param({"nbf": 30}, 401, id="early-beyond-leeway"),
    ],
)
def test_configured_issuer_audience_and_leeway_hold(strict_url: str, others: dict[str, Any], status: int) -> None:
    now = int(time.time())
    times = {name: now + value for name, value in others.items() if name in ("exp", "nbf")}
    payload = claims(iss="https://issuer.example", aud="taskpact") | others | times
    token = encode(HS256, {name: value for name, value in payload.items() if value is not None})

    assert call(strict_url, "list_tasks", "alice", f"Bearer {token}").status_code == status


@pytest.fixture(scope="module")
def closed_url(database_url: str) -> Iterator[str]:
    """A service that makes no users."""
    with running(database_url, PROVISION_USERS="false") as url:
        yield url


@pytest.mark.requirement("FR-04")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_without_provisioning_a_user_without_a_row_is_not_authenticated(closed_url: str, operation: str) -> None:
    stranger = f"user-{uuid4().hex}"

    response = call(closed_url, operation, stranger, f"Bearer {make_token(stranger)}")

    assert (response.status_code, response.headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')


@pytest.mark.requirement("FR-04")
def test_without_provisioning_a_user_with_a_row_works(closed_url: str, alice: Person) -> None:
    task = alice.client.post(alice.tasks, json={"title": "x"}).json()
    authorization = alice.client.headers["authorization"]

    statuses = [call(closed_url, name, alice.id, authorization, task["id"]).status_code for name in OPERATIONS]

    assert statuses == [200, 201, 200, 200, 200, 204, 404]


@pytest.mark.requirement("SR-06", "SR-11")
def test_failures_are_logged_with_their_reason_and_without_the_token(database_url: str, tmp_path: Path) -> None:
    expired = make_token("alice", exp=int(time.time()) - 1)
    valid = make_token("alice")

    with running_process(database_url, tmp_path / "log", LOG_FORMAT="json") as url:
        call(url, "list_tasks", "alice", f"Bearer {expired}")
        call(url, "list_tasks", "bob", f"Bearer {valid}")
        call(url, "create_task", "alice", None)
    logged = (tmp_path / "log").read_text()

    events = {(line["event"], line.get("reason")) for line in map(json.loads, logged.splitlines())}
    assert ("authentication_failed", "Signature has expired") in events
    assert ("authorization_failed", "the path names another user") in events
    assert ("authentication_failed", "There is no bearer token.") in events
    for secret in (expired, valid, SECRET, expired.rpartition(".")[2]):
        assert secret not in logged


@pytest.mark.requirement("FR-20")
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

    assert preflight.status_code == (200 if allowed else 400)
    assert refused.status_code == 401
    for response in (preflight, refused):
        assert response.headers.get("access-control-allow-origin") == (origin if allowed else None)
    if allowed:
        assert refused.headers["access-control-allow-credentials"] == "true"
        assert "ETag" in refused.headers["access-control-expose-headers"]
