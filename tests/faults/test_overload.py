"""More than can be done is refused at once, and what is accepted does not suffer for it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
import uvloop

from faults.crowd import Crowd, Outcome, percentile, task_of
from faults.ledger import Fate, Ledger, State, settle
from support.people import make_token
from support.proxy import Proxy
from support.service import Service, serving

pytestmark = pytest.mark.faults

FLOOD = Path(__file__).with_name("flood.lua")
PEOPLE = 20
CONNECTIONS = 2_000
FLOOD_SECONDS = 8
PROBES_UNLOADED_PER_SECOND = 80
PROBES_LOADED_PER_SECOND = 300

POOL_SIZE = 6
DELAY_SECONDS = 0.015
"""Each way: a statement takes 30 ms at least, so that the database, and not this machine, is the limit."""

NOISE_SECONDS = 0.05
"""What a busy machine may add."""


@pytest.fixture
def wrk() -> str:
    found = shutil.which("wrk")
    if found is None:
        assert not os.environ.get("CI"), "wrk is missing"
        pytest.skip("wrk is missing")
    return found


@dataclass(frozen=True)
class Measured:
    """Rates are in requests a second."""

    sustainable: float
    offered: float
    refused: float
    unloaded: list[Outcome]
    accepted: list[Outcome]
    turned_away: list[Outcome]
    recovered_seconds: float
    """From the flood's end to the last request that was still refused."""
    grown_bytes: int
    """By how much the service's memory grew."""
    connections: int

    def __str__(self) -> str:
        rates = f"sustainable {self.sustainable:.0f}/s; offered {self.offered:.0f}/s, refused {self.refused:.0f}/s"
        times = [
            f"{name} p50 {percentile(outcomes, 0.5) * 1000:.1f} ms, p99 {percentile(outcomes, 0.99) * 1000:.1f} ms"
            for name, outcomes in vars(self).items()
            if name in {"unloaded", "accepted", "turned_away"} and outcomes
        ]
        return (
            f"{rates}; {'; '.join(times)}; {len(self.accepted)} probes accepted, {len(self.turned_away)} refused; "
            f"recovered after {self.recovered_seconds:.2f} s; memory grew by {self.grown_bytes / 2**20:.1f} MiB; "
            f"{self.connections} connections"
        )


def flood(wrk: str, url: str, path: str, connections: int, pause_seconds: float, seconds: int) -> tuple[float, float]:
    """Requests, and among them refusals, in a second; each was answered."""
    variables = {
        "FLOOD_PATH": path,
        "FLOOD_TOKEN": make_token("flooder", exp=int(time.time()) + 600),
        "FLOOD_PAUSE_MILLISECONDS": f"{pause_seconds * 1000:.0f}",
    }
    command = [wrk, "-t1", f"-c{connections}", f"-d{seconds}", "-s", str(FLOOD), "--timeout", "10", url]
    printed = subprocess.run(
        command, env=os.environ | variables, check=True, capture_output=True, text=True, timeout=60
    ).stdout
    assert "Socket errors" not in printed, printed
    (sent,) = re.findall(r"(\d+) requests in", printed)
    refused = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", printed)))
    return int(sent) / seconds, refused / seconds


