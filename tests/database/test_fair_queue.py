"""Users take turns for connections, none holds more than half, and the longest line is refused first."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import cast

import pytest
import uvloop
from psycopg import errors

from db.statements import Statement
from db.wire.connection import Connection
from db.wire.failures import DatabaseUnavailable, OutcomeUnknown, Overloaded, QueueFull
from db.wire.fair_queue import NOBODY, FairQueue
from db.wire.pool import Pool
from support.connections import FAIL, WHO, run

pytestmark = pytest.mark.requirement("SR-14")

NAP = Statement(b"nap", b"select pg_sleep($1)", ("seconds",), writes=False)
WRITE_NAP = Statement(b"write_nap", b"select pg_sleep($1)", ("seconds",), writes=True)

CONNECTION = cast("Connection", object())


class Queue(FairQueue):
    """A queue without a pool, in which each waiter has a name."""

    def __init__(self, share: int) -> None:
        super().__init__(share, lambda _: None)
        self.tasks: dict[str, asyncio.Task[Connection]] = {}

    async def join(self, names: str, *, may_be_refused: bool = True) -> None:
        """A waiter for each of these, whose first letter is its user."""
        for name in names.split():
            waiting = self.wait(name[0].encode(), 5, may_be_refused=may_be_refused)
            self.tasks[name] = asyncio.ensure_future(waiting)
            await asyncio.sleep(0)

    async def serve_all(self) -> list[str]:
        """The names of those that were served, in this order."""
        served = []
        while self.serve(CONNECTION):
            await asyncio.sleep(0)
            served += [name for name, task in self.tasks.items() if task.done() and name not in served]
        return served


@pytest.mark.parametrize(
    ("share", "held", "joining", "served"),
    [
        pytest.param(9, {}, "a1 a2 a3 b1 b2 c1", "a1 b1 c1 a2 b2 a3", id="users take turns"),
        pytest.param(9, {}, "a1 a2 a3", "a1 a2 a3", id="within a user the first comes first"),
        pytest.param(2, {}, "a1 a2 a3 b1", "a1 b1 a2", id="no more than a share"),
        pytest.param(2, {b"a": 2}, "a1 a2 b1 b2", "b1 b2", id="whoever holds a share is passed over"),
        pytest.param(2, {b"a": 1}, "a1 a2 b1", "a1 b1", id="what is held before counts"),
    ],
)
def test_users_take_turns(share: int, held: dict[bytes, int], joining: str, served: str) -> None:
    async def main() -> None:
        queue = Queue(share)
        queue.held.update(held)
        await queue.join(joining)

        assert await queue.serve_all() == served.split()
        queue.end(QueueFull())
        await asyncio.gather(*queue.tasks.values(), return_exceptions=True)
        assert queue.waiting == 0

    uvloop.run(main())


def test_what_is_nobodys_is_bounded_by_no_share_and_waits_in_turn() -> None:
    async def main() -> None:
        queue = Queue(1)
        queue.take(NOBODY)
        await queue.join("a1 a2")
        shared = asyncio.ensure_future(queue.wait(NOBODY, None, may_be_refused=False))
        await asyncio.sleep(0)

        assert (queue.waiting, await queue.serve_all(), queue.waiting) == (2, ["a1"], 1)
        assert shared.done()
        queue.end(QueueFull())
        await asyncio.gather(*queue.tasks.values(), return_exceptions=True)

    uvloop.run(main())


@pytest.mark.parametrize(
    ("waiting", "sure", "newcomer", "refused"),
    [
        pytest.param("a1 a2 a3 b1", "", "c", "a3", id="the newest of the heaviest"),
        pytest.param("a1 b1 b2 b3 a2", "", "c", "b3", id="whenever it came"),
        pytest.param("a1 a2 a3 b1", "", "a", None, id="the heaviest itself"),
        pytest.param("a1 b1 c1 d1", "", "e", None, id="all are equal"),
        pytest.param("a1 a2 b1 c1", "", "b", None, id="it would be as heavy"),
        pytest.param("a1 a2", "a3 a4", "c", "a2", id="never one that may have been done"),
        pytest.param("", "a1 a2 a3", "c", None, id="all of them may have been done"),
    ],
)
def test_when_all_lines_are_full_the_longest_gives_way(
    waiting: str, sure: str, newcomer: str, refused: str | None
) -> None:
    async def main() -> None:
        queue = Queue(9)
        await queue.join(waiting)
        await queue.join(sure, may_be_refused=False)

        if refused:
            queue.make_room(newcomer.encode())
        else:
            with pytest.raises(QueueFull):
                queue.make_room(newcomer.encode())
        await asyncio.sleep(0)

        assert [name for name, task in queue.tasks.items() if task.done()] == [refused] * (refused is not None)
        assert queue.refused == 1
        queue.end(QueueFull())
        await asyncio.gather(*queue.tasks.values(), return_exceptions=True)

    uvloop.run(main())


@pytest.mark.parametrize(("size", "share"), [(1, 1), (2, 1), (3, 1), (4, 2), (6, 3)])
@pytest.mark.parametrize("statement", [NAP, WRITE_NAP], ids=["reading", "writing"])
def test_one_user_holds_half_of_the_connections_at_most(
    database_url: str, size: int, share: int, statement: Statement
) -> None:
    async def main() -> None:
        async with Pool(database_url, size=size, wait_seconds=10) as pool:
            # It knows then how claims travel, so that writes are gathered.
            await pool.run("somebody", WHO, ())
            alices = [asyncio.ensure_future(pool.run("alice", statement, (b"0.1",))) for _ in range(3 * size)]
            most = 0
            while not all(task.done() for task in alices):
                await asyncio.sleep(0.005)
                most = max(most, pool.open - pool.idle)
            await asyncio.gather(*alices)
            assert (most, pool.waiting) == (share, 0)

    run(main)


@pytest.mark.parametrize(("size", "made"), [(1, 1), (4, 2), (8, 4)])
def test_no_more_connections_are_made_than_a_user_may_have(database_url: str, size: int, made: int) -> None:
    async def main() -> None:
        async with Pool(database_url, size=size, wait_seconds=10) as pool:
            await asyncio.gather(*(pool.run("alice", NAP, (b"0.01",)) for _ in range(3 * size)))
            assert pool.open == made

    run(main)


def test_a_user_with_little_to_do_does_not_wait_for_one_with_much(database_url: str) -> None:
    """The heavy user has half of the connections and a long line; the other's statement takes its own time."""

    async def main() -> None:
        async with Pool(database_url, size=4, wait_seconds=10, queue_size=12) as pool:
            heavy = [asyncio.ensure_future(pool.run("alice", NAP, (b"0.2",))) for _ in range(14)]
            await asyncio.sleep(0.1)
            loop = asyncio.get_running_loop()
            for _ in range(4):
                began_at = loop.time()
                await pool.run("bob", NAP, (b"0.01",))
                assert loop.time() - began_at < 0.1
            assert {type(result) for result in await asyncio.gather(*heavy, return_exceptions=True)} == {list}

    run(main)


