"""A bounded number of connections, handed to whoever waits longest; waiting is bounded too.

DatabaseUnavailable      nothing was done
    WritesUnavailable    since the database takes no changes
    OutcomeUnknown       or perhaps it was: the answer was lost
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db.statements import Statement
from db.wire.connection import (
    LOST_PLANS,
    STALE_PLANS,
    AnswerLost,
    Call,
    Claims,
    Connection,
    NotSent,
    Row,
    Undone,
    Values,
)
from db.wire.group_commit import Sharing

CONNECT_SECONDS = 2
"""For each host of the URL, unless it says `connect_timeout`."""

SHARED_CLAIMS = ("session", "set_config")
"""The ways of claims that let statements of several users be in one transaction."""

PAUSE_SECONDS = 0.05
"""Before somebody who must know what became of a write asks for a connection again, or tries for the last time."""

logger = logging.getLogger(__name__)

ENDED = (NotSent, errors.AdminShutdown, errors.IdleSessionTimeout)
"""After these nothing was done, and the connection is gone; another one may be alive."""

UNDONE = (*ENDED, *STALE_PLANS, errors.SerializationFailure, errors.DeadlockDetected)
"""After these nothing was done, and it may work the next time."""

OPERATIONAL = ("08", "25006", "40", "53", "55P03", "57", "58")
"""SQLSTATEs, or the classes that they begin with, that tell of the server's state (PostgreSQL, appendix A).

