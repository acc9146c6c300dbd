"""The faster way to send an answer's head writes the bytes that uvicorn's way writes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.http.cycle import Cycle

LENGTH = (b"content-length", b"2")
CLOSE = (b"connection", b"close")
TYPE = (b"content-type", b"application/json")
ODD = (b"link", b'<?a=\xe9\t>; rel="next"')
CHUNKED = (b"transfer-encoding", b"chunked")


class Written(list[bytes]):
    """What a cycle writes, instead of a transport."""

    write = list.append

    def close(self) -> None:
        self.append(b"(closed)")


def sent(kind: type[RequestResponseCycle], method: str, status: int, headers: Any, *, keeps_alive: bool) -> bytes:
    """The bytes that a cycle of this kind writes for an answer."""
    protocol = SimpleNamespace(
        scope={"method": method, "state": {}},
        transport=Written(),
        flow=SimpleNamespace(write_paused=False),
        logger=None,
        access_logger=None,
        server_state=SimpleNamespace(default_headers=[(b"date", b"today")]),
        on_response_complete=lambda: None,
    )
    cycle: Any = Cycle(protocol, expects_continue=True, keeps_alive=keeps_alive)
    cycle.__class__ = kind
    body = b"" if method == "HEAD" or status in (204, 304) else b"ok"

    async def answer() -> None:
        await cycle.send({"type": "http.response.start", "status": status, "headers": headers})
        await cycle.send({"type": "http.response.body", "body": body})

    asyncio.run(answer())
    assert cycle.response_complete
    return b"".join(protocol.transport)


@pytest.mark.requirement("SC-05")
@pytest.mark.parametrize("keeps_alive", [True, False])
@pytest.mark.parametrize(
    ("method", "status", "headers"),
    [
        ("GET", 200, [TYPE, LENGTH]),
        ("GET", 200, [LENGTH, ODD, ODD]),
        ("GET", 200, [TYPE]),
        ("GET", 200, [CHUNKED]),
        ("GET", 200, [LENGTH, CLOSE]),
        ("HEAD", 200, [TYPE, LENGTH]),
        ("GET", 304, [ODD]),
        ("DELETE", 204, []),
    ],
)
def test_both_ways_write_the_same(method: str, status: int, headers: Any, *, keeps_alive: bool) -> None:
    usual = sent(RequestResponseCycle, method, status, headers, keeps_alive=keeps_alive)

    assert sent(Cycle, method, status, headers, keeps_alive=keeps_alive) == usual


@pytest.mark.requirement("SR-10")
@pytest.mark.parametrize("end", [b"\r", b"\n", b"\0"])
@pytest.mark.parametrize("header", [(b"link", b"a%sb"), (b"li%snk", b"a")])
def test_no_header_can_begin_another(header: tuple[bytes, bytes], end: bytes) -> None:
    headers = [LENGTH, tuple(part.replace(b"%s", end) for part in header)]

    with pytest.raises(RuntimeError):
        sent(Cycle, "GET", 200, headers, keeps_alive=True)
