"""Writes that come at once share a transaction, those of one user too, and none of them sees anything of it."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from uuid import uuid4

import psycopg
import pytest
import uvloop
from psycopg import errors

from db.statements import (
    CREATE,
    CREATE_IF_KNOWN,
    CREATE_ONCE,
    CREATE_ONCE_IF_KNOWN,
    DELETE,
    REPLACE,
    TOGGLE,
    UPDATE,
    Statement,
)
from db.tasks import TaskNotFound, TaskRow, Tasks, User, VersionMismatch
from db.wire import connection, group_commit
from db.wire.connection import Call, Claims
from db.wire.failures import DatabaseUnavailable, OutcomeUnknown, SendRefused
from db.wire.group_commit import SHARED_LIMIT, Write
from db.wire.pool import Pool
from support.proxy import Proxy

CLAIMS = "current_user, current_setting('taskpact.user_id'), current_setting('TimeZone')"
WRITE = Statement(b"write", f"select pg_current_xact_id(), {CLAIMS}".encode(), ())
FAIL = Statement(b"fail", b"select 1 / $1::integer", ("divisor",))
TOUCH = Statement(b"touch", b"select pg_current_xact_id(), 1 / length($1)", ("task_id",), one_task=True)
"""A write on one task, which fails if the task has no id."""
SLEEP = Statement(b"sleep", b"select pg_sleep($1)", ("seconds",))


def run(main: Callable[[], Coroutine[object, object, None]]) -> None:
    """Runs it on the event loop that the service uses."""
    uvloop.run(main())


@asynccontextmanager
async def pooled(url: str, *, claims: Claims = "auto", statement_seconds: float = 5) -> AsyncIterator[Pool]:
    """A pool that knows how claims travel."""
    async with Pool(url, size=4, claims=claims, wait_seconds=10, statement_seconds=statement_seconds) as pool:
        await pool.run("somebody", WRITE, ())
        yield pool


async def together(*calls: Coroutine[object, object, object]) -> list[object]:
    """What came of them, when all begin in one turn of the event loop."""
    return await asyncio.gather(*calls, return_exceptions=True)


def users(count: int) -> list[User]:
    return [User(f"user-{uuid4().hex}") for _ in range(count)]


@pytest.mark.requirement("SR-03", "SR-08")
@pytest.mark.parametrize("claims", ["session", "set_config"])
def test_writes_of_several_users_share_a_transaction_each_under_its_own_claims(
    database_url: str, claims: Claims
) -> None:
    async def main() -> None:
        async with pooled(database_url, claims=claims) as pool:
            names = [f"user-{number:02}" for number in range(SHARED_LIMIT)]
            random.shuffle(names)

            results = await together(*(pool.run(name, WRITE, ()) for name in names))

            transactions, *told = zip(*(row for (row,) in results), strict=True)
            assert len(set(transactions)) == 1
            assert list(zip(*told, strict=True)) == [(b"taskpact_api", name.encode(), b"UTC") for name in names]

    run(main)


@pytest.mark.parametrize(
    ("claims", "names", "transactions"),
    [
        pytest.param("auto", ["alice", "alice", "bob", "alice"], [1, 1, 2], id="several of a user that lock anything"),
        pytest.param("auto", [str(number) for number in range(SHARED_LIMIT + 2)], [1, 1, SHARED_LIMIT], id="too many"),
        pytest.param("set_local", ["alice", "bob"], [1, 1], id="claims that Citus repeats"),
    ],
)
def test_what_must_not_be_shared_is_not(
    database_url: str, claims: Claims, names: list[str], transactions: list[int]
) -> None:
    async def main() -> None:
        async with pooled(database_url, claims=claims) as pool:
            results = await together(*(pool.run(name, WRITE, ()) for name in names))

            assert sorted(Counter(row[0] for (row,) in results).values()) == transactions

    run(main)


def test_writes_of_one_user_share_a_transaction_and_a_connection(database_url: str) -> None:
    async def main() -> None:
        async with pooled(database_url) as pool:
            results = await together(*(pool.run("alice", TOUCH, (b"%d" % number,)) for number in range(SHARED_LIMIT)))

            assert len({row[0] for (row,) in results}) == 1
            assert pool.open == 1

    run(main)


def test_a_write_that_locks_anything_keeps_its_users_others_out_of_its_transaction(database_url: str) -> None:
    async def main() -> None:
        async with pooled(database_url) as pool:
            results = await together(
                pool.run("alice", WRITE, ()), pool.run("alice", TOUCH, (b"x",)), pool.run("bob", TOUCH, (b"x",))
            )

            first, second, others = (row[0] for (row,) in results)
            assert first == others != second

    run(main)


def test_only_changes_of_a_known_task_by_a_recorded_user_lock_one_task() -> None:
    writes = {"CREATE": CREATE, "REPLACE": REPLACE, "UPDATE": UPDATE, "TOGGLE": TOGGLE, "DELETE": DELETE}

    assert {(name, records): write[records].one_task for name, write in writes.items() for records in write} == {
        (name, records): not records for name in writes for records in (True, False)
    }
    assert not any(statement.one_task for statement in (*CREATE_ONCE.values(), *CREATE_ONCE_IF_KNOWN.values()))
    assert CREATE_IF_KNOWN[False].one_task


def test_writes_stand_in_the_order_of_users_then_tasks_then_arrival() -> None:
    calls: list[Call] = [
        (b"bob", TOUCH, (b"a",)),
        (b"alice", TOUCH, (b"B",)),
        (b"alice", TOUCH, (b"a",)),
        (b"alice", TOUCH, (b"b",)),
        (b"al", WRITE, ()),
    ]

    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        writes = [Write(call, 0.0, future) for call in calls]
        ordered = sorted(writes, key=lambda write: write.place)
        assert [calls.index(write.call) for write in ordered] == [4, 2, 1, 3, 0]

    run(main)


@pytest.mark.requirement("FR-11", "SC-04")
def test_toggles_of_one_task_that_come_at_once_are_all_done_one_after_the_other(database_url: str) -> None:
    """Two services with sixteen clients each, and one task."""
    (alice,), turns = users(1), 12

    async def main() -> None:
        async with pooled(database_url) as one, pooled(database_url) as other:
            task_id, _ = await Tasks(one).create(alice, title="x", description=None)

            async def toggle(pool: Pool) -> list[int]:
                return [(await Tasks(pool).toggle(alice, task_id, versions=None)).version for _ in range(turns)]

            versions = await asyncio.gather(*(toggle(pool) for pool in [one, other] * SHARED_LIMIT))

            expected = 2 * SHARED_LIMIT * turns
            assert sorted(version for each in versions for version in each) == list(range(2, expected + 2))
            assert all(each == sorted(each) for each in versions)
            assert (await Tasks(one).get(alice, task_id)).version == expected + 1

    run(main)


def test_changes_that_name_a_version_and_come_at_once_succeed_once(database_url: str) -> None:
    (alice,) = users(1)

    async def main() -> None:
        async with pooled(database_url) as pool:
            tasks = Tasks(pool)
            task_id, _ = await tasks.create(alice, title="x", description=None)
            results = await together(*(tasks.toggle(alice, task_id, versions=[1]) for _ in range(SHARED_LIMIT)))

            assert Counter(map(type, results)) == {TaskRow: 1, VersionMismatch: SHARED_LIMIT - 1}

    run(main)


@pytest.mark.parametrize(
    ("count", "linger_seconds", "busy_seconds"),
    [
        pytest.param(3, 60, 0.2, id="until the transaction in flight ends"),
        pytest.param(SHARED_LIMIT, 60, 30, id="until all that may have come"),
        pytest.param(3, 0.1, 30, id="no longer than they may"),
    ],
)
def test_writes_wait_for_others_while_a_transaction_is_in_flight(
    database_url: str, monkeypatch: pytest.MonkeyPatch, count: int, linger_seconds: float, busy_seconds: float
) -> None:
    monkeypatch.setattr(group_commit, "LINGER_SECONDS", linger_seconds)

    async def main() -> None:
        async with pooled(database_url, statement_seconds=2) as pool:
            busy = asyncio.ensure_future(pool.run("somebody", SLEEP, (b"%f" % busy_seconds,)))
            await asyncio.sleep(0.05)
            writing = []
            for number in range(count):
                writing.append(asyncio.ensure_future(pool.run(str(number), WRITE, ())))
                await asyncio.sleep(0)

            transactions = {row[0] for (row,) in await asyncio.gather(*writing)}

            assert len(transactions) == 1
            assert busy.done() == (busy_seconds < 1)
            await together(busy)

    run(main)


def test_one_that_fails_takes_nobody_with_it(database_url: str) -> None:
    alice, bob, carol, dora = users(4)

    async def main() -> None:
        async with pooled(database_url) as pool:
            tasks = Tasks(pool)
            results = await together(
                tasks.create(alice, title="a", description=None),
                pool.run(bob.id, FAIL, (b"0",)),
                tasks.create(carol, title="c", description=None),
                pool.run(dora.id, FAIL, (b"x",)),
            )

            assert isinstance(results[1], errors.DivisionByZero)
            assert isinstance(results[3], errors.InvalidTextRepresentation)
            assert pool.errors == {"22": 2}
            for user, (task_id, _) in ((alice, results[0]), (carol, results[2])):
                page = await tasks.page(user, limit=100, cursor=None, completed=None)
                assert [task_id in task.decode() for task in page.items] == [True]

    run(main)


def test_one_that_fails_takes_none_of_its_users_others_with_it(database_url: str) -> None:
    async def main() -> None:
        async with pooled(database_url) as pool:
            failed, *others = await together(*(pool.run("alice", TOUCH, (task_id,)) for task_id in (b"", b"a", b"b")))

            assert isinstance(failed, errors.DivisionByZero)
            assert [row[1] for (row,) in others] == [b"1", b"1"]
            assert pool.errors == {"22": 1}

    run(main)


@pytest.mark.requirement("SR-03", "SR-08")
def test_a_strangers_task_is_not_there_in_a_shared_transaction_either(database_url: str) -> None:
    owner, *strangers = users(8)

    async def main() -> None:
        async with pooled(database_url) as pool:
            tasks = Tasks(pool)
            task_id, _ = await tasks.create(owner, title="x", description=None)
            first, *others = await together(
                *(tasks.toggle(user, task_id, versions=None) for user in (owner, *strangers))
            )

            assert first.version == 2
            assert [type(other) for other in others] == [TaskNotFound] * len(strangers)

    run(main)


def test_who_waits_too_long_keeps_others_waiting_and_no_more(database_url: str) -> None:
    """The server ends what takes too long; the others are done then."""
    alice, bob = users(2)

    async def main() -> None:
        async with pooled(database_url, statement_seconds=0.3) as pool:
            tasks = Tasks(pool)
            created, slept = await together(
                tasks.create(alice, title="x", description=None), pool.run(bob.id, SLEEP, (b"30",))
            )

            assert isinstance(slept, DatabaseUnavailable)
            assert pool.errors == {"57": 1}
            assert await tasks.get(alice, created[0]) == created[1]

    run(main)


def test_who_leaves_before_it_begins_has_done_nothing_and_the_others_have(database_url: str) -> None:
    alice, bob = users(2)

    async def main() -> None:
        async with pooled(database_url) as pool:
            tasks = Tasks(pool)
            leaving, staying = (
                asyncio.ensure_future(tasks.create(user, title="x", description=None)) for user in (alice, bob)
            )
            await asyncio.sleep(0)
            leaving.cancel()
            await together(leaving)
            await staying

            counts = [
                len((await tasks.page(user, limit=9, cursor=None, completed=None)).items) for user in (alice, bob)
            ]
            assert (leaving.cancelled(), counts) == (True, [0, 1])

    run(main)


def test_nobody_is_left_waiting_where_there_is_no_connection(database_url: str) -> None:
    async def main() -> None:
        async with Pool(database_url, size=1, wait_seconds=0.2, statement_seconds=2) as pool:
            await pool.run("somebody", WRITE, ())
            busy = asyncio.ensure_future(pool.run("somebody", SLEEP, (b"30",)))
            await asyncio.sleep(0.05)

            waiting = [asyncio.ensure_future(pool.run(name, WRITE, ())) for name in "abc"]
            await asyncio.sleep(0.05)
            assert pool.waiting == 3

            assert [type(result) for result in await together(*waiting)] == [DatabaseUnavailable] * 3
            assert pool.waiting == 0
            await together(busy)

    run(main)


def test_a_cut_connection_makes_no_task_twice(database_url: str) -> None:
    people = users(SHARED_LIMIT)

    async def main(proxy: Proxy) -> None:
        async with pooled(proxy.url) as pool:
            tasks = Tasks(pool)
            for cut_after_seconds in (0.0, 0.005, 0.01, 0.015, 0.02, 0.025):
                await pool.run("somebody", WRITE, ())
                writing = asyncio.ensure_future(
                    together(*(tasks.create(user, title="x", description=None) for user in people))
                )
                await asyncio.sleep(cut_after_seconds)
                await asyncio.to_thread(proxy.cut)
                made = [task_id for task_id, _ in await writing]
                with psycopg.connect(database_url) as observer:
                    query = "select count(*), count(*) filter (where id = any(%s)) from tasks where user_id = any(%s)"
                    found = observer.execute(query, [made, [user.id for user in people]]).fetchone()
                    observer.execute("delete from tasks where id = any(%s)", [made])
                assert found == (SHARED_LIMIT, SHARED_LIMIT)

    with Proxy(database_url) as proxy:
        # An answer is on its way for a while.
        proxy.delay_seconds = 0.01
        uvloop.run(main(proxy))


@pytest.mark.parametrize("owners", [10, 3, 1])
def test_transactions_never_wait_for_each_other_in_a_circle(
    database_url: str, monkeypatch: pytest.MonkeyPatch, owners: int
) -> None:
    """Two services change the same ten tasks, all at once, each in an order of its own."""
    # Otherwise a circle would end before PostgreSQL finds it and counts it as a failure.
    monkeypatch.setattr(connection, "SHARED_LOCK_SECONDS", 5)
    monkeypatch.setattr(connection, "SHARED_STATEMENT_SECONDS", 5)
    people, turns = [user for user in users(owners) for _ in range(10)][::owners], 40

    async def main() -> None:
        async with pooled(database_url) as one, pooled(database_url) as other:
            task_ids = [(await Tasks(one).create(user, title="x", description=None))[0] for user in people]

            async def change(pool: Pool, order: list[tuple[User, str]]) -> list[object]:
                tasks = Tasks(pool)
                results = []
                for _ in range(turns):
                    random.shuffle(order)
                    results += await together(*(tasks.toggle(*pair, versions=None) for pair in order))
                return results

            pairs = list(zip(people, task_ids, strict=True))
            results = await asyncio.gather(*(change(pool, list(pairs)) for pool in (one, one, other, other)))

            assert (one.errors, other.errors) == ({}, {})
            # Each toggle was done once.
            assert sum(isinstance(result, Exception) for some in results for result in some) == 0
            versions = [(await Tasks(one).get(*pair)).version for pair in pairs]
            assert versions == [4 * turns + 1] * len(people)

    run(main)


@pytest.mark.parametrize("prepare", [True, False], ids=["prepared", "not-prepared"])
def test_one_that_libpq_refuses_takes_nobody_with_it(database_url: str, prepare: bool) -> None:
    parameters = tuple(map(str, range(70_000)))
    refused = Statement(b"refused", b"select $1::text", parameters)

    async def main() -> None:
        async with Pool(database_url, size=4, prepare=prepare) as pool:
            await pool.run("somebody", WRITE, ())
            results = await together(
                pool.run("a", WRITE, ()), pool.run("b", refused, [b"x"] * len(parameters)), pool.run("c", WRITE, ())
            )

            assert isinstance(results[1], SendRefused)
            assert [(row[1], row[2]) for (row,) in (results[0], results[2])] == [
                (b"taskpact_api", b"a"),
                (b"taskpact_api", b"c"),
            ]
            assert pool.errors == {"refused": 1}

    run(main)


def test_where_a_connection_is_said_to_have_failed_the_outcome_of_all_is_unknown(database_url: str) -> None:
    """A pooler says so whose server is gone: the transaction may have been committed."""
    lost = Statement(b"lost", b"do $$ begin raise exception using errcode = '08006'; end $$", ())

    async def main() -> None:
        async with pooled(database_url) as pool:
            results = await together(pool.run("a", WRITE, ()), pool.run("b", lost, ()), pool.run("c", WRITE, ()))

            assert [type(result) for result in results] == [OutcomeUnknown] * 3
            assert len(await pool.run("a", WRITE, ())) == 1

    run(main)


def test_whoever_is_gathered_when_the_pool_closes_is_told_at_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those whose transaction is in flight, whose transaction waits for a connection, and those that linger."""
    complaints: list[object] = []
    monkeypatch.setattr(group_commit, "LINGER_SECONDS", 60)
    monkeypatch.setattr(connection, "SHARED_STATEMENT_SECONDS", 2)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with Pool(database_url, size=1, wait_seconds=30, statement_seconds=2) as pool:
            await pool.run("somebody", WRITE, ())
            in_flight = [asyncio.ensure_future(pool.run(name, SLEEP, (b"30",))) for name in ("a", "b")]
            await asyncio.sleep(0.05)
            lingering = [asyncio.ensure_future(pool.run(name, WRITE, ())) for name in "cd"]
            await asyncio.sleep(0.05)
            started = asyncio.get_running_loop().time()
        later = [asyncio.ensure_future(pool.run(name, WRITE, ())) for name in "ef"]

        results = await together(*in_flight, *lingering, *later)

        assert [type(result) for result in results] == [*[OutcomeUnknown] * 2, *[DatabaseUnavailable] * 4]
        assert asyncio.get_running_loop().time() - started < 1
        assert (pool.open, pool.waiting) == (0, 0)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)
    gc.collect()
    assert complaints == []


def test_a_transaction_that_waits_for_a_connection_is_told_when_the_pool_closes(database_url: str) -> None:
    async def main() -> None:
        async with Pool(database_url, size=1, wait_seconds=30, statement_seconds=2) as pool:
            await pool.run("somebody", WRITE, ())
            reading = Statement(b"reading", b"select pg_sleep(30)", (), writes=False)
            busy = asyncio.ensure_future(pool.run("somebody", reading, ()))
            await asyncio.sleep(0.05)
            gathered = [asyncio.ensure_future(pool.run(name, WRITE, ())) for name in "abc"]
            await asyncio.sleep(0.05)
            assert pool.waiting == 3

        results = await together(busy, *gathered)

        assert [type(result) for result in results] == [DatabaseUnavailable] * 4

    run(main)
