"""One connection: uvicorn's protocol, with bounds of size and time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, Final, cast

import httptools
import uuid_utils
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.http.transport import JoinedWrites
from handlers import problems

HEAD_LIMIT_BYTES: Final = 65_536
MESSAGE_LIMIT_BYTES: Final = 1_048_576
"""All of a request: chunks, their extensions, trailers, and what is left of a body that was answered with 413."""

LOOK_SECONDS: Final = 1.0
"""How often a connection looks how long it has been in its phase."""

LINGER_SECONDS: Final = 0.25
"""How long a request may have been on its way when the service began to end."""


class Phase(Enum):
    """What a connection is in the middle of."""

    NEW = auto()
    """Nothing of a first request has come."""
    IDLE = auto()
    """Every request is answered, and no other has begun. The rest of a body that was answered early may still come."""
    HEAD = auto()
    """A request's head is coming."""
    BODY = auto()
    """A request's body is coming."""
    ANSWER = auto()
    """A request has come as a whole and waits for its answer, or for the client to take it. The next may be coming."""
    CLOSING = auto()
    """The last answer is written; the client has not taken all of it."""


TIMEOUT_SECONDS: Mapping[Phase, float] = {
    Phase.NEW: 10,
    Phase.HEAD: 10,
    Phase.BODY: 20,
    Phase.ANSWER: 60,
    Phase.CLOSING: 60,
}
"""How long a request, or a connection without one, may stay in one phase. The setting KEEP_ALIVE_SECONDS is IDLE's."""


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol on httptools, which bounds what a client may send, and when.

    What happens depends on the phase alone:

    | phase   | time-out     | end of what the client sends | what is no HTTP, or too long | the service ends |
    | ------- | ------------ | ---------------------------- | ---------------------------- | ---------------- |
    | NEW     | close        | close                        | refuse, close                | close            |
    | IDLE    | close        | close                        | refuse, close                | close            |
    | HEAD    | 408, close   | close                        | refuse, close                | answer, close    |
    | BODY    | 408, close   | close                        | refuse, close                | answer, close    |
    | ANSWER  | abort        | answer, close                | answer, close                | answer, close    |
    | CLOSING | abort        |                              |                              |                  |

    "Refuse" is a problem document with 400 or 431. A message of more than MESSAGE_LIMIT_BYTES gets no answer but the
    close.

    The bounds cost a request nothing but counting its bytes: one timer per connection looks once a second.
    """

    # Per-connection state. Without a parser nothing more is read; uvicorn has it so when the connection is lost.
    _timer: asyncio.TimerHandle
    parser: Any

    # Per-message state. A message is known by its scope.
    _message: Any = None
    _message_bytes = 0

    # Per-phase state. Looks count the seconds, so that none pass while the process is stopped.
    _seen_phase: Phase | None = Phase.NEW
    _phase_seconds = 0.0

    @property
    def phase(self) -> Phase:
        """The phase that the connection is in."""
        cycle = self.cycle
        if self.transport.is_closing():
            return Phase.CLOSING
        if self.pipeline or (cycle is not None and not cycle.more_body and not cycle.response_complete):
            return Phase.ANSWER
        if self._is_head_coming():
            return Phase.NEW if self.scope is None else Phase.HEAD
        return Phase.IDLE if cycle.response_complete else Phase.BODY

    def _is_head_coming(self) -> bool:
        """Whether the newest message has no cycle yet: uvicorn makes one when the head is complete."""
        return self.cycle is None or self.cycle.scope is not self.scope

    # The transport's events

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast("asyncio.Transport", JoinedWrites(transport, self.loop)))
        self._timer = self.loop.call_later(LOOK_SECONDS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client that only ends its sending still gets the answer to what it sent."""
        if self.phase is Phase.ANSWER:
            self._answer_last()
            return True
        # asyncio would close the transport before what was joined is written.
        self.transport.close()
        return False

    def shutdown(self) -> None:
        """Ends the connection after its next answer. A request that is on its way will be given one."""
        self._answer_last()
        self.loop.call_later(LINGER_SECONDS, self._close_unused)

    # What comes

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), HEAD_LIMIT_BYTES):
            if self.parser is None or self.transport.is_closing():
                return
            piece = data[start : start + HEAD_LIMIT_BYTES]
            self._parse(piece)
            if self._message is not self.scope:
                self._message, self._message_bytes, self._seen_phase = self.scope, 0, None
            self._message_bytes += len(piece)
            if self._message_bytes > HEAD_LIMIT_BYTES:
                if self._is_head_coming():
                    self._fail(431)
                elif self._message_bytes > MESSAGE_LIMIT_BYTES:
                    self.transport.close()
        if "is_ending" in self.app_state:
            self._answer_last()

    def _parse(self, data: bytes) -> None:
        """As uvicorn's, but an upgrade that nobody offers is ignored (RFC 9110, section 7.8).

        The parser takes no body from such a request and would read its body as the next request. A new parser
        therefore reads the head again, without its Upgrade, and what follows it.
        """
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserError:
                self.logger.warning("Invalid HTTP request received.")
                self._fail(400)
            except httptools.HttpParserUpgrade as upgrade:
                if self._should_upgrade():
                    (end,) = upgrade.args
                    self.parser = httptools.HttpRequestParser(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                    data = self._head_without_upgrade() + data[end:]
                    continue
                self._answer_last()
            return

    def _should_upgrade(self) -> bool:
        """Keeps uvicorn from beginning a request that is read again. A CONNECT is answered as it is."""
        return self.scope["method"] != "CONNECT"

    def _head_without_upgrade(self) -> bytes:
        fields = b"".join([b"%s: %s\r\n" % field for field in self.headers if field[0] != b"upgrade"])
        line = f"{self.scope['method']} {self.url.decode('latin-1')} HTTP/{self.scope['http_version']}\r\n"
        return line.encode("latin-1") + fields + b"\r\n"

    # Time

    def _look(self) -> None:
        """Ends the connection if it has been in one phase for too long."""
        self._timer = self.loop.call_later(LOOK_SECONDS, self._look)
        phase = self.phase
        if phase is not self._seen_phase:
            self._seen_phase, self._phase_seconds = phase, 0.0
            return
        self._phase_seconds += LOOK_SECONDS
        if self._phase_seconds < TIMEOUT_SECONDS.get(phase, self.timeout_keep_alive):
            return
        match phase:
            case Phase.NEW | Phase.IDLE:
                self.transport.close()
            case Phase.HEAD | Phase.BODY:
                self._refuse(408)
            case Phase.ANSWER | Phase.CLOSING:
                self.transport.abort()

    def _close_unused(self) -> None:
        if self.phase in {Phase.NEW, Phase.IDLE}:
            self.transport.close()

    # Answers

    def on_response_complete(self) -> None:
        """As uvicorn's, without a timer for each request: it costs 2.8 us, and `_look` has one for all."""
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def _answer_last(self) -> None:
        """Closes the connection after the answer to the newest request."""
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def _fail(self, status: int) -> None:
        """Reads no further; refuses with this status, unless a good request before waits for its answer."""
        match self.phase:
            case Phase.ANSWER:
                self._answer_last()
                self.parser = None
                self.flow.pause_reading()
            case Phase.CLOSING:
                pass
            case _:
                self._refuse(status)

    def _refuse(self, status: int) -> None:
        """Answers a request that does not get as far as an operation, and closes."""
        request_id = str(uuid_utils.uuid4())
        answer = problems.answer({"state": {"request_id": request_id}}, HTTPException(status))
        fields = problems.MEDIA_TYPE.encode(), request_id.encode(), len(answer.body)
        headers = b"content-type: %s\r\nx-request-id: %s\r\ncontent-length: %d\r\n" % fields
        self._write(status, headers, answer.body, is_last=True)

    def _write(self, status: int, headers: bytes, body: bytes, *, is_last: bool) -> None:
        line = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()
        fields = [*self.server_state.default_headers, *self.app_state["security_headers"]]
        always = b"".join([b"%s: %s\r\n" % field for field in fields])
        close = b"connection: close\r\n" if is_last else b""
        self.transport.write(b"".join((line, always, headers, close, b"\r\n", body)))
        if is_last:
            self.transport.close()
