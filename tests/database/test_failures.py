"""What a failure means is one table: each row, in each situation in which it means something else."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import psycopg
import pytest
from psycopg import errors

from db.wire import failures
from db.wire.failures import (
    FAILURES,
    FIRST_TRY,
    PAUSE_SECONDS,
    AnswerLost,
    Connections,
    DatabaseUnavailable,
    NoConnection,
    NotSent,
    OutcomeUnknown,
    Overloaded,
    PoolClosed,
    QueueFull,
    RolledBack,
    SendRefused,
    TookTooLong,
    Tries,
    Verdict,
    WritesUnavailable,
    find,
    judge,
)


@dataclass(frozen=True)
class Situation:
    """A statement that fails; unless it says otherwise, a write at its first try, in time."""

    writes: bool = True
    repeatable: bool = False
    wants_primary: bool = False
    is_late: bool = False
    tries: Tries = FIRST_TRY


WRITE = Situation()
READ = Situation(writes=False)
REPEATABLE = Situation(repeatable=True)
PRIMARY = Situation(wants_primary=True)
LATE = Situation(is_late=True)
ONE_LEFT = Situation(tries=Tries(1))
TWO_LEFT = Situation(repeatable=True, tries=Tries(2))
PERHAPS = Situation(repeatable=True, tries=Tries(2, perhaps_done=True))
PERHAPS_LATE = Situation(repeatable=True, is_late=True, tries=Tries(2, perhaps_done=True))
PERHAPS_ONE_LEFT = Situation(repeatable=True, tries=Tries(1, perhaps_done=True))
FIND_OUT = Situation(writes=False, tries=Tries(perhaps_done=True))


def repeated(left: int, *, perhaps_done: bool = False, after: float = 0.0) -> tuple[int, bool, float]:
    """It is run again, with so many tries left."""
    return left, perhaps_done, after


def sqlstate(code: str, message: str = "said by the server") -> psycopg.Error:
    try:
        return errors.lookup(code)(message)
    except KeyError:
        error = psycopg.DatabaseError(message)
        error.sqlstate = code
        return error


ITSELF = None
"""The error is raised as it is: a fault of ours, or the caller handles it."""

TABLE = {
    "no connection": (
        NoConnection(),
        "connection",
        Connections.KEEP,
        {
            WRITE: DatabaseUnavailable,
            READ: DatabaseUnavailable,
            REPEATABLE: DatabaseUnavailable,
            PERHAPS: repeated(2, perhaps_done=True, after=PAUSE_SECONDS),
            PERHAPS_ONE_LEFT: repeated(1, perhaps_done=True, after=PAUSE_SECONDS),
            PERHAPS_LATE: OutcomeUnknown,
            FIND_OUT: repeated(3, perhaps_done=True, after=PAUSE_SECONDS),
        },
    ),
    "pool closed": (
        PoolClosed(),
        "connection",
        Connections.KEEP,
        {
            WRITE: DatabaseUnavailable,
            READ: DatabaseUnavailable,
            PERHAPS: OutcomeUnknown,
            FIND_OUT: OutcomeUnknown,
        },
    ),
    "queue full": (
        QueueFull(),
        None,
        Connections.KEEP,
        {WRITE: Overloaded, READ: Overloaded, REPEATABLE: Overloaded, LATE: Overloaded},
    ),
    "not sent": (
        NotSent(),
        "connection",
        Connections.CLOSE,
        {
            WRITE: repeated(3),
            READ: repeated(3),
            LATE: repeated(2),
            ONE_LEFT: repeated(1),
            PERHAPS: repeated(2, perhaps_done=True),
            PERHAPS_LATE: repeated(1, perhaps_done=True),
            Situation(is_late=True, tries=Tries(1)): DatabaseUnavailable,
        },
    ),
    "send refused": (
        SendRefused(),
        "refused",
        Connections.CLOSE,
        {WRITE: ITSELF, READ: ITSELF, REPEATABLE: ITSELF, PERHAPS: ITSELF},
    ),
    "took too long for others": (
        TookTooLong(),
        None,
        Connections.KEEP,
        {WRITE: repeated(3), REPEATABLE: repeated(3), LATE: repeated(2)},
    ),
    "rolled back with another": (
        RolledBack(),
        None,
        Connections.KEEP,
        {WRITE: repeated(3), REPEATABLE: repeated(3), LATE: repeated(2)},
    ),
    "answer lost": (
        AnswerLost(),
        "connection",
        Connections.CLOSE,
        {
            WRITE: OutcomeUnknown,
            READ: repeated(2),
            REPEATABLE: repeated(2, perhaps_done=True),
            TWO_LEFT: repeated(1, perhaps_done=True, after=PAUSE_SECONDS),
            Situation(writes=False, tries=Tries(2)): repeated(1, after=PAUSE_SECONDS),
            Situation(writes=False, tries=Tries(1)): DatabaseUnavailable,
            PERHAPS_ONE_LEFT: OutcomeUnknown,
            FIND_OUT: repeated(2, perhaps_done=True),
        },
    ),
    "no answer in time": (
        TimeoutError(),
        "timeout",
        Connections.CLOSE,
        {WRITE: OutcomeUnknown, REPEATABLE: OutcomeUnknown, READ: DatabaseUnavailable, FIND_OUT: OutcomeUnknown},
    ),
    "08006 connection failure": (
        sqlstate("08006"),
        "08",
        Connections.CLOSE,
        {WRITE: OutcomeUnknown, READ: repeated(2), REPEATABLE: repeated(2, perhaps_done=True)},
    ),
    "08006 a node of Citus refuses connections": (
        sqlstate(
            "08006",
            "connection to the remote node app@worker:5432 failed with the following error: Connection refused",
        ),
        "08",
        Connections.KEEP,
        {WRITE: repeated(2), READ: repeated(2), ONE_LEFT: DatabaseUnavailable, PERHAPS_ONE_LEFT: OutcomeUnknown},
    ),
    "08006 a node of Citus does not answer": (
        sqlstate("08006", "could not establish any connections to the node worker:5432 after 30000 ms"),
        "08",
        Connections.KEEP,
        {WRITE: DatabaseUnavailable, READ: DatabaseUnavailable, PERHAPS: OutcomeUnknown},
    ),
    "08006 a node of Citus is starting": (
        sqlstate(
            "08006",
            "connection to the remote node app@worker:5432 failed with the following error: FATAL:  the database system"
            " is starting up",
        ),
        "08",
        Connections.KEEP,
        {WRITE: repeated(2), ONE_LEFT: DatabaseUnavailable},
    ),
    "08006 a node of Citus ended": (
        sqlstate(
            "08006",
            "connection to the remote node app@worker:5432 failed with the following error: server closed the"
            " connection unexpectedly",
        ),
        "08",
        Connections.CLOSE,
        {WRITE: OutcomeUnknown, READ: repeated(2)},
    ),
    "XX000 a node of Citus was lost while it committed": (
        sqlstate("XX000", "could not commit transaction for shard 102040 on at least one active node"),
        "XX",
        Connections.KEEP,
        {WRITE: OutcomeUnknown, REPEATABLE: repeated(2, perhaps_done=True)},
    ),
    "XX000 a node of Citus was lost": (
        sqlstate("XX000", "failure on connection marked as essential: worker:5432"),
        "XX",
        Connections.KEEP,
        {WRITE: OutcomeUnknown, READ: repeated(2), REPEATABLE: repeated(2, perhaps_done=True)},
    ),
    "0A000 stale plan": (
        sqlstate("0A000"),
        "0A",
        Connections.CLOSE,
        {WRITE: repeated(2), READ: repeated(2), ONE_LEFT: ITSELF, PERHAPS_ONE_LEFT: ITSELF},
    ),
    "26000 statement unknown": (
        sqlstate("26000"),
        "26",
        Connections.UNPREPARE,
        {WRITE: repeated(2), READ: repeated(2), ONE_LEFT: ITSELF},
    ),
    "42P05 statement known already": (
        sqlstate("42P05"),
        "42",
        Connections.UNPREPARE,
        {WRITE: repeated(2), READ: repeated(2), ONE_LEFT: ITSELF},
    ),
    "25006 read-only": (
        sqlstate("25006"),
        "25",
        Connections.KEEP,
        {WRITE: WritesUnavailable, READ: DatabaseUnavailable, PERHAPS: OutcomeUnknown},
    ),
    "25006 read-only, no more the primary": (
        sqlstate("25006"),
        "25",
        Connections.CLOSE_IDLE,
        {
            PRIMARY: repeated(2),
            Situation(wants_primary=True, tries=Tries(1)): WritesUnavailable,
            Situation(wants_primary=True, writes=False, tries=Tries(1)): DatabaseUnavailable,
        },
    ),
    "40000 rollback": (sqlstate("40000"), "40", Connections.KEEP, {WRITE: DatabaseUnavailable}),
    "40001 serialization failure": (
        sqlstate("40001"),
        "40",
        Connections.KEEP,
        {WRITE: repeated(2), LATE: repeated(2), ONE_LEFT: DatabaseUnavailable, PERHAPS_ONE_LEFT: OutcomeUnknown},
    ),
    "40P01 deadlock": (
        sqlstate("40P01"),
        "40",
        Connections.KEEP,
        {WRITE: repeated(2), ONE_LEFT: DatabaseUnavailable},
    ),
    "40003 completion unknown": (
        sqlstate("40003"),
        "40",
        Connections.KEEP,
        {WRITE: OutcomeUnknown, READ: repeated(2), REPEATABLE: repeated(2, perhaps_done=True)},
    ),
    "53200 out of memory": (
        sqlstate("53200"),
        "53",
        Connections.KEEP,
        {WRITE: DatabaseUnavailable, READ: DatabaseUnavailable},
    ),
    "53100 disk full": (
        sqlstate("53100"),
        "53",
        Connections.KEEP,
        {WRITE: WritesUnavailable, READ: DatabaseUnavailable},
    ),
    "55P03 lock not available": (sqlstate("55P03"), "55", Connections.KEEP, {WRITE: DatabaseUnavailable}),
    "57000 operator intervention": (sqlstate("57000"), "57", Connections.KEEP, {WRITE: DatabaseUnavailable}),
    "57014 query canceled": (
        sqlstate("57014"),
        "57",
        Connections.KEEP,
        {WRITE: DatabaseUnavailable, READ: DatabaseUnavailable, PERHAPS: OutcomeUnknown},
    ),
    "57P01 server ends": (
        sqlstate("57P01"),
        "57",
        Connections.CLOSE_IDLE,
        {
            WRITE: repeated(3),
            LATE: repeated(2),
            ONE_LEFT: repeated(1),
            Situation(is_late=True, tries=Tries(1)): DatabaseUnavailable,
        },
    ),
    "57P02 server crashes": (
        sqlstate("57P02"),
        "57",
        Connections.CLOSE,
        {WRITE: OutcomeUnknown, READ: repeated(2), REPEATABLE: repeated(2, perhaps_done=True)},
    ),
    "57P05 idle session ended": (
        sqlstate("57P05"),
        "57",
        Connections.CLOSE,
        {WRITE: repeated(3), LATE: repeated(2)},
    ),
    "58030 input or output error": (sqlstate("58030"), "58", Connections.KEEP, {WRITE: DatabaseUnavailable}),
    "23505 unique violation": (
        sqlstate("23505"),
        "23",
        Connections.KEEP,
        {WRITE: ITSELF, READ: ITSELF, PERHAPS: ITSELF},
    ),
    "42501 insufficient privilege": (sqlstate("42501"), "42", Connections.KEEP, {WRITE: ITSELF}),
    "XX000 internal error": (sqlstate("XX000"), "XX", Connections.KEEP, {WRITE: ITSELF}),
    "ZZ123 of an extension": (sqlstate("ZZ123"), "ZZ", Connections.KEEP, {WRITE: ITSELF}),
}

CASES = [
    pytest.param(error, metric, situation, expected, id=f"{name}: {situation}".replace("Situation", ""))
    for name, (error, metric, _, cases) in TABLE.items()
    for situation, expected in cases.items()
]


@pytest.mark.parametrize(("error", "metric", "situation", "expected"), CASES)
def test_a_failure_is_judged_by_the_table(
    error: psycopg.Error | TimeoutError,
    metric: str | None,
    situation: Situation,
    expected: tuple[int, bool, float] | type[DatabaseUnavailable] | None,
) -> None:
    verdict = judge(
        error,
        situation.tries,
        writes=situation.writes,
        repeatable=situation.repeatable,
        wants_primary=situation.wants_primary,
        is_late=situation.is_late,
    )

    if isinstance(expected, tuple):
        left, perhaps_done, pause_seconds = expected
        keeps_out = situation.writes and find(error).keeps_out
        assert verdict == Verdict(True, pause_seconds, Tries(left, perhaps_done), None, metric, keeps_out)
    else:
        assert (verdict.is_repeated, verdict.pause_seconds) == (False, 0)
        assert (verdict.outside, verdict.metric) == (expected, metric)


@pytest.mark.parametrize(
    ("error", "connections", "wants_primary"),
    [
        pytest.param(error, connections, connections is Connections.CLOSE_IDLE, id=name)
        for name, (error, _, connections, _) in TABLE.items()
    ],
)
def test_a_failure_tells_what_becomes_of_connections(
    error: psycopg.Error | TimeoutError, connections: Connections, wants_primary: bool
) -> None:
    assert find(error, wants_primary=wants_primary).connections is connections


def test_a_failure_that_would_come_again_keeps_its_users_writes_out_of_shared_transactions() -> None:
    keeping_out = {name for name, (error, *_) in TABLE.items() if find(error).keeps_out}

    assert keeping_out == {
        "send refused",
        "took too long for others",
        "55P03 lock not available",
        "57014 query canceled",
        "23505 unique violation",
        "42501 insufficient privilege",
        "XX000 internal error",
        "ZZ123 of an extension",
    }


def test_every_row_is_tried() -> None:
    tried = [find(error) for error, *_ in TABLE.values()]

    assert [key for key, row in FAILURES.items() if not any(row is other for other in tried)] == []


def test_no_statement_is_run_for_ever() -> None:
    """From some time on it is late, and then each failure takes a try."""
    for error, *_ in TABLE.values():
        tries, turns = Tries(perhaps_done=True), 0
        while turns < 10:
            verdict = judge(error, tries, writes=True, repeatable=True, wants_primary=True, is_late=True)
            if not verdict.is_repeated:
                break
            tries, turns = verdict.tries, turns + 1
        assert turns < 3, error


def test_the_docstring_draws_the_hierarchy() -> None:
    drawn = {}
    parents: list[tuple[int, str]] = [(-1, "Exception")]
    for line in failures.__doc__.splitlines():
        if line.startswith("    ") and line.strip():
            depth, name = len(line) - len(line.lstrip()), line.split()[0]
            parents = [parent for parent in parents if parent[0] < depth]
            drawn[name] = parents[-1][1].removeprefix("psycopg.")
            parents.append((depth, name))

    assert {
        name: parent for name, parent in drawn.items() if name not in ("psycopg.OperationalError", "TimeoutError")
    } == {
        name: kind.__base__.__name__
        for name, kind in inspect.getmembers(failures, inspect.isclass)
        if issubclass(kind, Exception) and kind.__module__ == failures.__name__
    }
