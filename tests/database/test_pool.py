"""The pool bounds who connects and who waits, outlives lost connections, and leaves nobody waiting when it closes."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg
import pytest
import uvloop
from psycopg import errors

from db.statements import Statement
from db.tasks import Tasks, User
from db.wire.connection import Connection
from db.wire.failures import AnswerLost, DatabaseUnavailable, OutcomeUnknown, SendRefused, WritesUnavailable
from db.wire.pool import MAX_AGE_JITTER, Pool, connection_parameters, with_jitter
from support.connections import FAIL, SLEEP, WHO, active, run, until
from support.proxy import Proxy


def test_a_statement_that_a_change_of_the_schema_made_stale_is_run_once_more(own_database: str) -> None:
    whole = Statement(b"whole", b"select * from tasks", ())

    async def main() -> None:
        async with Pool(own_database, size=1) as pool:
            assert await pool.run("alice", whole, ()) == []
            with psycopg.connect(own_database, autocommit=True) as owner:
                owner.execute("alter table tasks add column later text")
            assert await pool.run("alice", whole, ()) == []

    run(main)


def test_a_statement_that_somebody_deallocated_is_prepared_again(own_database: str) -> None:
    deallocate = Statement(b"deallocate", b"deallocate who", ())

    async def main() -> None:
        async with Pool(own_database, size=1) as pool:
            await pool.run("alice", WHO, ())
            await pool.run("alice", deallocate, ())
            assert await pool.run("alice", WHO, ()) == [(b"taskpact_api", b"alice", b"UTC")]

    run(main)


def test_claims_never_bleed_from_one_caller_to_the_next(database_url: str, prepare: bool) -> None:
    """Forty callers share one connection, with failures, time-outs and cancellations among them."""

    async def main() -> None:
        async with Pool(database_url, size=1, prepare=prepare, wait_seconds=30, statement_seconds=0.3) as pool:

            async def caller(number: int) -> None:
                name = f"user-{number}"
                for turn in range(10):
                    if (number + turn) % 7 == 0:
                        with pytest.raises(errors.DivisionByZero):
                            await pool.run(name, FAIL, (b"0",))
                    if number in (5, 25) and turn == 3:
                        with pytest.raises(DatabaseUnavailable):
                            await pool.run(name, SLEEP, ())
                    if number in (15, 35) and turn == 5:
                        task = asyncio.ensure_future(pool.run(name, SLEEP, ()))
                        await asyncio.sleep(0.1)
                        task.cancel()
                    assert await pool.run(name, WHO, ()) == [(b"taskpact_api", name.encode(), b"UTC")]

            await asyncio.gather(*map(caller, range(40)))

    run(main)


@pytest.mark.requirement("FR-18")
@pytest.mark.parametrize(
    ("sqlstate", "reading", "writing"),
    [
        pytest.param("08006", DatabaseUnavailable, OutcomeUnknown, id="connection_failure"),
        pytest.param("25006", DatabaseUnavailable, WritesUnavailable, id="read_only_sql_transaction"),
        pytest.param("40001", DatabaseUnavailable, DatabaseUnavailable, id="serialization_failure"),
        pytest.param("53100", DatabaseUnavailable, WritesUnavailable, id="disk_full"),
        pytest.param("53200", DatabaseUnavailable, DatabaseUnavailable, id="out_of_memory"),
        pytest.param("55P03", DatabaseUnavailable, DatabaseUnavailable, id="lock_not_available"),
        pytest.param("57014", DatabaseUnavailable, DatabaseUnavailable, id="query_canceled"),
        pytest.param("58030", DatabaseUnavailable, DatabaseUnavailable, id="io_error"),
        pytest.param("22012", errors.DivisionByZero, errors.DivisionByZero, id="division_by_zero"),
        pytest.param("42501", errors.InsufficientPrivilege, errors.InsufficientPrivilege, id="insufficient_privilege"),
        pytest.param("XX000", errors.InternalError_, errors.InternalError_, id="internal_error"),
    ],
)
def test_what_the_server_says_is_its_state_or_our_fault(
    database_url: str, sqlstate: str, reading: type[Exception], writing: type[Exception]
) -> None:
    """And it says it to a read and to a write."""
    sql = f"do $$ begin raise exception using errcode = '{sqlstate}'; end $$".encode()

    async def main() -> None:
        async with Pool(database_url, size=1) as pool:
            for writes, expected in ((False, reading), (True, writing)):
                with pytest.raises(expected) as raised:
                    await pool.run("alice", Statement(b"raise_%d" % writes, sql, (), writes), ())
                assert raised.type is expected
            assert await pool.run("alice", WHO, ()) == [(b"taskpact_api", b"alice", b"UTC")]

    run(main)


def test_the_pool_is_bounded_and_so_is_waiting_for_it(database_url: str) -> None:
    async def main() -> None:
        async with Pool(database_url, size=2, wait_seconds=0.2, statement_seconds=1) as pool:
            sleepers = [asyncio.ensure_future(pool.run(name, SLEEP, ())) for name in ("alice", "bob")]
            await asyncio.sleep(0.3)
            assert await asyncio.to_thread(active, database_url, "pg_sleep") == 2
            started = time.monotonic()
            with pytest.raises(DatabaseUnavailable):
                await pool.run("alice", WHO, ())
            assert 0.15 < time.monotonic() - started < 0.9
            results = await asyncio.gather(*sleepers, return_exceptions=True)
            assert [type(result) for result in results] == [DatabaseUnavailable] * 2
            assert await pool.run("alice", WHO, ()) == [(b"taskpact_api", b"alice", b"UTC")]

    run(main)


def test_who_has_left_does_not_count_as_waiting(database_url: str) -> None:
    """Whether their time was up or they were cancelled."""

    async def main() -> None:
        async with Pool(database_url, size=1, wait_seconds=0.5, statement_seconds=2) as pool:
            sleeper = asyncio.ensure_future(pool.run("alice", SLEEP, ()))
            while not pool.open:
                await asyncio.sleep(0.01)
            waiters = [asyncio.ensure_future(pool.run("alice", WHO, ())) for _ in range(4)]
            await asyncio.sleep(0.01)
            assert pool.waiting == 4

            waiters[0].cancel()
            waiters[2].cancel()
            results = await asyncio.gather(*waiters, return_exceptions=True)

            assert [type(result) for result in results] == [asyncio.CancelledError, DatabaseUnavailable] * 2
            assert pool.waiting == 0
            with pytest.raises(DatabaseUnavailable):
                await sleeper

    run(main)


def test_the_pool_serves_whoever_waits_longest_and_uses_what_it_has(database_url: str) -> None:
    async def main() -> None:
        served: list[int] = []
        pids = set()
        async with Pool(database_url, size=3) as pool:

            async def caller(number: int) -> None:
                ((pid,),) = await pool.run("alice", Statement(b"pid", b"select pg_backend_pid()", ()), ())
                served.append(number)
                pids.add(pid)

            await asyncio.gather(*map(caller, range(60)))
        assert sorted(served) == list(range(60))
        assert len(pids) <= 3

    run(main)


@pytest.mark.requirement("SR-14")
@pytest.mark.parametrize("toggles", [2, 3, 4, 8])
def test_a_user_whose_writes_wait_for_a_lock_does_not_get_the_connections_made_for_others(
    own_database: str, toggles: int
) -> None:
    """A write that is gathered waits in nobody's name: a connection is made for it, and for each of its user's."""

    async def main() -> None:
        async with Pool(own_database, size=6, wait_seconds=1) as pool:
            tasks, mallory, alice = Tasks(pool), User("mallory"), User("alice")
            task_id, _ = await tasks.create(mallory, title="x", description=None, idempotency_key=None)
            with psycopg.connect(own_database) as owner:
                owner.execute("select from tasks for update")
                waiting = []
                for _ in range(toggles):
                    waiting.append(asyncio.create_task(tasks.toggle(mallory, task_id, versions=None)))
                    # The next one comes while a connection is made for this one.
                    await asyncio.sleep(0.002)
                for _ in range(3):
                    await tasks.create(alice, title="y", description=None, idempotency_key=None)
                owner.rollback()
                await asyncio.gather(*waiting, return_exceptions=True)

    run(main)


def test_nothing_is_left_of_a_pool_that_is_closed(database_url: str) -> None:
    name = f"pool-{uuid4().hex}"

    async def main() -> None:
        url = f"{database_url}{'&' if '?' in database_url else '?'}application_name={name}"
        async with Pool(url, size=4) as pool:
            await asyncio.gather(*(pool.run("alice", WHO, ()) for _ in range(20)))

    def sessions() -> int:
        with psycopg.connect(database_url) as observer:
            query = "select count(*) from pg_stat_activity where application_name = %s"
            (count,) = observer.execute(query, [name]).fetchone()
            return count

    run(main)
    assert until(lambda: sessions() == 0)


@contextmanager
def naps_ended(url: str, times: int) -> Iterator[None]:
    """So many sessions of this database that sleep are ended, one after the other."""

    def end() -> None:
        # It waits until the session is gone, so that none counts twice.
        query = (
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
            " where datname = current_database() and wait_event = 'PgSleep'"
        )
        with psycopg.connect(url, autocommit=True) as owner:
            left = times
            while left > 0 and not is_over.wait(0.005):
                left -= len(owner.execute(query).fetchall())

    is_over = threading.Event()
    thread = threading.Thread(target=end)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@pytest.mark.parametrize(("times", "wait_seconds"), [(6, 30.0), (1000, 0.2)])
def test_however_many_sessions_end_a_statement_is_run_until_its_time_is_up(
    own_database: str, times: int, wait_seconds: float
) -> None:
    nap = Statement(b"nap", b"select pg_sleep(1)", (), writes=True)

    async def main() -> None:
        async with Pool(own_database, size=2, wait_seconds=wait_seconds) as pool:
            with naps_ended(own_database, times):
                if times < 1000:
                    assert len(await pool.run("alice", nap, ())) == 1
                    assert pool.errors == {"57": times}
                else:
                    with pytest.raises(DatabaseUnavailable) as raised:
                        await pool.run("alice", nap, ())
                    assert not isinstance(raised.value, OutcomeUnknown)

    run(main)


@pytest.mark.parametrize(
    "ends",
    [
        [errors.AdminShutdown(), errors.AdminShutdown()],
        # As psycopg tells it of a session that had not begun: it does not know the SQLSTATE.
        [psycopg.OperationalError("connection failed: FATAL:  terminating connection due to administrator command")],
        [AnswerLost("server closed the connection unexpectedly")],
    ],
    ids=["twice", "before it began", "without a word"],
)
def test_a_session_that_is_ended_while_it_is_made_is_made_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch, ends: list[psycopg.Error]
) -> None:
    connect, ended = Connection.connect, [*ends]

    async def end_some(*arguments: object, **options: object) -> Connection:
        if ended:
            raise ended.pop()
        return await connect(*arguments, **options)

    monkeypatch.setattr(Connection, "connect", end_some)

    async def main() -> None:
        async with Pool(database_url, size=1) as pool:
            results = await asyncio.gather(*(pool.run(name, WHO, ()) for name in ("alice", "bob")))
            assert [row[1] for (row,) in results] == [b"alice", b"bob"]

    run(main)


def test_a_server_that_does_not_answer_is_unavailable_in_time() -> None:
    async def main(port: int) -> None:
        async with Pool(f"postgresql://x@127.0.0.1:{port}/x", size=1, wait_seconds=0.3) as pool:
            with pytest.raises(DatabaseUnavailable):
                await pool.run("alice", WHO, ())

    with socket.create_server(("127.0.0.1", 0)) as silent:
        uvloop.run(main(silent.getsockname()[1]))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    uvloop.run(main(port))


@pytest.mark.requirement("FR-16", "FR-17")
@pytest.mark.parametrize("zone", ["America/St_Johns", "Asia/Kathmandu"])
def test_times_are_in_utc_whatever_the_sessions_zone(own_database: str, zone: str) -> None:
    with psycopg.connect(own_database, autocommit=True) as owner:
        owner.execute(
            f"do $$ begin execute format('alter database %I set timezone to ''{zone}''', current_database()); end $$"
        )
        owner.execute(
            "do $$ begin execute format('alter database %I set datestyle to ''German''', current_database()); end $$"
        )

    async def main() -> None:
        async with Pool(own_database, size=1) as pool:
            _, task = await Tasks(pool).create(User("alice"), title="x", description=None)
            assert task.json.count(b'Z"') == 2

    run(main)


PID = Statement(b"pid", b"select pg_backend_pid()", (), writes=False)
NAP = Statement(b"nap_and_pid", b"select pg_backend_pid() from pg_sleep(0.1)", (), writes=False)


async def pids_of(pool: Pool, statement: Statement, count: int) -> set[bytes]:
    """The server's processes that so many callers meet at once."""
    return {pid for ((pid,),) in await asyncio.gather(*(pool.run("alice", statement, ()) for _ in range(count)))}


