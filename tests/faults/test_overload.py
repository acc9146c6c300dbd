"""More than can be done is refused at once, and what is accepted does not suffer for it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil
import pytest
import uvloop

from conftest import make_token, serving
from faults.crowd import Crowd, Outcome, percentile, task_of
from faults.ledger import Fate, Ledger, State, settle

pytestmark = pytest.mark.faults

FLOOD = Path(__file__).with_name("flood.lua")
PEOPLE = 20
CONNECTIONS = 2_000
TIMES = 10
PROBES_PER_SECOND = 200
NOISE_SECONDS = 0.5
"""What a shared machine may add: load generator, PostgreSQL and service want more cores than it has."""


@pytest.fixture
def wrk() -> str:
    found = shutil.which("wrk")
    if found is None:
        assert not os.environ.get("CI"), "wrk is missing"
        pytest.skip("wrk is missing")
    return found


@pytest.mark.requirement("FR-18", "SC-04")
def test_ten_times_too_much_is_refused_at_once(database_url: str, tmp_path: Path, wrk: str) -> None:
    ledger = Ledger()

    def flood(url: str, path: str, connections: int, pause_seconds: float, seconds: int) -> tuple[int, int]:
        """Requests and refusals."""
        variables = {"FLOOD_PATH": path, "FLOOD_TOKEN": make_token("user-0", exp=int(time.time()) + 600)}
        variables["FLOOD_PAUSE_MILLISECONDS"] = f"{pause_seconds * 1000:.0f}"
        command = [wrk, "-t1", f"-c{connections}", f"-d{seconds}", "-s", str(FLOOD), url]
        printed = subprocess.run(
            command, env=os.environ | variables, check=True, capture_output=True, text=True, timeout=60
        ).stdout.split()
        return (
            int(printed[printed.index("requests") - 1]),
            int(printed[printed.index("responses:") + 1]) if "responses:" in printed else 0,
        )

    async def main(url: str, process: psutil.Process) -> None:
        requests = [request for number in range(PEOPLE) for request in work(url, f"user-{number}", ledger)]
        path = requests[0].split(b" ")[1].decode()
        many, _ = await asyncio.to_thread(flood, url, path, 16, 0, 3)
        sustainable = many / 3
        probes = Crowd(url, requests)
        await probes.connect(32)
        unloaded = await probes.ask(per_second=PROBES_PER_SECOND, seconds=3)
        before_bytes = process.memory_info().rss
        pause_seconds = CONNECTIONS / (TIMES * sustainable)

        flooding = asyncio.create_task(asyncio.to_thread(flood, url, path, CONNECTIONS, pause_seconds, 7))
        await asyncio.sleep(1.5)
        loaded = await probes.ask(per_second=PROBES_PER_SECOND, seconds=4)
        during_bytes = process.memory_info().rss
        sent, refused = await flooding
        await asyncio.sleep(0.5)
        after = await probes.ask(per_second=PROBES_PER_SECOND, seconds=1)
        probes.close()

        for outcome in (*unloaded, *loaded, *after):
            note(ledger, outcome, requests)
        accepted = [outcome for outcome in loaded if outcome.status < 300]
        turned_away = [outcome for outcome in loaded if outcome.status == 503]
        print(
            f"sustainable {sustainable:.0f}/s; offered {sent / 7:.0f}/s, refused {refused / 7:.0f}/s; "
            f"unloaded p50 {percentile(unloaded, 0.5) * 1000:.1f} ms, p99 {percentile(unloaded, 0.99) * 1000:.1f} ms; "
            f"accepted p50 {percentile(accepted, 0.5) * 1000:.1f} ms, p99 {percentile(accepted, 0.99) * 1000:.1f} ms "
            f"({len(accepted)} of {len(loaded)}); refused p50 {percentile(turned_away, 0.5) * 1000:.1f} ms; "
            f"memory {before_bytes >> 20} MiB, {during_bytes >> 20} MiB"
        )
        assert refused > sent / 4
        assert Counter(outcome.status for outcome in after).keys() <= {200, 201}
        assert percentile(accepted, 0.99) < max(5 * percentile(unloaded, 0.99), NOISE_SECONDS)
        assert during_bytes - before_bytes < 100 << 20

    with serving(database_url, tmp_path / "log", DATABASE_QUEUE_SIZE="20") as service:
        uvloop.run(main(service.url, psutil.Process(service.process.pid)))
    settle(f"{TIMES} times the load, {CONNECTIONS} connections", ledger, database_url)


def work(url: str, user_id: str, ledger: Ledger) -> list[bytes]:
    """Requests of one user: three reads and a create."""
    token, tasks = make_token(user_id, exp=int(time.time()) + 600), f"/api/{user_id}/tasks"
    created = httpx.post(f"{url}{tasks}", json={"title": "x"}, headers={"Authorization": f"Bearer {token}"})
    ledger.count.update(("writes", "acknowledged"))
    ledger.fates[user_id, created.json()["id"]] = Fate({State("x", False, 1)})
    head = f"Host: x\r\nAuthorization: Bearer {token}\r\n"
    body = '{"title": "y"}'
    content = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    read = f"GET {tasks}/{created.json()['id']} HTTP/1.1\r\n{head}\r\n".encode()
    return [read, read, read, f"POST {tasks} HTTP/1.1\r\n{head}{content}".encode()]


def note(ledger: Ledger, outcome: Outcome, requests: list[bytes]) -> None:
    is_write = requests[outcome.request].startswith(b"POST")
    ledger.count["writes"] += is_write
    if outcome.status == 503:
        ledger.refusal_seconds.append(outcome.seconds)
        ledger.count["refused" if is_write else "failed_reads"] += 1
        if b"\r\nretry-after: 1\r\n" not in outcome.answer or b":overloaded" not in outcome.answer:
            ledger.unexpected["503 for another reason"] += 1
    elif outcome.status in (200, 201):
        ledger.answer_seconds.append(outcome.seconds)
        ledger.success_at.append(outcome.sent_at + outcome.seconds)
        ledger.count["acknowledged" if is_write else "reads"] += 1
        if is_write:
            task = task_of(outcome)
            ledger.fates[str(task["user_id"]), str(task["id"])] = Fate({State("y", False, 1)})
    else:
        ledger.unexpected[f"answered {outcome.status}"] += 1
