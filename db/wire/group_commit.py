"""Writes that different users want at once, in one transaction: one commit, and one exchange of messages, for all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import psycopg

from db.wire.connection import Call, Connection, Row, Undone

SHARED_LIMIT: Final = 16
"""How many writes share a transaction at most: so many may be lost sight of at once, or wait for one of them."""

LINGER_SECONDS: Final = 0.001
"""How long writes wait at most for the end of a transaction, to be joined by others meanwhile."""


class Sharing:
    """Gathers writes of different users and runs them in one transaction, as if each were alone.

    Each sees its own user's rows only. Where one fails, the others are `Undone`, and may be run again without it. Since
    a transaction has one write of a user, and takes them in the order of their users, it waits only for users that come
    later than all whose rows it has locked: no circle of transactions waits for each other.

    A transaction begins with the event loop's next turn while there is no other, so that where there is no load, nobody
    waits. Else it begins when another ends, when it is full, or after `LINGER_SECONDS`, whichever comes first. Measured
    side by side with 16 clients, sharing alone answers 1.4 to 1.7 times as many writes, waiting for others 1.1 times
    more.
    """

    def __init__(
        self,
        acquire: Callable[[float], Awaitable[Connection]],
        run: Callable[[Connection, Sequence[Call]], Awaitable[list[list[Row]]]],
    ) -> None:
        """`acquire` waits for a connection until a time of the monotonic clock; `run` uses it and gives it back."""
        self._acquire = acquire
        self._run = run
        self._gathered: dict[bytes, tuple[Call, asyncio.Future[list[Row]]]] = {}
        self._give_up_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._transactions: set[asyncio.Task[None]] = set()
        self._in_flight = 0
        self.riding = 0
        """How many writes are on their way beside the first of each transaction."""

    @property
    def waiting(self) -> int:
        """How many writes wait beside the one that waits for a connection."""
        return max(0, len(self._gathered) - 1)

    def has_room(self, user_id: bytes) -> bool:
        """Whether the user's write may join those that wait."""
        return len(self._gathered) < SHARED_LIMIT and user_id not in self._gathered

    async def run(self, call: Call, give_up_at: float) -> list[Row]:
        """Runs the write with others, and returns its rows.

        Raises:
            Undone: another one failed.
            Exception: whatever `acquire` and `run` raise.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Row]] = loop.create_future()
        self._gathered[call[0]] = call, answer
        if len(self._gathered) == 1:
            self._give_up_at = give_up_at
            if self._in_flight:
                self._timer = loop.call_later(LINGER_SECONDS, self._begin)
            else:
                self._begin()
        elif len(self._gathered) == SHARED_LIMIT:
            self._begin_if_due()
        return await answer

    def close(self) -> None:
        """Gives up whatever is under way."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        for transaction in self._transactions:
            transaction.cancel()

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
        try:
            await self._answer_gathered()
        finally:
            self._in_flight -= 1
            self._begin_if_due()

    async def _answer_gathered(self) -> None:
        results: Sequence[list[Row] | BaseException]
        try:
            connection = await self._acquire(self._give_up_at)
        except psycopg.Error as error:
            shared = self._take()
            results = [error] * len(shared)
        else:
            shared = self._take()
            self.riding += len(shared) - 1
            try:
                results = await self._run(connection, [call for call, _ in shared])
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - nobody may be left waiting
                results = [
                    error if connection.is_lost or number == connection.answered else Undone()
                    for number in range(len(shared))
                ]
            finally:
                self.riding -= len(shared) - 1
        for (_, answer), result in zip(shared, results, strict=True):
            if answer.done():
                continue
            if isinstance(result, BaseException):
                answer.set_exception(result)
            else:
                answer.set_result(result)

    def _take(self) -> list[tuple[Call, asyncio.Future[list[Row]]]]:
        """In the order of their users; who has left meanwhile is left out."""
        gathered, self._gathered = self._gathered, {}
        return [gathered[user] for user in sorted(gathered) if not gathered[user][1].done()]