def test_what_libpq_refuses_to_send_closes_the_connection(database_url: str, prepare: bool) -> None:
    """Otherwise the next caller would get what the server says of the claims that were sent before."""
    parameters = tuple(map(str, range(70_000)))

    async def main() -> None:
        async with Pool(database_url, size=1, prepare=prepare) as pool:
            for writes in (False, True):
                refused = Statement(b"refused", b"select $1::text", parameters, writes)
                await pool.run("alice", WHO, ())
                with pytest.raises(SendRefused):
                    await pool.run("alice", refused, [b"x"] * len(parameters))
                assert pool.open == 0
                assert await pool.run("bob", WHO, ()) == [(b"taskpact_api", b"bob", b"UTC")]
            assert pool.errors == {"refused": 2}

    run(main)


def test_a_connection_that_a_network_dropped_in_silence_is_not_used_after_the_idle_time(database_url: str) -> None:
    async def main(proxy: Proxy) -> None:
        async with Pool(proxy.url, size=4, max_idle_seconds=0.3) as pool:
            before = await pids_of(pool, NAP, 2)
            proxy.forget()
            await asyncio.sleep(0.5)
            assert (len(before), pool.open, pool.idle) == (2, 0, 0)

            started = time.monotonic()
            after = await pids_of(pool, PID, 1)

            assert time.monotonic() - started < 1
            assert after.isdisjoint(before)
            assert pool.errors == {}

    with Proxy(database_url) as proxy:
        uvloop.run(main(proxy))


