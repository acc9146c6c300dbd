"""Takes the bytes of a connection apart into requests: uvicorn's protocol, with bounds of size."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote

import httptools
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.http.cycle import Cycle
from app.http.heads import FRAMING_FIELDS, read_framing

HEAD_LIMIT_BYTES: Final = 65_536
TARGET_LIMIT_BYTES: Final = 8_192
"""Of the request's target: RFC 9112, section 3, asks for 8,000."""

FIELD_LIMIT: Final = 100
"""Header lines of a request. Each costs time before anybody knows who sends it; browsers send twenty."""

MESSAGE_LIMIT_BYTES: Final = 1_048_576
"""All of a request: chunks, their extensions, trailers, and what is left of a body that was answered early."""

HEAD_END: Final = b"\r\n\r\n"

ENDS_LIMIT: Final = 16
"""After so many HEAD_ENDs a message is the last, and is not split there: 64 KB of nothing else took 13 ms."""

RECASED_METHODS: Final = frozenset([b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"])
"""Those that some clients write in lower case, see `_parse`."""

VERSION_ERRORS: Final = {"Invalid HTTP version", "Pause on PRI/Upgrade"}
"""What the parser says of a request line that is right but for its version."""


class Messages(HttpToolsProtocol):
    """uvicorn's protocol on httptools, as far as it takes bytes apart."""

    # Per-connection state. Without a parser nothing more is read; uvicorn has it so when the connection is lost.
    parser: Any
    _last_bytes = b""
    """The last three that came, where they may belong to HEAD_END."""

    _is_last = False
    """Whether nothing is served after this message, since its end cannot be told."""

    # Per-message state.
    _framing_fields: list[tuple[bytes, bytes]]
    _message_bytes = 0
    """What came of a message that is not complete."""
    _ends = 0
    _body_bytes_left = 0
    """What is still to come of a body of known length."""
    _keeps_alive_after_body = False
    _sent_method = b""
    """As the client wrote it, where the parser was given POST instead."""

    def _is_head_coming(self) -> bool:
        """Whether the newest message has no cycle yet: uvicorn makes one when the head is complete."""
        return self.cycle is None or self.cycle.scope is not self.scope

    def _is_body_coming(self) -> bool:
        return not self._is_head_coming() and self.cycle.more_body

    def _next_end(self, data: bytes, start: int) -> int:
        """How far one call of the parser may go: not beyond what may end a message or its head, and begin another."""
        if self._body_bytes_left:
            end = min(len(data), start + self._body_bytes_left)
            self._body_bytes_left -= end - start
            return end
        if self._last_bytes:
            found = (self._last_bytes + data[start : start + 3]).find(HEAD_END)
            if found >= 0:
                end = start + found + len(HEAD_END) - len(self._last_bytes)
                self._last_bytes = b""
                return end
        found = -1 if self._is_last else data.find(HEAD_END, start)
        if found >= 0:
            self._last_bytes = b""
            self._ends += 1
            if self._ends == ENDS_LIMIT:
                self._is_last = True
                self._keeps_alive_after_body = False
            return found + len(HEAD_END)
        self._last_bytes = (self._last_bytes + data[max(start, len(data) - 3) :])[-3:]
        return len(data)

    def _size_refusal(self) -> HTTPException | None:
        """The refusal of a message of more than HEAD_LIMIT_BYTES, if it may not have so many."""
        if not self._is_body_coming():
            return HTTPException(431)
        if self._message_bytes > MESSAGE_LIMIT_BYTES:
            return HTTPException(413, f"A request may have {MESSAGE_LIMIT_BYTES:,} bytes in all.")
        return None

    def _parse(self, data: bytes) -> HTTPException | None:
        """Calls the parser, and returns the refusal that the bytes deserve, if any.

        An upgrade that nobody offers is ignored (RFC 9110, section 7.8). The parser takes no body from such a request
        and would read its body as the next request. A new parser therefore reads the head again, without its Upgrade,
        and what follows it.

        A method in lower case is another method (RFC 9110, section 9.1), which the parser takes for no HTTP. A new
        parser reads another method instead, so that the application can say which ones there are.
        """
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserInvalidMethodError:
                method, _, rest = data.partition(b" ")
                # The message must begin in these bytes: "get" may also be the end of a longer word.
                if method.upper() not in RECASED_METHODS or len(data) != self._message_bytes:
                    return HTTPException(400)
                self._sent_method = method
                self._start_parser()
                data = b"POST " + rest
            except httptools.HttpParserError as error:
                if isinstance(error.__context__, HTTPException):
                    return error.__context__
                return HTTPException(505 if str(error) in VERSION_ERRORS else 400)
            except httptools.HttpParserUpgrade as upgrade:
                if not self._should_upgrade():
                    self.cycle.keep_alive = False
                    return None
                (end,) = upgrade.args
                self._start_parser()
                data = self._head_without_upgrade() + data[end:]
            else:
                return None

    def _start_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _should_upgrade(self) -> bool:
        """Whether the request is read again without its Upgrade, see `_parse`. The name is uvicorn's; none is made."""
        return self.scope["method"] != "CONNECT"

    def _head_without_upgrade(self) -> bytes:
        fields = b"".join([b"%s: %s\r\n" % field for field in self.scope["headers"] if field[0] != b"upgrade"])
        line = f"{self.scope['method']} {self.url.decode('latin-1')} HTTP/{self.scope['http_version']}\r\n"
        return line.encode("latin-1") + fields + b"\r\n"

    # The parser's events. What they raise becomes the answer, see `_parse`.

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > TARGET_LIMIT_BYTES:
            raise HTTPException(431)
        if self._is_last:
            raise HTTPException(400)

    def on_header(self, name: bytes, value: bytes) -> None:
        headers = self.headers
        if len(headers) == FIELD_LIMIT:
            raise HTTPException(431)
        name = name.lower()
        # White space around a value is not part of it (RFC 9112, section 5). The parser leaves what is behind it.
        value = value.rstrip(b" \t")
        headers.append((name, value))
        if name in FRAMING_FIELDS:
            self._framing_fields.append((name, value))

    def on_headers_complete(self) -> None:
        """Begins to answer the request, or lets it wait for the answer to the one ahead."""
        version = self.parser.get_http_version()
        length_bytes, is_chunked, expects_continue = read_framing(version, self._framing_fields)
        self.scope |= {"method": self.parser.get_method().decode(), "http_version": version}
        if self.parser.should_upgrade() and self._should_upgrade():
            return
        if self._sent_method:
            self.scope["method"] = self._sent_method.decode()
            self._sent_method = b""
        url = httptools.parse_url(self.url)
        raw_path = url.path or b"/"  # `http://host` has none (RFC 9112, section 3.2.2).
        path = raw_path.decode()
        self.scope |= {
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": url.query or b"",
        }
        keeps_alive = version == "1.1" and self.parser.should_keep_alive()
        # If such a request is answered early, its body would have to be read for as long as it comes, or never comes.
        # So its connection is kept only if all of the body has come before the answer.
        if is_chunked or expects_continue or length_bytes > MESSAGE_LIMIT_BYTES:
            self._keeps_alive_after_body = keeps_alive
            keeps_alive = False
        self._body_bytes_left = length_bytes
        # Trailer fields go where nobody looks (RFC 9110, section 6.5.1).
        self.headers = []
        ahead = self.cycle
        self.cycle = Cycle(self, expects_continue=expects_continue, keeps_alive=keeps_alive)
        if ahead is None or ahead.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_message_complete(self) -> None:
        self._message_bytes = 0
        self._ends = 0
        self._framing_fields.clear()
        cycle = self.cycle
        if cycle is None or cycle.scope is not self.scope:
            # As `_is_head_coming`: an upgrade, which is read again.
            return
        cycle.more_body = False
        cycle.message_event.set()
        if self._keeps_alive_after_body:
            self._keeps_alive_after_body = False
            # A trailer may say `Connection: close`, after which the parser reads no further.
            cycle.keep_alive = not cycle.response_started and self.parser.should_keep_alive()