All others tell of the statement, which is a fault of ours.
"""


class DatabaseUnavailable(Exception):
    """The database cannot be reached, or every connection stays busy for too long. Becomes 503."""


class WritesUnavailable(DatabaseUnavailable):
    """The database takes no changes: it is a standby, was made read-only, or its disk is full. Becomes 503."""


class OutcomeUnknown(DatabaseUnavailable):
    """The answer to a write was lost: it may have been done. Becomes 503."""


class NoConnection(psycopg.OperationalError):
    """There was no connection in time."""


class Pool:
    """Connections to one database, made when they are needed, `size` at most.

    A request waits for a connection for `wait_seconds` at most, whether one must be made or all are busy; the server
    cancels its statement after `statement_seconds`.

    Under load, writes of different users share a transaction (see `Sharing`), and with it a commit and the messages;
    where one fails, the others are run again without it. Reads, which need no commit, would gain nothing.

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
    ) -> None:
        self.limit = size
        self.errors: Counter[str] = Counter()
        """How many statements failed, by SQLSTATE class; those of which the server said nothing, by what they are."""
        parameters = {"connect_timeout": CONNECT_SECONDS} | conninfo_to_dict(conninfo)
        self._conninfo = make_conninfo("", **parameters)
        # Where the URL names several servers, the primary is another one when this one has become read-only.
        wants_primary = parameters.get("target_session_attrs") in ("read-write", "primary")
        self._undone = (*UNDONE, errors.ReadOnlySqlTransaction) if wants_primary else UNDONE
        self._prepare = prepare
        self._claims = claims
        self._wait_seconds = wait_seconds
        self._statement_seconds = statement_seconds
        self._idle: list[Connection] = []
        self._connections: set[Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._waiters: deque[asyncio.Future[Connection]] = deque()
        self._writes = Sharing(self._acquire, self._run)
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
        # Those who share wait as one.
        return len(self._waiters) + self._writes.waiting

    @property
    def free(self) -> int:
        """How many statements more could have a connection, made or not; below zero, how many must wait for others."""
        return self.limit - len(self._connections) + len(self._idle) - self.waiting - self._writes.riding

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_closed = True
        self._writes.close()
        for task in self._connecting:
            task.cancel()
        for connection in list(self._connections):
            connection.close()

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

        It is run again, twice at most, where that did nothing, and where the answer was lost if it only reads, or is
        `repeatable`: whoever says so finds out whether it had been done. Connections that turn out to have ended do not
        count: the server may have ended all of them. `may_be_done` says of a read that it finds that out. Then nobody
        gives up for want of a connection before it is time.

        Raises:
            DatabaseUnavailable: no connection, or no answer, in time, or the server cannot work (503).
            WritesUnavailable: the database takes no changes (503).
            OutcomeUnknown: the answer to a write was lost (503).
            psycopg.Error: what else the server said, by SQLSTATE.
        """
        call = user_id.encode(), statement, values
        give_up_at = time.monotonic() + self._wait_seconds
        may_share = statement.writes
        tries_left = 3
        while True:
            try:
                if may_share and self._claims in SHARED_CLAIMS and self._writes.has_room(call[0]):
                    return await self._writes.run(call, give_up_at)
                connection = await self._acquire(give_up_at)
                (rows,) = await self._run(connection, [call])
            except Undone:
                may_share = False
            except (psycopg.Error, TimeoutError) as error:
                may_share = False
                self.errors[_kind(error)] += 1
                is_late = time.monotonic() > give_up_at
                is_patient = isinstance(error, NoConnection) and may_be_done and not is_late
                if is_late or not (is_patient or isinstance(error, ENDED)):
                    tries_left -= 1
                may_be_done |= statement.writes and isinstance(error, AnswerLost | TimeoutError)
                may_repeat = (
                    is_patient
                    or isinstance(error, self._undone)
                    or (isinstance(error, AnswerLost) and (repeatable or not statement.writes))
                )
                if not (may_repeat and tries_left):
                    if not _is_operational(error):
                        raise
                    raise _meaning(error, statement, may_be_done=may_be_done)(str(error)) from error
                if is_patient or (isinstance(error, AnswerLost) and tries_left == 1):
                    # Whatever cut off two connections may be about to cut off those that are idle.
                    await asyncio.sleep(PAUSE_SECONDS)
            else:
                return rows

    async def _run(self, connection: Connection, calls: Sequence[Call]) -> list[list[Row]]:
        try:
            return await connection.run_all(calls)
        except STALE_PLANS as error:
            # What it has prepared cannot be trusted any more.
            connection.close()
            if isinstance(error, LOST_PLANS):
                self._prepare_no_more()
            raise
        except (errors.AdminShutdown, errors.ReadOnlySqlTransaction) as error:
            if isinstance(error, self._undone):
                # That server ends, or is the primary no more: idle connections to it have ended too, or must.
                for other in [connection, *self._idle]:
                    other.close()
            raise
        finally:
            if not connection.is_lost:
                self._release(connection)

    def _prepare_no_more(self) -> None:
        """Others than this pool had the server's connections in between: a pooler that keeps no prepared statements."""
        if self._prepare:
            self._prepare = False
            logger.warning("the pooler keeps no prepared statements: DATABASE_PREPARE is taken to be false from now on")
            for connection in self._connections:
                connection.prepare = False

    async def _acquire(self, give_up_at: float) -> Connection:
        if self._idle:
            return self._idle.pop()
        waiter: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._grow()
        try:
            async with asyncio.timeout(give_up_at - time.monotonic()):
                return await waiter
        except BaseException as error:
            # Who has left does not count as waiting.
            with suppress(ValueError):
                self._waiters.remove(waiter)
            # A connection may have been handed over in the same moment: it is passed on.
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._release(waiter.result())
            if isinstance(error, TimeoutError):
                raise NoConnection("no connection in time") from error
            raise

    def _grow(self) -> None:
        """Begins to make a connection if somebody waits for it and there is room.

        Whoever waits takes the first that is there, new or released; a new one that nobody waits for any more is kept.
        """
        connecting = len(self._connecting)
        if connecting < len(self._waiters) and connecting + len(self._connections) < self.limit and not self._is_closed:
            task = asyncio.get_running_loop().create_task(self._connect())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self) -> None:
        try:
            connection = await Connection.connect(
                self._conninfo,
                prepare=self._prepare,
                claims=self._claims,
                statement_seconds=self._statement_seconds,
                on_lost=self._on_lost,
            )
        except (psycopg.Error, TimeoutError) as error:
            if not self._connections:
                # There is nothing to wait for.
                while self._waiters:
                    waiter = self._waiters.popleft()
                    if not waiter.done():
                        waiter.set_exception(NoConnection(str(error)))
            return
        self._claims = connection.claims
        # Others may have found out meanwhile that nothing can be prepared.
        connection.prepare = self._prepare
        self._connections.add(connection)
        self._release(connection)

    def _release(self, connection: Connection) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        if self._is_closed:
            connection.close()
        else:
            self._idle.append(connection)

    def _on_lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._grow()


def _kind(error: psycopg.Error | TimeoutError) -> str:
    """What kind of failure it was: the SQLSTATE's class (PostgreSQL, "Error Codes"), `timeout` or `connection`."""
    if isinstance(error, TimeoutError):
        return "timeout"
    return error.sqlstate[:2] if error.sqlstate else "connection"


def _is_operational(error: psycopg.Error | TimeoutError) -> bool:
    if isinstance(error, TimeoutError):
        return True
    return error.sqlstate.startswith(OPERATIONAL) if error.sqlstate else isinstance(error, psycopg.OperationalError)


def _meaning(
    error: psycopg.Error | TimeoutError, statement: Statement, *, may_be_done: bool
) -> type[DatabaseUnavailable]:
    if may_be_done:
        return OutcomeUnknown
    if statement.writes and isinstance(error, errors.ReadOnlySqlTransaction | errors.DiskFull):
        return WritesUnavailable
    return DatabaseUnavailable
