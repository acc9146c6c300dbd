"""A proxy on loopback between the service and PostgreSQL: it counts round trips, and can delay, cut or swallow."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

from psycopg.conninfo import conninfo_to_dict

CHUNK_BYTES = 65_536
SYNC = b"S"


class Proxy:
    """Forwards connections to the server that a URL names; runs in a thread of its own.

    `syncs` counts the frontend's Sync messages: each ends one request to the server and waits for its answer
    (PostgreSQL, "Message Flow"). `delay_seconds` is added each way. While `is_black_hole`, nothing is forwarded, and
    nothing closed; `forget` does this to the connections that there are, as a NAT does to those that are silent.
    """

    def __init__(self, url: str) -> None:
        self._target = conninfo_to_dict(url)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()
        self._forgotten: set[asyncio.StreamWriter] = set()
        self.syncs = 0
        self.delay_seconds = 0.0
        self.is_black_hole = False
        self.port = 0

    @property
    def url(self) -> str:
        """The server's URL, by way of the proxy."""
        options = self._target | {"host": "127.0.0.1", "port": self.port, "sslmode": "disable", "gssencmode": "disable"}
        dbname = options.pop("dbname")
        return f"postgresql:///{dbname}?{urlencode(options)}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cut()
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Closes every connection, in mid-answer or not."""
        self._call(self._cut())

    def forget(self) -> None:
        """Forwards nothing more on the connections that there are, and closes none of them."""
        self._forgotten |= self._writers

    def _call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _stop(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._target.get("host", "localhost"), self._target.get("port", 5432)
        try:
            if host.startswith("/"):
                server = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
            else:
                server = await asyncio.open_connection(host, port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, server[1]}
        counter = SyncCounter(self)
        with suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(self._pump(reader, server[1], counter.feed), self._pump(server[0], writer, None))
        for end in (writer, server[1]):
            self._writers.discard(end)
            end.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, observe: Callable[[bytes], None] | None
    ) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            while self.is_black_hole or writer in self._forgotten:
                await asyncio.sleep(0.01)
            if observe:
                observe(chunk)
            if self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


class SyncCounter:
    """Reads a frontend's messages: first the start-up's, then each with type, length and content."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._buffer = b""
        self._is_started = False

    def feed(self, chunk: bytes) -> None:
        self._buffer += chunk
        while True:
            header_bytes = 5 if self._is_started else 4
            if len(self._buffer) < header_bytes:
                return
            (length,) = struct.unpack_from("!I", self._buffer, header_bytes - 4)
            end = header_bytes - 4 + length
            if len(self._buffer) < end:
                return
            if self._is_started and self._buffer[:1] == SYNC:
                self._proxy.syncs += 1
            self._is_started = True
            self._buffer = self._buffer[end:]
