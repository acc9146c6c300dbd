"""Whoever sends eight times as many bytes costs about eight times as much: nobody holds up the others with a field.

Each request makes the whole journey, from its bytes to the bytes of its answer; only the socket is missing.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from itertools import count
from uuid import UUID

import pytest
import uvloop
from uvicorn.lifespan.on import LifespanOn
from uvicorn.server import ServerState

from app.application import create_app
from app.http.protocol import Protocol
from app.http.server import server_config
from app.observe.logs import configure_logs
from app.settings import read_settings
from support.people import SECRET, make_token

FIELD_BYTES = 60_000
"""Of the larger request: nearly as much as a head, or a body, may have."""

TIMES = 8
BOUNDED_BYTES = 1_000
"""Of the larger one, where the contract bounds a header."""

MOST_TIMES = 14
"""Linear fields were measured at up to 12, since more bytes fill more of the processor's caches; squares make 64."""

ROUNDS = 2
ROUNDS_OF_SUSPECTS = 20
"""On a busy machine, few rounds may all be disturbed."""

READ_BYTES = 65_536
"""How much comes from a socket at a time."""

Make = Callable[[int], list[bytes]]
"""Makes the pieces of a request, as they come from the socket, whose field has about so many bytes."""


class Transport(asyncio.Transport):
    """A socket that takes everything and says when an answer is complete, or the connection closed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.answered: asyncio.Future[None] = loop.create_future()
        self._is_closing = False

    def write(self, _data: object) -> None:
        if not self.answered.done():
            self.answered.set_result(None)

    def close(self) -> None:
        self._is_closing = True
        self.write(b"")

    abort = close

    def is_closing(self) -> bool:
        return self._is_closing

    def write_eof(self) -> None: ...

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


class Journey:
    """The service with its database, without a socket."""

    def __init__(self, database_url: str) -> None:
        settings = read_settings({"DATABASE_URL": database_url, "JWT_SECRET": SECRET, "LOG_LEVEL": "error"})
        configure_logs(settings.log_level, settings.log_format)
        self.config = server_config(settings, create_app(settings))
        self.config.load()
        self.loop = uvloop.new_event_loop()
        self.lifespan = LifespanOn(self.config)
        self.loop.run_until_complete(self.lifespan.startup())
        assert not self.lifespan.should_exit

    def close(self) -> None:
        self.loop.run_until_complete(self.lifespan.shutdown())
        self.loop.close()

    def seconds(self, pieces: list[bytes]) -> float:
        """The CPU that one request takes until it is answered."""
        return self.loop.run_until_complete(self._seconds(pieces))

    async def _seconds(self, pieces: list[bytes]) -> float:
        transport = Transport(self.loop)
        protocol = Protocol(config=self.config, server_state=ServerState(), app_state=self.lifespan.state)
        # pytest listens to every logger, and uvicorn would tell it of each request.
        protocol.access_log = False
        protocol.connection_made(transport)
        began = time.process_time()
        for piece in pieces:
            if not transport.is_closing():
                protocol.data_received(piece)
        async with asyncio.timeout(10):
            await transport.answered
        taken = time.process_time() - began
        protocol.connection_lost(None)
        return taken


@pytest.fixture(scope="module")
def journey(database_url: str) -> Iterator[Journey]:
    journey = Journey(database_url)
    # When the collector runs, and for how long, depends on what else this process holds.
    gc.disable()
    yield journey
    gc.enable()
    journey.close()


USER_ID = "linear-time"
TOKEN = f"Authorization: Bearer {make_token(USER_ID, exp=int(time.time()) + 3600)}\r\n"
TASKS = f"/api/{USER_ID}/tasks"
TASK = f"{TASKS}/{UUID(int=7 << 76 | 2 << 62)}"


NUMBERS = count()


def read(data: bytes, size: int = READ_BYTES) -> list[bytes]:
    """The pieces in which these bytes come from a socket."""
    return [data[start : start + size] for start in range(0, len(data), size)]


def request(target: str, fields: str = "", method: str = "GET", body: bytes = b"") -> list[bytes]:
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return read(f"{method} {target} HTTP/1.1\r\nHost: x\r\n{fields}{length}\r\n".encode("latin-1") + body)


def path(before: str, piece: str, after: str = "", fields: str = "") -> Make:
    return lambda size: request(before + piece * (size // len(piece)) + after, fields)


def header(
    name: str, piece: str, before: str = "", fields: str = TOKEN, target: str = TASK, method: str = "GET"
) -> Make:
    """One field of a request, by default of one that reads a task. Its end is another each time: no cache knows it."""

    def make(size: int) -> list[bytes]:
        value = f"{before}{piece * (size // len(piece))}{next(NUMBERS)}"
        return request(target, f"{fields}{name}: {value}\r\n", method)

    return make


def create_with(name: str, piece: str) -> Make:
    """One field of a request that creates a task."""

    def make(size: int) -> list[bytes]:
        fields = f"{TOKEN}Content-Type: application/json\r\n{name}: {piece * (size // len(piece))}\r\n"
        return request(TASKS, fields, "POST", b'{"title":"x"}')

    return make


def bounded(make: Make) -> Make:
    """The same field, no longer than the contract admits: what reads its value is reached."""
    return lambda size: make(size * BOUNDED_BYTES // FIELD_BYTES)


def lines(line: str, fields: str = TOKEN) -> Make:
    """Many lines; `#` in one becomes its number."""

    def make(size: int) -> list[bytes]:
        numbers = range(size // (len(line) + 2 + 4 * line.count("#")))
        return request(TASK, fields + "".join(f"{line.replace('#', f'{number:05}')}\r\n" for number in numbers))

    return make


def body(piece: str | bytes, before: str = "", after: str = "", method: str = "POST", target: str = TASKS) -> Make:
    """The body of a request, by default of one that creates a task; `#` in a piece becomes its number."""

    def make(size: int) -> list[bytes]:
        raw = piece if isinstance(piece, bytes) else piece.encode()
        count = size // (len(raw) + 4 * raw.count(b"#"))
        filled = (
            b"".join(raw.replace(b"#", b"%05d" % number) for number in range(count)) if b"#" in raw else raw * count
        )
        media_type = "merge-patch+json" if method == "PATCH" else "json"
        fields = f"{TOKEN}Content-Type: application/{media_type}\r\n"
        return request(target, fields, method, before.encode() + filled + after.encode())

    return make


def chunks(piece: bytes, end: bytes = b"0\r\n\r\n", *, each: bool = False) -> Make:
    """A body in chunks; `each` comes from the socket on its own."""

    def make(size: int) -> list[bytes]:
        (head,) = request(TASKS, f"{TOKEN}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n", "POST")
        pieces = [head, *[piece] * (size // len(piece)), end]
        return pieces if each else read(b"".join(pieces))

    return make


def bit_by_bit(make: Make) -> Make:
    """The same request, in pieces of four bytes."""
    return lambda size: read(b"".join(make(size)), 4)


LISTS = [
    ",", "a,", " ", ", ", "a ", "*/*,", "a/b;q=0,", "a/b,", ";", ";a=b", ";q=1 ", ';a="', '"', '",', '"1",', 'W/"',
    '"\\', '\\"', "\t", "=", "\\", "(", "%41", "\xff", "*", "gzip;q=0.5,",
]  # fmt: skip
LIST_FIELDS = ["Accept", "Accept-Encoding", "If-Match", "If-None-Match", "Content-Type", "Content-Encoding"]
TEXT_FIELDS = [
    "Idempotency-Key", "X-Request-Id", "traceparent", "Origin", "Host", "Content-Length", "Connection", "Upgrade",
    "Transfer-Encoding", "Expect", "Cookie", "X-Unknown",
]  # fmt: skip
TEXTS = ["a", " ", "0", "00-", "a.", "-", ",", "a,", "%2f", "\xff", "http://", ":"]
TARGETS = [
    "/",
    "/%2f",
    "%2f",
    "%2F",
    "a/",
    "/a",
    "%41",
    "%",
    "%c3%a9",
    "%ff",
    ";",
    "../",
    "./",
    "//",
    ":",
    "{",
    "\\",
    "a",
]
QUERIES = ["a", "%41", "%", "&", "=", "a=1&", "a#=1&", ";", "+", "%c3%a9", "%ff", "limit=1&", "[", "?"]
PARAMETERS = ["0", "1", "-", "a", "%30", "%20", "%c3%a9", ".", "1e"]
TOKENS = ["a", ".", "a.", "..", "eyJ", " ", "=", ",", "-_", "\xff", "eyJhbGciOiJIUzI1NiJ9.", "W3s"]
JSONS = ["[", "{", '{"a":', "[[", '"', "1", "-", "1e", " ", "\\", '"\\', "\xff", "/", "null,", "]", "\n"]
MEMBERS = ['"member#":0,', '"title":"x",', '"a":{},', '"title":"x","title":1,', '"":[],', '"member#":{"a":[1,2,3]},']
STRINGS = ["x", " ", "\\u0041", "\\ud800", "\\n", "\\u0000", "\u00e9", "\U0001f600", "\u3000", "x ", "\\u2028"]

FIELDS: dict[str, list[Make]] = {
    "path": [path("/", piece) for piece in TARGETS],
    "path of the API": [path("/api/", piece) for piece in TARGETS],
    "path's user": [path("/api/", piece.replace("/", ""), "/tasks", TOKEN) for piece in TARGETS if piece.strip("/")],
    "path's task": [path(f"{TASKS}/", piece.replace("/", ""), "", TOKEN) for piece in TARGETS if piece.strip("/")],
    "path of the documentation": [path("/docs/", piece) for piece in ("a/", "../", "%2f")],
    "query without a token": [path(f"{TASKS}?", piece) for piece in QUERIES],
    "query": [path(f"{TASKS}?", piece, "", TOKEN) for piece in QUERIES],
    **{
        f"query's {name}": [path(f"{TASKS}?{name}=", piece, "", TOKEN) for piece in PARAMETERS]
        for name in ("limit", "cursor", "completed", "unknown")
    },
    "authorization": [header("Authorization", piece, "Bearer ", "") for piece in TOKENS],
    "authorization's scheme": [header("Authorization", piece, "", "") for piece in TOKENS],
    **{name.lower(): [header(name, piece) for piece in LISTS] for name in LIST_FIELDS},
    **{name.lower(): [header(name, piece) for piece in TEXTS] for name in TEXT_FIELDS},
    "preflight": [
        header(name, piece, "", "Origin: https://a.example\r\nAccess-Control-Request-Method: GET\r\n", TASKS, "OPTIONS")
        for name in ("Access-Control-Request-Headers", "Origin")
        for piece in TEXTS
    ],
    "content-type of a body": [
        header("Content-Type", piece, "application/json", TOKEN, TASKS, "POST") for piece in LISTS
    ],
    "if-match of a change": [header("If-Match", piece, "", TOKEN, TASK, "DELETE") for piece in LISTS],
    "accept-encoding of a page": [header("Accept-Encoding", piece, "", TOKEN, "/openapi.json") for piece in LISTS],
    "bounded if-match": [bounded(header("If-Match", piece, "", TOKEN, TASK, "DELETE")) for piece in LISTS],
    "bounded if-none-match": [bounded(header("If-None-Match", piece)) for piece in LISTS],
    "lines of one name": [
        lines(f"{name}: {value}") for name in (*LIST_FIELDS, *TEXT_FIELDS, "Authorization", "a") for value in ("", "a")
    ],
    "lines of many names": [lines("a#:"), lines("a#: b"), lines("x-#-a: " + "b" * 50), lines("a#:", "")],
    "lines without a token": [lines("a:", ""), lines("Cookie: a", ""), lines("a: b\r\n c", "")],
    "JSON": [body(piece) for piece in JSONS] + [body(b"\xff"), body(b"\x00"), body(b"\xc3\xa9")],
    "JSON array": [body(piece, "[", "0]") for piece in ("1,", "[],", "{},", '"a",', "null,", "1.5,")],
    "JSON members": [body(piece, "{", '"z":0}') for piece in MEMBERS],
    "JSON members of a change": [body(piece, "{", '"z":0}', "PATCH", TASK) for piece in MEMBERS],
    "JSON title": [body(piece, '{"title":"', '"}') for piece in STRINGS],
    "JSON description": [body(piece, '{"title":"x","description":"', '"}') for piece in STRINGS],
    "JSON completed": [body(piece, '{"title":"x","completed":', "}", "PUT", TASK) for piece in ("1", "[", "0.", '"')],
    "JSON name": [body(piece, '{"', '":0}') for piece in STRINGS],
    "JSON list in a title": [body(piece, '{"title":[', "0]}") for piece in ("1,", "[],", '"a",')],
    "JSON number": [body("1", '{"title":', "}"), body("1", '{"title":0.', "}"), body("0", '{"title":1e', "}")],
    "chunks": [
        chunks(b"1\r\n1\r\n"),
        chunks(b"1;a=b\r\n1\r\n"),
        chunks(b"1\r\n1\r\n", b"0\r\n" + b"a: b\r\n" * 1000 + b"\r\n"),
        chunks(b"1\r\n1\r\n", each=True),
    ],
    "trailers": [lambda size: chunks(b"1\r\n1\r\n", b"0\r\n" + b"a: b\r\n" * (size // 6) + b"\r\n")(60)],
    "bit by bit": [
        bit_by_bit(path("/", "a")),
        bit_by_bit(header("a", "b", fields="")),
        bit_by_bit(body("1", "[", "")),
    ],
    "token": [
        lambda size, make=make: header("Authorization", make(size // 4), "Bearer ", "")(len(make(size // 4)))  # type: ignore[misc]
        for make in (
            lambda size: make_token(USER_ID, padding="a" * size),
            lambda size: make_token(USER_ID, padding=list(range(size // 6))),
            lambda size: make_token(USER_ID, padding={str(number): 0 for number in range(size // 12)}),
            lambda size: make_token(USER_ID, aud=["a"] * (size // 6)),
            lambda size: make_token("a" * size),
            lambda size: make_token(USER_ID, secret="x" * 32, padding="a" * size),
        )
    ],
}


def is_slow(journey: Journey, make: Make, rounds: int) -> bool:
    """Whether the field costs more than its bytes explain, at the least of several rounds."""
    one, eight = (
        min(journey.seconds(make(size)) for _ in range(rounds)) for size in (FIELD_BYTES // TIMES, FIELD_BYTES)
    )
    print(f"{one * 1e3:.2f} ms, {eight * 1e3:.2f} ms, {eight / one:.1f} times: {make(60)[0][-60:]!r}")
    return eight > MOST_TIMES * one


@pytest.mark.requirement("SR-13")
@pytest.mark.parametrize("field", FIELDS)
def test_what_is_eight_times_as_long_takes_as_long_as_eight(journey: Journey, field: str) -> None:
    makes = FIELDS[field]

    suspects = [make for make in makes if is_slow(journey, make, ROUNDS)]
    slow = [make(200)[0][-100:] for make in suspects if is_slow(journey, make, ROUNDS_OF_SUSPECTS)]

    assert slow == []