def test_only_what_is_idle_for_too_long_is_closed(database_url: str) -> None:
    async def main() -> None:
        async with Pool(database_url, size=3, max_idle_seconds=0.4) as pool:
            await pids_of(pool, NAP, 3)
            used = set()
            for _ in range(8):
                await asyncio.sleep(0.1)
                used |= await pids_of(pool, PID, 1)
            assert (len(used), pool.open, pool.idle) == (1, 1, 1)

    run(main)


def test_an_old_connection_is_replaced_and_no_request_waits_for_the_new_one(database_url: str) -> None:
    async def main(proxy: Proxy) -> None:
        limits = {"max_age_seconds": 0.5, "max_idle_seconds": 0.1}
        async with Pool(proxy.url, size=1, claims="set_config", **limits) as pool:
            before = await pids_of(pool, PID, 1)
            deadline = time.monotonic() + 5
            while (after := await pids_of(pool, PID, 1)) == before and time.monotonic() < deadline:
                await asyncio.sleep(0.02)
            assert after != before

            # The one after the last is made already.
            while not pool.idle:
                await asyncio.sleep(0.01)
            syncs = proxy.syncs
            await pids_of(pool, PID, 1)

            assert proxy.syncs - syncs == 1
            assert pool.errors == {}

    with Proxy(database_url) as proxy:
        uvloop.run(main(proxy))


