"""An issuer that answers with a bomb, and a log that nobody takes: neither decides what a client is answered."""

from __future__ import annotations

import os
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import uvloop

from faults.attackers import Attack, Experience, WellBehaved, beside, report
from support.issuer import issuing, new_signer, send
from support.people import make_token
from support.proxy import Proxy
from support.service import serving

pytestmark = pytest.mark.attackers

ATTACK_SECONDS = 3.0
SLOWEST_SECONDS = 1.5
MEMORY_BYTES = 300 << 20
UNPACKED_BYTES = 512 << 20

ROUNDS = 100
"""Of one request of each kind: their lines fill a pipe several times."""


def pack(pieces: Iterable[bytes], level: int = 9) -> bytes:
    compress = zlib.compressobj(level, wbits=31)
    return b"".join(map(compress.compress, pieces)) + compress.flush()


@pytest.mark.requirement("SR-13")
def test_a_packed_key_set_is_not_unpacked(database_url: str, tmp_path: Path) -> None:
    signer, unknown = new_signer("known"), new_signer("unknown")
    until = int(time.time()) + 600
    token, forged = (each.token(sub="alice", aud="tasks", exp=until) for each in (signer, unknown))
    ask = f"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {forged}\r\n\r\n".encode()
    bomb = pack([pack([pack([bytes(1 << 20)] * (UNPACKED_BYTES >> 20), level=1)])])

    async def main(url: str, pid: int) -> Experience:
        with closing(WellBehaved(url, "alice", token)) as user:
            await user.live(0.3, Experience())
            issuer.answer = send(bomb, **{"Content-Type": "application/json", "Content-Encoding": "gzip, gzip, gzip"})
            issuer.asked.clear()
            return await beside(url, Attack(8, [ask]), ATTACK_SECONDS, user=user, pid=pid)

    with issuing(signer) as issuer:
        trust = {"JWT_JWKS_URL": issuer.url, "JWT_AUDIENCE": "tasks"}
        with serving(database_url, tmp_path / "log", **trust) as service:
            seen = uvloop.run(main(service.url, service.process.pid))

    report(f"no token: a key set of {len(bomb)} bytes, packed", seen)
    assert issuer.asked
    assert not seen.failures
    assert seen.slowest_seconds < SLOWEST_SECONDS
    assert seen.peak_bytes < MEMORY_BYTES


REQUESTS: dict[int, tuple[str, str, str, str | None]] = {
    200: ("GET", "/api/alice/tasks", "alice", None),
    201: ("POST", "/api/alice/tasks", "alice", '{"title": "x"}'),
    401: ("GET", "/api/alice/tasks", "", None),
    403: ("GET", "/api/bob/tasks", "alice", None),
    404: ("GET", f"/api/alice/tasks/{uuid4()}", "alice", None),
    405: ("PUT", "/api/alice/tasks", "alice", None),
    422: ("POST", "/api/alice/tasks", "alice", "{}"),
}
"""What is answered with which status: method, path, whose token, body."""

HEALTH = ("GET", "/healthz", "", None)


def ask(connection: HTTPConnection, request: tuple[str, str, str, str | None]) -> tuple[int, str | None]:
    """Status and media type of the answer."""
    method, path, user_id, body = request
    headers = {"Content-Type": "application/json"} if body else {}
    if user_id:
        headers["Authorization"] = f"Bearer {make_token(user_id)}"
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status, answer.getheader("content-type")


@contextmanager
def outlet(kind: str) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A file for the service's standard error, and what breaks it once the service runs."""
    if kind == "full":
        yield Path("/dev/full"), lambda: None
        return
    reading, writing = os.pipe()
    try:
        yield Path(f"/proc/self/fd/{writing}"), (lambda: os.close(reading)) if kind == "reader gone" else lambda: None
    finally:
        os.close(writing)
        if kind != "reader gone":
            os.close(reading)


@pytest.mark.requirement("SR-11", "SR-14")
@pytest.mark.parametrize("kind", ["full", "reader gone", "reader asleep"])
def test_what_is_answered_does_not_depend_on_who_takes_the_log(database_url: str, kind: str) -> None:
    unexpected: Counter[tuple[int, int, str | None]] = Counter()
    seen = Experience()

    def check(expected: int, request: tuple[str, str, str, str | None]) -> None:
        began, status, media_type = time.monotonic(), 0, None
        with suppress(OSError, HTTPException):
            status, media_type = ask(connection, request)
        seen.reads.append((200 if status == expected else status, time.monotonic() - began))
        if (status, media_type) != (expected, "application/json" if expected < 300 else "application/problem+json"):
            unexpected[expected, status, media_type] += 1

    with (
        Proxy(database_url) as proxy,
        outlet(kind) as (log, break_it),
        serving(proxy.url, log, DATABASE_STATEMENT_SECONDS="0.3") as service,
    ):
        break_it()
        address = urlsplit(service.url)
        connection = HTTPConnection(str(address.hostname), int(str(address.port)), timeout=5)
        connection.connect()
        # From now on it raises if the service closed the connection.
        connection.auto_open = 0
        for _ in range(ROUNDS):
            for status, request in REQUESTS.items():
                if not unexpected:
                    check(status, request)
        proxy.is_black_hole = True
        check(503, REQUESTS[200])
        check(200, HEALTH)
        proxy.is_black_hole = False
        connection.close()

    report(f"nobody: standard error, {kind}", seen)
    assert not unexpected
    assert seen.slowest_seconds < SLOWEST_SECONDS
