"""What HTTP/1.1 says of a request's bytes holds, however they arrive; what breaks it is refused, and says so."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.http.messages import FIELD_LIMIT, HEAD_LIMIT_BYTES, TARGET_LIMIT_BYTES
from support.people import make_token
from support.service import running, running_process, serving
from support.sockets import assert_refused, connect, exchange, received, statuses

# Some of the requests are written when the tests are collected, minutes before they are sent.
AUTHORIZATION = f"Authorization: Bearer {make_token('alice', exp=int(time.time()) + 3600)}".encode()
LAST = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
CREATE = b"POST /api/alice/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + AUTHORIZATION + b"\r\n"
BODY = b'{"title":"x"}'
CREATE_ONE = CREATE + b"Content-Length: 13\r\n\r\n" + BODY
CHUNKS = b"d\r\n" + BODY + b"\r\n0\r\n"
MEBIBYTE = 1_048_576


@pytest.fixture(scope="module")
def url(database_url: str) -> Iterator[str]:
    with running(database_url, HSTS_SECONDS="31536000") as url:
        yield url


def lines(*fields: bytes, line: bytes = b"GET /healthz HTTP/1.1") -> bytes:
    return b"\r\n".join([line, *fields]) + b"\r\n\r\n"


@pytest.mark.requirement("FR-18", "FR-19")
@pytest.mark.parametrize(
    ("request_", "status", "name"),
    [
        pytest.param(lines(b"X: y"), 400, "malformed-request", id="no-host"),
        pytest.param(lines(b"Host: x", b"Host: x"), 400, "malformed-request", id="two-hosts"),
        pytest.param(lines(b"Host: x y"), 400, "malformed-request", id="host-with-space"),
        pytest.param(lines(b"Host: u@x"), 400, "malformed-request", id="host-with-user"),
        pytest.param(lines(b"Host: x/y"), 400, "malformed-request", id="host-with-path"),
        pytest.param(lines(b"Host: x:y"), 400, "malformed-request", id="host-with-other-port"),
        pytest.param(lines(b"Host: x, y"), 400, "malformed-request", id="list-of-hosts"),
        pytest.param(lines(b"Host: %zz"), 400, "malformed-request", id="host-with-half-an-encoding"),
        pytest.param(lines(b"Host: " + b"x" * 10_000), 400, "malformed-request", id="long-host"),
        pytest.param(
            lines(b"Host: x", b"Host: y", line=b"GET /healthz HTTP/1.0"), 400, "malformed-request", id="two-in-1.0"
        ),
        pytest.param(lines(line=b"GET /healthz"), 505, "http-version-not-supported", id="0.9"),
        pytest.param(lines(b"Host: x", line=b"GET /healthz HTTP/2.0"), 505, "http-version-not-supported", id="2.0"),
        pytest.param(lines(b"Host: x", line=b"GET /healthz HTTP/3.0"), 505, "http-version-not-supported", id="3.0"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "http-version-not-supported", id="2-at-once"),
        pytest.param(CREATE + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501, "not-implemented", id="gzip-chunked"),
        pytest.param(CREATE + b"Transfer-Encoding: gzip\r\n\r\n", 400, "malformed-request", id="gzip"),
        pytest.param(CREATE + b"Transfer-Encoding: identity\r\n\r\n", 400, "malformed-request", id="identity"),
        pytest.param(
            CREATE.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "malformed-request",
            id="chunks-in-1.0",
        ),
        pytest.param(
            CREATE + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 200 + b"\r\n",
            431,
            "headers-too-large",
            id="many-trailers",
        ),
    ],
)
@pytest.mark.parametrize("piece_bytes", [MEBIBYTE, 1], ids=["at-once", "by-byte"])
def test_what_breaks_a_rule_of_http_is_refused(
    url: str, request_: bytes, piece_bytes: int, status: int, name: str
) -> None:
    assert_refused(exchange(url, request_, piece_bytes), status, name)


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(lines(b"Host:", b"Connection: close"), id="empty-host"),
        pytest.param(lines(b"Host: [::1]:80", b"Connection: close"), id="ipv6-host"),
        pytest.param(lines(b"Host: a.example:8080", b"Connection: close"), id="port"),
        pytest.param(lines(b"host: 127.0.0.1", b"Connection: close"), id="lower-case"),
        pytest.param(lines(line=b"GET /healthz HTTP/1.0"), id="no-host-in-1.0"),
        pytest.param(
            lines(b"Host: a", b"Connection: close", line=b"GET http://b/healthz HTTP/1.1"), id="absolute-form"
        ),
        pytest.param(lines(b"Host: a \t", b"Connection: close\t"), id="white-space-behind-values"),
        pytest.param(b"\r\n\r\n" + LAST, id="empty-lines-before"),
    ],
)
def test_what_http_allows_is_answered(url: str, request_: bytes) -> None:
    assert statuses(exchange(url, request_)) == [200]


@pytest.mark.parametrize("path", ["*", "/api/alice/tasks"])
def test_options_is_answered_for_a_path_and_for_the_service(url: str, path: str) -> None:
    request = lines(b"Host: x", b"Connection: close", line=f"OPTIONS {path} HTTP/1.1".encode())

    assert statuses(exchange(url, request)) == [204]


@pytest.mark.requirement("FR-18")
@pytest.mark.parametrize("method", ["get", "patch", "Delete", "oPTIONS"])
def test_a_method_in_another_case_is_a_method_that_the_path_lacks(url: str, method: str) -> None:
    request = lines(b"Host: x", b"Connection: close", line=f"{method} /api/alice/tasks HTTP/1.1".encode())
    answer = exchange(url, request)

    assert statuses(answer) == [405]
    assert b"allow: GET, HEAD, OPTIONS, POST\r\n" in answer


@pytest.mark.requirement("SR-02")
@pytest.mark.parametrize(
    ("trailer", "status"),
    [
        pytest.param(AUTHORIZATION, 401, id="authorization"),
        pytest.param(b"X-Request-Id: from-the-trailer", 401, id="request-id"),
        pytest.param(b"Host: y", 401, id="host"),
    ],
)
@pytest.mark.parametrize("piece_bytes", [MEBIBYTE, 1], ids=["at-once", "by-byte"])
def test_trailer_fields_are_discarded(url: str, trailer: bytes, piece_bytes: int, status: int) -> None:
    stranger = CREATE.replace(AUTHORIZATION + b"\r\n", b"")
    request = stranger + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS + trailer + b"\r\n\r\n"
    read = b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answers = exchange(url, request + read, piece_bytes)

    # The connection may end after the first answer, which came before the end of the body.
    assert set(statuses(answers)) == {status}
    assert b"from-the-trailer" not in answers


@pytest.mark.requirement("FR-19")
@pytest.mark.parametrize(("method", "status"), [(b"GET", 200), (b"OPTIONS", 204)])
def test_a_target_with_a_host_and_no_path_is_the_root(url: str, method: bytes, status: int) -> None:
    request = lines(b"Host: a", b"Connection: close", line=method + b" http://b HTTP/1.1")

    assert statuses(exchange(url, request)) == [status]


@pytest.mark.requirement("SR-02")
def test_a_trailer_that_closes_the_connection_does(url: str) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nConnection: close\r\n\r\n"
    answers = exchange(url, request)

    assert statuses(answers) == [200]
    assert b"connection: close\r\n" in answers


@pytest.mark.requirement("FR-21")
def test_an_idempotency_key_in_a_trailer_is_none(url: str) -> None:
    request = CREATE + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS + b"Idempotency-Key: %d\r\n\r\n" % time.time_ns()
    answers = exchange(url, request * 2 + LAST)

    assert statuses(answers) == [201, 201, 200]
    assert len(set(re.findall(rb"location: (\S+)", answers))) == 2


@pytest.mark.requirement("SR-13")
@pytest.mark.parametrize(("blank_lines", "answered"), [(2, [201, 200]), (1_000, [201])])
def test_nothing_follows_a_body_in_chunks_whose_end_is_hard_to_tell(
    url: str, blank_lines: int, answered: list[int]
) -> None:
    body = b'{"title":' + b"\r\n\r\n" * blank_lines + b'"x"}'
    request = CREATE + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)

    assert statuses(exchange(url, request + LAST)) == answered


@pytest.mark.parametrize(("version", "continues"), [(b"1.1", True), (b"1.0", False)])
def test_only_http_1_1_is_told_to_continue(url: str, version: bytes, continues: bool) -> None:
    request = (
        CREATE.replace(b"1.1", version) + b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: 13\r\n\r\n"
    )
    with connect(url) as connection:
        connection.sendall(request)
        time.sleep(0.2)
        connection.sendall(BODY)
        answers = received(connection)

    assert statuses(answers) == [100] * continues + [201]


@pytest.mark.parametrize("first", [b"", LAST.replace(b"Connection: close\r\n", b""), CREATE_ONE], ids=len)
@pytest.mark.parametrize("piece_bytes", [MEBIBYTE, 40_000, 331], ids=["at-once", "in-two", "in-many"])
def test_a_head_may_have_so_many_bytes_and_no_more_however_it_arrives(url: str, first: bytes, piece_bytes: int) -> None:
    def request(size: int) -> bytes:
        return LAST[:-2] + b"X: " + b"y" * (size - len(LAST) - 5) + b"\r\n\r\n"

    assert len(request(HEAD_LIMIT_BYTES)) == HEAD_LIMIT_BYTES
    largest, larger, largest_by_far = (
        statuses(exchange(url, first + request(size), piece_bytes))[-1]
        for size in (HEAD_LIMIT_BYTES, HEAD_LIMIT_BYTES + 1, 2 * HEAD_LIMIT_BYTES)
    )
    assert (largest, larger, largest_by_far) == (200, 431, 431)


@pytest.mark.requirement("SR-13")
def test_a_head_may_have_so_many_lines_and_no_more(url: str) -> None:
    def request(count: int) -> bytes:
        return LAST[:-2] + b"a:\r\n" * (count - 2) + b"\r\n"

    assert statuses(exchange(url, request(FIELD_LIMIT))) == [200]
    assert_refused(exchange(url, request(FIELD_LIMIT + 1)), 431, "headers-too-large")


@pytest.mark.requirement("SR-13")
@pytest.mark.parametrize("piece", [b"/%2f", b"/../", b"/?a=b&"])
def test_a_target_may_have_so_many_bytes_and_no_more(url: str, piece: bytes) -> None:
    def request(size: int) -> bytes:
        return lines(b"Host: x", b"Connection: close", line=b"GET " + (piece * size)[:size] + b" HTTP/1.1")

    assert statuses(exchange(url, request(TARGET_LIMIT_BYTES)))[0] in {200, 404}
    assert_refused(exchange(url, request(TARGET_LIMIT_BYTES + 1)), 431, "headers-too-large")


REFUSED = {
    "no-http": (b"\0", 400),
    "no-host": (lines(b"X: y"), 400),
    "long-head": (lines(b"Host: x", b"X: " + b"y" * 140_000), 431),
    "chunk": (CREATE + b"Transfer-Encoding: chunked\r\n\r\nx\r\n", 400),
}


@pytest.mark.requirement("SC-04")
@pytest.mark.parametrize(("after", "status"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("pause_seconds", [0, 0.001, 0.2])
def test_a_refusal_comes_after_the_answers_to_what_came_before(
    url: str, after: bytes, status: int, pause_seconds: float
) -> None:
    with connect(url) as connection:
        if pause_seconds:
            connection.sendall(CREATE_ONE * 3)
            time.sleep(pause_seconds)
            connection.sendall(after)
        else:
            connection.sendall(CREATE_ONE * 3 + after)
        answers = b""
        while chunk := connection.recv(65_536):
            answers += chunk

    assert statuses(answers) == [201, 201, 201, status]
    assert b"connection: close" not in answers[: answers.rindex(b"HTTP/1.1 ")]


def test_an_answered_request_that_breaks_off_gets_no_second_answer(url: str) -> None:
    """Whoever shares the connection would take it for the answer to the next request."""
    stranger = CREATE.replace(AUTHORIZATION + b"\r\n", b"")
    with connect(url) as connection:
        connection.sendall(stranger + b"Transfer-Encoding: chunked\r\n\r\n")
        time.sleep(0.2)
        connection.sendall(b"this is no chunk\r\n")
        answers = received(connection)

    assert statuses(answers) == [401]


LARGE = 20_000_000


@pytest.mark.requirement("FR-18")
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(CREATE + b"Content-Length: %d\r\n\r\n" % LARGE + b"x" * LARGE, 413, id="length"),
        pytest.param(
            CREATE + b"Transfer-Encoding: chunked\r\n\r\n" + (b"ffff\r\n" + b"x" * 65_535 + b"\r\n") * 300,
            413,
            id="chunks",
        ),
        pytest.param(
            CREATE.replace(AUTHORIZATION, b"X: y") + b"Content-Length: %d\r\n\r\n" % LARGE + b"x" * LARGE,
            401,
            id="stranger",
        ),
        pytest.param(
            CREATE.replace(b"application/json", b"text/plain") + b"Content-Length: %d\r\n\r\n" % LARGE + b"x" * LARGE,
            415,
            id="media-type",
        ),
        pytest.param(lines(b"X: " + b"y" * LARGE), 431, id="head"),
        pytest.param(lines(b"Host : x") + b"\0" * LARGE, 400, id="no-http"),
        pytest.param(CREATE + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * LARGE, 413, id="chunk-extension"),
    ],
)
def test_a_refusal_reaches_whoever_is_still_sending(url: str, request_: bytes, status: int) -> None:
    for _ in range(5):
        with connect(url) as connection:
            connection.sendall(request_)
            answer = b""
            while chunk := connection.recv(65_536):
                answer += chunk

        assert statuses(answer) == [status]
        assert b"connection: close" in answer


def test_a_refusal_while_the_service_ends_closes_its_connection(database_url: str, tmp_path: Path) -> None:
    with serving(database_url, tmp_path / "log", DRAIN_SECONDS="2") as service, connect(service.url) as connection:
        connection.sendall(LAST.replace(b"Connection: close\r\n", b""))
        connection.recv(65_536)
        service.process.terminate()
        time.sleep(0.3)
        connection.sendall(b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        answer = received(connection)

    assert statuses(answer) == [401, 401]
    assert answer.count(b"connection: close") == 1


def test_the_log_has_a_line_for_a_refusal_and_few_for_many(database_url: str, tmp_path: Path) -> None:
    with running_process(database_url, tmp_path / "log", LOG_FORMAT="json") as url:
        answer = exchange(url, b"\0")
        for _ in range(40):
            exchange(url, b"\0")
        assert httpx.get(f"{url}/healthz").status_code == 200

    logged = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    refused = [line for line in logged if line["event"] == "request_refused"]
    assert (refused[0]["status"], refused[0]["level"]) == (400, "warning")
    assert f"x-request-id: {refused[0]['request_id']}".encode() in answer
    assert len(refused) < 40
