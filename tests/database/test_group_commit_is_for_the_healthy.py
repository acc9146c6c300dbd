"""Sharing a transaction hurts nobody: not beside locks, not beside writes that fail, not on a slow database."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast
from uuid import uuid4

import psycopg
import pytest
import uvloop
from psycopg import errors

from db.statements import Statement
from db.tasks import Tasks, User, UserUnknown
from db.wire import connection, group_commit
from db.wire.connection import Call, Connection, Outcome
from db.wire.failures import DatabaseUnavailable, NoConnection, RolledBack
from db.wire.group_commit import KEPT_OUT_LIMIT, SHARED_LIMIT, GroupCommit
from db.wire.pool import Pool
from support.connections import WHO, run
from support.proxy import Proxy

pytestmark = pytest.mark.requirement("SR-14")

CHANGE = Statement(b"change", b"select pg_current_xact_id()", ("task_id",), one_task=True)
WRITE = Statement(b"write", b"select pg_current_xact_id()", ())
FAIL = Statement(b"fail", b"select 1 / $1::integer", ("divisor",))
NOTHING = Statement(b"nothing", b"do 'begin end'", ())
NAP = Statement(b"nap", b"select pg_sleep($1)", ("seconds",), writes=False)

SLOW_SECONDS = 0.4


def users(count: int) -> list[User]:
    return [User(f"user-{uuid4().hex}") for _ in range(count)]


async def shared_with(pool: Pool, *names: str) -> int:
    """In how many transactions the writes of these users end that come at once."""
    return len({row[0] for (row,) in await asyncio.gather(*(pool.run(name, WRITE, ()) for name in names))})


async def create_until(tasks: Tasks, user: User, end: float) -> list[float]:
    """How long each create took, in seconds."""
    taken = []
    while time.monotonic() < end:
        began_at = time.monotonic()
        await tasks.create(user, title="x", description=None)
        taken.append(time.monotonic() - began_at)
        await asyncio.sleep(0.005)
    return taken


@contextmanager
def locked(url: str, kind: str, user: User, task_id: str) -> Iterator[None]:
    """A lock that the user's toggles wait for."""
    trigger = f"""
        create function wait_for_it() returns trigger language plpgsql as $$
        begin
            perform pg_advisory_xact_lock(14);
            return null;
        end $$;
        create constraint trigger wait_for_it after update on tasks deferrable initially {kind.partition(" ")[0]}
        for each row when (new.user_id = '{user.id}') execute function wait_for_it()
    """
    with psycopg.connect(url) as locker:
        if kind == "row":
            locker.execute("select from tasks where id = %s for update", [task_id])
        elif kind == "user":
            locker.execute("update users set name = 'x' where id = %s", [user.id])
        else:
            locker.execute(trigger)
            locker.commit()
            locker.execute("select pg_advisory_xact_lock(14)")
        yield
        locker.rollback()


@pytest.mark.parametrize("kind", ["row", "immediate trigger", "deferred trigger"])
@pytest.mark.parametrize("toggles", [4, 24])
def test_nobody_waits_for_a_lock_that_another_ones_write_waits_for(own_database: str, kind: str, toggles: int) -> None:
    alice, *others = users(9)

    async def main() -> None:
        async with Pool(own_database, size=20) as pool:
            tasks = Tasks(pool)
            task_id, _ = await tasks.create(alice, title="x", description=None)
            with locked(own_database, kind, alice, task_id):
                toggling = [asyncio.ensure_future(tasks.toggle(alice, task_id, versions=None)) for _ in range(toggles)]
                end = time.monotonic() + 1
                taken = await asyncio.gather(*(create_until(tasks, user, end) for user in others))
            # Those that have a connection wait as long as a statement may take.
            results = Counter(map(type, await asyncio.gather(*toggling, return_exceptions=True)))

            # Sharing with the toggle would take as long as a statement may: five seconds. The machine may be busy.
            assert max(map(max, taken)) < 1
            assert min(map(len, taken)) > 1
            assert set(results) <= {DatabaseUnavailable, type(await tasks.get(alice, task_id))}

    run(main)


@contextmanager
def slow(url: str, kind: str) -> Iterator[str]:
    """A database on which each insert takes `SLOW_SECONDS`, and the URL by which it does."""
    timings = {
        "before": "trigger slow before",
        "after": "trigger slow after",
        "deferred": "constraint trigger slow after",
    }
    if kind == "network":
        with Proxy(url) as proxy:
            proxy.delay_seconds = SLOW_SECONDS / 2
            yield proxy.url
        return
    deferred = "deferrable initially deferred" if kind == "deferred" else ""
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(f"""
            create function slow() returns trigger language plpgsql as $$
            begin
                perform pg_sleep({SLOW_SECONDS});
                return new;
            end $$;
            create {timings[kind]} insert on tasks {deferred} for each row execute function slow()
        """)
    yield url


