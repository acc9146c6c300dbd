"""What a client may send, and for how long, is bounded; whoever goes beyond is told so, where there is a way."""

from __future__ import annotations

import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import httpx
import psycopg
import pytest

from app.http import protocol, workers
from handlers.problems import TYPE_PREFIX
from support.people import make_token
from support.service import running
from support.sockets import assert_refused, connect, received, send_in_pieces

MEBIBYTE = 1_048_576


# Some of the requests are written when the tests are collected, minutes before they are sent.
TOKEN = make_token("alice", exp=int(time.time()) + 3600)


@pytest.fixture(scope="module")
def url(database_url: str) -> Iterator[str]:
    """A service that is patient for seconds where it would be for longer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "LOOK_SECONDS", 0.1)
        patch.setattr(protocol, "TIMEOUT_SECONDS", dict.fromkeys(protocol.TIMEOUT_SECONDS, 1))
        with running(database_url, KEEP_ALIVE_SECONDS="2", HSTS_SECONDS="31536000") as url:
            yield url


def head(method: str = "GET", path: str = "/healthz", *lines: str) -> bytes:
    fields = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {TOKEN}", *lines]
    return "".join(f"{field}\r\n" for field in fields).encode() + b"\r\n"


CREATE = ("POST", "/api/alice/tasks", "Content-Type: application/json")


@pytest.mark.requirement("FR-18", "FR-19")
@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", id="tls"),
        pytest.param(b"HACK / HTTP/1.1\r\nHost: x\r\n\r\n", id="method"),
        pytest.param(b"GET / HTTP/x\r\nHost: x\r\n\r\n", id="version"),
        pytest.param(b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", id="header"),
        pytest.param(head(*CREATE, "Content-Length: -1"), id="length"),
        pytest.param(head(*CREATE, "Transfer-Encoding: chunked") + b"x\r\n", id="chunk"),
    ],
)
def test_what_is_no_http_is_a_problem(url: str, request_: bytes) -> None:
    with connect(url) as connection:
        connection.sendall(request_)

        assert_refused(received(connection), 400, "malformed-request")


@pytest.mark.requirement("FR-18", "FR-19")
@pytest.mark.parametrize(
    "line",
    [
        pytest.param("X: " + "y" * 200_000, id="one"),
        pytest.param("\r\n".join(f"X-{number}: y" for number in range(20_000)), id="many"),
    ],
)
@pytest.mark.parametrize("chunk_bytes", [1_000_000, 1_000])
def test_headers_have_an_end(url: str, line: str, chunk_bytes: int) -> None:
    request = head("GET", "/healthz", line)
    with connect(url) as connection:
        try:
            send_in_pieces(connection, request, chunk_bytes)
        except (BrokenPipeError, ConnectionResetError):
            return  # It was refused before it was sent, and the answer overtaken by that.
        assert_refused(received(connection), 431, "headers-too-large")


def test_a_head_just_below_the_limit_is_read(url: str) -> None:
    with connect(url) as connection:
        connection.sendall(head("GET", "/healthz", "X: " + "y" * 65_000, "Connection: close"))

        assert received(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(b"0\r\n" + b"X: " + b"y" * 64 * MEBIBYTE, id="trailer"),
        pytest.param(b"0\r\n" + b"X: y\r\n" * 12 * MEBIBYTE, id="trailers"),
        pytest.param(b"1;" + b"x" * 64 * MEBIBYTE, id="extension"),
        pytest.param(b"ffffff\r\n" + b"x" * 64 * MEBIBYTE, id="body"),
    ],
)
def test_a_message_has_an_end(url: str, rest: bytes) -> None:
    with connect(url) as connection:
        connection.sendall(head(*CREATE, "Transfer-Encoding: chunked"))

        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_in_pieces(connection, rest)


def test_whoever_goes_on_sending_after_a_refusal_is_cut_off_in_time(url: str) -> None:
    started = time.monotonic()
    with connect(url) as connection, suppress(BrokenPipeError, ConnectionResetError):
        while time.monotonic() < started + 10:
            connection.sendall(b"\0")
            time.sleep(0.1)

    assert 1 < time.monotonic() - started < 4


@pytest.mark.requirement("FR-18", "FR-19")
@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(head()[:-2] + b"X: y", id="head"),
        pytest.param(head(*CREATE, "Content-Length: 20"), id="body"),
        pytest.param(head(*CREATE, "Expect: 100-continue", "Content-Length: 20"), id="expected-body"),
    ],
)
def test_a_byte_now_and_then_is_not_enough(url: str, request_: bytes) -> None:
    started = time.monotonic()
    with connect(url) as connection:
        connection.sendall(request_)
        while not select.select([connection], [], [], 0.2)[0]:
            connection.sendall(b"x")
        answer = received(connection).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")

    assert_refused(answer, 408, "request-timeout")
    assert time.monotonic() < started + 4


@pytest.mark.parametrize(
    ("sent", "seconds"), [(b"", 1), (b"\r\n\r\n", 1), (head(), 2)], ids=["nothing", "empty-lines", "a-request"]
)
def test_who_sends_nothing_is_left_in_the_end(url: str, sent: bytes, seconds: float) -> None:
    started = time.monotonic()
    with connect(url) as connection:
        connection.sendall(sent)
        answer = received(connection)

    assert answer.count(b"HTTP/1.1 200 ") == sent.count(b"healthz")
    assert seconds * 0.9 < time.monotonic() - started < seconds + 2


def test_who_never_reads_is_cut_off(url: str) -> None:
    with connect(url) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_in_pieces(connection, head("GET", "/openapi.json") * 1_000_000)


@pytest.mark.parametrize("path", ["/healthz", "/api/alice/tasks"])
def test_a_client_that_only_ends_its_sending_is_answered(url: str, path: str) -> None:
    with connect(url) as connection:
        connection.sendall(head("GET", path))
        connection.shutdown(socket.SHUT_WR)

        assert received(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.requirement("SC-04")
def test_pipelined_requests_are_answered_in_their_order_and_what_follows_them_is_not_taken_for_them(url: str) -> None:
    paths = ["/api/alice/tasks?limit=1", "/healthz", "/api/bob/tasks", "/nothing"] * 50
    with connect(url) as connection:
        connection.sendall(b"".join(head("GET", path) for path in paths) + b"\0\0\0")
        answers = received(connection)

    statuses = re.findall(rb"HTTP/1.1 (\d+)", answers)
    assert statuses == [b"200", b"200", b"403", b"404"] * 50 + [b"400"]


UPGRADES = {
    "http-2": ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"],
    "websocket": ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="],
}


@pytest.mark.parametrize("upgrade", UPGRADES.values(), ids=UPGRADES)
@pytest.mark.parametrize("piece_bytes", [1_000_000, 100, 1])
@pytest.mark.parametrize(
    ("framing", "body"),
    [
        pytest.param(["Content-Length: 13"], b'{"title":"x"}', id="length"),
        pytest.param(["Transfer-Encoding: chunked"], b'd\r\n{"title":"x"}\r\n0\r\n\r\n', id="chunks"),
        pytest.param([f"Content-Length: {len(head())}"], head(), id="a-request"),
    ],
)
def test_an_upgrade_that_nobody_offers_is_ignored_and_the_body_is_no_request(
    url: str, framing: list[str], body: bytes, piece_bytes: int, upgrade: list[str]
) -> None:
    """Clients ask so for HTTP/2 without TLS; a proxy that passes it on must not disagree about where the body ends."""
    request = head(*CREATE, *framing, *upgrade) + body
    with connect(url) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        send_in_pieces(connection, request * 2 + head("GET", "/healthz", "Connection: close"), piece_bytes)
        answers = received(connection)

    status = b"201" if b"title" in body else b"422"
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [status, status, b"200"]


def test_nothing_follows_a_connect(url: str) -> None:
    with connect(url) as connection:
        connection.sendall(head("CONNECT") + head())

        assert re.findall(rb"HTTP/1.1 (\d+)", received(connection)) == [b"405"]


def test_workers_that_cannot_start_end_the_service() -> None:
    code = (
        "import uvicorn; from app.http import workers;"
        "workers.serve(uvicorn.Config('app.nowhere:app', workers=2), [], drain_seconds=0)"
    )

    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, timeout=60)

    assert done.returncode == workers.STARTUP_FAILURE


@pytest.mark.requirement("FR-18", "FR-19", "FR-20")
def test_who_would_only_wait_is_refused_at_once_and_probes_are_not(
    database_url: str, owner: psycopg.Connection
) -> None:
    variables = {"DATABASE_POOL_SIZE": "1", "DATABASE_QUEUE_SIZE": "1", "CORS_ORIGINS": "https://app.example"}
    with running(database_url, **variables) as url, connect(url) as first, connect(url) as second:
        owner.execute("lock table tasks")
        for waiting in (first, second):
            waiting.sendall(head("GET", "/api/alice/tasks"))
            time.sleep(0.1)

        headers = {"Authorization": f"Bearer {make_token('bob')}", "Origin": "https://app.example"}
        refused = [
            httpx.request(method, f"{url}/api/bob/tasks", headers=headers, json=body)
            for method, body in (("GET", None), ("HEAD", None), ("POST", {"title": "x"}))
        ]
        stranger = httpx.get(f"{url}/api/bob/tasks")
        alive = httpx.get(f"{url}/healthz")
        with connect(url) as third:
            third.sendall(head("GET", "/api/alice/tasks") * 50 + head("GET", "/healthz", "Connection: close"))
            pipelined = re.findall(rb"HTTP/1.1 (\d+)", received(third))
        owner.rollback()
        answers = [waiting.recv(65_536) for waiting in (first, second)]

    assert [response.status_code for response in refused] == [503] * 3
    assert refused[0].json()["type"] == TYPE_PREFIX + "overloaded"
    assert {response.headers["retry-after"] for response in refused} == {"1"}
    assert {response.headers["access-control-allow-origin"] for response in refused} == {"https://app.example"}
    assert refused[1].content == b""
    assert (stranger.status_code, alive.status_code) == (401, 200)
    assert pipelined == [b"503"] * 50 + [b"200"]
    assert [answer[:15] for answer in answers] == [b"HTTP/1.1 200 OK"] * 2
