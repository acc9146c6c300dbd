"""Whoever ends or dies, no request that was accepted is lost."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
import uvloop

from faults.ledger import Ledger, settle
from faults.load import load
from support.service import Service, free_port, is_ready, serving

pytestmark = pytest.mark.faults

GRACE_SECONDS = 10
READY_SECONDS = 10

HAPROXY = """
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    retries 3
    option redispatch
frontend public
    bind 127.0.0.1:{port}
    default_backend instances
backend instances
    balance roundrobin
    option httpchk GET /readyz
    default-server check inter 200ms fall 1 rise 1
{servers}
"""


def workers_of(service: Service) -> list[psutil.Process]:
    alive = [
        child for child in psutil.Process(service.process.pid).children() if child.status() != psutil.STATUS_ZOMBIE
    ]
    return [child for child in alive if "spawn_main" in " ".join(child.cmdline())]


@contextmanager
def haproxy(urls: list[str], folder: Path) -> Iterator[str]:
    """A balancer that asks each instance five times a second whether it is ready; yields its URL."""
    command = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    if command is None:
        assert not os.environ.get("CI"), "haproxy is missing"
        pytest.skip("haproxy is missing")
    port = free_port()
    servers = "\n".join(f"    server s{number} {url.removeprefix('http://')}" for number, url in enumerate(urls))
    (folder / "haproxy.cfg").write_text(HAPROXY.format(port=port, servers=servers))
    process = subprocess.Popen([command, "-db", "-q", "-f", str(folder / "haproxy.cfg")])
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not is_ready(f"http://127.0.0.1:{port}"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(READY_SECONDS)


@pytest.mark.requirement("FR-15", "NF-01")
def test_two_workers_that_are_told_to_end_answer_what_they_accepted(database_url: str, tmp_path: Path) -> None:
    ledger = Ledger()

    port = str(free_port())
    # All come at once to the worker that listens first, before it has connected to the database: so many may wait.
    variables = {"WORKERS": "2", "PORT": port, "DATABASE_QUEUE_SIZE": "200"}

    async def main(service: Service, again: ExitStack) -> None:
        async with load(service.url, ledger, people=60, pause_seconds=0.01):
            await asyncio.sleep(2)
            told_at = time.monotonic()
            service.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(service.process.wait, GRACE_SECONDS) == 0
            print(f"ended after {time.monotonic() - told_at:.2f} s")
            await asyncio.to_thread(again.enter_context, serving(database_url, tmp_path / "again", **variables))

    with serving(database_url, tmp_path / "log", **variables) as service, ExitStack() as again:
        uvloop.run(main(service, again))

    settle("SIGTERM under load, two workers", ledger, database_url)
    assert (ledger.count["refused"], ledger.count["failed_reads"], ledger.count["unknown"]) == (0, 0, 0)


@pytest.mark.requirement("FR-15", "NF-01")
def test_a_rolling_restart_behind_a_balancer_loses_nothing(database_url: str, tmp_path: Path) -> None:
    ledger = Ledger()
    ports = [str(free_port()), str(free_port())]

    async def main(url: str, services: list[Service], again: ExitStack) -> None:
        async with load(url, ledger, people=40):
            for number, service in enumerate(services):
                await asyncio.sleep(1)
                service.process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(service.process.wait, GRACE_SECONDS)
                log = tmp_path / f"again-{number}"
                new = serving(database_url, log, PORT=ports[number], DRAIN_SECONDS="1")
                await asyncio.to_thread(again.enter_context, new)
            await asyncio.sleep(1)

    with (
        serving(database_url, tmp_path / "first", PORT=ports[0], DRAIN_SECONDS="1") as first,
        serving(database_url, tmp_path / "second", PORT=ports[1], DRAIN_SECONDS="1") as second,
        haproxy([f"http://127.0.0.1:{port}" for port in ports], tmp_path) as url,
        ExitStack() as again,
    ):
        uvloop.run(main(url, [first, second], again))

    settle("rolling restart behind haproxy", ledger, database_url)
    count = ledger.count
    assert (count["refused"], count["failed_reads"], count["unknown"], count["unreachable"]) == (0, 0, 0, 0)


@pytest.mark.requirement("NF-01")
def test_a_killed_worker_is_replaced(database_url: str, tmp_path: Path) -> None:
    ledger = Ledger()

    async def main(service: Service) -> None:
        async with load(service.url, ledger, people=20):
            await asyncio.sleep(1)
            victim, other = workers_of(service)
            victim.kill()
            deadline = time.monotonic() + 15
            while len({worker.pid for worker in workers_of(service)} - {victim.pid, other.pid}) < 1:
                assert time.monotonic() < deadline, "nobody took its place"
                await asyncio.sleep(0.05)
            await asyncio.sleep(2)

    with serving(database_url, tmp_path / "log", WORKERS="2") as service:
        uvloop.run(main(service))
        assert len(workers_of(service)) == 2

    settle("a worker killed", ledger, database_url)
    assert ledger.count["refused"] == 0
