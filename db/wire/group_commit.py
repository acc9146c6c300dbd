"""Group commit: writes of different users share a transaction, and so one commit and one round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from db.wire.connection import Call, Connection, Outcome, Row

SHARED_LIMIT: Final = 16
"""How many writes share a transaction at most: so many may end with their outcome unknown, or wait for one of them."""

LINGER_SECONDS: Final = 0.001
"""How long a gathered write waits at most for a transaction in flight to end, while others may join it."""


class Write(NamedTuple):
    """A write that is gathered: until when it may wait for a connection, and where its rows are expected."""

    call: Call
    give_up_at: float
    answer: asyncio.Future[list[Row]]


class GroupCommit:
    """Gathers writes of different users, and runs them in one transaction as if each were alone.

    Each write sees its own user's rows only. If one fails, the others are rolled back with it (`RolledBack`), and their
    callers run them again, alone. A transaction has one write of each user, and runs them in the order of user ids.
    Rows are locked in this order, so transactions cannot deadlock.

    While no transaction is in flight, the next begins at once, so that nobody waits without load. Otherwise it begins
    when one ends, when it is full, or after `LINGER_SECONDS`, whichever comes first. Measured side by side with 16
    clients: sharing alone answers 1.4 to 1.7 times as many writes, lingering 1.1 times more.
    """

    def __init__(
        self,
        acquire: Callable[[float], Awaitable[Connection]],
        run: Callable[[Connection, Sequence[Call]], Awaitable[list[Outcome]]],
    ) -> None:
        """`acquire` waits for a connection until a time of the monotonic clock; `run` uses it and gives it back."""
        self._acquire = acquire
        self._run = run
        self._gathered: dict[bytes, Write] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._transactions: set[asyncio.Task[None]] = set()
        self._in_flight = 0
        self.joined = 0
        """How many writes in flight share the connection of another one."""

    @property
    def waiting(self) -> int:
        """How many gathered writes wait, less the one whose transaction waits for a connection in the pool."""
        return max(0, len(self._gathered) - 1)

    def has_room(self, user_id: bytes) -> bool:
        """Whether the user's write may join those that are gathered."""
        return len(self._gathered) < SHARED_LIMIT and user_id not in self._gathered

    async def run(self, call: Call, give_up_at: float) -> list[Row]:
        """Runs the write with others, and returns its rows.

        Raises:
            RolledBack: another one failed.
            Exception: what `acquire` raises, or the write's outcome.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Row]] = loop.create_future()
        self._gathered[call[0]] = Write(call, give_up_at, answer)
        if len(self._gathered) == 1:
            if self._in_flight:
                self._timer = loop.call_later(LINGER_SECONDS, self._begin)
            else:
                self._begin()
        elif len(self._gathered) == SHARED_LIMIT:
            self._begin_if_due()
        return await answer

    async def close(self) -> None:
        """Waits until everybody has an answer, which is at once when there are no connections any more."""
        self._begin_if_due()
        while self._transactions:
            await asyncio.wait(self._transactions)

    def _begin_if_due(self) -> None:
        # Without a timer nobody waits, or those who do have a transaction, which waits for a connection.
        if self._timer:
            self._timer.cancel()
            self._begin()

    def _begin(self) -> None:
        self._timer = None
        self._in_flight += 1
        transaction = asyncio.get_running_loop().create_task(self._run_gathered())
        self._transactions.add(transaction)
        transaction.add_done_callback(self._transactions.discard)

    async def _run_gathered(self) -> None:
        writes: list[Write] | None = None
        outcomes: Sequence[list[Row] | BaseException]
        try:
            # Whoever came first gives up first. Others may join until there is a connection.
            first = next(iter(self._gathered.values()))
            connection = await self._acquire(first.give_up_at)
            writes = self._take()
            outcomes = await self._run_together(connection, [write.call for write in writes])
        except BaseException as error:  # noqa: BLE001 - nobody may be left waiting
            writes = self._take() if writes is None else writes
            outcomes = [error] * len(writes)
        for write, outcome in zip(writes, outcomes, strict=True):
            if write.answer.done():
                continue
            if isinstance(outcome, BaseException):
                write.answer.set_exception(outcome)
            else:
                write.answer.set_result(outcome)
        self._in_flight -= 1
        self._begin_if_due()

    async def _run_together(self, connection: Connection, calls: Sequence[Call]) -> list[Outcome]:
        joined = max(0, len(calls) - 1)
        self.joined += joined
        try:
            return await self._run(connection, calls)
        finally:
            self.joined -= joined

    def _take(self) -> list[Write]:
        """Takes the gathered writes in the order of their users, without those whose callers have left."""
        gathered, self._gathered = self._gathered, {}
        return [gathered[user] for user in sorted(gathered) if not gathered[user].answer.done()]
