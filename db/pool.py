"""A bounded number of connections, handed to whoever waits longest; waiting is bounded too."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from types import TracebackType
from typing import Self

import psycopg

from db.connection import STALE_PLANS, Connection, Row, Values
from db.statements import Statement

UNAVAILABLE = (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError)


class DatabaseUnavailable(Exception):
    """The database cannot be reached, or every connection stays busy for too long. Becomes 503."""


class Pool:
    """Connections to one database, made when they are needed, `size` at most.

    Use it as an asynchronous context manager.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        size: int,
        prepare: bool = True,
        wait_seconds: float = 2.0,
        connect_seconds: float = 5.0,
        statement_seconds: float = 5.0,
    ) -> None:
        self.limit = size
        self.errors: Counter[str] = Counter()
        """How many statements failed, by SQLSTATE class; those of which the server said nothing, by what they are."""
        self._conninfo = conninfo
        self._prepare = prepare
        self._wait_seconds = wait_seconds
        self._connect_seconds = connect_seconds
        self._statement_seconds = statement_seconds
        self._idle: list[Connection] = []
        self._connections: set[Connection] = set()
        self._connecting = 0
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()
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
        return len(self._waiters)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_closed = True
        for connection in list(self._connections):
            connection.close()

    async def run(self, user_id: str, statement: Statement, values: Values) -> list[Row]:
        """Runs the statement as `user_id` in one round trip and returns its rows, in text format.

        A statement that the server prepared for another state of the schema failed before it did anything: it is run
        once more.

        Raises:
            DatabaseUnavailable: no connection, or no answer, in time (503).
            psycopg.Error: what the server said, by SQLSTATE.
        """
        claims = user_id.encode()
        try:
            try:
                return await self._run(claims, statement, values)
            except STALE_PLANS:
                return await self._run(claims, statement, values)
        except (psycopg.Error, TimeoutError) as error:
            self.errors[_kind(error)] += 1
            if not isinstance(error, UNAVAILABLE):
                raise
            raise DatabaseUnavailable(str(error) or type(error).__name__) from error

    async def _run(self, claims: bytes, statement: Statement, values: Values) -> list[Row]:
        connection = self._idle.pop() if self._idle else await self._acquire()
        try:
            return await connection.run(claims, statement, values, self._statement_seconds)
        except STALE_PLANS:
            # What it has prepared cannot be trusted any more.
            connection.close()
            raise
        finally:
            if not connection.is_lost:
                self._release(connection)

    async def _acquire(self) -> Connection:
        if len(self._connections) + self._connecting < self.limit:
            return await self._connect()
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(self._wait_seconds):
                connection = await waiter
        except BaseException:
            # The connection may have been handed over in the same moment: it is passed on.
            if waiter.done() and not waiter.cancelled() and (handed_over := waiter.result()):
                self._release(handed_over)
            raise
        return connection or await self._connect()

    async def _connect(self) -> Connection:
        self._connecting += 1
        try:
            connection = await Connection.connect(
                self._conninfo, prepare=self._prepare, timeout_seconds=self._connect_seconds, on_lost=self._on_lost
            )
        except BaseException:
            self._connecting -= 1
            self._wake_to_connect()
            raise
        self._connecting -= 1
        self._connections.add(connection)
        return connection

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
        self._wake_to_connect()

    def _wake_to_connect(self) -> None:
        """There is room for a connection: whoever waits longest makes it."""
        while self._waiters and not self._is_closed:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return


def _kind(error: Exception) -> str:
    """What kind of failure it was: the SQLSTATE's class (PostgreSQL, "Error Codes"), `timeout` or `connection`."""
    if isinstance(error, TimeoutError):
        return "timeout"
    sqlstate = error.sqlstate if isinstance(error, psycopg.Error) else None
    return sqlstate[:2] if sqlstate else "connection"