@pytest.mark.parametrize("kind", ["before", "after", "deferred", "network"])
def test_creates_on_a_slow_database_take_no_longer_together_than_alone(own_database: str, kind: str) -> None:
    async def main(url: str) -> None:
        async with Pool(url, size=20, wait_seconds=10) as pool:
            tasks = Tasks(pool)
            # Everybody has a connection, so that only the writes are slow.
            await asyncio.gather(*(pool.run(str(number), NAP, (b"0.1",)) for number in range(20)))
            for _ in range(2):
                began_at = time.monotonic()
                await asyncio.gather(*(tasks.create(user, title="x", description=None) for user in users(16)))
                # In turn they would take sixteen times as long.
                assert SLOW_SECONDS <= time.monotonic() - began_at < 4 * SLOW_SECONDS
            assert pool.errors == {}

    with slow(own_database, kind) as url:
        uvloop.run(main(url))


def test_a_commit_that_is_slow_is_not_cancelled(own_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check at once, deferred triggers run in the commit: they show how long a commit may take."""
    monkeypatch.setattr(connection, "CHECK_AT_ONCE", NOTHING)
    monkeypatch.setattr(connection, "CHECK_AT_ONCE_IN_DO", NOTHING)
    monkeypatch.setattr(group_commit, "LINGER_SECONDS", 60)

    async def main(url: str) -> None:
        async with Pool(url, size=4) as pool:
            await pool.run("somebody", WHO, ())
            tasks = Tasks(pool)
            began_at = time.monotonic()
            await asyncio.gather(*(tasks.create(user, title="x", description=None) for user in users(3)))
            assert time.monotonic() - began_at > 3 * SLOW_SECONDS
            assert pool.errors == {}

    with slow(own_database, "deferred") as url:
        uvloop.run(main(url))


def test_the_server_has_nothing_to_warn_of_in_a_shared_transaction(database_url: str) -> None:
    warnings = []

    async def main() -> None:
        raw = await psycopg.AsyncConnection.connect(database_url, autocommit=True)
        raw.add_notice_handler(lambda notice: warnings.append(notice.message_primary))
        shared = Connection(raw, prepare=True, claims="auto", statement_seconds=5, on_lost=lambda _: None)
        shared.claims = "set_config"
        for outcome in await shared.run_all([(b"a", WRITE, ()), (b"b", WRITE, ())]):
            assert isinstance(outcome, list)
        shared.close()

    run(main)
    assert warnings == []


def test_whoever_failed_is_kept_out_and_the_others_share_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "KEPT_OUT_SECONDS", 0.5)

    async def main() -> None:
        async with Pool(database_url, size=4) as pool:
            await pool.run("somebody", WHO, ())
            failed, *others = await asyncio.gather(
                pool.run("b", FAIL, (b"0",)), *(pool.run(name, WRITE, ()) for name in "acde"), return_exceptions=True
            )
            assert isinstance(failed, errors.DivisionByZero)
            assert len({row[0] for (row,) in others}) == 1
            assert pool.errors == {"22": 1}

            assert await shared_with(pool, "a", "b", "c") == 2
            await asyncio.sleep(0.5)
            assert await shared_with(pool, "a", "b", "c") == 1

    run(main)


def test_a_write_that_fails_alone_keeps_its_user_out_too(database_url: str) -> None:
    async def main() -> None:
        async with Pool(database_url, size=4) as pool:
            with pytest.raises(errors.DivisionByZero):
                await pool.run("b", FAIL, (b"0",))
            assert await shared_with(pool, "a", "b", "c") == 2

    run(main)


def test_users_without_a_row_let_no_transaction_fail(database_url: str) -> None:
    """Without provisioning: whether they repeat their requests or not."""
    known, unknown = users(4), users(4)
    with psycopg.connect(database_url) as owner:
        for user in known:
            owner.execute("insert into users (id) values (%s)", [user.id])

    async def main() -> None:
        async with Pool(database_url, size=10) as pool:
            await pool.run("somebody", WHO, ())
            tasks = Tasks(pool, provision_users=False)
            for key in (None, "k", None):
                results = await asyncio.gather(
                    *(
                        tasks.create(user, title="x", description=None, idempotency_key=key)
                        for user in (*unknown, *known)
                    ),
                    return_exceptions=True,
                )
                assert [type(result) for result in results] == [UserUnknown] * 4 + [tuple] * 4
            assert pool.errors == {}

    run(main)


class FakePool:
    """What group commit asks of a pool: connections, and an outcome for each call."""

    def __init__(self) -> None:
        self.may_connect = asyncio.Event()
        self.may_connect.set()
        self.outcome: list[object] | RolledBack = []
        self.sizes: list[int] = []
        self.counted: Counter[bytes] = Counter()

    def count(self, user: bytes) -> None:
        self.counted[user] += 1

    def uncount(self, user: bytes) -> None:
        self.counted[user] -= 1

    def take_idle(self) -> Connection | None:
        return cast("Connection", self) if self.may_connect.is_set() else None

    async def acquire(self) -> Connection:
        await self.may_connect.wait()
        return cast("Connection", self)

    async def run(self, _: Connection, calls: list[Call]) -> list[Outcome]:
        self.sizes.append(len(calls))
        return [cast("Outcome", self.outcome)] * len(calls)


def test_there_is_a_pause_while_many_shared_transactions_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "UNSHARED_SECONDS", 0.2)

    async def main() -> None:
        pool = FakePool()
        writes = GroupCommit(pool.take_idle, pool.acquire, pool.run, pool.count, pool.uncount)

        async def write_all() -> None:
            calls = [(name, WRITE, ()) for name in (b"a", b"b")]
            await asyncio.gather(*(writes.run(call, time.monotonic() + 1) for call in calls), return_exceptions=True)

        async def fail_until_paused() -> int:
            pool.outcome, times = RolledBack(), 0
            while writes.has_room(b"a", WRITE):
                await write_all()
                times += 1
            return times

        assert await fail_until_paused() == 4
        await asyncio.sleep(0.25)
        # The database is tried again, and is no better.
        assert await fail_until_paused() == 1
        await asyncio.sleep(0.25)
        pool.outcome = []
        for _ in range(20):
            await write_all()
        assert await fail_until_paused() > 1
        assert set(pool.sizes) == {2}

    uvloop.run(main())


def test_each_gathered_write_gives_up_at_its_own_time() -> None:
    """Also one that joins late, with less time left than the first one has; the others wait on."""

    async def main() -> None:
        pool = FakePool()
        pool.may_connect.clear()
        writes = GroupCommit(pool.take_idle, pool.acquire, pool.run, pool.count, pool.uncount)
        began_at = time.monotonic()
        ended: dict[bytes, float] = {}

        async def write(name: bytes, seconds: float) -> None:
            try:
                await writes.run((name, WRITE, ()), began_at + seconds)
            finally:
                ended[name] = time.monotonic() - began_at

        waiting = [asyncio.ensure_future(write(*each)) for each in ((b"a", 0.3), (b"b", 0.6), (b"c", 0.1), (b"d", 9))]
        leaving = asyncio.ensure_future(write(b"e", 9))
        await asyncio.sleep(0.05)
        assert writes.waiting == 5
        leaving.cancel()
        await asyncio.sleep(0.65)
        pool.may_connect.set()
        results = await asyncio.gather(*waiting, return_exceptions=True)

        assert [type(result) for result in results] == [NoConnection] * 3 + [type(None)]
        assert list(ended)[:4] == [b"e", b"c", b"a", b"b"]
        # The loop's clock is coarser than ours.
        assert ended[b"c"] > 0.09
        assert ended[b"a"] > 0.29
        assert ended[b"b"] > 0.59
        assert (pool.sizes, writes.waiting) == ([1], 0)

    uvloop.run(main())


def test_the_next_write_is_run_after_all_that_were_gathered_have_left() -> None:
    async def main() -> None:
        pool = FakePool()
        pool.may_connect.clear()
        writes = GroupCommit(pool.take_idle, pool.acquire, pool.run, pool.count, pool.uncount)
        for _ in range(3):
            with pytest.raises(NoConnection):
                await writes.run((b"a", WRITE, ()), time.monotonic() + 0.02)
        waiting = asyncio.ensure_future(writes.run((b"b", WRITE, ()), time.monotonic() + 5))
        await asyncio.sleep(0.01)
        pool.may_connect.set()
        assert await waiting == []
        assert pool.sizes == [1]
        # With nobody left, the connection is given back unused.
        pool.may_connect.clear()
        with pytest.raises(NoConnection):
            await writes.run((b"c", WRITE, ()), time.monotonic() + 0.02)
        pool.may_connect.set()
        await asyncio.sleep(0.01)
        assert await writes.run((b"d", WRITE, ()), time.monotonic() + 5) == []

    uvloop.run(main())


def test_however_many_users_are_kept_out_the_memory_is_bounded() -> None:
    pool = FakePool()
    writes = GroupCommit(pool.take_idle, pool.acquire, pool.run, pool.count, pool.uncount)
    for number in range(KEPT_OUT_LIMIT + 5):
        writes.keep_out(b"%d" % number)
    writes.keep_out(b"5")

    assert len(writes._kept_out) == KEPT_OUT_LIMIT  # noqa: SLF001
    assert [writes.has_room(b"%d" % number, WRITE) for number in (4, 5, 6, KEPT_OUT_LIMIT)] == [
        True,
        False,
        False,
        False,
    ]
    assert SHARED_LIMIT > 1


@pytest.mark.requirement("SR-14")
def test_a_users_connection_is_counted_once_until_the_last_of_the_writes_that_share_it_is_done() -> None:
    async def main() -> None:
        pool = FakePool()
        pool.may_connect.clear()
        writes = GroupCommit(pool.take_idle, pool.acquire, pool.run, pool.count, pool.uncount)
        give_up_at = time.monotonic() + 10
        first, second, other = (
            asyncio.create_task(writes.run((name, CHANGE, (b"task",)), give_up_at)) for name in (b"a", b"a", b"b")
        )
        await asyncio.sleep(0)
        assert pool.counted == {b"a": 1, b"b": 1}

        first.cancel()
        other.cancel()
        await asyncio.wait([first, other])
        assert pool.counted == {b"a": 1, b"b": 0}

        pool.may_connect.set()
        assert await second == []
        assert pool.counted == {b"a": 0, b"b": 0}

    run(main)
