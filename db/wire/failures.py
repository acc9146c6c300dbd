"""What a failure on the way to PostgreSQL means: one table, and one function that reads it.

    psycopg.OperationalError
        NoConnection         there was no connection in time
            PoolClosed       there will be none any more
        QueueFull            too many others wait for a connection
        NotSent              the connection was lost before the statement was sent
        SendRefused          libpq refused to send the statement
        TookTooLong          the statement took longer than a shared transaction may wait for it
        RolledBack           another statement of the shared transaction failed
        AnswerLost           the connection was lost before the answer was complete
    TimeoutError             the server did not even report its own time-out
    DatabaseUnavailable      nothing was done (503)
        Overloaded           nothing was done, since too many requests are waiting (503)
        WritesUnavailable    nothing was done, since the database takes no changes (503)
        OutcomeUnknown       the change may have been made: the answer was lost (503)

Callers of the pool see the last four, `SendRefused`, and the server's errors (`psycopg.errors`) that they handle or
that are a fault of ours (500), as `SendRefused` is. All others stay in this package.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import psycopg

PAUSE_SECONDS: Final = 0.05
"""The pause before the last try after a lost answer, and before each try that finds out what was done."""


class NoConnection(psycopg.OperationalError):
    """There was no connection in time."""


class PoolClosed(NoConnection):
    """The pool was closed: there will be no connection any more."""


class QueueFull(psycopg.OperationalError):
    """Too many others wait for a connection."""


class NotSent(psycopg.OperationalError):
    """The connection was lost before the statement was sent."""


class SendRefused(psycopg.OperationalError):
    """Libpq refused to send the statement, and would refuse it again: a fault of ours."""


class TookTooLong(psycopg.OperationalError):
    """The statement took longer than a shared transaction may wait for it. Alone, it has the time-outs of all."""


class RolledBack(psycopg.OperationalError):
    """Another statement of the shared transaction failed, and this one was rolled back with it. Alone, it may work."""


class AnswerLost(psycopg.OperationalError):
    """The connection was lost before the server's answer was complete."""


class DatabaseUnavailable(Exception):
    """The database did not carry out the statement in time, or cannot now. Becomes 503."""


class Overloaded(DatabaseUnavailable):
    """Too many requests of all users together wait for a connection. Becomes 503."""


class WritesUnavailable(DatabaseUnavailable):
    """The database takes no changes: it is a standby, was made read-only, or its disk is full. Becomes 503."""


class OutcomeUnknown(DatabaseUnavailable):
    """The answer to a write was lost: it may have been done. Becomes 503."""


class Repeat(Enum):
    """When a statement that failed is run again, as long as it has tries left."""

    NEVER = auto()
    """It would fail again, or take too long."""
    ALWAYS = auto()
    """Nothing was done, and it may work the next time."""
    IF_HARMLESS = auto()
    """It may have been done: it is repeated if it only reads, or if its caller says that it is repeatable."""
    TO_FIND_OUT = auto()
    """It is repeated until its time is up if an earlier try may have done it, else never."""


class Connections(Enum):
    """What becomes of the connection, and of others."""

    KEEP = auto()
    """It goes back to the pool."""
    CLOSE = auto()
    """It is closed, if it was not lost by itself."""
    CLOSE_IDLE = auto()
    """This connection and all idle ones are closed: the server is ending, or no longer the primary."""
    UNPREPARE = auto()
    """It is closed, and nothing is prepared from now on: a pooler on the way keeps no prepared statements."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A row of the table: a kind of failure, and what it means."""

    perhaps_done: bool
    """Whether the statement may have been done; otherwise it certainly was not."""
    repeat: Repeat
    is_try: bool
    """True: it uses up a try. False: it does so only once the waiting time is up."""
    connections: Connections
    outside: type[DatabaseUnavailable] | None
    """What callers see instead, unless it may have been done; None: the error itself."""
    metric: str | None = None
    """The name in the metrics of a failure without SQLSTATE. None: it is not counted."""
    keeps_out: bool = False
    """Whether the user's writes run alone for a while, because the next one would probably fail the same way."""


@dataclass(frozen=True, slots=True)
class Tries:
    """What is known about a statement before a try."""

    left: int = 3
    perhaps_done: bool = False
    """Whether an earlier try may have done it."""


