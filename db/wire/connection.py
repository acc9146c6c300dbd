"""One server connection: a user's claims and a statement travel together, in one round trip.

psycopg connects, negotiates TLS and knows the errors. Its libpq layer, `psycopg.pq`, carries the messages in pipeline
mode. Without `BEGIN`, all messages before a sync are one implicit transaction (PostgreSQL, "Pipelining"): the claims'
local settings hold for the statement and are gone after it, and a failed message rolls the others back.

There are three ways in which claims travel:

session     Role, time-out and time zone are set once for the session; each statement sends only the user's id.
set_config  All claims are sent with each statement: behind a pooler, others use the server's sessions in between.
set_local   All claims are sent as `SET LOCAL`, between `BEGIN` and `COMMIT`, since Citus repeats these to its shards,
            and since `BEGIN` pins the isolation; still in one round trip. Such a transaction has one statement.

With the first two, statements of several users may share a transaction, each after the claims of its own user.
"""

from __future__ import annotations

import asyncio
import math
import select
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal

import psycopg
from psycopg import errors, pq

from db.statements import (
    BEGIN,
    CHECK_AT_ONCE,
    CHECK_AT_ONCE_IN_DO,
    CLAIMS,
    COMMIT,
    LOCAL_CLAIMS,
    ROLLBACK,
    SESSION_CLAIMS,
    SET_LOCAL_USER_ID,
    SHARED_LIMITS,
    SURROUNDINGS,
    USER_CLAIM,
    Statement,
    local_setting,
)
from db.url import CLIENT_ENCODING
from db.wire.failures import AnswerLost, NotSent, RolledBack, SendRefused, TookTooLong, find

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

Row = tuple[bytes | None, ...]
Values = Sequence[bytes | None]
Call = tuple[bytes, Statement, Values]
"""A statement with its values, after the id of the user for whom it runs."""
Outcome = list[Row] | psycopg.Error | TimeoutError
"""What came of a call: its rows, or why there are none."""
Claims = Literal["auto", "session", "set_config", "set_local"]
"""How claims travel; `auto` asks the database whether no pooler is on the way, and whether it has Citus."""

GRACE_SECONDS: Final = 0.5
"""How long an answer may be on its way after the server's own time-out."""

CANCEL_SECONDS: Final = 1.0

SHARED_LOCK_SECONDS: Final = 0.02
SHARED_STATEMENT_SECONDS: Final = 0.03
"""How long a statement waits for a lock, and how long it takes, while others share its transaction.

PostgreSQL applies neither to the commit, so that no commit is cancelled that may be done.
"""

PIPELINES_ARE_BLOCKS: Final = 180_000
"""PostgreSQL 18: from it on, `SET CONSTRAINTS` works in a pipeline without a block. 15.20 warns that it needs one."""


class Exchange:
    """One transaction on its way: what the server has said of it so far. A new one is made for each transaction."""

    __slots__ = ("answered", "error", "is_committed", "preparing", "results")

    def __init__(self, answered: asyncio.Future[None]) -> None:
        self.answered = answered
        """Is done when the answer is complete, or will never be."""
        self.results: list[PGresult] = []
        self.error: psycopg.Error | TimeoutError | None = None
        self.is_committed = False
        """Whether the server has confirmed a `COMMIT`."""
        self.preparing: list[bytes] = []
        """The names of statements that are sent to be prepared, and not confirmed yet."""

    def finish(self, error: psycopg.Error | None = None) -> None:
        """Ends it, with an error unless there was one before."""
        if not self.answered.done():
            self.error = self.error or error
            self.answered.set_result(None)

    def expire(self) -> None:
        """Ends it although the answer is not complete."""
        if not self.answered.done():
            # This also replaces an error of the server: without the end of the answer, nobody knows what was committed.
            self.error = TimeoutError()
            self.answered.set_result(None)


