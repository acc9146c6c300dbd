"""The issuer's keys: fetched without blocking, once for many, seldom; and no answer of its ends what works."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import jwt
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms
from structlog.testing import LogCapture

from app.settings import SettingsError, read_settings
from handlers.auth import keys
from handlers.auth.keys import KeySet, KeysUnavailable, KeyUnknown, SharedSecret
from handlers.auth.tokens import TokenInvalid, Verifier
from support.service import running

pytestmark = pytest.mark.requirement("FR-02")

FAST_INTERVAL_SECONDS = 0.02
SLOW_SECONDS = 1.5


@dataclass
class Issuer:
    """A server with a key set; `answer`, if set, sends something else."""

    url: str
    published: list[Any] = field(default_factory=list)
    answer: Callable[[BaseHTTPRequestHandler], None] | None = None
    asked: list[str] = field(default_factory=list)

    def publish(self, *signers: Signer) -> None:
        self.published = [signer.public for signer in signers]


@dataclass(frozen=True)
class Signer:
    """A private key that signs tokens, and how its public one is published."""

    private: Any
    public: dict[str, Any]

    def token(self, *, kid: str | None = None, **claims: object) -> str:
        payload = {"sub": "alice", "exp": int(time.time()) + 60} | claims
        kid = kid or self.public.get("kid")
        return jwt.encode(payload, self.private, self.public["alg"], headers={"kid": kid} if kid else None)


GENERATE = {
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
}


def signer(kid: str | None, algorithm: str = "EdDSA") -> Signer:
    private = GENERATE[algorithm]()
    public = get_default_algorithms()[algorithm].to_jwk(private.public_key(), as_dict=True)
    return Signer(private, public | {"alg": algorithm} | ({"kid": kid} if kid else {}))


FIRST, SECOND, RSA, P256, P384 = (
    signer("first"),
    signer("second"),
    signer("rsa", "RS256"),
    signer("p-256", "ES256"),
    signer("p-384", "ES384"),
)


def send(body: bytes, status: int = 200, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    """An answer with this body."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    return answer


def trickle(request: BaseHTTPRequestHandler) -> None:
    """A key set that comes byte by byte, so that no single wait is long."""
    body = json.dumps({"keys": [SECOND.public]}).encode()
    request.send_response(200)
    request.end_headers()
    with suppress(OSError):
        for byte in body:
            request.wfile.write(bytes([byte]))
            time.sleep(0.02)


def hang_up(request: BaseHTTPRequestHandler) -> None:
    request.close_connection = True


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here.asked.append(self.path)
            # The keys are those of the moment when the question came, however long the answer takes.
            body = json.dumps({"keys": here.published}).encode()
            with suppress(ConnectionError):
                (here.answer or send(body))(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        here = Issuer(f"http://127.0.0.1:{server.server_port}/jwks")
        here.publish(FIRST)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield here
        server.shutdown()
        thread.join()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    # Certificates are not what this is about, and loading them takes longer than most tests here.
    async with httpx.AsyncClient(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), timeout=5.0) as client:
        yield client


