"""A bounded number of connections to one database, and the requests that wait for one, in the order of arrival."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db.statements import Statement
from db.wire.connection import Call, Claims, Connection, Outcome, Row, Values
from db.wire.failures import FIRST_TRY, Connections, NoConnection, NotSent, PoolClosed, Repeat, Tries, find, judge
from db.wire.group_commit import GroupCommit

CONNECT_SECONDS: Final = 2
"""For each host of the URL, unless it says `connect_timeout`."""

KEEPALIVES: Final = {"keepalives_idle": 60, "keepalives_interval": 10, "keepalives_count": 3}
"""In seconds, seconds and times (libpq, "Parameter Key Words"), unless the URL says otherwise.

A dead idle connection is found after 90 s, and a NAT sees that a live one is in use. Linux alone would ask after two
hours.
"""

MAX_AGE_SECONDS: Final = 3600.0
"""An hour, as in psycopg_pool: no session gathers memory, or stays with a server that moved, for longer."""

MAX_AGE_JITTER: Final = 0.05
"""The part of the maximal age by which connections differ, so that not all are replaced at once."""

MAX_IDLE_SECONDS: Final = 200.0
"""Less than the 240 s after which Azure's NAT drops a silent connection, the shortest time of the large clouds."""

SHARED_CLAIMS: Final = ("session", "set_config")
"""The ways of claims that let statements of several users be in one transaction."""

logger = logging.getLogger(__name__)


