"""A crowd that asks at a given rate, whether or not it was answered: each on a connection of their own."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast
from urllib.parse import urlsplit

TICK_SECONDS = 0.002


class Outcome(NamedTuple):
    """What came of a request; status 0 stands for a connection that ended instead."""

    sent_at: float
    seconds: float
    status: int
    request: int
    answer: bytes


@dataclass
class Crowd:
    """So many connections to the service, which send one of these requests each, when it is their turn."""

    url: str
    requests: Sequence[bytes]
    outcomes: list[Outcome] = field(default_factory=list)
    skipped: int = 0
    """Requests that were due when all connections waited for an answer."""

    def __post_init__(self) -> None:
        self._idle: deque[_Caller] = deque()
        self._callers: list[_Caller] = []
        self._turn = 0

    async def connect(self, connections: int) -> None:
        address = urlsplit(self.url)
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            _, caller = await loop.create_connection(lambda: _Caller(self), address.hostname, address.port)
            self._callers.append(caller)
            self._idle.append(caller)

    async def ask(self, *, per_second: float, seconds: float) -> list[Outcome]:
        """Asks at this rate for so long and returns what came of it, when all is answered."""
        first, started, asked = len(self.outcomes), time.perf_counter(), 0
        while (now := time.perf_counter()) < started + seconds:
            due = int((now - started) * per_second) - asked
            asked += due
            for _ in range(due):
                self._ask_once()
            await asyncio.sleep(TICK_SECONDS)
        await self._answered()
        return self.outcomes[first:]

    async def ask_on_and_on(self, *, at_once: int, seconds: float) -> list[Outcome]:
        """Keeps so many requests going for so long and returns what came of them."""
        first, ends = len(self.outcomes), time.perf_counter() + seconds
        while time.perf_counter() < ends:
            while len(self._callers) - len(self._idle) < at_once:
                self._ask_once()
            await asyncio.sleep(TICK_SECONDS / 4)
        await self._answered()
        return self.outcomes[first:]

    def close(self) -> None:
        for caller in self._callers:
            caller.transport.abort()

    def _ask_once(self) -> None:
        if not self._idle:
            self.skipped += 1
            return
        self._turn += 1
        self._idle.popleft().send(self._turn % len(self.requests))

    async def _answered(self) -> None:
        async with asyncio.timeout(20):
            while len(self._idle) < len(self._callers):
                await asyncio.sleep(TICK_SECONDS)

    def ended(self, caller: _Caller, status: int, answer: bytes) -> None:
        seconds = time.perf_counter() - caller.sent_at
        self.outcomes.append(Outcome(caller.sent_at, seconds, status, caller.request, answer))
        self._idle.append(caller)


class _Caller(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._received = b""
        self.request = -1
        self.sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def send(self, request: int) -> None:
        self.request, self.sent_at = request, time.perf_counter()
        self.transport.write(self._crowd.requests[request])

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        _, length, rest = head.partition(b"content-length: ")
        if not length or len(body) < int(rest.split(b"\r\n", 1)[0]):
            return
        self._received = b""
        self._crowd.ended(self, int(head[9:12]), head + end + body)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self.request >= 0 and self not in self._crowd._idle:  # noqa: SLF001
            self._crowd.ended(self, 0, b"")


def percentile(outcomes: Sequence[Outcome], share: float) -> float:
    """The time in which this share of requests was answered, in seconds."""
    times = sorted(outcome.seconds for outcome in outcomes)
    return times[min(len(times) - 1, int(len(times) * share))]


def task_of(outcome: Outcome) -> dict[str, object]:
    task: dict[str, object] = json.loads(outcome.answer.partition(b"\r\n\r\n")[2])
    return task
