"""A bounded number of connections to one database, and what becomes of a statement that fails on one."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Sequence
from types import TracebackType
from typing import Any, Final, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db.statements import Statement
from db.wire.connection import Call, Claims, Connection, Outcome, Row, Values
from db.wire.failures import (
    FIRST_TRY,
    Connections,
    NoConnection,
    NotSent,
    OutcomeUnknown,
    PoolClosed,
    Repeat,
    RolledBack,
    Tries,
    Verdict,
    find,
    judge,
)
from db.wire.fair_queue import NOBODY, FairQueue
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

SHARED_TRIES: Final = 2
"""How often a write shares a transaction while others make it fail. After any failure of its own, it runs alone."""

logger = logging.getLogger(__name__)


class Pool:
    """Connections to one database, made when they are needed, `size` at most.

    A request waits for a connection for `wait_seconds` at most, whether one must be made or all are busy; the server
    cancels its statement after `statement_seconds`.

    A user's statements have half of the connections at most. While all are busy, `queue_size` statements wait at most,
    and the users take turns (see `FairQueue`).

    A connection that was idle for `max_idle_seconds` is closed. One that would become older than `max_age_seconds`,
    less some jitter, is replaced after its use, so that no request waits for the new one.

    Under load, writes that come at once share a transaction (see `GroupCommit`). Reads need no commit, and would gain
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
        queue_size: float = math.inf,
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
        self._queue_size = queue_size
        self._max_age_seconds = max_age_seconds
        self._max_idle_seconds = max_idle_seconds
        # In the order in which they became idle: the last one is used first.
        self._idle: list[Connection] = []
        self._connections: set[Connection] = set()
        self._connecting: set[asyncio.Task[Connection]] = set()
        self._failed_to_connect = False
        self._queue = FairQueue(max(1, size // 2), self._release)
        self._writes = GroupCommit(self._take_idle, self._acquire_shared, self._run_on, self._queue.take, self._uncount)
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
        """How many statements wait for a connection, or for others with which they share one."""
        return self._queue.waiting + self._writes.waiting

    @property
    def refused(self) -> int:
        """How many statements were refused because too many others waited."""
        return self._queue.refused

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
        self._queue.end(PoolClosed("the pool is closed"))
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

        `judge` says what follows from a failure. The statement is run again twice at most; failures that the table
        calls `FREE` count only once `wait_seconds` are over. `repeatable`: it is safe to run this write again, since
        the caller can tell whether it had been done. `may_be_done`: this read finds out whether an earlier write was
        done, so it tries to get a connection until its time is up. If either finds no row, somebody may have deleted
        it: the outcome is unknown.

        Raises:
            DatabaseUnavailable: no connection, or no answer, in time, or the server cannot work (503).
            Overloaded: too many others wait for a connection (503).
            WritesUnavailable: the database takes no changes (503).
            OutcomeUnknown: the answer to a write was lost, and its row is not found (503).
            psycopg.Error: what else the server said, by SQLSTATE.
        """
        user = user_id.encode()
        call = user, statement, values
        give_up_at = time.monotonic() + self._wait_seconds
        shared_tries_left = SHARED_TRIES if statement.writes else 0
        tries = Tries(perhaps_done=True) if may_be_done else FIRST_TRY
        queue = self._queue
        while True:
            try:
                held = queue.held.get(user, 0)
                may_share = shared_tries_left and (held < queue.share or self._writes.gathers(user))
                if may_share and self._claims in SHARED_CLAIMS and self._writes.has_room(user, statement):
                    return await self._run_shared(call, give_up_at, may_be_refused=not tries.perhaps_done)
                # An idle connection is taken here, since one more coroutine would cost half a microsecond.
                if self._idle and held < queue.share:
                    queue.held[user] = held + 1
                    connection = self._idle.pop()
                else:
                    connection = await self._acquire(user, give_up_at, may_be_refused=not tries.perhaps_done)
                (outcome,) = await self._run_on(connection, [call], user)
                if isinstance(outcome, list):
                    if outcome or not tries.perhaps_done:
                        return outcome
                    raise OutcomeUnknown("what an earlier try may have done is not there")
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
                self._note(user, verdict)
                if verdict.outside:
                    raise verdict.outside(str(error)) from error
                if not verdict.is_repeated:
                    raise
                shared_tries_left = shared_tries_left - 1 if isinstance(error, RolledBack) else 0
                tries = verdict.tries
                if verdict.pause_seconds:
                    await asyncio.sleep(verdict.pause_seconds)

    async def _run_shared(self, call: Call, give_up_at: float, *, may_be_refused: bool) -> list[Row]:
        user = call[0]
        if may_be_refused and not self._idle:
            self._make_room(user)
        return await self._writes.run(call, give_up_at)

    def _uncount(self, user: bytes) -> None:
        """Counts the connection of a user's shared writes no more."""
        self._queue.give_back(user)
        self._serve_idle()
        self._grow_if_due()

    async def _run_on(self, connection: Connection, calls: Sequence[Call], user: bytes = NOBODY) -> list[Outcome]:
        """Runs the calls in one transaction, then gives the connection of `user` back, or closes it."""
        try:
            outcomes = await connection.run_all(calls)
            for outcome in outcomes:
                if not isinstance(outcome, list):
                    self._close_after(connection, outcome)
            return outcomes
        finally:
            self._queue.give_back(user)
            if self._queue.waiting:
                self._serve_idle()
            if connection.is_lost:
                self._grow_if_due()
            else:
                self._release(connection)

    def _serve_idle(self) -> None:
        """Gives idle connections to statements that wait: their user had too many until now."""
        while self._queue.waiting and self._idle and self._queue.serve(self._idle[-1]):
            self._idle.pop()

    def _note(self, user: bytes, verdict: Verdict) -> None:
        if verdict.metric:
            self.errors[verdict.metric] += 1
        if verdict.keeps_out:
            self._writes.keep_out(user)

    def _close_after(self, connection: Connection, error: psycopg.Error | TimeoutError) -> None:
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

    def _take_idle(self) -> Connection | None:
        if not self._idle:
            return None
        self._queue.take(NOBODY)
        return self._idle.pop()

    def _acquire_shared(self) -> Awaitable[Connection]:
        return self._acquire(NOBODY, math.inf, may_be_refused=False)

    async def _acquire(self, user: bytes, give_up_at: float, *, may_be_refused: bool) -> Connection:
        if self._idle and self._queue.is_below_share(user):
            self._queue.take(user)
            return self._idle.pop()
        if self._is_closed:
            raise PoolClosed("the pool is closed")
        if may_be_refused:
            self._make_room(user)
        if self._queue.will_be_below_share(user):
            self._grow(self._queue.waiting + 1)
        seconds = None if give_up_at == math.inf else give_up_at - time.monotonic()
        return await self._queue.wait(user, seconds, may_be_refused=may_be_refused)

    def _make_room(self, user: bytes) -> None:
        """Sees to it that one statement more may wait; those that get a connection at once do not count.

        Raises:
            QueueFull: too many others wait.
        """
        may_have = self._queue.share - self._queue.held.get(user, 0)
        free_for_user = min(self.limit - len(self._connections) + len(self._idle), may_have)
        if self.waiting >= self._queue_size + free_for_user:
            self._queue.make_room(user)

    def _grow(self, waiting: int) -> None:
        """Begins to make a connection if more requests wait than connections are being made.

        Whoever waits takes the first that is there, new or released; a new one that nobody waits for any more is kept.
        """
        if len(self._connecting) < waiting:
            self._begin_connecting()

    def _grow_if_due(self) -> None:
        """Begins to make a connection if none is, and somebody waits who may have one: theirs went to another."""
        if not self._connecting and len(self._connections) < self.limit and self._queue.is_due():
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
            if self._connections or self._connecting:
                return
            # Nobody is left who could serve those that wait. But perhaps only the new session was ended, which psycopg
            # does not always tell: so the first failure is tried again.
            if find(error).repeat is Repeat.ALWAYS or not self._failed_to_connect:
                self._grow(self.waiting)
            else:
                self._queue.end(NoConnection(str(error)))
            self._failed_to_connect = True
            return
        self._failed_to_connect = False
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
        elif self._queue.serve(connection):
            self._grow_if_due()
        else:
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
        self._grow(self.waiting)


def connection_parameters(conninfo: str) -> dict[str, Any]:
    """The parameters of a URL or connection string, with our defaults for those that it does not name."""
    return {"connect_timeout": CONNECT_SECONDS} | KEEPALIVES | conninfo_to_dict(conninfo)


def with_jitter(max_age_seconds: float) -> float:
    """A random age, at most by `MAX_AGE_JITTER` less."""
    return max_age_seconds * (1 - MAX_AGE_JITTER * random.random())  # noqa: S311 - nobody gains by guessing it
