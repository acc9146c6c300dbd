"""Whatever happens to PostgreSQL: no acknowledged write is lost, none is done twice, and nobody waits long."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median

import psutil
import psycopg
import pytest
import uvloop

from db.schema.migrate import migrate
from db.statements import Statement
from db.wire.connection import GRACE_SECONDS
from db.wire.pool import Pool
from faults.ledger import Ledger, settle
from faults.load import load
from faults.postgres import Postgres, small_disk
from support.database import new_database, with_database
from support.proxy import Proxy
from support.service import running_process, serving

pytestmark = pytest.mark.faults

PID = Statement(b"pid", b"select pg_backend_pid()", ())


def run(main: Callable[[], Coroutine[object, object, None]]) -> None:
    uvloop.run(main())


def terminate_one(database_url: str) -> None:
    """Ends one of the sessions of this database."""
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute(
            """
            select pg_terminate_backend(pid) from pg_stat_activity
            where datname = current_database() and pid <> pg_backend_pid() order by random() limit 1
            """
        )


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

    async def main() -> None:
        async with load(url, ledger, people=40):
            for _ in range(100):
                await asyncio.to_thread(terminate_one, database_url)
                await asyncio.sleep(0.03)

    with running_process(database_url, tmp_path / "log") as url:
        run(main)
    settle("2. 100 backends terminated", ledger, database_url)
    # The server says of each statement that it was not done: it is run again, and nobody sees anything.
    assert (ledger.count["refused"], ledger.count["failed_reads"]) == (0, 0)


def test_answers_that_are_cut_off_are_neither_lost_nor_given_twice(database_url: str, tmp_path: Path) -> None:
    ledger = Ledger()
    cuts, people = 30, 40
    mix = {"create": 6, "toggle": 3, "replace": 3, "delete": 1, "read": 5, "list": 2}

    async def main() -> None:
        async with load(url, ledger, people=people, mix=mix):
            for _ in range(cuts):
                await asyncio.sleep(0.2)
                await asyncio.to_thread(proxy.cut)

    with Proxy(database_url) as proxy:
        # Answers are under way for a while: many are cut off.
        proxy.delay_seconds = 0.005
        with running_process(proxy.url, tmp_path / "log", DATABASE_POOL_SIZE="10") as url:
            run(main)
    settle(f"2. {cuts} cuts in mid-answer", ledger, database_url)
    # Reads are repeated, and so is a create, whose id tells whether it was done. Only a change may end unknown: each of
    # the people has a request on its way when it is cut off, a third of them a change.
    assert ledger.created_perhaps == set()
    assert ledger.count["unknown"] < cuts * people / 3


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


@pytest.mark.requirement("FR-15")
@pytest.mark.parametrize("end", ["killed", "demoted"])
def test_a_promoted_replica_takes_over_with_all_that_was_acknowledged(end: str, tmp_path: Path) -> None:
    ledger = Ledger()

    def fail_over() -> None:
        if end == "killed":
            primary.kill()
        else:
            # It answers as before, but takes no more changes: connections to it must be given up.
            primary.execute("alter system set default_transaction_read_only = on", "select pg_reload_conf()")
        time.sleep(1)
        standby.promote()

    async def main() -> None:
        async with load(url, ledger, people=40):
            await asyncio.sleep(2)
            await asyncio.to_thread(fail_over)
            promoted_at = time.monotonic()
            await asyncio.sleep(3)
        assert ledger.first_success_after(promoted_at) < 1
        assert ledger.last_refusal_after(promoted_at) < 1

    with Postgres() as primary, primary.replica() as standby:
        primary.execute(
            "create database tasks",
            "alter system set synchronous_standby_names = '*'",
            "select pg_reload_conf()",
        )
        while not primary.value("select exists (select from pg_stat_replication where sync_state = 'sync')"):
            time.sleep(0.05)
        hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        both = f"postgresql://postgres@{hosts}/tasks?target_session_attrs=read-write"
        migrate(both)
        with running_process(both, tmp_path / "log") as url:
            run(main)
        settle(f"3. primary {end}, replica promoted", ledger, with_database(standby.url, "tasks"))


@pytest.mark.parametrize("fault", ["locked", "delayed", "silent"])
def test_a_slow_database_is_answered_503_in_time_and_the_event_loop_stays_free(
    database_url: str, tmp_path: Path, fault: str
) -> None:
    ledger = Ledger()
    bounds = {"DATABASE_WAIT_SECONDS": "0.5", "DATABASE_STATEMENT_SECONDS": "1"}
    bound_seconds = 0.5 + 1 + GRACE_SECONDS

    def inflict() -> None:
        with psycopg.connect(database_url) as owner:
            match fault:
                case "locked":
                    owner.execute("lock table tasks in access exclusive mode")
                case "delayed":
                    proxy.delay_seconds = 2.0
                case "silent":
                    proxy.is_black_hole = True
            time.sleep(4)
        proxy.delay_seconds = 0.0
        proxy.is_black_hole = False

    async def main() -> None:
        async with load(url, ledger, people=20):
            await asyncio.sleep(2)
            before = await asyncio.to_thread(sessions, database_url)
            await asyncio.to_thread(inflict)
            over_at = time.monotonic()
            await asyncio.sleep(3)
            # Where the server ends the statements by itself, no connection is lost.
            assert fault != "locked" or before <= await asyncio.to_thread(sessions, database_url)
        assert ledger.first_success_after(over_at) < 2.5

    with Proxy(database_url) as proxy, running_process(proxy.url, tmp_path / "log", **bounds) as url:
        host, port = url.removeprefix("http://").split(":")
        command = [sys.executable, Path(__file__).with_name("health.py"), host, port, "9"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as health:
            uvloop.run(main())
            answer_seconds = sorted(json.loads(health.stdout.read()))
    settle(f"5. database {fault} for 4 s", ledger, database_url)
    assert ledger.refusal_seconds
    assert max(ledger.refusal_seconds) < bound_seconds + 0.5
    p99 = answer_seconds[-1 - len(answer_seconds) // 100]
    print(f"/healthz, {len(answer_seconds)} times: p99 {p99 * 1000:.1f} ms, longest {answer_seconds[-1] * 1000:.1f} ms")
    # The longest is what other processes of the machine make of it.
    assert p99 < 0.05


def sessions(database_url: str) -> set[int]:
    """The sessions of this database, but this one."""
    with psycopg.connect(database_url) as owner:
        rows = owner.execute(
            "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        ).fetchall()
    return {pid for (pid,) in rows}


@pytest.fixture
def full_disk(postgres: Postgres) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """A database on a small disk of its own, and what fills and frees it."""
    with small_disk(postgres) as folder:
        postgres.execute(f"create tablespace small location '{folder}/space'")
        with new_database(postgres.url) as url:
            name = url.rpartition("/")[2]
            postgres.execute(f"alter database {name} set tablespace small")
            migrate(url)

            def fill() -> None:
                with (folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
                    while file.write(bytes(65_536)):
                        pass

            yield url, fill, (folder / "filler").unlink
        postgres.execute("drop tablespace small")


def test_reads_go_on_while_the_disk_is_full(
    full_disk: tuple[str, Callable[[], None], Callable[[], None]], tmp_path: Path
) -> None:
    url, fill, free = full_disk
    assert_that_reads_go_on(url, fill, free, "9. disk full for 4 s", tmp_path)


def test_reads_go_on_while_the_database_is_read_only(database_url: str, postgres: Postgres, tmp_path: Path) -> None:
    name = database_url.rpartition("/")[2]

    def make(read_only: str) -> None:
        postgres.execute(
            f"alter database {name} set default_transaction_read_only = {read_only}",
            f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'",
        )

    assert_that_reads_go_on(database_url, lambda: make("on"), lambda: make("off"), "9. read-only for 4 s", tmp_path)


def assert_that_reads_go_on(
    database_url: str, forbid: Callable[[], None], allow: Callable[[], None], scenario: str, folder: Path
) -> None:
    ledger = Ledger()

    async def main(url: str) -> None:
        async with load(url, ledger, people=40):
            await asyncio.sleep(2)
            await asyncio.to_thread(forbid)
            await asyncio.sleep(4)
            await asyncio.to_thread(allow)
            allowed_at = time.monotonic()
            await asyncio.sleep(2)
        assert ledger.last_refusal_after(allowed_at) < 1

    with running_process(database_url, folder / "log") as url:
        uvloop.run(main(url))
    settle(scenario, ledger, database_url)
    print(dict(ledger.problems))
    assert set(ledger.problems) == {"writes-unavailable"}, ledger.problems
    assert (ledger.count["failed_reads"], ledger.count["unknown"]) == (0, 0)


@pytest.mark.requirement("FR-15", "SC-04")
def test_a_soak_with_random_faults_ends_with_what_was_acknowledged(
    postgres: Postgres, database_url: str, tmp_path: Path
) -> None:
    """500 people for `FAULTS_SOAK_SECONDS`, 30 by default; memory and file descriptors stay what they were."""
    seconds = float(os.environ.get("FAULTS_SOAK_SECONDS", "30"))
    ledger = Ledger()
    faults: Counter[str] = Counter()
    memory_bytes: list[int] = []

    def restart() -> None:
        postgres.stop()
        postgres.start()

    def crash() -> None:
        postgres.kill()
        postgres.start()

    def terminate() -> None:
        terminate_one(database_url)

    async def break_something() -> None:
        while True:
            fault = random.choices((terminate, proxy.cut, restart, crash), (10, 6, 1, 1))[0]  # noqa: S311
            await asyncio.to_thread(fault)
            faults[fault.__name__] += 1
            memory_bytes.append(process.memory_info().rss)
            await asyncio.sleep(random.uniform(0.2, 1))  # noqa: S311

    async def main() -> None:
        async with load(service.url, ledger, people=500, pause_seconds=1.0):
            await asyncio.sleep(3)
            breaking = asyncio.ensure_future(break_something())
            await asyncio.sleep(seconds - 4)
            breaking.cancel()
            await asyncio.sleep(1)
            with suppress(asyncio.CancelledError):
                await breaking

    pool_size = 10
    with (
        Proxy(database_url) as proxy,
        serving(proxy.url, tmp_path / "log", DATABASE_POOL_SIZE=str(pool_size)) as service,
    ):
        process = psutil.Process(service.process.pid)
        files = process.num_fds()
        uvloop.run(main())
        time.sleep(1)
        # What is left is the pool.
        assert process.num_fds() <= files + pool_size
    settle(f"10. soak of {seconds:.0f} s, {faults.total()} faults", ledger, database_url)
    early, late = (median(part) for part in (memory_bytes[: len(memory_bytes) // 3], memory_bytes[-5:]))
    print(dict(faults), f"{files} files; memory {early / 2**20:.1f} MiB, then {late / 2**20:.1f} MiB")
    assert late < early * 1.1
