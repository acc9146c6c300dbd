"""One server connection: a user's claims and a statement travel together, in one round trip.

psycopg connects, negotiates TLS and knows the errors; its libpq layer, `psycopg.pq`, carries the messages in pipeline
mode. Without `BEGIN`, all that is sent before a sync is one implicit transaction (PostgreSQL, "Pipelining"): the
claims' local settings hold for the statement and are gone after it, and a failed message undoes the rest.

Only who asks is told with each statement, where the session is ours from its beginning to its end. Behind a pooler,
where others have the server's sessions in between, role, time-out and time zone are told each time too.

Statements of several users may share the transaction, each after the claims of its own user. Where a statement goes on
to the shards of Citus, these settings do not: there, it has a transaction to itself, and `BEGIN`, `SET LOCAL` and
`COMMIT` travel with it, in the same round trip.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal

import psycopg
from psycopg import errors, pq

from db.statements import (
    BEGIN,
    CLAIMS,
    COMMIT,
    HAS_CITUS,
    LOCAL_CLAIMS,
    ROLLBACK,
    SESSION_CLAIMS,
    SET_LOCAL_USER_ID,
    USER_CLAIM,
    Statement,
    local_timeout,
)

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

Row = tuple[bytes | None, ...]
Values = Sequence[bytes | None]
Call = tuple[bytes, Statement, Values]
"""A statement with its values, after the id of the user who asks."""
Claims = Literal["auto", "session", "set_config", "set_local"]
"""How claims travel; `auto` asks the database whether the session is ours alone, else whether it has Citus."""

GRACE_SECONDS: Final = 0.5
"""How long an answer may be on its way after the server's own time-out."""

CANCEL_SECONDS: Final = 1.0

LOST_PLANS = (errors.InvalidSqlStatementName, errors.DuplicatePreparedStatement)
"""A prepared statement is unknown to the server, or known already."""

STALE_PLANS = (*LOST_PLANS, errors.FeatureNotSupported)
"""The same, or it cannot run since the schema changed under it."""


LOST = ("08", "57P02")
"""SQLSTATEs, or their beginnings, of a pooler whose server is gone, and of a backend that crashes: in mid-statement."""


class NotSent(psycopg.OperationalError):
    """The connection was lost before the statement was sent."""


class Undone(Exception):
    """Another statement of the transaction failed: this one was not done, and may well work without it."""


class AnswerLost(psycopg.OperationalError):
    """The connection was lost before the server said what came of the statement."""