@pytest.mark.requirement("FR-18")
def test_when_too_many_wait_the_heaviest_user_is_refused_and_others_come_in(database_url: str) -> None:
    async def main() -> None:
        async with Pool(database_url, size=2, wait_seconds=10, queue_size=6) as pool:
            alices = [asyncio.ensure_future(pool.run("alice", NAP, (b"0.1",))) for _ in range(20)]
            bobs = [asyncio.ensure_future(pool.run("bob", NAP, (b"0.1",))) for _ in range(3)]
            results = await asyncio.gather(*alices, return_exceptions=True)

            assert Counter(map(type, results)) == {list: 4, Overloaded: 16}
            assert isinstance(results[0], list)
            assert [type(result) for result in await asyncio.gather(*bobs, return_exceptions=True)] == [list] * 3
            assert (pool.refused, pool.errors) == (16, {})

    run(main)


def test_gathered_writes_count_as_waiting(database_url: str) -> None:
    async def main() -> None:
        async with Pool(database_url, size=1, wait_seconds=10, queue_size=3) as pool:
            await pool.run("somebody", WHO, ())
            busy = asyncio.ensure_future(pool.run("somebody", NAP, (b"0.2",)))
            await asyncio.sleep(0.05)
            writing = [asyncio.ensure_future(pool.run(name, WRITE_NAP, (b"0",))) for name in "abcde"]
            await asyncio.sleep(0.05)
            assert pool.waiting == 3
            results = await asyncio.gather(*writing, return_exceptions=True)
            assert [type(result) for result in results] == [*[list] * 3, *[Overloaded] * 2]
            await busy

    run(main)


def test_a_statement_that_finds_out_what_was_done_is_let_in(database_url: str) -> None:
    async def main() -> None:
        async with Pool(database_url, size=1, wait_seconds=10, queue_size=1) as pool:
            alices = [asyncio.ensure_future(pool.run("alice", NAP, (b"0.1",))) for _ in range(2)]
            await asyncio.sleep(0.05)
            finding_out = [
                asyncio.ensure_future(pool.run("alice", WHO, (), may_be_done=True)) for _ in range(3)
            ]  # fmt: skip
            await asyncio.sleep(0)
            assert isinstance((await asyncio.gather(pool.run("alice", WHO, ()), return_exceptions=True))[0], Overloaded)
            assert {type(result) for result in await asyncio.gather(*alices, *finding_out)} == {list}

    run(main)


def test_whatever_happens_to_statements_their_users_hold_nothing_in_the_end(database_url: str) -> None:
    """Failures, time-outs, refusals and callers that leave, in a random order, shared and alone."""
    statements = [(WHO, ()), (NAP, (b"0.02",)), (WRITE_NAP, (b"0.01",)), (FAIL, (b"0",)), (WRITE_NAP, (b"0.5",))]
    known = (list, asyncio.CancelledError, errors.DivisionByZero, DatabaseUnavailable, Overloaded, OutcomeUnknown)

    async def main() -> None:
        async with Pool(
            database_url, size=3, wait_seconds=0.15, statement_seconds=0.2, queue_size=20, max_idle_seconds=0.5
        ) as pool:

            async def caller(number: int) -> None:
                for _ in range(8):
                    running = asyncio.ensure_future(pool.run(f"user-{number % 5}", *random.choice(statements)))  # noqa: S311
                    await asyncio.sleep(random.uniform(0, 0.03))  # noqa: S311
                    if random.random() < 0.3:  # noqa: S311
                        running.cancel()
                    (result,) = await asyncio.gather(running, return_exceptions=True)
                    assert isinstance(result, known), result

            await asyncio.gather(*map(caller, range(30)))
            while pool.open > pool.idle:
                await asyncio.sleep(0.01)
            assert (pool.waiting, pool._queue.held) == (0, {})  # noqa: SLF001

    run(main)