async def overload(service: Service, ledger: Ledger, wrk: str, *, at_once: int, times: float) -> Measured:
    """Offers so many times what the service sustains with `at_once` requests at any time."""
    url, process = service.url, psutil.Process(service.process.pid)
    requests = [request for number in range(PEOPLE) for request in work(url, f"user-{number}", ledger)]
    # Somebody else than the people: they shall not meet the bound of one user's requests.
    path = work(url, "flooder", ledger)[0].split(b" ")[1].decode()
    sent, refused = await asyncio.to_thread(flood, wrk, url, path, at_once, 0, 3)
    sustainable = sent - refused
    probes = Crowd(url, requests)
    await probes.connect(64)
    unloaded = await probes.ask(per_second=PROBES_UNLOADED_PER_SECOND, seconds=4)
    before_bytes = process.memory_info().rss

    pause_seconds = CONNECTIONS / (times * sustainable)
    flooding = asyncio.create_task(asyncio.to_thread(flood, wrk, url, path, CONNECTIONS, pause_seconds, FLOOD_SECONDS))
    await asyncio.sleep(2)
    loaded = await probes.ask(per_second=PROBES_LOADED_PER_SECOND, seconds=FLOOD_SECONDS - 3)
    grown_bytes, connections = process.memory_info().rss - before_bytes, len(process.net_connections("tcp"))
    offered, refused = await flooding
    ended_at = time.perf_counter()
    after = await probes.ask(per_second=PROBES_UNLOADED_PER_SECOND, seconds=2)
    probes.close()

    for outcome in (*unloaded, *loaded, *after):
        note(ledger, outcome, requests)
    return Measured(
        sustainable=sustainable,
        offered=offered,
        refused=refused,
        unloaded=unloaded,
        accepted=[outcome for outcome in loaded if outcome.status in (200, 201)],
        turned_away=[outcome for outcome in loaded if outcome.status == 503],
        recovered_seconds=max([outcome.sent_at - ended_at for outcome in after if outcome.status == 503], default=0),
        grown_bytes=grown_bytes,
        connections=connections,
    )


@pytest.mark.requirement("FR-18", "SC-04")
def test_ten_times_what_the_database_can_do_is_refused_at_once(database_url: str, tmp_path: Path, wrk: str) -> None:
    ledger = Ledger()
    with Proxy(database_url) as proxy:
        proxy.delay_seconds = DELAY_SECONDS
        with serving(proxy.url, tmp_path / "log", DATABASE_POOL_SIZE=str(POOL_SIZE)) as service:
            # All connections busy, and nobody refused. Who is answered pauses from then on: hence more than ten.
            measured = uvloop.run(overload(service, ledger, wrk, at_once=2 * POOL_SIZE, times=13))
    print(measured)
    settle("6. ten times what the database can do", ledger, database_url)
    assert measured.offered >= 10 * measured.sustainable
    assert measured.connections >= CONNECTIONS
    assert measured.refused > measured.offered / 2
    assert set(ledger.problems) == {"overloaded"}
    assert percentile(measured.turned_away, 0.5) < 0.05
    assert percentile(measured.turned_away, 0.99) < 0.15
    assert percentile(measured.accepted, 0.99) < 5 * percentile(measured.unloaded, 0.99) + NOISE_SECONDS
    assert measured.recovered_seconds < 1
    assert measured.grown_bytes < 100 << 20


@pytest.mark.requirement("SC-04")
def test_more_than_the_machine_can_do_is_all_answered(database_url: str, tmp_path: Path, wrk: str) -> None:
    """Refusing takes the time here that accepting needs: how long either takes is printed, and not bounded."""
    ledger = Ledger()
    with serving(database_url, tmp_path / "log") as service:
        measured = uvloop.run(overload(service, ledger, wrk, at_once=16, times=10))
    print(measured)
    settle("6. more than the machine can do", ledger, database_url)
    assert measured.connections >= CONNECTIONS
    assert measured.recovered_seconds < 1
    assert measured.grown_bytes < 100 << 20


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
        ledger.problems["overloaded" if b":overloaded" in outcome.answer else "another"] += 1
        if b"\r\nretry-after: 1\r\n" not in outcome.answer:
            ledger.unexpected["503 without Retry-After"] += 1
    elif outcome.status in (200, 201):
        ledger.answer_seconds.append(outcome.seconds)
        ledger.success_at.append(outcome.sent_at + outcome.seconds)
        ledger.count["acknowledged" if is_write else "reads"] += 1
        if is_write:
            task = task_of(outcome)
            ledger.fates[str(task["user_id"]), str(task["id"])] = Fate({State("y", False, 1)})
    else:
        ledger.unexpected[f"answered {outcome.status}"] += 1