class Connection:
    """A connection that runs one transaction at a time, each of its statements under one user's claims.

    It is idle while it has no exchange, busy while it has one, and lost (`is_lost`) as soon as either side ends it:
    then it is closed, or will be as soon as the server has been asked to cancel what it does.

    It is used on one event loop, which watches the socket as long as the connection lives: if the server closes an idle
    connection, this is known at once.
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
        """`on_lost` is called when the connection is closed."""
        self.claims = claims
        self.prepare = prepare
        self.is_lost = False
        self.expires_at = math.inf
        """When its pool takes it for too old, by the monotonic clock."""
        self.idle_until = math.inf
        """When its pool closes it unless it is used before."""
        self.cancelling: asyncio.Task[None] | None = None
        """Asks the server to cancel, and then closes."""
        self._connection = connection
        self._pgconn: PGconn = connection.pgconn
        self._socket = self._pgconn.socket
        self._reset_poll = select.poll()
        self._reset_poll.register(self._socket, 0)
        self._limit = b"%dms" % (statement_seconds * 1000)
        self._shared_limit = b"%dms" % (SHARED_STATEMENT_SECONDS * 1000)
        self._shared_lock_limit = b"%dms" % (SHARED_LOCK_SECONDS * 1000)
        is_new = self._pgconn.server_version >= PIPELINES_ARE_BLOCKS
        self._check_at_once = CHECK_AT_ONCE if is_new else CHECK_AT_ONCE_IN_DO
        self._search_path = b""
        timeout = local_setting("statement_timeout", f"'{int(statement_seconds * 1000)}ms'")
        self._block_head: tuple[Statement, ...] = (BEGIN, *LOCAL_CLAIMS, timeout)
        self._escape = pq.Escaping(self._pgconn).escape_literal
        self._answer_seconds = statement_seconds + GRACE_SECONDS
        self._prepared: set[bytes] = set()
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._exchange: Exchange | None = None
        self._is_writing = False
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
            TimeoutError: the server did not answer when asked how claims travel.
        """
        connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True, client_encoding=CLIENT_ENCODING)
        self = cls(connection, prepare=False, claims="auto", statement_seconds=statement_seconds, on_lost=on_lost)
        try:
            await self._look_around(claims)
        except BaseException:
            self.close()
            if self.cancelling:
                await self.cancelling
            raise
        self.prepare = prepare
        return self

    async def run(self, user_id: bytes, statement: Statement, values: Values) -> list[Row]:
        """Runs the statement as `user_id`, in a transaction of its own, and returns its rows, in text format.

        Raises what `run_all` returns as an outcome.
        """
        (outcome,) = await self.run_all([(user_id, statement, values)])
        if isinstance(outcome, list):
            return outcome
        raise outcome

    async def run_all(self, calls: Sequence[Call]) -> list[Outcome]:
        """Runs all calls in one transaction, each as its user, and returns each one's outcome.

        An outcome is a call's rows, in text format, or one of these exceptions:

        psycopg.Error  what the server said of this call, by SQLSTATE
        TookTooLong    this call took longer than the others may have to wait for it
        RolledBack     another one failed
        SendRefused    libpq does not send this call; the connection is closed
        NotSent        the connection was lost before the call was sent
        AnswerLost     it was lost, or closed, while the answer was outstanding
        TimeoutError   not even the server's time-out arrived; the server is asked to cancel, the connection is lost

        The server cancels what takes longer than `statement_seconds`; if there are several calls, they have short
        time-outs instead. If the caller is cancelled, so is the transaction, and the connection is lost: it is never
        used again with an answer outstanding. Where claims are `set_local`, there must be one call only.
        """
        if self.is_lost:
            return [NotSent("the connection was lost")] * len(calls)
        exchange = self._exchange = Exchange(self._loop.create_future())
        expiry = self._loop.call_later(self._answer_seconds, exchange.expire)
        sent = 0
        try:
            if len(calls) > 1:
                self._send_limits(exchange)
            for call in calls:
                self._send_call(exchange, *call, is_shared=len(calls) > 1)
                sent += 1
            self._pgconn.pipeline_sync()
            self._flush()
            await exchange.answered
        except psycopg.Error as error:
            if sent < len(calls):
                return self._give_up_sending(error, sent, len(calls))
            # The exchange ends with this error, or with what the server said before.
            self._fail(error)
        except BaseException:
            self._cancel_and_close()
            raise
        finally:
            expiry.cancel()
        return self._outcomes(exchange, len(calls))

    def close(self) -> None:
        """Closes the connection; an exchange that is under way ends with `AnswerLost`."""
        self._close(AnswerLost("the connection was closed"))

    async def _look_around(self, wanted: Claims) -> None:
        """Finds out how claims travel, and where the tables are."""
        # A pooler reports a process id that is not the server's.
        pid = b"%d" % self._pgconn.backend_pid
        if wanted in ("auto", "session") and await self.run(b"", SESSION_CLAIMS, (self._limit, pid)):
            self.claims = "session"
            return
        ((search_path, has_citus, is_other_isolation),) = await self.run(b"", SURROUNDINGS, ())
        if search_path is not None:
            self._search_path = search_path
            self._block_head += (local_setting("search_path", search_path.decode()),)
        # Only a block says its isolation.
        needs_blocks = is_other_isolation == b"t" or (has_citus == b"t" and wanted != "set_config")
        self.claims = "set_local" if needs_blocks or wanted == "set_local" else "set_config"

    def _send_call(
        self, exchange: Exchange, user_id: bytes, statement: Statement, values: Values, *, is_shared: bool
    ) -> None:
        if self.claims == "session":
            self._send(exchange, USER_CLAIM, (user_id,))
            self._send(exchange, statement, values)
        elif self.claims == "auto":  # Not known yet: `_look_around` is asking, and needs none.
            self._send(exchange, statement, values)
        elif self.claims == "set_local":
            self._send_block(exchange, user_id, statement, values)
        else:
            # This sets a time-out too, and would undo that of `SHARED_LIMITS`.
            limit = self._shared_limit if is_shared else self._limit
            self._send(exchange, CLAIMS, (user_id, limit, self._search_path))
            self._send(exchange, statement, values)

    def _send_block(self, exchange: Exchange, user_id: bytes, statement: Statement, values: Values) -> None:
        """Sends the claims as commands that Citus repeats to the shards; `SET` takes no parameter."""
        literal = bytes(self._escape(user_id))
        for claim in self._block_head:
            self._send(exchange, claim, ())
        self._pgconn.send_query_params(SET_LOCAL_USER_ID + literal, ())
        self._send(exchange, statement, values)
        self._send(exchange, COMMIT, ())

    def _send(self, exchange: Exchange, statement: Statement, values: Values) -> None:
        if not self.prepare:
            self._pgconn.send_query_params(statement.sql, values)
            return
        if statement.name not in self._prepared and statement.name not in exchange.preparing:
            self._pgconn.send_prepare(statement.name, statement.sql)
            exchange.preparing.append(statement.name)
        self._pgconn.send_query_prepared(statement.name, values)

    def _send_limits(self, exchange: Exchange) -> None:
        """Sends what keeps the statements of a shared transaction short."""
        self._send(exchange, SHARED_LIMITS, (self._shared_lock_limit, self._shared_limit))
        self._send(exchange, self._check_at_once, ())

    def _outcomes(self, exchange: Exchange, count: int) -> list[Outcome]:
        """Each call's outcome; after a time-out, the connection is given up too."""
        # A single call's rows come last. A shared transaction begins with two results of its limits; then each call has
        # two, its claims' and its own.
        answers = exchange.results[-1:] if count == 1 else exchange.results[3::2]
        error = exchange.error
        if error is None:
            return [_rows(result) for result in answers]
        if isinstance(error, TimeoutError):
            self._cancel_and_close()
        if count == 1 or find(error).perhaps_done:
            return [error] * count
        # Lock not available, query canceled: the short time-outs.
        if getattr(error, "sqlstate", None) in ("55P03", "57014"):
            error = TookTooLong(str(error))
        # The first call without an answer is the one that failed.
        return _blame(len(answers), error, count)

    def _give_up_sending(self, error: psycopg.Error, number: int, count: int) -> list[Outcome]:
        """Closes the connection: what was sent before the call with this number is rolled back, since no sync follows.

        Returns the outcomes: libpq refused this call, or the connection was lost.
        """
        is_connected = self._pgconn.status == pq.ConnStatus.OK
        self.close()
        if is_connected:
            return _blame(number, SendRefused(str(error)), count)
        return [NotSent(str(error))] * count

    def _flush(self) -> None:
        pending = self._pgconn.flush() != 0
        if pending and not self._is_writing:
            self._loop.add_writer(self._socket, self._on_writable)
        elif self._is_writing and not pending:
            self._loop.remove_writer(self._socket)
        self._is_writing = pending

    def _on_writable(self) -> None:
        try:
            self._flush()
        except psycopg.Error as error:
            self._fail(error)

    def _on_readable(self) -> None:
        try:
            self._pgconn.consume_input()
            if self._exchange is None or not self._take_results(self._exchange):
                # More must come, or a reset did: uvloop reports that only once, perhaps with data that was read first.
                # So the socket is asked; if it was reset, `consume_input` raises in the end.
                while self._reset_poll.poll(0):
                    self._pgconn.consume_input()
        except psycopg.Error as error:
            self._fail(error)

    def _take_results(self, exchange: Exchange) -> bool:
        """Takes what has arrived into the exchange, and tells whether that completes the answer."""
        pgconn = self._pgconn
        while not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:
                # None separates two messages' results. After the last, the sync's result follows.
                if pgconn.status != pq.ConnStatus.OK:
                    raise errors.OperationalError("the connection was lost")
                continue
            status = result.status
            if status == pq.ExecStatus.TUPLES_OK:
                exchange.results.append(result)
            elif status == pq.ExecStatus.PIPELINE_SYNC:
                if exchange.error is None or not self._end_block(exchange):
                    self._exchange = None
                    exchange.finish()
                    return True
            elif status == pq.ExecStatus.FATAL_ERROR and not exchange.is_committed:
                exchange.error = exchange.error or _error(result)
            elif status == pq.ExecStatus.COMMAND_OK:
                self._take_tag(exchange, result)
        return False

    def _take_tag(self, exchange: Exchange, result: PGresult) -> None:
        tag = result.command_status
        if not tag:
            # An empty tag confirms a prepare. The statement stays prepared even if a later message fails.
            self._prepared.add(exchange.preparing.pop(0))
        elif tag == b"COMMIT":
            exchange.is_committed = True
        else:
            exchange.results.append(result)

    def _end_block(self, exchange: Exchange) -> bool:
        """Rolls back a block that a failure left open: all that follows it is skipped, `COMMIT` too.

        Returns whether there was one. If so, the answer is complete after one more sync.
        """
        if self._pgconn.transaction_status != pq.TransactionStatus.INERROR:
            return False
        # What was to be prepared after the failure is skipped: the next confirmation is the rollback's.
        exchange.preparing.clear()
        self._send(exchange, ROLLBACK, ())
        self._pgconn.pipeline_sync()
        self._flush()
        return True

    def _fail(self, error: psycopg.Error) -> None:
        """Closes the connection after the network has failed; `error` is what libpq says of that."""
        if (exchange := self._exchange) is not None:
            # What the server said before it closed the connection may have been read, and not looked at yet.
            with suppress(psycopg.Error):
                self._take_results(exchange)
            if exchange.is_committed:
                # The server ended between COMMIT and the sync: the statement is done, and its answer here.
                exchange.finish()
        self._close(AnswerLost(str(error)))

    def _close(self, error: psycopg.Error) -> None:
        """Closes the connection; an exchange that is under way ends with this error."""
        if self.is_lost:
            return
        self.is_lost = True
        if self._exchange is not None:
            self._exchange.finish(error)
            self._exchange = None
        self._loop.remove_reader(self._socket)
        self._disconnect()

    def _cancel_and_close(self) -> None:
        """Gives up an exchange: the server is asked to cancel it, then the connection is closed."""
        if self.is_lost:
            return
        self.is_lost = True
        self._exchange = None
        self._loop.remove_reader(self._socket)
        self.cancelling = self._loop.create_task(self._cancel())

    async def _cancel(self) -> None:
        """Asks the server, on a connection of its own, to cancel what it does; then closes this one."""
        try:
            await self._connection.cancel_safe(timeout=CANCEL_SECONDS)
        except psycopg.Error:
            pass  # The server is gone, or too slow to be told: closing the connection has to do.
        finally:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._is_writing:
            self._loop.remove_writer(self._socket)
        self._pgconn.finish()
        self._on_lost(self)


def _rows(result: PGresult) -> list[Row]:
    get = result.get_value
    columns = range(result.nfields)
    return [tuple([get(row, column) for column in columns]) for row in range(result.ntuples)]


def _error(result: PGresult) -> psycopg.Error:
    error = errors.error_from_result(result)
    # Without a SQLSTATE, it is libpq that tells why there is no answer.
    return error if error.sqlstate else AnswerLost(str(error))


def _blame(number: int, error: psycopg.Error | TimeoutError, count: int) -> list[Outcome]:
    """The outcomes of `count` calls of which one failed, so that all were rolled back."""
    return [error if each == number else RolledBack("another statement failed") for each in range(count)]