class Connection:
    """A connection that runs one transaction at a time, each of its statements under one user's claims.

    It is used on one event loop, which it asks to watch the socket for as long as it lives: an idle connection that the
    server closes is known to be lost at once.
    """

    def __init__(
        self,
        connection: psycopg.AsyncConnection,
        *,
        prepare: bool,
        claims: Claims,
        statement_seconds: float,
        on_lost: Callable[[Connection], None],
    ) -> None:
        self.claims = claims
        self._connection = connection
        self._pgconn: PGconn = connection.pgconn
        self._socket = self._pgconn.socket
        self._is_reset = select.poll()
        self._is_reset.register(self._socket, 0)
        self.prepare = prepare
        self._limits = (b"%dms" % (statement_seconds * 1000),)
        self._begin = (BEGIN, *LOCAL_CLAIMS, local_timeout(int(statement_seconds * 1000)))
        self._escape = pq.Escaping(self._pgconn).escape_literal
        self._answer_seconds = statement_seconds + GRACE_SECONDS
        self._prepared: set[bytes] = set()
        self._preparing: list[bytes] = []
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[list[list[Row]]] | None = None
        self._results: list[PGresult] = []
        self._error: psycopg.Error | None = None
        self._is_committed = False
        self._writing = False
        self.is_lost = False
        self.answered = 0
        """How many calls had been answered when the last ones' transaction ended."""
        self._pgconn.nonblocking = 1
        self._pgconn.enter_pipeline_mode()
        self._loop.add_reader(self._socket, self._on_readable)

    @classmethod
    async def connect(
        cls,
        conninfo: str,
        *,
        prepare: bool,
        claims: Claims = "auto",
        statement_seconds: float,
        on_lost: Callable[[Connection], None],
    ) -> Connection:
        """Connects, trying each host for as long as `connect_timeout` says.

        Raises:
            psycopg.Error: it did not work, or not in time.
            TimeoutError: the server does not say which way claims travel.
        """
        connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
        self = cls(connection, prepare=False, claims=claims, statement_seconds=statement_seconds, on_lost=on_lost)
        try:
            if claims in ("auto", "session"):
                self.claims = await self._find_claims()
        except BaseException:
            self.close()
            raise
        if self.is_lost:
            raise NotSent("the connection was lost")
        self.prepare = prepare
        return self

    async def run(self, user_id: bytes, statement: Statement, values: Values) -> list[Row]:
        """Runs the statement as `user_id`, in a transaction of its own, and returns its rows, in text format.

        Raises as `run_all` does.
        """
        (rows,) = await self.run_all([(user_id, statement, values)])
        return rows

    async def run_all(self, calls: Sequence[Call]) -> list[list[Row]]:
        """Runs all of them in one transaction, each as its user, and returns each one's rows, in text format.

        The server cancels what takes `statement_seconds`. After any exception but what the server said, the connection
        is lost: it is never handed on with an answer outstanding. There is only one call where claims are `set_local`.

        Raises:
            psycopg.Error: what the server said, by SQLSTATE: then nothing was done, and `answered` tells whose fault
                it is.
            NotSent: the connection was lost before.
            AnswerLost: it was lost now.
            TimeoutError: not even the server's time-out arrived; the server was asked to cancel.
        """
        if self.is_lost:
            raise NotSent("the connection was lost")
        waiter = self._waiter = self._loop.create_future()
        expiry = self._loop.call_later(self._answer_seconds, self._expire)
        try:
            for call in calls:
                self._send_call(*call)
            self._pgconn.pipeline_sync()
            self._flush()
            answers: list[list[Row]] = await waiter
        except psycopg.Error as error:
            said = error if error.sqlstate else self._last_words()
            if self._pgconn.status != pq.ConnStatus.OK:
                self.close()
            if said is None or str(said.sqlstate).startswith(LOST):
                raise AnswerLost(str(error)) from error
            raise said from None
        except BaseException:
            self._abandon()
            raise
        finally:
            expiry.cancel()
            self._waiter = None
        return answers

    def close(self) -> None:
        """Closes the connection, whatever it is doing."""
        if self.is_lost:
            return
        self.is_lost = True
        self._loop.remove_reader(self._socket)
        if self._writing:
            self._loop.remove_writer(self._socket)
        self._pgconn.finish()
        self._on_lost(self)

    async def _find_claims(self) -> Claims:
        # A pooler tells its clients of a process that is none of the server's.
        if await self.run(b"", SESSION_CLAIMS, (*self._limits, b"%d" % self._pgconn.backend_pid)):
            return "session"
        return "set_local" if await self.run(b"", HAS_CITUS, ()) else "set_config"

    def _send_call(self, user_id: bytes, statement: Statement, values: Values) -> None:
        if self.claims == "session":
            self._send(USER_CLAIM, (user_id,))
            self._send(statement, values)
        elif self.claims == "set_local":
            self._send_block(user_id, statement, values)
        else:
            self._send(CLAIMS, (user_id, *self._limits))
            self._send(statement, values)

    def _send_block(self, user_id: bytes, statement: Statement, values: Values) -> None:
        """The claims as commands that Citus repeats to the shards; `SET` takes no parameter."""
        literal = bytes(self._escape(user_id))
        self._is_committed = False
        for claim in self._begin:
            self._send(claim, ())
        self._pgconn.send_query_params(SET_LOCAL_USER_ID + literal, ())
        self._send(statement, values)
        self._send(COMMIT, ())

    def _send(self, statement: Statement, values: Values) -> None:
        if not self.prepare:
            self._pgconn.send_query_params(statement.sql, values)
            return
        if statement.name not in self._prepared and statement.name not in self._preparing:
            self._pgconn.send_prepare(statement.name, statement.sql)
            self._preparing.append(statement.name)
        self._pgconn.send_query_prepared(statement.name, values)

    def _flush(self) -> None:
        pending = self._pgconn.flush() != 0
        if pending and not self._writing:
            self._loop.add_writer(self._socket, self._on_writable)
        elif self._writing and not pending:
            self._loop.remove_writer(self._socket)
        self._writing = pending

    def _on_writable(self) -> None:
        try:
            self._flush()
        except psycopg.Error as error:
            self._fail(error)

    def _on_readable(self) -> None:
        try:
            self._pgconn.consume_input()
            if self._waiter is None or not self._take_results():
                # More must come. uvloop tells once that a socket was reset, and never again, although what came before
                # the reset is read first.
                while self._is_reset.poll(0):
                    self._pgconn.consume_input()
        except psycopg.Error as error:
            self._fail(error)

    def _take_results(self) -> bool:
        """Whether the answer is complete."""
        pgconn = self._pgconn
        while not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:
                # This stands between two messages' results; after the last one stands the sync's.
                if pgconn.status != pq.ConnStatus.OK:
                    raise errors.OperationalError("the connection was lost")
                continue
            status = result.status
            if status == pq.ExecStatus.TUPLES_OK:
                self._results.append(result)
            elif status == pq.ExecStatus.PIPELINE_SYNC:
                if self._error is None or not self._end_block():
                    self._finish()
                    return True
            elif status == pq.ExecStatus.FATAL_ERROR and not self._is_committed:
                self._error = self._error or errors.error_from_result(result)
            elif status == pq.ExecStatus.COMMAND_OK:
                self._take_tag(result)
        return False

    def _take_tag(self, result: PGresult) -> None:
        tag = result.command_status
        if not tag:
            # It stays prepared even if what follows it fails.
            self._prepared.add(self._preparing.pop(0))
        elif tag == b"COMMIT":
            self._is_committed = True
        else:
            self._results.append(result)

    def _end_block(self) -> bool:
        """Whether a block was left open: what follows a failure is skipped up to the sync, COMMIT too."""
        if self._pgconn.transaction_status != pq.TransactionStatus.INERROR:
            return False
        self._preparing.clear()
        self._send(ROLLBACK, ())
        self._pgconn.pipeline_sync()
        self._flush()
        return True

    def _finish(self) -> None:
        waiter, results, error = self._waiter, self._results, self._error
        self._results, self._error = [], None
        self._preparing.clear()
        # Claims are answered too: before each statement with a row, or with a block's tags.
        answers = results[-1:] if self.claims == "set_local" else results[1::2]
        self.answered = len(answers)
        if waiter is None or waiter.done():
            return
        if error is not None:
            waiter.set_exception(error)
        else:
            waiter.set_result([_rows(result) for result in answers])

    def _last_words(self) -> psycopg.Error | None:
        """What the server said before it closed the connection: it may have been read, and not looked at yet."""
        with suppress(psycopg.Error):
            self._take_results()
        return self._error if self._error and self._error.sqlstate else None

    def _fail(self, error: psycopg.Error) -> None:
        said = self._last_words()
        if self._is_committed:
            # The server ended between COMMIT and the sync: the statement is done, and its answer here.
            self._finish()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(said or error)
        self.close()

    def _expire(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(TimeoutError())

    def _abandon(self) -> None:
        """Ends the connection in mid-flight, after telling the server not to go on."""
        if self.is_lost:
            return
        self._loop.remove_reader(self._socket)
        task = self._loop.create_task(self._cancel())
        _cancelling.add(task)
        task.add_done_callback(_cancelling.discard)
        self.is_lost = True

    async def _cancel(self) -> None:
        try:
            await self._connection.cancel_safe(timeout=CANCEL_SECONDS)
        except psycopg.Error:
            pass  # The server is gone, or too slow to be told: closing the connection has to do.
        finally:
            if self._writing:
                self._loop.remove_writer(self._socket)
            self._pgconn.finish()
            self._on_lost(self)


def _rows(result: PGresult) -> list[Row]:
    get = result.get_value
    columns = range(result.nfields)
    return [tuple([get(row, column) for column in columns]) for row in range(result.ntuples)]


_cancelling: set[asyncio.Task[None]] = set()
"""An event loop keeps only weak references to its tasks."""