@pytest.fixture
def key_set(issuer: Issuer, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> KeySet:
    """The issuer's keys, asked for as often as 50 times a second."""
    monkeypatch.setattr(keys, "FETCH_INTERVAL_SECONDS", FAST_INTERVAL_SECONDS)
    return KeySet(issuer.url, client)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the key source logs."""
    capture = LogCapture()
    logger = structlog.wrap_logger(
        None, processors=[capture], wrapper_class=structlog.BoundLogger, cache_logger_on_first_use=False
    )
    monkeypatch.setattr(keys, "logger", logger)
    return capture.entries


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def found(key_set: KeySet, key_id: object, algorithm: str = "EdDSA") -> bool:
    try:
        await key_set.find(key_id, algorithm)
    except KeyUnknown:
        return False
    return True


@pytest.mark.anyio
async def test_many_waiting_requests_share_one_fetch(key_set: KeySet, issuer: Issuer) -> None:
    issuer.answer = lambda request: (time.sleep(0.1), send(json.dumps({"keys": issuer.published}).encode())(request))

    answers = await asyncio.gather(*(found(key_set, "first") for _ in range(100)))

    assert (answers, len(issuer.asked)) == ([True] * 100, 1)


@pytest.mark.anyio
async def test_keys_are_kept(key_set: KeySet, issuer: Issuer) -> None:
    for _ in range(100):
        await key_set.find("first", "EdDSA")

    await asyncio.sleep(2 * FAST_INTERVAL_SECONDS)
    assert len(issuer.asked) == 1


@pytest.mark.anyio
async def test_a_request_that_goes_away_does_not_end_the_fetch_of_the_others(key_set: KeySet, issuer: Issuer) -> None:
    issuer.answer = lambda request: (time.sleep(0.2), send(json.dumps({"keys": issuer.published}).encode())(request))
    first, other = (asyncio.create_task(found(key_set, "first")) for _ in range(2))
    await until(lambda: issuer.asked)

    first.cancel()

    assert await other
    assert (first.cancelled(), len(issuer.asked)) == (True, 1)


@pytest.mark.anyio
async def test_stale_keys_go_on_working_while_they_are_fetched_again(
    key_set: KeySet, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "REFRESH_SECONDS", 0.1)
    await key_set.find("first", "EdDSA")
    await asyncio.sleep(0.2)
    release = threading.Event()
    issuer.publish(FIRST, SECOND)
    issuer.answer = lambda request: (release.wait(5), send(json.dumps({"keys": issuer.published}).encode())(request))

    before_seconds = time.monotonic()
    answers = [await found(key_set, "first") for _ in range(20)]
    took_seconds = time.monotonic() - before_seconds
    await until(lambda: len(issuer.asked) == 2)
    release.set()
    await until(lambda: "second" in key_set._keys)  # noqa: SLF001 - to look without asking

    assert (answers, len(issuer.asked)) == ([True] * 20, 2)
    assert took_seconds < 1


@pytest.mark.anyio
async def test_unknown_key_ids_are_asked_for_once_per_interval(
    key_set: KeySet, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "FETCH_INTERVAL_SECONDS", 0.4)
    await key_set.find("first", "EdDSA")
    ends_at_seconds = time.monotonic() + 1.2
    tried = 0

    async def throw(number: int) -> None:
        nonlocal tried
        while time.monotonic() < ends_at_seconds:
            assert not await found(key_set, f"unknown-{number}-{time.monotonic()}")
            tried += 1

    await asyncio.gather(*(throw(number) for number in range(100)))

    assert tried >= 200
    assert len(issuer.asked) <= 5


@pytest.mark.anyio
async def test_an_issuer_that_is_down_is_asked_once_per_interval(
    key_set: KeySet, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "FETCH_INTERVAL_SECONDS", 0.4)
    issuer.answer = hang_up
    ends_at_seconds = time.monotonic() + 1

    async def throw() -> None:
        while time.monotonic() < ends_at_seconds:
            with pytest.raises(KeysUnavailable):
                await key_set.find("first", "EdDSA")

    await asyncio.gather(*(throw() for _ in range(50)))

    assert 2 <= len(issuer.asked) <= 4


@pytest.mark.anyio
async def test_a_key_that_was_published_meanwhile_is_found(key_set: KeySet, issuer: Issuer) -> None:
    await key_set.find("first", "EdDSA")
    issuer.publish(FIRST, SECOND)

    assert await found(key_set, "second")
    assert (await found(key_set, "first"), len(issuer.asked)) == (True, 2)


@pytest.mark.anyio
async def test_a_key_that_was_published_after_the_issuer_was_asked_is_asked_for_again(
    key_set: KeySet, issuer: Issuer
) -> None:
    """An answer that was on its way before the token was issued cannot tell that its key is unknown."""
    await key_set.find("first", "EdDSA")
    release = threading.Event()
    outdated = send(json.dumps({"keys": issuer.published}).encode())
    issuer.answer = lambda request: (release.wait(5), outdated(request))
    forged = asyncio.create_task(found(key_set, "unknown"))
    await until(lambda: len(issuer.asked) == 2)

    issuer.publish(FIRST, SECOND)
    issuer.answer = None
    valid = asyncio.create_task(found(key_set, "second"))
    await asyncio.sleep(0.05)
    release.set()

    assert (await forged, await valid) == (False, True)
    assert len(issuer.asked) == 3


@pytest.mark.anyio
async def test_while_the_issuer_is_down_known_keys_go_on_working(
    key_set: KeySet, issuer: Issuer, log: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "REFRESH_SECONDS", 0)
    await key_set.find("first", "EdDSA")
    issuer.answer = hang_up

    answers = [await found(key_set, key_id) for key_id in ("first", "unknown") * 5]

    assert answers == [True, False] * 5
    assert len(issuer.asked) > 1
    assert {entry["event"] for entry in log} == {"key_set_refused"}


REFUSED = {
    "redirect": (send(b"", 302, Location="/elsewhere"), "302"),
    "permanent-redirect": (send(b"", 308, Location="/elsewhere"), "308"),
    "not-found": (send(b"{}", 404), "404"),
    "server-error": (send(json.dumps({"keys": [SECOND.public]}).encode(), 500), "500"),
    "no-content": (send(b"", 204), "204"),
    "hung-up": (hang_up, "disconnected"),
    "trickling": (trickle, "TimeoutError"),
    "too-large": (send(json.dumps({"keys": [SECOND.public], "pad": "x" * 1_048_576}).encode()), "too large"),
    "too-large-when-decompressed": (
        send(
            gzip.compress(json.dumps({"keys": [SECOND.public], "pad": "x" * 1_048_576}).encode()),
            **{"Content-Encoding": "gzip"},
        ),
        "too large",
    ),
    "badly-compressed": (send(b"{}", **{"Content-Encoding": "gzip"}), "decompress"),
    "shorter-than-announced": (send(b"{}", **{"Content-Length": "9"}), "peer closed"),
    "empty": (send(b""), "truncated"),
    "not-json": (send(b"<html>"), "malformed"),
    "not-utf-8": (send(b'{"keys": [], "x": "\xff"}'), "tf-8"),
    "nested-deeply": (send(b'{"keys": ' + b"[" * 100_000), "recursion"),
    "a-list": (send(json.dumps([SECOND.public]).encode()), "not a key set"),
    "keys-not-a-list": (send(b'{"keys": {}}'), "not a key set"),
    "no-keys": (send(b'{"keys": []}'), "no usable key"),
    "no-usable-keys": (send(b'{"keys": [null, 1, {}, {"kty": "oct", "k": "AAAA", "kid": "first"}]}'), "no usable key"),
}


@pytest.mark.requirement("FR-02", "SR-11")
@pytest.mark.anyio
@pytest.mark.parametrize(("answer", "reason"), REFUSED.values(), ids=REFUSED)
async def test_nonsense_is_refused_with_a_log_line_and_removes_no_key(
    key_set: KeySet,
    issuer: Issuer,
    log: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[BaseHTTPRequestHandler], None],
    reason: str,
) -> None:
    monkeypatch.setattr(keys, "FETCH_SECONDS", 0.3)
    await key_set.find("first", "EdDSA")
    issuer.answer = answer

    answers = [await found(key_set, key_id) for key_id in ("second", "first")]

    assert answers == [False, True]
    assert set(issuer.asked) == {"/jwks"}
    refused = [entry for entry in log if entry["event"] == "key_set_refused"]
    assert [entry["log_level"] for entry in refused] == ["warning"]
    assert reason in refused[0]["reason"]


@pytest.mark.anyio
@pytest.mark.parametrize("answer", [answer for answer, _ in REFUSED.values()], ids=REFUSED)
async def test_nonsense_at_first_is_no_key_and_nobodys_fault(
    key_set: KeySet,
    issuer: Issuer,
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[BaseHTTPRequestHandler], None],
) -> None:
    monkeypatch.setattr(keys, "FETCH_SECONDS", 0.3)
    issuer.answer = answer
    verifier = Verifier(key_set)

    with pytest.raises(KeysUnavailable):
        await verifier.verify(FIRST.token())

    issuer.answer = None
    assert (await verifier.verify(FIRST.token())).id == "alice"


TOO_SHORT = rsa.generate_private_key(65537, 1024).public_key()  # noqa: S505 - that is the point

UNUSABLE = {
    "symmetric": {"kty": "oct", "k": "c2VjcmV0" * 8, "kid": "odd", "alg": "HS256"},
    "symmetric-that-says-otherwise": {"kty": "oct", "k": "c2VjcmV0" * 8, "kid": "odd", "alg": "RS256"},
    "for-encryption": SECOND.public | {"kid": "odd", "use": "enc"},
    "use-not-a-string": SECOND.public | {"kid": "odd", "use": ["sig"]},
    "rsa-too-short": get_default_algorithms()["RS256"].to_jwk(TOO_SHORT, as_dict=True) | {"kid": "odd", "alg": "RS256"},
    "rsa-that-says-hs256": RSA.public | {"kid": "odd", "alg": "HS256"},
    "rsa-that-says-es256": RSA.public | {"kid": "odd", "alg": "ES256"},
    "ed25519-that-says-rs256": SECOND.public | {"kid": "odd", "alg": "RS256"},
    "none": SECOND.public | {"kid": "odd", "alg": "none"},
    "algorithm-unknown": SECOND.public | {"kid": "odd", "alg": "XS256"},
    "algorithm-not-a-string": SECOND.public | {"kid": "odd", "alg": ["EdDSA"]},
    "private": get_default_algorithms()["EdDSA"].to_jwk(SECOND.private, as_dict=True) | {"kid": "odd", "alg": "EdDSA"},
    "private-rsa": get_default_algorithms()["RS256"].to_jwk(RSA.private, as_dict=True) | {"kid": "odd", "alg": "RS256"},
    "kind-unknown": {"kty": "AKP", "kid": "odd", "alg": "ML-DSA-44", "pub": "AAAA"},
    "kind-not-a-string": SECOND.public | {"kid": "odd", "kty": ["OKP"]},
    "kind-missing": {"kid": "odd", "alg": "EdDSA"},
    "curve-unknown": SECOND.public | {"kid": "odd", "crv": "Ed1"},
    "not-on-the-curve": P256.public | {"kid": "odd", "x": P256.public["y"]},
    "coordinates-missing": {"kty": "EC", "crv": "P-256", "kid": "odd", "alg": "ES256"},
    "coordinates-not-text": P256.public | {"kid": "odd", "x": 1},
    "modulus-not-text": RSA.public | {"kid": "odd", "n": [1]},
    "exponent-one": RSA.public | {"kid": "odd", "e": "AQ"},
    "exponent-empty": RSA.public | {"kid": "odd", "e": ""},
    "id-not-a-string": SECOND.public | {"kid": 5},
    "id-a-list": SECOND.public | {"kid": ["odd"]},
    "not-a-key": "odd",
}


@pytest.mark.anyio
@pytest.mark.parametrize("key", UNUSABLE.values(), ids=UNUSABLE)
async def test_a_key_that_may_not_verify_is_ignored_and_the_others_work(
    key_set: KeySet, issuer: Issuer, key: Any
) -> None:
    issuer.published = [key, FIRST.public, key]

    assert await found(key_set, "first")
    names = ["none", "HS256", "RS256", "ES256", "EdDSA"]
    assert [name for name in names if await found(key_set, "odd", name)] == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("own", "expected"),
    [
        pytest.param(FIRST, {"EdDSA"}, id="ed25519"),
        pytest.param(P256, {"ES256"}, id="p-256"),
        pytest.param(P384, {"ES384"}, id="p-384"),
        pytest.param(RSA, {"RS256"}, id="rsa"),
        pytest.param(Signer(RSA.private, RSA.public | {"alg": "PS256"}), {"PS256"}, id="rsa-pss"),
        pytest.param(Signer(P256.private, P256.public | {"alg": None}), {"ES256"}, id="p-256-unsaid"),
        pytest.param(Signer(RSA.private, RSA.public | {"alg": None}), {"RS256"}, id="rsa-unsaid"),
        pytest.param(Signer(FIRST.private, FIRST.public | {"alg": None}), {"EdDSA"}, id="ed25519-unsaid"),
    ],
)
async def test_a_key_verifies_its_own_algorithm_and_no_other(
    key_set: KeySet, issuer: Issuer, own: Signer, expected: set[str]
) -> None:
    issuer.publish(own)

    verified = {name for name in get_default_algorithms() if await found(key_set, own.public["kid"], name)}

    assert verified == expected


@pytest.mark.anyio
async def test_a_key_of_another_curve_than_its_algorithm_verifies_nothing(key_set: KeySet, issuer: Issuer) -> None:
    odd = Signer(P384.private, P384.public | {"alg": "ES256"})
    issuer.publish(odd, FIRST)
    token = Signer(P256.private, odd.public).token()

    with pytest.raises(TokenInvalid):
        await Verifier(key_set).verify(token)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("published", "expected"),
    [
        pytest.param([FIRST], True, id="the-only-key"),
        pytest.param([FIRST, RSA], True, id="the-only-one-for-the-algorithm"),
        pytest.param([FIRST, SECOND], False, id="one-of-two"),
        pytest.param([RSA], False, id="none-for-the-algorithm"),
    ],
)
async def test_a_token_without_key_id_is_verified_where_only_one_key_can(
    key_set: KeySet, issuer: Issuer, published: list[Signer], expected: bool
) -> None:
    issuer.publish(*published)

    assert await found(key_set, None) is expected


@pytest.mark.anyio
async def test_keys_without_id_verify_tokens_without_one(key_set: KeySet, issuer: Issuer) -> None:
    ed25519_key, rsa_key = signer(None), Signer(RSA.private, {**RSA.public, "kid": None})
    issuer.publish(ed25519_key, rsa_key)
    verifier = Verifier(key_set)

    users = [await verifier.verify(one.token(sub=sub)) for one, sub in ((ed25519_key, "alice"), (rsa_key, "bob"))]

    assert [user.id for user in users] == ["alice", "bob"]


@pytest.mark.requirement("FR-02", "SR-04")
@pytest.mark.anyio
@pytest.mark.parametrize(
    "successors",
    [
        pytest.param([SECOND], id="removed"),
        pytest.param([Signer(SECOND.private, SECOND.public | {"kid": "first"})], id="replaced-under-the-same-id"),
    ],
)
async def test_removing_a_key_ends_its_tokens_at_the_next_refresh(
    key_set: KeySet, issuer: Issuer, monkeypatch: pytest.MonkeyPatch, successors: list[Signer]
) -> None:
    """Although they are remembered, and although nobody else comes along with a token that makes the service ask."""
    monkeypatch.setattr(keys, "REFRESH_SECONDS", 0.2)
    verifier, token = Verifier(key_set), FIRST.token()
    await verifier.verify(token)
    issuer.publish(*successors)
    refused_after_seconds, removed_at_seconds = None, time.monotonic()

    while refused_after_seconds is None and time.monotonic() < removed_at_seconds + 2:
        try:
            await verifier.verify(token)
        except TokenInvalid:
            refused_after_seconds = time.monotonic() - removed_at_seconds
        await asyncio.sleep(0.02)

    assert refused_after_seconds is not None
    assert (await verifier.verify(successors[0].token())).id == "alice"


@pytest.mark.anyio
async def test_what_other_keys_verified_is_still_remembered_when_one_is_added(
    key_set: KeySet, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier, token = Verifier(key_set), FIRST.token()
    await verifier.verify(token)
    issuer.publish(FIRST, SECOND)
    await verifier.verify(SECOND.token())
    monkeypatch.setattr(jwt, "decode", None)

    assert (await verifier.verify(token)).id == "alice"


@pytest.mark.anyio
async def test_a_forged_token_is_never_remembered(key_set: KeySet, issuer: Issuer) -> None:
    issuer.publish(FIRST, SECOND)
    verifier, forged = Verifier(key_set), SECOND.token(kid="first")

    for _ in range(3):
        with pytest.raises(TokenInvalid):
            await verifier.verify(forged)

    assert len(verifier._verified) == 0  # noqa: SLF001 - what is not remembered cannot be seen from outside


@pytest.mark.anyio
@pytest.mark.parametrize("algorithm", ["RS256", "HS512", "none", "", None])
async def test_a_shared_secret_verifies_hs256_alone(algorithm: str) -> None:
    secret = SharedSecret(b"x" * 32)

    with pytest.raises(KeyUnknown):
        await secret.find(None, algorithm)


@pytest.fixture
def service(database_url: str, issuer: Issuer) -> Iterator[httpx.Client]:
    """A client of a service that trusts this issuer and has not yet asked it."""
    with running(database_url, JWT_JWKS_URL=issuer.url) as url, httpx.Client(base_url=url) as client:
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
    body = json.dumps({"keys": issuer.published}).encode()
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
        read_settings({"DATABASE_URL": "postgresql://localhost/x", "JWT_JWKS_URL": url})


@pytest.mark.requirement("NF-03")
@pytest.mark.parametrize(
    "url", ["https://issuer.example/jwks", "http://localhost:3000/jwks", "http://127.0.0.1/jwks", "http://[::1]/jwks"]
)
def test_keys_over_https_or_from_this_machine_are_taken(url: str) -> None:
    settings = read_settings({"DATABASE_URL": "postgresql://localhost/x", "JWT_JWKS_URL": url})

    assert settings.jwt_jwks_url == url
