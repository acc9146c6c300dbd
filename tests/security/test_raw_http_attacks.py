"""A request that no client library would send is refused, or means what its path and token say."""

from __future__ import annotations

import re

import httpx
import psycopg
import pytest

from support.attacks import raw
from support.people import make_token

REQUESTS: dict[str, tuple[bytes, int]] = {
    "absolute-form": (b"GET http://evil.example/api/alice/tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", 200),
    "absolute-form-of-another": (b"GET http://x/api/bob/tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", 403),
    "absolute-form-with-user": (b"GET http://bob@x/api/alice/tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", 200),
    "two-slashes": (b"GET //api/alice/tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", 404),
    "slash-encoded": (b"GET /api%2Falice%2Ftasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", 404),
    "prefix-encoded": (b"GET /%61pi/alice/tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", 200),
    "suffix-with-dot": (b"GET /api/alice/tasks. HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", 404),
    "suffix-with-slash": (b"GET /api/alice/tasks/ HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", 404),
    "suffix-with-format": (b"GET /api/alice/tasks.json HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", 404),
    "suffix-with-line-end": (b"GET /api/alice/tasks%0a HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", 404),
    "prefix-in-capitals": (b"GET /API/alice/tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", 404),
    "raw-non-ascii": (b"GET /api/ali\xe9ce/tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", 400),
    "raw-nul": (b"GET /api/alice\0/tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", 400),
    "raw-space": (b"GET /api/alice /tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", 400),
    "asterisk-form": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", 204),
    "fragment": (b"GET /api/alice/tasks#/../bob HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", 200),
    "identity-in-query": (b"GET /api/alice/tasks?user_id=bob HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", 422),
    "host-of-another": (b"GET /api/alice/tasks HTTP/1.1\r\nHost: evil.example\r\nAUTH\r\n\r\n", 200),
    "two-hosts": (b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nHost: y\r\nAUTH\r\n\r\n", 400),
    "http-1.0": (b"GET /api/alice/tasks HTTP/1.0\r\nAUTH\r\n\r\n", 200),
    "http-0.9": (b"GET /api/alice/tasks\r\n\r\n", 505),
    "http-9.9": (b"GET /api/alice/tasks HTTP/9.9\r\nHost: x\r\nAUTH\r\n\r\n", 505),
    "method-unknown": (b"HACK /api/alice/tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", 400),
    "method-in-lower-case": (b"delete /api/alice/tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", 405),
    "trace": (b"TRACE /api/alice/tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", 405),
    "connect": (b"CONNECT /api/alice/tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", 405),
    "method-overridden": (
        (b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nX-HTTP-Method-Override: POST\r\nX-Method-Override: DELETE\r\n"
        b"X-HTTP-Method: PUT\r\nAUTH\r\n\r\n"), 200),
    "path-overridden": (
        (
            b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nX-Original-URL: /api/bob/tasks\r\n"
            b"X-Rewrite-URL: /api/bob/tasks\r\n"
        b"X-Forwarded-Prefix: /x\r\nX-Script-Name: /api/bob\r\nAUTH\r\n\r\n"), 200),
    "sender-overridden": (
        (b"GET /api/bob/tasks HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\n"
        b"X-Real-IP: 127.0.0.1\r\nX-Forwarded-User: bob\r\nX-User-Id: bob\r\nAUTH\r\n\r\n"), 403),
    "scheme-overridden": (
        b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nX-Forwarded-Proto: data\r\nX-Forwarded-Host: y\r\nAUTH\r\n\r\n",
        200),
    "header-with-space-before-colon": (
        b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer x\r\n\r\n", 400),
    "header-without-value": (b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nAuthorization:\r\n\r\n", 401),
    "bearer-without-token": (b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer\r\n\r\n", 401),
    "bearer-and-space": (b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \r\n\r\n", 401),
    "folded-header": (b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer\r\n TOKEN\r\n\r\n",
        400),
    "nul-in-header": (b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nX: a\0b\r\nAUTH\r\n\r\n", 400),
    "non-ascii-token": (
        b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe.x.y\r\n\r\n", 401),
    "line-end-alone": (b"GET /api/alice/tasks HTTP/1.1\nHost: x\nAUTH\n\n", 400),
    "many-headers": (
        b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(
        2_000)) + b"AUTH\r\n\r\n",
        431),
    "long-header": (b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000 + b"\r\nAUTH\r\n\r\n",
        431),
    "long-token": (
        b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + b"y" * 500_000 + b"\r\n\r\n",
        431),
    "long-path": (b"GET /api/" + b"a" * 60_000 + b"/tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", 431),
    "length-and-chunks": (
        (b"POST /api/alice/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\nAUTH\r\n\r\n0\r\n\r\nGET /api/bob/tasks HTTP/1.1\r\nHost: x\r\n\r\n"), 400),
    "two-lengths": (
        (b"POST /api/alice/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 13\r\n"
        b'Content-Length: 0\r\nAUTH\r\n\r\n{"title":"x"}'), 400),
    "length-negative": (b"POST /api/alice/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\nAUTH\r\n\r\n", 400),
    "length-signed": (
        b'POST /api/alice/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: +13\r\nAUTH\r\n\r\n{"title":"x"}', 400),
    "chunked-twice": (
        b"POST /api/alice/tasks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, chunked\r\nAUTH\r\n\r\n0\r\n\r\n",
        400),
    "chunked-in-disguise": (
        b"POST /api/alice/tasks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\nAUTH\r\n\r\n0\r\n\r\n", 400),
    "body-that-is-a-request": (
        (b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 39\r\nConnection: close\r\nAUTH\r\n\r\n"
        b"DELETE /api/alice/tasks HTTP/1.1\r\nX: y\r\n"), 200),
    "upgrade-to-websocket": (
        (b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAUTH\r\n\r\n"), 200),
    "upgrade-to-http-2": (
        (b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQAAP__\r\nAUTH\r\n\r\n"), 200),
    "http-2-at-once": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "tls": (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", 400),
    "documentation-files": (b"GET /docs/..%2f..%2f..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "documentation-files-raw": (b"GET /docs/../../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404),
}  # fmt: skip


@pytest.mark.requirement("FR-05", "SR-02", "SR-10", "SC-03")
@pytest.mark.parametrize(("request_", "status"), REQUESTS.values(), ids=REQUESTS)
def test_a_request_that_plays_tricks_is_refused_or_means_nothing_else(
    owner: psycopg.Connection, urls: dict[str, str], request_: bytes, status: int
) -> None:
    token, bob = make_token("alice").encode(), owner.execute("select count(*) from tasks").fetchone()
    filled = request_.replace(b"AUTH", b"Connection: close\r\nAuthorization: Bearer TOKEN").replace(b"TOKEN", token)
    if b"Connection" not in filled:
        filled = filled.replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n")
    owner.rollback()

    answers = raw(urls["HS256"], filled)

    assert [answered for answered, _ in answers] == [status]
    text = answers[0][1].decode("utf-8", "replace")
    assert not re.search(r"Traceback|File \"|psycopg|select |root:", text)
    assert owner.execute("select count(*) from tasks").fetchone() == bob
    assert httpx.get(f"{urls['HS256']}/healthz").status_code == 200
