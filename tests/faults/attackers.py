"""A well-behaved user beside one attacker, and a table of what became of both."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import psutil

from faults.load import Client, NoAnswer, NotSent

ATTACKER = Path(__file__).with_name("attacker.py")
REQUESTS_LIMIT = 100_000
PER_SECOND = 50
"""What the user asks for, over one connection."""

COLUMNS = ("attacker", "its answers", "user's requests", "answered", "median ms", "of health's", "slowest ms",
           "peak MiB", "after MiB")  # fmt: skip

REPORT: list[tuple[str, ...]] = []
"""A line for each attacker, for the summary."""


@dataclass(frozen=True)
class Attack:
    """What an attacker does, on each of its connections, until its time is over."""

    connections: int
    requests: Sequence[bytes]
    """Each connection sends one of these again and again; `########` in it becomes a number, another each time."""
    mode: str = "ask"
    """`ask` waits for the answers and reads them, `silent` never reads, `trickle` adds a byte a second."""
    answers: int = 1
    """How many answers one of the requests gets."""
    has_bodies: bool = True
    """Whether answers have one: those to HEAD have not."""
    limit: int = REQUESTS_LIMIT


@dataclass
class Experience:
    """What became of a user's requests, and of the service's memory meanwhile."""

    reads: list[tuple[int, float]] = field(default_factory=list)
    """Status and seconds; status 0 stands for no answer."""
    writes: list[tuple[int, float]] = field(default_factory=list)
    attacker: Counter[str] = field(default_factory=Counter)
    """How often the attacker was answered with what status."""
    peak_bytes: int = 0
    after_bytes: int = 0

    @property
    def all(self) -> list[tuple[int, float]]:
        return self.reads + self.writes

    @property
    def answered_share(self) -> float:
        return sum(200 <= status < 300 for status, _ in self.all) / len(self.all)

    @property
    def median_seconds(self) -> float:
        """Of the requests that were answered 2xx."""
        return median([seconds for status, seconds in self.all if 200 <= status < 300] or [float("inf")])

    @property
    def slowest_seconds(self) -> float:
        return max(seconds for _, seconds in self.all)

    @property
    def failures(self) -> Counter[int]:
        return Counter(status for status, _ in self.all if not 200 <= status < 300)


class WellBehaved:
    """Somebody who creates a task, reads it, creates the next, at a steady pace and over one connection."""

    def __init__(self, url: str, user_id: str, token: str | None = None) -> None:
        self._client = Client(url, user_id, token)
        self._path = f"/api/{user_id}/tasks"

    async def live(self, seconds: float, seen: Experience) -> None:
        started, number, task = time.monotonic(), 0, ""
        while (began := time.monotonic()) < started + seconds:
            if number % 2 == 0 or not task:
                status, body = await self._ask("POST", self._path, {"title": f"task {number}"})
                seen.writes.append((status, time.monotonic() - began))
                task = json.loads(body)["id"] if status == 201 else task
            else:
                status, _ = await self._ask("GET", f"{self._path}/{task}")
                seen.reads.append((status, time.monotonic() - began))
            number += 1
            await asyncio.sleep(max(0, 1 / PER_SECOND - (time.monotonic() - began)))

    async def _ask(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        try:
            answer = await self._client.request(method, path, body)
        except (NoAnswer, NotSent):
            return 0, b""
        return answer.status, answer.body

    def close(self) -> None:
        self._client.close()


@asynccontextmanager
async def attacking(url: str, attack: Attack, seconds: float) -> AsyncIterator[Counter[str]]:
    """An attacker at work for so long from now on; what it was answered is known at the end."""
    address = urlsplit(url)
    plan = asdict(attack) | {
        "host": address.hostname,
        "port": address.port,
        "seconds": seconds,
        "requests": [b64encode(request).decode() for request in attack.requests],
    }
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, ATTACKER, stdin=pipe, stdout=pipe)
    statuses: Counter[str] = Counter()
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(plan).encode() + b"\n")
        async with asyncio.timeout(20):
            assert int(await process.stdout.readline()) == attack.connections
        yield statuses
        async with asyncio.timeout(seconds + 20):
            statuses.update(json.loads(await process.stdout.readline()))
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def beside(url: str, attack: Attack, seconds: float, *, user: WellBehaved, pid: int) -> Experience:
    """What a user sees for so many seconds beside an attacker, once each of its connections is made."""
    seen, memory = Experience(), psutil.Process(pid).memory_info

    async def look() -> None:
        while True:
            seen.peak_bytes = max(seen.peak_bytes, memory().rss)
            await asyncio.sleep(0.05)

    looking = asyncio.ensure_future(look())
    async with attacking(url, attack, seconds + 0.2) as statuses:
        await user.live(seconds, seen)
    seen.attacker = statuses
    looking.cancel()
    seen.after_bytes = memory().rss
    return seen


def report(attacker: str, seen: Experience, health: Experience | None = None) -> None:
    """Adds the attacker's line to the table."""
    answers = ", ".join(f"{count} x {status}" for status, count in seen.attacker.most_common(3))
    REPORT.append(
        (
            attacker,
            answers or "none",
            str(len(seen.all)),
            f"{seen.answered_share:.1%}",
            f"{seen.median_seconds * 1000:.1f}",
            f"{seen.median_seconds / health.median_seconds:.1f} x" if health else "",
            f"{seen.slowest_seconds * 1000:.0f}",
            f"{seen.peak_bytes / 2**20:.0f}",
            f"{seen.after_bytes / 2**20:.0f}",
        )
    )
    print(dict(zip(COLUMNS, REPORT[-1], strict=True)), dict(seen.failures))