def test_old_connections_are_replaced_under_load_and_nobody_notices(database_url: str) -> None:
    async def main() -> None:
        async with Pool(database_url, size=3, max_age_seconds=0.4, max_idle_seconds=0.1) as pool:
            pids: set[bytes] = set()
            deadline = time.monotonic() + 1.5

            async def caller() -> None:
                while time.monotonic() < deadline:
                    pids.update(await pids_of(pool, PID, 1))
                    assert pool.open <= 3

            await asyncio.gather(*(caller() for _ in range(6)))
            assert len(pids) > 6
            assert pool.errors == {}

    run(main)


def test_connections_do_not_all_become_too_old_at_once() -> None:
    ages = [with_jitter(3600) for _ in range(100)]

    assert len(set(ages)) == 100
    assert 3600 * (1 - MAX_AGE_JITTER) <= min(ages) < max(ages) <= 3600


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        pytest.param("postgresql:///x", ("60", "10", "3", "2"), id="silent"),
        pytest.param("postgresql:///x?keepalives_idle=7&connect_timeout=9", ("7", "10", "3", "9"), id="says-otherwise"),
    ],
)
def test_a_network_that_drops_what_is_silent_is_found_out_unless_the_url_says_otherwise(
    url: str, expected: tuple[str, ...]
) -> None:
    names = ("keepalives_idle", "keepalives_interval", "keepalives_count", "connect_timeout")
    parameters = connection_parameters(url)

    assert tuple(str(parameters[name]) for name in names) == expected