FIRST_TRY: Final = Tries()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from a failure: the statement is run again after a pause, or the failure is raised."""

    is_repeated: bool
    pause_seconds: float
    tries: Tries
    outside: type[DatabaseUnavailable] | None
    """What is raised instead of the error; None: the error itself."""
    metric: str | None
    keeps_out: bool = False
    """Whether the user's writes run alone for a while."""


NOT, PERHAPS = False, True
FREE, TRY = False, True
ALONE = True

NODE_REFUSES = (
    "08",
    "Connection refused|connection to server at|the database system is|too many clients|connection slots",
)
NODE_SILENT = ("08", "could not establish any connections")
NODE_LOST = ("XX", "connection marked as essential|could not commit transaction")

# A key is an exception, a SQLSTATE, the class with which SQLSTATEs begin (PostgreSQL, "Error Codes"), or a class and a
# pattern for the message: Citus's coordinator gives different failures the same SQLSTATE.
# fmt: off
FAILURES: Final[dict[type[Exception] | str | tuple[str, str], Failure]] = {
    #                     done?    run again           counts?  connections             outside, metric, alone
    NoConnection: Failure(NOT,     Repeat.TO_FIND_OUT, FREE, Connections.KEEP,       DatabaseUnavailable, "connection"),
    PoolClosed:   Failure(NOT,     Repeat.NEVER,       TRY,  Connections.KEEP,       DatabaseUnavailable, "connection"),
    QueueFull:    Failure(NOT,     Repeat.TO_FIND_OUT, FREE, Connections.KEEP,       Overloaded),
    NotSent:      Failure(NOT,     Repeat.ALWAYS,      FREE, Connections.CLOSE,      DatabaseUnavailable, "connection"),
    SendRefused:  Failure(NOT,     Repeat.NEVER,       TRY,  Connections.CLOSE,      None, "refused", ALONE),
    TookTooLong:  Failure(NOT,     Repeat.ALWAYS,      FREE, Connections.KEEP,       DatabaseUnavailable, None, ALONE),
    RolledBack:   Failure(NOT,     Repeat.ALWAYS,      FREE, Connections.KEEP,       DatabaseUnavailable, None),
    AnswerLost:   Failure(PERHAPS, Repeat.IF_HARMLESS, TRY,  Connections.CLOSE,      DatabaseUnavailable, "connection"),
    TimeoutError: Failure(PERHAPS, Repeat.NEVER,       TRY,  Connections.CLOSE,      DatabaseUnavailable, "timeout"),
    # Connection exceptions: a pooler tells so that its server is gone.
    "08":         Failure(PERHAPS, Repeat.IF_HARMLESS, TRY,  Connections.CLOSE,      DatabaseUnavailable),
    # Of it: a node of Citus refuses connections, or does not take them in time, so nothing was sent to it. Where it is
    # lost later, that is an internal error.
    NODE_REFUSES: Failure(NOT,     Repeat.ALWAYS,      TRY,  Connections.KEEP,       DatabaseUnavailable),
    NODE_SILENT:  Failure(NOT,     Repeat.NEVER,       TRY,  Connections.KEEP,       DatabaseUnavailable),
    NODE_LOST:    Failure(PERHAPS, Repeat.IF_HARMLESS, TRY,  Connections.KEEP,       DatabaseUnavailable),
    # Feature not supported: a prepared statement is stale since the schema changed.
    "0A000":      Failure(NOT,     Repeat.ALWAYS,      TRY,  Connections.CLOSE,      None),
    # Invalid SQL statement name, duplicate prepared statement.
    "26000":      Failure(NOT,     Repeat.ALWAYS,      TRY,  Connections.UNPREPARE,  None),
    "42P05":      Failure(NOT,     Repeat.ALWAYS,      TRY,  Connections.UNPREPARE,  None),
    # Read-only transaction.
    "25006":      Failure(NOT,     Repeat.NEVER,       TRY,  Connections.KEEP,       WritesUnavailable),
    # Transaction rollback; of it: serialization failure, deadlock, statement completion unknown.
    "40":         Failure(NOT,     Repeat.NEVER,       TRY,  Connections.KEEP,       DatabaseUnavailable),
    "40001":      Failure(NOT,     Repeat.ALWAYS,      TRY,  Connections.KEEP,       DatabaseUnavailable),
    "40P01":      Failure(NOT,     Repeat.ALWAYS,      TRY,  Connections.KEEP,       DatabaseUnavailable),
    "40003":      Failure(PERHAPS, Repeat.IF_HARMLESS, TRY,  Connections.KEEP,       DatabaseUnavailable),
    # Insufficient resources; of it: disk full.
    "53":         Failure(NOT,     Repeat.NEVER,       TRY,  Connections.KEEP,       DatabaseUnavailable),
    "53100":      Failure(NOT,     Repeat.NEVER,       TRY,  Connections.KEEP,       WritesUnavailable),
    # Lock not available.
    "55P03":      Failure(NOT,     Repeat.NEVER,       TRY,  Connections.KEEP,       DatabaseUnavailable, None, ALONE),
    # Operator intervention; of it: query canceled (its time is up), the server ends, crashes, closes an idle session.
    "57":         Failure(NOT,     Repeat.NEVER,       TRY,  Connections.KEEP,       DatabaseUnavailable),
    "57014":      Failure(NOT,     Repeat.NEVER,       TRY,  Connections.KEEP,       DatabaseUnavailable, None, ALONE),
    "57P01":      Failure(NOT,     Repeat.ALWAYS,      FREE, Connections.CLOSE_IDLE, DatabaseUnavailable),
    "57P02":      Failure(PERHAPS, Repeat.IF_HARMLESS, TRY,  Connections.CLOSE,      DatabaseUnavailable),
    "57P05":      Failure(NOT,     Repeat.ALWAYS,      FREE, Connections.CLOSE,      DatabaseUnavailable),
    # System error.
    "58":         Failure(NOT,     Repeat.NEVER,       TRY,  Connections.KEEP,       DatabaseUnavailable),
}
# fmt: on

