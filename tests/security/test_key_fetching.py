"""The issuer's keys are fetched seldom, once for many requests, and no answer of the issuer ends what works."""

from __future__ import annotations

import asyncio
import codecs
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from handlers.auth import issuer as issuers
from handlers.auth import keys
from handlers.auth.keys import KeySet, KeysUnavailable
from handlers.auth.tokens import TokenInvalid, Verifier
from support.issuer import Answer, Issuer, Signer, b64, hang_up, send
from support.keys import FAST_INTERVAL_SECONDS, FIRST, SECOND, found

pytestmark = pytest.mark.requirement("FR-02")


LOOP_SECONDS = 0.1
"""What a fetch may cost the thread of the event loop: a garbage collection may be among it, but no reading."""


def raw(head: bytes, again: bytes = b"", every_seconds: float = 0) -> Answer:
    """An answer that begins with `head` and goes on with `again`, again and again, until nobody reads it."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        request.wfile.write(head)
        while again:
            request.wfile.write(again)
            time.sleep(every_seconds)

    return answer


def rsa(bits: int, exponent_bits: int = 17) -> dict[str, str]:
    """A published key with a modulus and an exponent of so many bits."""
    n, e = (((1 << size) - 1).to_bytes((size + 7) // 8, "big") for size in (bits, exponent_bits))
    return {"kty": "RSA", "kid": "second", "alg": "RS256", "n": b64(n), "e": b64(e)}


def publish(*published: object) -> Answer:
    return send(json.dumps({"keys": published}, separators=(",", ":")).encode())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.anyio
async def test_many_waiting_requests_share_one_fetch(key_set: KeySet, issuer: Issuer) -> None:
    issuer.answer = lambda request: (time.sleep(0.1), send(issuer.key_set)(request))

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
    issuer.answer = lambda request: (time.sleep(0.2), send(issuer.key_set)(request))
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
    issuer.answer = lambda request: (release.wait(5), send(issuer.key_set)(request))

    before_seconds = time.monotonic()
    answers = [await found(key_set, "first") for _ in range(20)]
    took_seconds = time.monotonic() - before_seconds
    await until(lambda: len(issuer.asked) == 2)
    release.set()
    await until(lambda: ("second", "EdDSA") in key_set._keys)  # noqa: SLF001 - to look without asking

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
    outdated = send(issuer.key_set)
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


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.anyio
async def test_the_key_set_is_asked_for_without_content_encoding(key_set: KeySet, issuer: Issuer) -> None:
    asked: list[str | None] = []
    key_set_answer = send(issuer.key_set)
    issuer.answer = lambda request: (asked.append(request.headers["Accept-Encoding"]), key_set_answer(request))

    assert await found(key_set, "first")
    assert asked == ["identity"]


@pytest.mark.anyio
@pytest.mark.parametrize("encoding", ["identity", "Identity"])
async def test_the_identity_encoding_is_no_encoding(key_set: KeySet, issuer: Issuer, encoding: str) -> None:
    issuer.answer = send(issuer.key_set, **{"Content-Encoding": encoding})

    assert await found(key_set, "first")


@pytest.mark.anyio
async def test_a_byte_order_mark_before_the_key_set_is_passed_over(key_set: KeySet, issuer: Issuer) -> None:
    issuer.answer = send(codecs.BOM_UTF8 + issuer.key_set)

    assert await found(key_set, "first")


@pytest.mark.anyio
@pytest.mark.parametrize("host", ["localhost", "app.localhost", "a.b.localhost", "APP.localhost", "app.localhost."])
async def test_names_below_localhost_mean_this_machine(
    key_set: KeySet, issuer: Issuer, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    asked: list[str | None] = []
    key_set_answer = send(issuer.key_set)
    issuer.answer = lambda request: (asked.append(request.headers["Host"]), key_set_answer(request))
    monkeypatch.setattr(key_set, "_url", issuer.url.replace("127.0.0.1", host))

    assert await found(key_set, "first")
    assert [name.partition(":")[0] for name in asked if name] == [host.lower()]


@pytest.mark.anyio
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "app.localhost"])
async def test_this_machine_is_asked_without_a_proxy(
    key_set: KeySet, issuer: Issuer, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    for name in ("HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(key_set, "_url", issuer.url.replace("127.0.0.1", host))

    assert await found(key_set, "first")


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
async def test_other_machines_are_asked_through_the_proxy_which_is_named_if_that_fails(
    key_set: KeySet, issuer: Issuer, monkeypatch: pytest.MonkeyPatch, log: list[dict[str, Any]], name: str
) -> None:
    for other in ("HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(other, raising=False)
    # A proxy is asked for the whole URL. This one is an issuer itself, and answers like any other path.
    monkeypatch.setenv(name, issuer.url.removesuffix("/jwks"))
    monkeypatch.setattr(key_set, "_url", "http://issuer.invalid/jwks")

    assert await found(key_set, "first")
    issuer.answer = send(b"", 502)
    assert not await found(key_set, "second")

    assert set(issuer.asked) == {"http://issuer.invalid/jwks"}
    assert [entry["reason"] for entry in log] == [f"the issuer answered 502 (asked through {name})"]


@pytest.mark.anyio
async def test_a_thousand_keys_are_read_and_hold_up_nobody(
    key_set: KeySet, issuer: Issuer, log: list[dict[str, Any]]
) -> None:
    issuer.published = [FIRST.public | {"kid": f"key-{number}"} for number in range(999)] + [FIRST.public]

    before_seconds = time.thread_time()
    assert await found(key_set, "first")

    assert time.thread_time() - before_seconds < LOOP_SECONDS
    assert log == []


@pytest.mark.anyio
async def test_a_fetch_that_does_not_end_is_given_up(
    key_set: KeySet, issuer: Issuer, log: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that does not answer holds up its thread for longer than any time-out."""
    del issuer
    monkeypatch.setattr(issuers, "FETCH_SECONDS", -0.9)
    monkeypatch.setattr(issuers, "fetch_keys", lambda *_: time.sleep(1))

    before_seconds = time.monotonic()
    with pytest.raises(KeysUnavailable):
        await key_set.find("first", "EdDSA")

    assert time.monotonic() - before_seconds < 0.9
    assert [entry["reason"] for entry in log] == ["the issuer's name is resolved too slowly"]


