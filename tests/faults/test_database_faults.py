"""Whatever happens to PostgreSQL: no acknowledged write is lost, none is done twice, and nobody waits long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

import psycopg
import pytest
import uvloop

from conftest import running_process
from db.pool import Pool
from db.statements import Statement
from faults.ledger import Ledger, settle
from faults.load import load
from faults.postgres import Postgres
from proxy import Proxy

pytestmark = pytest.mark.faults

PID = Statement(b"pid", b"select pg_backend_pid()", ())


def run(main: Callable[[], Coroutine[object, object, None]]) -> None:
    uvloop.run(main())


@pytest.mark.requirement("FR-15")
def test_a_killed_postgresql_loses_nothing_and_is_used_again_at_once(
    postgres: Postgres, database_url: str, tmp_path: Path
) -> None:
    ledger = Ledger()

    async def main() -> None:
        async with load(url, ledger, people=40):
            await asyncio.sleep(2)
            await asyncio.to_thread(postgres.kill)
            await asyncio.sleep(3)
            await asyncio.to_thread(postgres.start)
            back_at = time.monotonic()
            await asyncio.sleep(3)
        assert ledger.first_success_after(back_at) < 1
        assert ledger.last_refusal_after(back_at) < 1

    with running_process(database_url, tmp_path / "log") as url:
        run(main)
    settle("1. PostgreSQL killed, back after 3 s", ledger, database_url)
    assert max(ledger.refusal_seconds) < 2


def test_backends_that_are_terminated_one_by_one_lose_nothing(database_url: str, tmp_path: Path) -> None:
    ledger = Ledger()

    def terminate_one() -> None:
        with psycopg.connect(database_url, autocommit=True) as owner:
            owner.execute(
                """
                select pg_terminate_backend(pid) from pg_stat_activity
                where datname = current_database() and pid <> pg_backend_pid() order by random() limit 1
                """
            )

    async def main() -> None:
        async with load(url, ledger, people=40):
            for _ in range(100):
                await asyncio.to_thread(terminate_one)
                await asyncio.sleep(0.03)

    with running_process(database_url, tmp_path / "log") as url:
        run(main)
    settle("2. 100 backends terminated", ledger, database_url)
    # The server says of each statement that it was not done: it is run again, and nobody sees anything.
    assert (ledger.count["refused"], ledger.count["failed_reads"]) == (0, 0)


def test_answers_that_are_cut_off_are_neither_lost_nor_given_twice(database_url: str, tmp_path: Path) -> None:
    ledger = Ledger()

    async def main() -> None:
        async with load(url, ledger, people=40):
            for _ in range(30):
                await asyncio.sleep(0.2)
                await asyncio.to_thread(proxy.cut)

    with Proxy(database_url) as proxy:
        # Answers are under way for a while: many are cut off.
        proxy.delay_seconds = 0.005
        with running_process(proxy.url, tmp_path / "log") as url:
            run(main)
    settle("2. 30 cuts in mid-answer", ledger, database_url)
    # Reads are repeated, and so is a create, whose id tells whether it was done: most people see nothing.
    assert ledger.count["unknown"] < ledger.count["acknowledged"] / 10


def test_a_connection_that_ended_while_it_was_idle_is_not_used(postgres: Postgres, database_url: str) -> None:
    """Not even before the event loop could notice: there are a farewell that nobody has read, and a reset."""

    def terminate(pid: int) -> None:
        with psycopg.connect(postgres.url, autocommit=True) as owner:
            owner.execute("select pg_terminate_backend(%s, 5000)", [pid])

    async def main() -> None:
        async with Pool(database_url, size=1) as pool:
            for _ in range(10):
                ((pid,),) = await pool.run("alice", PID, ())
                terminate(int(pid))
                started = time.monotonic()
                assert await pool.run("alice", PID, ()) != [(pid,)]
                assert time.monotonic() - started < 3

    run(main)
