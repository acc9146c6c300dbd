"""Hundreds of clients that are slow, greedy or gone; prints by kind how often the service ended them in which way.

A process of its own, so that the load beside it measures the service. Arguments: host, port, a user's id and token.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import time
from asyncio import StreamReader, StreamWriter
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from uuid import uuid4

host, port, user_id, token = sys.argv[1:]

CLIENTS = 60
"""Of each kind."""

SECONDS = 18
"""How long those who are done at once go on; the slow ones come once, and stay until they are thrown out."""

PIPELINED = 20

FIELDS = f"Host: x\r\nAuthorization: Bearer {token}\r\n"
TASKS = f"/api/{user_id}/tasks"
READ = f"GET {TASKS}?limit=1 HTTP/1.1\r\n{FIELDS}\r\n".encode()
LAST = READ.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")

endings: defaultdict[str, Counter[str]] = defaultdict(Counter)
seconds: defaultdict[str, float] = defaultdict(float)
"""The longest, by kind."""
titles: list[str] = []
"""Of the tasks that were perhaps made for those who did not wait."""


async def ending(reader: StreamReader) -> str:
    """How often it answered what, or that it only closed."""
    answer = b""
    try:
        while chunk := await reader.read(65_536):
            answer += chunk
    except ConnectionResetError:
        pass
    statuses = Counter(re.findall(rb"HTTP/1.1 (\d+)", answer))
    return ", ".join(f"{count} x {status.decode()}" for status, count in statuses.items()) or "closed"


async def trickle(reader: StreamReader, writer: StreamWriter) -> str:
    """A byte a second, for as long as it is let."""
    ended = asyncio.ensure_future(ending(reader))
    while not ended.done():
        writer.write(b"x")
        await asyncio.wait([ended], timeout=1)
    return await ended


async def slow_head(reader: StreamReader, writer: StreamWriter) -> str:
    writer.write(f"GET {TASKS} HTTP/1.1\r\n{FIELDS}X: ".encode())
    return await trickle(reader, writer)


async def slow_body(reader: StreamReader, writer: StreamWriter) -> str:
    writer.write(create(1_000))
    return await trickle(reader, writer)


async def silent(reader: StreamReader, _: StreamWriter) -> str:
    return await ending(reader)


async def idle(reader: StreamReader, writer: StreamWriter) -> str:
    writer.write(READ)
    return await ending(reader)


async def half_closed(reader: StreamReader, writer: StreamWriter) -> str:
    writer.write(READ)
    writer.write_eof()
    return await ending(reader)


async def long_head(reader: StreamReader, writer: StreamWriter) -> str:
    writer.write(READ[:-2] + b"X: " + b"y" * 200_000 + b"\r\n\r\n")
    return await ending(reader)


async def pipelining(reader: StreamReader, writer: StreamWriter) -> str:
    writer.write(READ * (PIPELINED - 1) + LAST)
    return await ending(reader)


async def gone(_: StreamReader, writer: StreamWriter) -> str:
    """Leaves in one of all phases."""
    titles.append(f"gone {uuid4()}")
    body = json.dumps({"title": titles[-1]}).encode()
    whole = create(len(body)) + body
    sent = random.choice((b"", whole[:20], create(len(body)), whole[:-5], whole, READ, READ * PIPELINED))  # noqa: S311
    writer.write(sent)
    await asyncio.sleep(random.choice((0, 0.001, 0.005)))  # noqa: S311
    writer.transport.abort()
    return "gone"


def create(length: int) -> bytes:
    return (
        f"POST {TASKS} HTTP/1.1\r\n{FIELDS}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode()
    )


async def client(kind: Callable[[StreamReader, StreamWriter], Awaitable[str]], *, again: bool) -> None:
    end = time.monotonic() + SECONDS
    await asyncio.sleep(random.random())  # noqa: S311
    while True:
        reader, writer = await asyncio.open_connection(host, int(port))
        began = time.monotonic()
        endings[kind.__name__][await kind(reader, writer)] += 1
        seconds[kind.__name__] = max(seconds[kind.__name__], time.monotonic() - began)
        writer.transport.abort()
        await asyncio.sleep(0.5 + random.random())  # noqa: S311
        if not again or time.monotonic() > end:
            return


async def main() -> None:
    once, often = (slow_head, slow_body, silent, idle), (half_closed, long_head, pipelining, gone)
    async with asyncio.TaskGroup() as clients:
        for number, kind in enumerate([*once, *often] * CLIENTS):
            clients.create_task(client(kind, again=number % 8 >= len(once)))


asyncio.run(main())
print(json.dumps({"endings": endings, "seconds": seconds, "titles": titles}))