REFUSED = {
    "redirect": (send(b"", 302, Location="/elsewhere"), "302"),
    "permanent-redirect": (send(b"", 308, Location="/elsewhere"), "308"),
    "not-found": (send(b"{}", 404), "404"),
    "server-error": (send(json.dumps({"keys": [SECOND.public]}).encode(), 500), "500"),
    "no-content": (send(b"", 204), "204"),
    "hung-up": (hang_up, "disconnected"),
    "silent": (lambda _: time.sleep(1), "longer than 0.5 s"),
    "trickling": (raw(OK + b"\r\n", b" ", 0.02), "longer than 0.5 s"),
    "trickling-head": (raw(OK, b"A: b\r\n", 0.02), "longer than 0.5 s"),
    "endless": (raw(OK + b"\r\n", b" " * 65_536), "larger than 1,048,576 bytes"),
    "endless-chunks": (raw(CHUNKED, b"1\r\n \r\n" * 1000), "longer than 0.5 s"),
    "endless-chunk-extension": (raw(CHUNKED + b"1;", b"a" * 65_536), "too long"),
    "endless-head": (raw(OK, b"A: b\r\n" * 1000), "too long"),
    "endless-interim-answers": (raw(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000), "longer than 0.5 s"),
    "long-head": (raw(OK + b"A: b\r\n" * 5_000 + b"Content-Length: 2\r\n\r\n{}"), "not a key set"),
    "not-http": (raw(b"SSH-2.0-OpenSSH_9.2 " + b"x" * 60_000 + b"\r\n\r\n"), "illegal status line"),
    "another-protocol": (raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), "SWITCH_UPGRADE"),
    "redirect-to-no-url": (send(b"", 302, Location="http://[\xff"), "Invalid URL in location header"),
    "too-large": (
        send(json.dumps({"keys": [SECOND.public], "pad": "x" * 1_048_576}).encode()),
        "larger than 1,048,576",
    ),
    "encoded": (raw(OK + b"Content-Encoding: gzip, gzip, gzip\r\n\r\n", b"x", 0.02), "content encoding"),
    "encoded-unknown": (send(b"{}", **{"Content-Encoding": "x"}), "content encoding"),
    "encoded-in-transfer": (raw(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n"), "Transfer-Encoding"),
    "shorter-than-announced": (send(b"{}", **{"Content-Length": "9"}), "peer closed"),
    "empty": (send(b""), "truncated"),
    "not-json": (send(b"<html>"), "malformed"),
    "not-utf-8": (send(b'{"keys": [], "x": "\xff"}'), "tf-8"),
    "nested-deeply": (send(b'{"keys": ' + b"[" * 100_000), "recursion"),
    "nested-deeply-in-a-key": (
        send(b'{"keys": [{"kty": ' + b"[" * 500 + b"]" * 500 + b"}]}"),
        "no usable key: keys[0]: ",
    ),
    "a-long-number": (send(b'{"keys": [' + b"1" * 1_000_000 + b"]}"), "out of range"),
    "many-values": (send(b'{"keys": [' + b"[]," * 300_000 + b"0]}"), "more than 10,000 values"),
    "many-values-beside-the-keys": (
        send(b'{"x": [' + b"[]," * 300_000 + b'0], "keys": []}'),
        "more than 10,000 values",
    ),
    "many-members": (publish(dict.fromkeys(map(str, range(50_000)), 0)), "more than 10,000 values"),
    "many-keys": (publish(*[{"kty": "OKP"}] * 1_001), "more than 1,000 keys"),
    "very-many-keys": (publish(*[{"kty": "OKP"}] * 70_000), "more than 10,000 values"),
    "bad-keys": (publish(*[{"kty": "OKP"}] * 1_000), "no usable key: keys[0]: "),
    "a-long-id": (publish(SECOND.public | {"kid": "x" * 256}), "no usable key: keys[0]: "),
    "a-long-modulus": (publish(rsa(1_000_000)), "no usable key: keys[0]: Expected `str` of length <= 2732 - at `$.n`"),
    "a-long-exponent": (publish(rsa(2048, 2047)), "no usable key: keys[0]: Expected `str` of length <= 6 - at `$.e`"),
    "a-list": (send(json.dumps([SECOND.public]).encode()), "not a key set"),
    "keys-not-a-list": (send(b'{"keys": {}}'), "not a key set"),
    "no-keys": (send(b'{"keys": []}'), "no usable key"),
    "no-usable-keys": (send(b'{"keys": [null, 1, {}, {"kty": "oct", "k": "AAAA", "kid": "first"}]}'), "no usable key"),
}


@pytest.mark.requirement("FR-02", "SR-11")
@pytest.mark.anyio
@pytest.mark.parametrize(("answer", "reason"), REFUSED.values(), ids=REFUSED)
async def test_nonsense_is_refused_with_a_line_in_the_log_and_neither_removes_a_key_nor_holds_up_the_loop(
    key_set: KeySet,
    issuer: Issuer,
    log: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[BaseHTTPRequestHandler], None],
    reason: str,
) -> None:
    monkeypatch.setattr(issuers, "FETCH_SECONDS", 0.5)
    await key_set.find("first", "EdDSA")
    issuer.answer = answer

    before_seconds = time.thread_time()
    answers = [await found(key_set, key_id) for key_id in ("second", "first")]
    took_seconds = time.thread_time() - before_seconds

    assert answers == [False, True]
    assert took_seconds < LOOP_SECONDS
    assert set(issuer.asked) == {"/jwks"}
    refused = [entry for entry in log if entry["event"] == "key_set_refused"]
    assert [entry["log_level"] for entry in refused] == ["warning"]
    assert reason in refused[0]["reason"]
    assert len(refused[0]["reason"]) <= 200


@pytest.mark.anyio
@pytest.mark.parametrize("answer", [answer for answer, _ in REFUSED.values()], ids=REFUSED)
async def test_nonsense_at_first_is_no_key_and_nobodys_fault(
    key_set: KeySet,
    issuer: Issuer,
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[BaseHTTPRequestHandler], None],
) -> None:
    monkeypatch.setattr(issuers, "FETCH_SECONDS", 0.5)
    issuer.answer = answer
    verifier = Verifier(key_set)

    with pytest.raises(KeysUnavailable):
        await verifier.verify(FIRST.token())

    issuer.answer = None
    assert (await verifier.verify(FIRST.token())).id == "alice"


@pytest.mark.requirement("FR-02", "SR-04")
@pytest.mark.anyio
@pytest.mark.parametrize(
    "successors",
    [
        pytest.param([SECOND], id="removed"),
        pytest.param([replace(SECOND, kid="first")], id="replaced-under-the-same-id"),
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