class Waiters:
    """The requests that wait for a connection, in the order of arrival."""

    def __init__(self, release: Callable[[Connection], None]) -> None:
        """`release` takes back a connection whose waiter has left."""
        self._release = release
        self._futures: deque[asyncio.Future[Connection]] = deque()

    def __len__(self) -> int:
        return len(self._futures)

    async def wait(self, seconds: float) -> Connection:
        """Waits for a connection, for so many seconds at most.

        Raises:
            NoConnection: none was free, or made, in time, or none can be made.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Connection] = loop.create_future()
        self._futures.append(future)
        expiry = loop.call_later(seconds, self._expire, future)
        try:
            return await future
        except asyncio.CancelledError:
            # Who has left does not count as waiting.
            self._leave(future)
            # A connection may have been given in the same moment: it is passed on.
            if future.done() and not future.cancelled() and future.exception() is None:
                self._release(future.result())
            raise
        finally:
            expiry.cancel()

    def serve(self, connection: Connection) -> bool:
        """Gives the connection to the first waiter, and tells whether there was one."""
        while self._futures:
            future = self._futures.popleft()
            if not future.done():
                future.set_result(connection)
                return True
        return False

    def refuse(self, error: psycopg.Error) -> None:
        """Ends the wait of all."""
        while self._futures:
            future = self._futures.popleft()
            if not future.done():
                future.set_exception(error)

    def _expire(self, future: asyncio.Future[Connection]) -> None:
        if not future.done():
            self._leave(future)
            future.set_exception(NoConnection("no connection in time"))

    def _leave(self, future: asyncio.Future[Connection]) -> None:
        with suppress(ValueError):
            self._futures.remove(future)


class Pool:
    """Connections to one database, made when they are needed, `size` at most.

    A request waits for a connection for `wait_seconds` at most, whether one must be made or all are busy; the server
    cancels its statement after `statement_seconds`.

    A connection that was idle for `max_idle_seconds` is closed. One that would become older than `max_age_seconds`,
    less some jitter, is replaced after its use, so that no request waits for the new one.

    Under load, writes of different users share a transaction (see `GroupCommit`). Reads need no commit, and would gain
    nothing.

    Use it as an asynchronous context manager.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        size: int,
        prepare: bool = True,
        claims: Claims = "auto",
        wait_seconds: float = 1.5,
        statement_seconds: float = 5.0,
        max_age_seconds: float = MAX_AGE_SECONDS,
        max_idle_seconds: float = MAX_IDLE_SECONDS,
    ) -> None:
        if max_idle_seconds >= (1 - MAX_AGE_JITTER) * max_age_seconds:
            raise ValueError("max_idle_seconds must be less than max_age_seconds, even with its jitter")
        self.limit = size
        self.errors: Counter[str] = Counter()
        """How many statements failed, by SQLSTATE class, or by what the table of failures calls them."""
        parameters = connection_parameters(conninfo)
        self._conninfo = make_conninfo("", **parameters)
        # Where the URL names several servers, the primary is another one when this one has become read-only.
        self._wants_primary = parameters.get("target_session_attrs") in ("read-write", "primary")
        self._prepare = prepare
        self._claims = claims
        self._wait_seconds = wait_seconds
        self._statement_seconds = statement_seconds
        self._max_age_seconds = max_age_seconds
        self._max_idle_seconds = max_idle_seconds
        # In the order in which they became idle: the last one is used first.
        self._idle: list[Connection] = []
        self._connections: set[Connection] = set()
        self._connecting: set[asyncio.Task[Connection]] = set()
        self._waiters = Waiters(self._release)
        self._writes = GroupCommit(self._acquire, self._run_on)
        self._idle_timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    @property
    def idle(self) -> int:
        """How many connections nobody uses."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """How many statements wait for a connection."""
        # Gathered writes wait as one.
        return len(self._waiters) + self._writes.waiting

    @property
    def free(self) -> int:
        """How many statements more could have a connection, made or not; below zero, how many must wait for others."""
        return self.limit - len(self._connections) + len(self._idle) - self.waiting - self._writes.joined

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes all connections, whatever they are doing.

        Statements that wait, and those that come later, get `DatabaseUnavailable`; so do those under way, or
        `OutcomeUnknown` where they may have been done.
        """
        self._is_closed = True
        if self._idle_timer:
            self._idle_timer.cancel()
        self._waiters.refuse(PoolClosed("the pool is closed"))
        for task in self._connecting:
            task.cancel()
        cancelling = [connection.cancelling for connection in self._connections if connection.cancelling]
        for connection in list(self._connections):
            connection.close()
        await self._writes.close()
        await asyncio.gather(*self._connecting, *cancelling, return_exceptions=True)

    async def run(
        self,
        user_id: str,
        statement: Statement,
        values: Values,
        *,
        repeatable: bool = False,
        may_be_done: bool = False,
    ) -> list[Row]:
        """Runs the statement as `user_id` in one round trip and returns its rows, in text format.

        What follows from a failure is `judge`'s to say: it may be run again, twice at most, not counting connections
        that turn out to have ended. `repeatable` says of a write that the caller finds out whether it had been done
        before. `may_be_done` says of a read that it finds that out: it gives up for want of a connection only when its
        time is up.

        Raises:
            DatabaseUnavailable: no connection, or no answer, in time, or the server cannot work (503).
            WritesUnavailable: the database takes no changes (503).
            OutcomeUnknown: the answer to a write was lost (503).
            psycopg.Error: what else the server said, by SQLSTATE.
        """
        call = user_id.encode(), statement, values
        give_up_at = time.monotonic() + self._wait_seconds
        may_share = statement.writes
        tries = Tries(perhaps_done=True) if may_be_done else FIRST_TRY
        while True:
            try:
                if may_share and self._claims in SHARED_CLAIMS and self._writes.has_room(call[0]):
                    return await self._writes.run(call, give_up_at)
                # An idle connection is taken here, since one more coroutine would cost half a microsecond.
                connection = self._idle.pop() if self._idle else await self._acquire(give_up_at)
                (outcome,) = await self._run_on(connection, [call])
                if isinstance(outcome, list):
                    return outcome
                raise outcome
            except (psycopg.Error, TimeoutError) as error:
                verdict = judge(
                    error,
                    tries,
                    writes=statement.writes,
                    repeatable=repeatable,
                    wants_primary=self._wants_primary,
                    is_late=time.monotonic() > give_up_at,
                )
                if verdict.metric:
                    self.errors[verdict.metric] += 1
                if verdict.outside:
                    raise verdict.outside(str(error)) from error
                if not verdict.is_repeated:
                    raise
                may_share, tries = False, verdict.tries
                if verdict.pause_seconds:
                    await asyncio.sleep(verdict.pause_seconds)

    async def _run_on(self, connection: Connection, calls: Sequence[Call]) -> list[Outcome]:
        """Runs the calls in one transaction, then gives the connection back, or closes it."""
        try:
            outcomes = await connection.run_all(calls)
            for outcome in outcomes:
                if not isinstance(outcome, list):
                    self._look_after(connection, outcome)
            return outcomes
        finally:
            if not connection.is_lost:
                self._release(connection)

    def _look_after(self, connection: Connection, error: psycopg.Error | TimeoutError) -> None:
        """Closes the connections that the table of failures says are to be closed after this error."""
        match find(error, wants_primary=self._wants_primary).connections:
            case Connections.CLOSE:
                connection.close()
            case Connections.CLOSE_IDLE:
                for each in [connection, *self._idle]:
                    each.close()
            case Connections.UNPREPARE:
                connection.close()
                self._prepare_no_more()

    def _prepare_no_more(self) -> None:
        if self._prepare:
            self._prepare = False
            logger.warning("the pooler keeps no prepared statements: DATABASE_PREPARE is taken to be false from now on")
            for connection in self._connections:
                connection.prepare = False

    async def _acquire(self, give_up_at: float) -> Connection:
        if self._idle:
            return self._idle.pop()
        if self._is_closed:
            raise PoolClosed("the pool is closed")
        self._grow(len(self._waiters) + 1)
        return await self._waiters.wait(give_up_at - time.monotonic())

    def _grow(self, waiting: int) -> None:
        """Begins to make a connection if more requests wait than connections are being made.

        Whoever waits takes the first that is there, new or released; a new one that nobody waits for any more is kept.
        """
        if len(self._connecting) < waiting:
            self._begin_connecting()

    def _begin_connecting(self) -> None:
        if len(self._connecting) + len(self._connections) < self.limit and not self._is_closed:
            connecting = Connection.connect(
                self._conninfo,
                prepare=self._prepare,
                claims=self._claims,
                statement_seconds=self._statement_seconds,
                on_lost=self._on_lost,
            )
            task = asyncio.get_running_loop().create_task(connecting)
            self._connecting.add(task)
            task.add_done_callback(self._on_connected)

    def _on_connected(self, task: asyncio.Task[Connection]) -> None:
        self._connecting.discard(task)
        if task.cancelled():
            return
        try:
            connection = task.result()
            if connection.is_lost:
                raise NotSent("the connection was lost")
        except (psycopg.Error, TimeoutError) as error:
            if not self._connections:
                # There is nothing to wait for. Where only the new session was ended, another one may live.
                is_ended = find(error).repeat is Repeat.ALWAYS
                self._waiters.refuse(NotSent(str(error)) if is_ended else NoConnection(str(error)))
            return
        self._claims = connection.claims
        # Others may have found out meanwhile that nothing can be prepared.
        connection.prepare = self._prepare
        connection.expires_at = time.monotonic() + with_jitter(self._max_age_seconds)
        self._connections.add(connection)
        self._release(connection)

    def _release(self, connection: Connection) -> None:
        idle_until = time.monotonic() + self._max_idle_seconds
        if self._is_closed:
            connection.close()
        elif connection.expires_at < idle_until:
            # It would get too old while it is idle. Its successor is made now, so that no request waits for it.
            connection.close()
            self._begin_connecting()
        elif not self._waiters.serve(connection):
            connection.idle_until = idle_until
            self._idle.append(connection)
            if self._idle_timer is None:
                self._set_idle_timer(self._max_idle_seconds)

    def _set_idle_timer(self, seconds: float) -> None:
        # The loop's clock is coarser than ours: it may call a little early.
        self._idle_timer = asyncio.get_running_loop().call_later(seconds + 0.01, self._close_idle)

    def _close_idle(self) -> None:
        """Closes the connections that were idle for too long; the first of the list is idle the longest."""
        self._idle_timer = None
        now = time.monotonic()
        while self._idle and self._idle[0].idle_until <= now:
            self._idle.pop(0).close()
        if self._idle:
            self._set_idle_timer(self._idle[0].idle_until - now)

    def _on_lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._grow(len(self._waiters))


def connection_parameters(conninfo: str) -> dict[str, Any]:
    """The parameters of a URL or connection string, with our defaults for those that it does not name."""
    return {"connect_timeout": CONNECT_SECONDS} | KEEPALIVES | conninfo_to_dict(conninfo)


def with_jitter(max_age_seconds: float) -> float:
    """A random age, at most by `MAX_AGE_JITTER` less."""
    return max_age_seconds * (1 - MAX_AGE_JITTER * random.random())  # noqa: S311 - nobody gains by guessing it