def test_whoever_waits_when_the_pool_closes_is_told_at_once(database_url: str) -> None:
    """In the queue, or on the way: what may have been done is unknown. Nobody comes in later."""
    nap = [Statement(b"sleep_%d" % writes, b"select pg_sleep(30)", (), writes) for writes in (False, True)]

    async def main() -> None:
        async with Pool(database_url, size=2, wait_seconds=30, statement_seconds=2) as pool:
            under_way = [asyncio.ensure_future(pool.run(s.name.decode(), s, ())) for s in nap]
            while pool.open < 2:
                await asyncio.sleep(0.01)
            queued = [asyncio.ensure_future(pool.run("alice", statement, ())) for statement in (WHO, PID, PID)]
            await asyncio.sleep(0.1)
            assert pool.waiting == 3
            started = time.monotonic()
        later = [asyncio.ensure_future(pool.run("alice", statement, ())) for statement in (WHO, PID)]

        results = await asyncio.gather(*under_way, *queued, *later, return_exceptions=True)

        assert [type(result) for result in results] == [DatabaseUnavailable, OutcomeUnknown, *[DatabaseUnavailable] * 5]
        assert time.monotonic() - started < 1
        assert (pool.open, pool.waiting) == (0, 0)

    run(main)


@pytest.mark.parametrize("moment", ["at-once", "later"])
def test_a_pool_that_closes_while_it_connects_leaves_nobody_waiting_and_no_task(moment: str) -> None:
    complaints: list[object] = []

    async def main(port: int) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with Pool(f"postgresql://x@127.0.0.1:{port}/x", size=2, wait_seconds=30) as pool:
            waiting = [asyncio.ensure_future(pool.run("alice", WHO, ())) for _ in range(3)]
            await asyncio.sleep(0 if moment == "at-once" else 0.1)
            started = time.monotonic()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [DatabaseUnavailable] * 3
        assert time.monotonic() - started < 1
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with socket.create_server(("127.0.0.1", 0)) as silent:
        uvloop.run(main(silent.getsockname()[1]))
    gc.collect()
    assert complaints == []


def test_a_statement_that_was_given_up_is_cancelled_before_the_pool_has_closed(database_url: str) -> None:
    given_up = Statement(b"given_up", b"select pg_sleep(30) as given_up", ())

    async def main() -> None:
        async with Pool(database_url, size=1, statement_seconds=30) as pool:
            task = asyncio.ensure_future(pool.run("alice", given_up, ()))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert pool.open == 1
        assert pool.open == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)
    assert until(lambda: active(database_url, "given_up") == 0)
