"""One attacker: so many connections to the service, bounded in requests and time; prints what was answered how often.

A process of its own, so that the user beside it measures the service and not the attack. It reads its plan from
standard input, see `faults.attackers.Attack`, prints a line when all are connected, and a line of JSON at its end.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from base64 import b64decode
from collections import Counter
from itertools import count
from socket import AF_INET, SO_RCVBUF, SOL_SOCKET, socket
from typing import Any, cast

import uvloop

CONNECTING_AT_ONCE = 100
AGAIN_SECONDS = 0.05
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

plan: dict[str, Any] = json.loads(sys.stdin.readline())
requests = [b64decode(request) for request in plan["requests"]]
statuses: Counter[str] = Counter()
numbers = count()
ends_at = 0.0


class Caller(asyncio.Protocol):
    """A connection that sends its request again and again, each time when the one before was answered."""

    transport: asyncio.Transport

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._head = b""
        self._body_bytes = 0
        self._waits_for = 0
        self._is_last = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if ends_at:
            self.begin()

    def begin(self) -> None:
        number = next(numbers)
        if number >= plan["limit"] or time.monotonic() > ends_at:
            return
        self._waits_for = plan["answers"]
        self.transport.write(self._request.replace(b"########", b"%08d" % number))
        if plan["mode"] == "silent":
            self.transport.pause_reading()
        elif plan["mode"] == "trickle":
            self._trickle()

    def _trickle(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(b" ")
            asyncio.get_running_loop().call_later(1, self._trickle)

    def data_received(self, data: bytes) -> None:
        while data:
            if self._body_bytes:
                taken = min(len(data), self._body_bytes)
                self._body_bytes -= taken
                data = data[taken:]
            else:
                head, end, data = (self._head + data).partition(b"\r\n\r\n")
                if not end:
                    self._head = head
                    return
                self._head = b""
                self._answered(head)
            if not self._body_bytes:
                self._waits_for -= 1
                if not self._waits_for and not self._is_last:
                    self.begin()

    def _answered(self, head: bytes) -> None:
        statuses[head[9:12].decode()] += 1
        self._is_last |= b"\r\nconnection: close" in head.lower()
        if plan["has_bodies"] and head[9:12] not in {b"204", b"304"} and (length := LENGTH.search(head)):
            self._body_bytes = int(length[1])

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._waits_for > 0:
            statuses["closed"] += 1
        loop = asyncio.get_running_loop()
        if time.monotonic() < ends_at:
            loop.call_later(AGAIN_SECONDS, lambda: loop.create_task(connect(self._request)))


async def connect(request: bytes) -> Caller | None:
    connection = socket(AF_INET)
    connection.setblocking(False)
    if plan["mode"] == "silent":
        # As little as the kernel takes: what is not read stays with the service.
        connection.setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(connection, (plan["host"], plan["port"]))
        _, caller = await loop.create_connection(lambda: Caller(request), sock=connection)
    except OSError:
        statuses["not connected"] += 1
        return None
    return caller


async def main() -> None:
    global ends_at  # noqa: PLW0603 - it is known once all are connected
    callers: list[Caller | None] = []
    for first in range(0, plan["connections"], CONNECTING_AT_ONCE):
        some = range(first, min(first + CONNECTING_AT_ONCE, plan["connections"]))
        callers += await asyncio.gather(*[connect(requests[number % len(requests)]) for number in some])
    ends_at = time.monotonic() + plan["seconds"]
    for caller in callers:
        if caller:
            caller.begin()
    print(len(callers), flush=True)
    await asyncio.sleep(plan["seconds"])


uvloop.run(main())
print(json.dumps(statuses))
