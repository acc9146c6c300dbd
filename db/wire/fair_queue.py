"""The statements that wait for a connection: users take turns, and none of them holds more than a share."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

import psycopg

from db.wire.connection import Connection
from db.wire.failures import NoConnection, QueueFull

NOBODY: Final = b"\0"
"""Who holds the connection of a shared transaction: it is in no user's share. No user's id has a zero byte."""


class Waiter(NamedTuple):
    """A statement that waits, and whether it may be refused when others come."""

    connection: asyncio.Future[Connection]
    may_be_refused: bool


class FairQueue:
    """Lines of waiting statements, one for each user.

    The users' lines are served in turn; in a line, the first to come is served first. A user is passed over while
    statements of theirs hold `share` connections. Where the pool has no room for more statements that wait, the newest
    of the longest line is refused (`make_room`).
    """

    def __init__(self, share: int, release: Callable[[Connection], None]) -> None:
        """`release` takes back a connection whose waiter has left."""
        self.share = share
        self.held: dict[bytes, int] = {}
        """How many connections each user has or is about to have; writes gathered for one transaction count once."""
        self.waiting = 0
        """How many statements of users wait."""
        self.refused = 0
        """How many statements were refused because too many others waited."""
        self._release = release
        self._lines: dict[bytes, deque[Waiter]] = {}

    def is_below_share(self, user: bytes) -> bool:
        """Whether the user may have one connection more. `NOBODY` always may."""
        return self.held.get(user, 0) < self.share or user == NOBODY

    def will_be_below_share(self, user: bytes) -> bool:
        """Whether the user may have one more after all of theirs that wait."""
        return self.held.get(user, 0) + len(self._lines.get(user, ())) < self.share or user == NOBODY

    def is_due(self) -> bool:
        """Whether somebody waits who may have a connection."""
        return any(map(self.is_below_share, self._lines))

    def take(self, user: bytes) -> None:
        """Counts a connection that the user gets."""
        self.held[user] = self.held.get(user, 0) + 1

    def give_back(self, user: bytes) -> None:
        """Counts it no more."""
        held = self.held[user] - 1
        if held:
            self.held[user] = held
        else:
            del self.held[user]

    async def wait(self, user: bytes, seconds: float | None, *, may_be_refused: bool) -> Connection:
        """Waits for a connection, for so many seconds at most. The connection is counted as taken.

        Raises:
            NoConnection: none was free, or made, in time, or none can be made.
            QueueFull: other users have come, and this user has the most statements waiting.
        """
        loop = asyncio.get_running_loop()
        waiter = Waiter(loop.create_future(), may_be_refused)
        self._lines.setdefault(user, deque()).append(waiter)
        self.waiting += user != NOBODY
        expiry = None if seconds is None else loop.call_later(seconds, self._expire, user, waiter)
        try:
            return await waiter.connection
        except asyncio.CancelledError:
            self._remove(user, waiter)
            # A connection may have been given in the same moment: it is passed on.
            if not waiter.connection.cancelled() and waiter.connection.exception() is None:
                self.give_back(user)
                self._release(waiter.connection.result())
            raise
        finally:
            if expiry:
                expiry.cancel()

    def serve(self, connection: Connection) -> bool:
        """Gives the connection to the user whose turn it is, and tells whether there was one."""
        while (user := next(filter(self.is_below_share, self._lines), None)) is not None:
            line = self._lines.pop(user)
            waiter = line.popleft()
            self.waiting -= user != NOBODY
            if line:
                # Behind those of the others.
                self._lines[user] = line
            if not waiter.connection.done():
                self.take(user)
                waiter.connection.set_result(connection)
                return True
        return False

    def make_room(self, user: bytes) -> None:
        """Refuses the newest statement of the longest line, so that this user's next one can wait.

        Raises:
            QueueFull: this user's line would be one of the longest, or nobody in the longest may be refused.
        """
        self.refused += 1
        heaviest = max(self._lines, key=lambda each: len(self._lines[each]), default=user)
        if len(self._lines.get(heaviest, ())) > len(self._lines.get(user, ())) + 1:
            for waiter in reversed(self._lines[heaviest]):
                if waiter.may_be_refused and not waiter.connection.done():
                    self._end(heaviest, waiter, QueueFull("too many others wait"))
                    return
        raise QueueFull("too many others wait")

    def end(self, error: psycopg.Error) -> None:
        """Ends the wait of all."""
        for user, line in list(self._lines.items()):
            for waiter in list(line):
                self._end(user, waiter, error)

    def _expire(self, user: bytes, waiter: Waiter) -> None:
        self._end(user, waiter, NoConnection("no connection in time"))

    def _end(self, user: bytes, waiter: Waiter, error: psycopg.Error) -> None:
        self._remove(user, waiter)
        if not waiter.connection.done():
            waiter.connection.set_exception(error)

    def _remove(self, user: bytes, waiter: Waiter) -> None:
        line = self._lines.get(user, deque())
        with suppress(ValueError):
            line.remove(waiter)
            self.waiting -= user != NOBODY
            if not line:
                del self._lines[user]
