"""A connection is in one phase, and what happens to it depends on that: without a socket, and without a database."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from app.http.memory import HeldBytes
from app.http.protocol import LOOK_SECONDS, TIMEOUT_SECONDS, Phase, Protocol
from app.http.refusals import Refusals

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
LAST = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
CHUNKS = POST.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked")
LONG = b"GET / HTTP/1.1\r\nX: " + b"x" * 140_000 + b"\r\n\r\n"
ANSWER = b"an answer is due"
"""What a table sends in order to let the application answer."""

KEEP_ALIVE_SECONDS = 5


class Transport:
    """What a protocol writes to."""

    def __init__(self) -> None:
        self.written = b""
        self.ended = ""
        self.is_reading = True

    def is_closing(self) -> bool:
        return bool(self.ended)

    def write(self, data: bytes) -> None:
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = "half-closed"

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = "aborted"

    def get_extra_info(self, _name: str) -> None:
        return None

    def set_write_buffer_limits(self, high: int) -> None:
        assert high == 0

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    @property
    def statuses(self) -> list[int]:
        return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+)", self.written)]


async def connection(sent: list[bytes]) -> tuple[Protocol, Transport]:
    """A connection on which this was received."""
    due = asyncio.Semaphore(0)

    async def application(_scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        body = asyncio.ensure_future(receive())
        await due.acquire()
        body.cancel()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    config = uvicorn.Config(application, lifespan="off", log_config=None, timeout_keep_alive=KEEP_ALIVE_SECONDS)
    state: dict[str, Any] = {"held_bytes": HeldBytes(), "refusals": Refusals([])}
    made, transport = Protocol(config=config, server_state=ServerState(), app_state=state), Transport()
    made.connection_made(transport)  # type: ignore[arg-type]
    for data in sent:
        if data is ANSWER:
            due.release()
        else:
            made.data_received(data)
        for _ in range(5):
            await asyncio.sleep(0)
    return made, transport


PHASES = [
    pytest.param([], Phase.NEW, id="nothing"),
    pytest.param([b"\r\n\r\n"], Phase.NEW, id="empty-lines"),
    pytest.param([b"G"], Phase.HEAD, id="a-byte"),
    pytest.param([GET[:-2]], Phase.HEAD, id="a-head-without-end"),
    pytest.param([POST], Phase.BODY, id="a-head"),
    pytest.param([POST, b"x"], Phase.BODY, id="half-a-body"),
    pytest.param([POST, b"xx"], Phase.ANSWER, id="a-body"),
    pytest.param([GET], Phase.ANSWER, id="a-request"),
    pytest.param([GET, GET[:-2]], Phase.ANSWER, id="half-the-next-one"),
    pytest.param([GET, POST], Phase.ANSWER, id="the-next-ones-head"),
    pytest.param([GET, ANSWER], Phase.IDLE, id="answered"),
    pytest.param([POST, ANSWER], Phase.IDLE, id="answered-early"),
    pytest.param([GET, ANSWER, GET[:-2]], Phase.HEAD, id="then-half-a-head"),
    pytest.param([GET, ANSWER, POST], Phase.BODY, id="then-a-head"),
    pytest.param([GET + POST, ANSWER], Phase.BODY, id="pipelined"),
    pytest.param([GET + GET, ANSWER], Phase.ANSWER, id="one-of-two-answered"),
    pytest.param([GET + GET, ANSWER, ANSWER], Phase.IDLE, id="two-of-two-answered"),
    pytest.param([b"\0"], Phase.LINGERING, id="no-http"),
    pytest.param([GET + b"\0"], Phase.ANSWER, id="no-http-follows"),
    pytest.param([CHUNKS, ANSWER], Phase.LINGERING, id="last-answer-early"),
    pytest.param([LAST, ANSWER], Phase.CLOSING, id="last-answer"),
]


@pytest.mark.parametrize(("sent", "phase"), PHASES)
def test_a_connection_is_in_one_phase(sent: list[bytes], phase: Phase) -> None:
    async def main() -> None:
        made, _ = await connection(sent)

        assert made.phase is phase

        made.connection_lost(None)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("sent", "is_reading"),
    [
        pytest.param([POST], True, id="half"),
        pytest.param([POST + b"xx"], True, id="one"),
        pytest.param([POST + b"xx", POST], False, id="a-head-behind-it"),
        pytest.param([POST + b"xx" + POST + b"xx"], False, id="another-behind-it"),
        pytest.param([(POST + b"xx") * 9, ANSWER, ANSWER], False, id="seven-behind-two"),
        pytest.param([(POST + b"xx") * 2, ANSWER], True, id="the-last"),
    ],
)
def test_nothing_more_is_read_while_a_request_waits_although_a_body_is_asked_for(
    sent: list[bytes], is_reading: bool
) -> None:
    async def main() -> None:
        made, transport = await connection(sent)

        assert transport.is_reading is is_reading

        made.connection_lost(None)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("sent", "seconds", "ended", "statuses"),
    [
        pytest.param([], TIMEOUT_SECONDS[Phase.NEW], "closed", [], id="new"),
        pytest.param([GET, ANSWER], KEEP_ALIVE_SECONDS, "closed", [200], id="idle"),
        pytest.param([b"G"], TIMEOUT_SECONDS[Phase.HEAD], "half-closed", [408], id="head"),
        pytest.param([POST], TIMEOUT_SECONDS[Phase.BODY], "half-closed", [408], id="body"),
        pytest.param([GET], TIMEOUT_SECONDS[Phase.ANSWER], "aborted", [], id="answer"),
        pytest.param([LAST, ANSWER], TIMEOUT_SECONDS[Phase.CLOSING], "aborted", [200], id="closing"),
        pytest.param([GET, ANSWER, b"\0"], TIMEOUT_SECONDS[Phase.LINGERING], "aborted", [200, 400], id="lingering"),
    ],
)
def test_a_phase_ends_in_time(sent: list[bytes], seconds: float, ended: str, statuses: list[int]) -> None:
    async def main() -> None:
        made, transport = await connection(sent)
        before, looks = transport.ended, 0
        while transport.ended == before:
            made._timer.cancel()  # noqa: SLF001 - the test need not wait
            made._look()  # noqa: SLF001
            looks += 1

        assert (transport.ended, transport.statuses) == (ended, statuses)
        # The first look only finds the phase, unless the connection is in it from its beginning.
        assert seconds <= looks * LOOK_SECONDS <= seconds + LOOK_SECONDS

        made.connection_lost(None)

    asyncio.run(main())


def test_every_phase_has_a_time_out_and_idle_has_a_setting() -> None:
    assert set(Phase) == {*TIMEOUT_SECONDS, Phase.IDLE}


@pytest.mark.parametrize(("after", "refused"), [(b"\0", 400), (LONG, 431)], ids=["no-http", "too-long"])
@pytest.mark.parametrize("joined", [True, False], ids=["one-segment", "two-segments"])
def test_what_follows_a_good_request_does_not_take_its_answer_away(after: bytes, refused: int, joined: bool) -> None:
    async def main() -> None:
        made, transport = await connection([*([GET + after] if joined else [GET, after]), GET, ANSWER, ANSWER])

        assert (transport.ended, transport.statuses) == ("half-closed", [200, refused])

        made.connection_lost(None)

    asyncio.run(main())
