"""One connection: uvicorn's protocol, with bounds of size and time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Final, cast

import uuid_utils
from starlette.exceptions import HTTPException

from app.http.memory import HeldBytes
from app.http.messages import HEAD_LIMIT_BYTES, Messages
from app.http.refusals import Refusals
from app.http.transport import BoundedReading, JoinedWrites

LINGER_LIMIT_BYTES: Final = 33_554_432
"""How much is discarded of what a client goes on sending after the last answer."""

LARGE_BYTES: Final = 4_096
"""An incomplete request is counted for the process's memory if it has more."""

LOOK_SECONDS: Final = 1.0
"""How often a connection looks how long it has been in its phase."""

ARRIVAL_SECONDS: Final = 0.25
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
    LINGERING = auto()
    """The last answer is written, and its end; the client is still sending, and what it sends is discarded."""


TIMEOUT_SECONDS: Mapping[Phase, float] = {
    Phase.NEW: 10,
    Phase.HEAD: 10,
    Phase.BODY: 20,
    Phase.ANSWER: 60,
    Phase.CLOSING: 60,
    Phase.LINGERING: 20,
}
"""How long a request, or a connection without one, may stay in one phase. The setting KEEP_ALIVE_SECONDS is IDLE's."""


class Protocol(Messages):
    """uvicorn's protocol on httptools, which bounds what a client may send, and when.

    What happens depends on the phase alone:

    | phase     | time-out     | end of what the client sends | what is no HTTP, or too long | the service ends |
    | --------- | ------------ | ---------------------------- | ---------------------------- | ---------------- |
    | NEW       | close        | close                        | refuse, close                | close            |
    | IDLE      | close        | close                        | refuse, close                | close            |
    | HEAD      | 408, close   | close                        | refuse, close                | answer, close    |
    | BODY      | 408, close   | close                        | refuse, close                | answer, close    |
    | ANSWER    | abort        | answer, close                | answer, refuse, close        | answer, close    |
    | CLOSING   | abort        |                              |                              |                  |
    | LINGERING | abort        | close                        |                              |                  |

    "Refuse" is a problem document with 400, 413, 431, 501 or 505, unless the request has its answer already. "Close" is
    LINGERING while the client may be sending, see `JoinedWrites.close`.

    Requests are served one after the other. Of what follows one, only the next head is parsed before its answer is
    complete and taken: a request, a head, an answer and what was read at once are all that a connection can hold.
    """

    # Per-connection state.
    _timer: asyncio.TimerHandle
    _held: HeldBytes
    _refusals: Refusals
    transport: Any
    _unparsed = b""
    _parsed_bytes = 0
    """How much of `_unparsed` is parsed: to cut it off after each request would copy the rest each time."""
    _refusal: HTTPException | None = None
    """What follows the answers that are due."""
    _has_ended_sending = False
    _held_bytes = 0
    _discarded_bytes = 0

    # Per-phase state. Looks count the seconds, so that none pass while the process is stopped.
    _seen_phase = Phase.NEW
    _seen_scope: Any = None
    """Of the newest message, which begins its phases anew."""
    _phase_seconds = 0.0
    _seen_unsent_bytes = 0

    @property
    def phase(self) -> Phase:
        """The phase that the connection is in."""
        if self.transport.is_closing():
            return Phase.LINGERING if self.transport.is_lingering else Phase.CLOSING
        if self._is_answer_due() or self.flow.write_paused:
            return Phase.ANSWER
        if self._is_head_coming():
            return Phase.NEW if self.scope is None else Phase.HEAD
        return Phase.IDLE if self.cycle.response_complete else Phase.BODY

    def _is_answer_due(self) -> bool:
        cycle = self.cycle
        return bool(
            self.pipeline
            or self._refusal
            or (cycle is not None and not cycle.more_body and not cycle.response_complete)
        )

    def _is_client_sending(self) -> bool:
        """Whether the client may have sent, or still be sending, what nobody will read."""
        return not self._has_ended_sending and (
            self.parser is None or self._message_bytes > 0 or self._unparsed != b"" or self.flow.read_paused
        )

    # The transport's events

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        joined = JoinedWrites(transport, self.loop, self._is_client_sending)
        super().connection_made(cast("asyncio.Transport", joined))
        self.flow = BoundedReading(joined, self._has_waiting)
        self._framing_fields = []
        self._held = self.app_state["held_bytes"]
        self._refusals = self.app_state["refusals"]
        self._timer = self.loop.call_later(LOOK_SECONDS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)
        self._unparsed = b""
        self._held.hold(self.transport, None, 0)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            self._discarded_bytes += len(data)
            if self._discarded_bytes > LINGER_LIMIT_BYTES:
                self.transport.abort()
        else:
            self._receive(data, 0)

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client that only ends its sending still gets the answer to what it sent."""
        self._has_ended_sending = True
        if self._unparsed:
            # `_receive` closes after the last of these.
            return True
        if self.phase is Phase.ANSWER:
            self._close_after_answer()
            return True
        # asyncio would close the transport before what was joined is written.
        self.transport.close()
        return False

    def pause_writing(self) -> None:
        super().pause_writing()
        self._count_held()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._count_held()
        self._go_on()

    def shutdown(self) -> None:
        """Ends the connection after the answers that are due, or in a moment if no request comes until then."""
        self._close_after_answer()
        self.loop.call_later(ARRIVAL_SECONDS, self._close_unused)

    # What comes

    def _receive(self, data: bytes, start: int) -> None:
        """Parses what came, request by request, until one has to wait."""
        size = len(data)
        while start < size and self.parser is not None:
            if self.pipeline or self.flow.write_paused:
                self._keep(data, start)
                break
            end = self._next_end(data, start)
            self._message_bytes += end - start
            refusal = self._size_refusal() if self._message_bytes > HEAD_LIMIT_BYTES else None
            refusal = refusal or self._parse(data if end - start == size else data[start:end])
            if refusal:
                self._fail(refusal)
            start = end
        if "is_ending" in self.app_state or (self._has_ended_sending and not self._unparsed):
            self._close_after_answer()
        if self._held_bytes or self._unparsed or self._message_bytes > LARGE_BYTES:
            self._count_held()

    def _keep(self, data: bytes, start: int) -> None:
        """Lets what came wait until the requests before it are answered."""
        self._unparsed, self._parsed_bytes = data, start
        self.flow.pause_reading()

    # Time

    def _look(self) -> None:
        """Notes whether a slow client took bytes, and ends the connection if it was in one phase for too long."""
        self._timer = self.loop.call_later(LOOK_SECONDS, self._look)
        if self.flow.write_paused and self._seen_unsent_bytes != (unsent := self.transport.get_write_buffer_size()):
            self._seen_unsent_bytes = unsent
            self._count_held()
        phase = self.phase
        if phase is not self._seen_phase or self.scope is not self._seen_scope:
            self._seen_phase, self._seen_scope, self._phase_seconds = phase, self.scope, 0.0
            return
        self._phase_seconds += LOOK_SECONDS
        if self._phase_seconds < TIMEOUT_SECONDS.get(phase, self.timeout_keep_alive):
            return
        match phase:
            case Phase.NEW | Phase.IDLE:
                self.transport.close()
            case Phase.HEAD | Phase.BODY:
                self._fail(HTTPException(408))
            case Phase.ANSWER | Phase.CLOSING | Phase.LINGERING:
                self.transport.abort()

    def _close_unused(self) -> None:
        if self.phase in {Phase.NEW, Phase.IDLE}:
            self.transport.close()

    # Answers

    def on_response_complete(self) -> None:
        """As uvicorn's, without a timer for each request: it costs 2.8 us, and `_look` has one for all."""
        if self.transport.is_closing():
            return
        if self.pipeline or self._unparsed or self._refusal:
            # Whether the client takes this answer decides whether the next request is served.
            self.transport.flush()
            self._go_on()
        else:
            self.flow.resume_reading()

    def _go_on(self) -> None:
        """Serves what waits for an answer to be complete and taken; reads on if there is nothing."""
        if self.flow.write_paused or self.transport.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusal:
            self._refuse(self._refusal)
        if self._unparsed:
            data, self._unparsed = self._unparsed, b""
            self._receive(data, self._parsed_bytes)
        self.flow.resume_reading()

    def _has_waiting(self) -> bool:
        """Whether a request, or bytes of one, wait for the answer to the one before."""
        return bool(self.pipeline or self._unparsed)

    def _count_held(self) -> None:
        """Tells the process how much it holds for this connection."""
        held_bytes = len(self._unparsed)
        # The rest of a body that was answered early is not kept.
        if self._message_bytes > LARGE_BYTES and (self._is_head_coming() or not self.cycle.response_complete):
            held_bytes += self._message_bytes
        if self.flow.write_paused:
            held_bytes += self.transport.written_bytes
        self._held_bytes = held_bytes
        user_id = self.scope["state"].get("user_id") if self.scope else None
        self._held.hold(self.transport, user_id, held_bytes)

    def _close_after_answer(self) -> None:
        """Closes the connection after the answer to the newest request."""
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def _fail(self, refusal: HTTPException) -> None:
        """Reads no further, and refuses: after the answers that are due, and unless the request has its answer."""
        self.parser = None
        self._unparsed = b""
        self.flow.pause_reading()
        if self._is_body_coming():
            if self.pipeline:
                self.pipeline.popleft()  # It has one at most: this request.
                self._refusal = refusal
                return
            cycle = self.cycle
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
                return
            cycle.response_complete = True
        if self._is_answer_due():
            self._refusal = refusal
        else:
            self._refuse(refusal)

    def _refuse(self, refusal: HTTPException) -> None:
        """Answers a request that does not get as far as an operation, or no further, and closes."""
        state = self.scope["state"] if self._is_body_coming() else {}
        request_id = state.get("request_id") or str(uuid_utils.uuid4())
        self.transport.write(self._refusals.answer(refusal, request_id, self.server_state.default_headers))
        self.transport.close()
