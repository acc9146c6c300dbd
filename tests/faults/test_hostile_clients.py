"""Clients that are slow, greedy or gone are ended in time, cost next to nothing, and are not felt by others."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop

from app.http.protocol import TIMEOUT_SECONDS, Phase
from faults.ledger import Ledger, settle
from faults.load import load
from support.people import make_token
from support.service import Service, serving

pytestmark = pytest.mark.faults

HOSTILE = Path(__file__).with_name("hostile.py")
KEEP_ALIVE_SECONDS = 5
LATE_SECONDS = 5
"""What looking once a second, and a busy machine, may add."""

BOUNDS: dict[str, tuple[float, set[str]]] = {
    "slow_head": (TIMEOUT_SECONDS[Phase.HEAD], {"408"}),
    "slow_body": (TIMEOUT_SECONDS[Phase.BODY], {"408"}),
    "silent": (TIMEOUT_SECONDS[Phase.NEW], {"closed"}),
    "idle": (KEEP_ALIVE_SECONDS, {"200"}),
    "half_closed": (0, {"200"}),
    "long_head": (0, {"431"}),
    "pipelining": (0, {"200"}),
    "gone": (0, {"gone"}),
}
"""After how many seconds each kind is ended, and with what answers."""


@pytest.mark.requirement("FR-18", "SC-04")
def test_hostile_clients_are_ended_in_time_and_not_felt(database_url: str, tmp_path: Path) -> None:
    ledger = Ledger()
    token = make_token("hostile", exp=int(time.time()) + 600)

    async def main(service: Service) -> tuple[dict[str, Any], list[float], list[tuple[int, int]]]:
        process = psutil.Process(service.process.pid)
        used: list[tuple[int, int]] = []

        def look() -> None:
            used.append((process.memory_info().rss, process.num_fds()))

        async with load(service.url, ledger, people=20, pause_seconds=0.05):
            await asyncio.sleep(3)
            alone_seconds, ledger.answer_seconds = ledger.answer_seconds, []
            look()
            arguments = [*service.url.removeprefix("http://").split(":"), "hostile", token]
            hostile = await asyncio.create_subprocess_exec(
                sys.executable, HOSTILE, *arguments, stdout=asyncio.subprocess.PIPE
            )
            printing = asyncio.ensure_future(hostile.communicate())
            while not printing.done():
                await asyncio.wait([printing], timeout=0.5)
                look()
            printed, _ = await printing
            await asyncio.sleep(2)
            look()
        assert hostile.returncode == 0
        return json.loads(printed), alone_seconds, used

    # All hostile clients have one user's token: room for all of them, so that each kind meets its own bound.
    variables = {"KEEP_ALIVE_SECONDS": str(KEEP_ALIVE_SECONDS), "REQUESTS_PER_USER": "10000"}
    with serving(database_url, tmp_path / "log", **variables) as service:
        hostile, alone_seconds, used = uvloop.run(main(service))

    # Who left without an answer does not know what was done.
    ledger.created_perhaps |= {("hostile", title) for title in hostile["titles"]}
    for name in ("writes", "unknown"):
        ledger.count[name] += len(hostile["titles"])
    settle("7. 480 slow and hostile clients", ledger, database_url)
    for kind, endings in hostile["endings"].items():
        print(f"{kind}: {endings}, after {hostile['seconds'][kind]:.1f} s at most")
    p99_alone, p99_beside = (sorted(times)[len(times) * 99 // 100] for times in (alone_seconds, ledger.answer_seconds))
    (before_bytes, before_files), (after_bytes, after_files) = used[0], used[-1]
    print(
        f"others' p99 {p99_alone * 1000:.1f} ms alone, {p99_beside * 1000:.1f} ms beside them; memory "
        f"{before_bytes >> 20}, {max(used)[0] >> 20}, {after_bytes >> 20} MiB; "
        f"files {before_files}, {max(files for _, files in used)}, {after_files}"
    )
    assert hostile["endings"].keys() == BOUNDS.keys()
    for kind, (seconds, statuses) in BOUNDS.items():
        seen = {status for ending in hostile["endings"][kind] for status in re.findall(r"\d{3}|[a-z]{2,}", ending)}
        # A byte that comes after the end resets the connection, and may overtake the answer.
        assert seen <= statuses | ({"closed"} if statuses & {"408", "431"} else set()), kind
        assert hostile["seconds"][kind] < seconds + LATE_SECONDS, kind
    assert (ledger.count["refused"], ledger.count["failed_reads"]) == (0, 0)
    assert p99_beside < 2 * p99_alone + 0.1
    assert max(used)[0] - before_bytes < 50 << 20
    assert after_bytes - before_bytes < 25 << 20
    # The pool may have grown.
    assert after_files <= before_files + 20