TOLD_APART: Final = tuple(key for key in FAILURES if isinstance(key, tuple))

DEMOTED: Final = Failure(NOT, Repeat.ALWAYS, TRY, Connections.CLOSE_IDLE, WritesUnavailable)
"""A read-only transaction, where the URL names several servers and wants the primary: it is another one now."""

FAULT: Final = Failure(NOT, Repeat.NEVER, TRY, Connections.KEEP, None, None, ALONE)
"""Every other error is about the statement: a fault of ours, or handled by the caller."""


def find(error: psycopg.Error | TimeoutError, *, wants_primary: bool = False) -> Failure:
    """The row of an error; `wants_primary` tells that the URL's `target_session_attrs` wants a server that writes."""
    sqlstate = getattr(error, "sqlstate", None)
    if sqlstate == "25006" and wants_primary:
        return DEMOTED
    if not sqlstate:
        return next((FAILURES[key] for key in type(error).__mro__ if key in FAILURES), FAULT)
    told_apart = [key for key in TOLD_APART if sqlstate.startswith(key[0]) and re.search(key[1], str(error))]
    return next((FAILURES[key] for key in (*told_apart, sqlstate, sqlstate[:2]) if key in FAILURES), FAULT)


def judge(
    error: psycopg.Error | TimeoutError,
    tries: Tries,
    *,
    writes: bool,
    repeatable: bool,
    wants_primary: bool,
    is_late: bool,
) -> Verdict:
    """What follows from the failure of a statement that `writes` or only reads.

    With `repeatable`, the caller can tell whether an earlier try had succeeded. `is_late` tells that the
    time in which it may wait for a connection is up: every failure counts as a try from then on.
    """
    failure = find(error, wants_primary=wants_primary)
    tries_left = tries.left - (failure.is_try or is_late)
    perhaps_done = tries.perhaps_done or (writes and failure.perhaps_done)
    may_repeat = {
        Repeat.NEVER: False,
        Repeat.ALWAYS: True,
        Repeat.IF_HARMLESS: repeatable or not writes,
        Repeat.TO_FIND_OUT: perhaps_done and not is_late,
    }[failure.repeat]
    is_repeated = may_repeat and tries_left > 0
    needs_pause = failure.repeat is Repeat.TO_FIND_OUT or (failure.perhaps_done and tries_left == 1)
    outside = failure.outside
    if is_repeated:
        outside = None
    elif outside and perhaps_done:
        outside = OutcomeUnknown
    elif outside is WritesUnavailable and not writes:
        outside = DatabaseUnavailable
    return Verdict(
        is_repeated=is_repeated,
        pause_seconds=PAUSE_SECONDS if is_repeated and needs_pause else 0.0,
        tries=Tries(tries_left, perhaps_done),
        outside=outside,
        metric=(getattr(error, "sqlstate", None) or "")[:2] or failure.metric,
        keeps_out=writes and failure.keeps_out,
    )
