"""Connections of the wire without their pool, and the statements that are tried on both."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import psycopg
import uvloop
from psycopg.pq.abc import PGconn

from db.statements import Statement
from db.wire.connection import Claims, Connection

WHO = Statement(b"who", b"select current_user, current_setting('taskpact.user_id'), current_setting('TimeZone')", ())
SLEEP = Statement(b"sleep", b"select pg_sleep(30)", ())
FAIL = Statement(b"fail", b"select 1 / $1::integer", ("divisor",))
ECHO = Statement(b"echo", b"select $1::text", ("text",))


def run(main: Callable[[], Coroutine[object, object, None]]) -> None:
    """Runs it on the event loop that the service uses."""
    uvloop.run(main())


@asynccontextmanager
async def connected(
    url: str, *, claims: Claims = "auto", prepare: bool = True, statement_seconds: float = 5
) -> AsyncIterator[tuple[Connection, list[Connection]]]:
    """A connection, and the list in which it says that it is lost."""
    lost: list[Connection] = []
    connection = await Connection.connect(
        url, prepare=prepare, claims=claims, statement_seconds=statement_seconds, on_lost=lost.append
    )
    try:
        yield connection, lost
    finally:
        connection.close()


def pgconn_of(connection: Connection) -> PGconn:
    """What a connection is made of: what it leaves in its session cannot be seen otherwise."""
    return connection._pgconn  # noqa: SLF001


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds


def active(url: str, query: str) -> int:
    """How many sessions of this database are just running a query like this one."""
    command = (
        "select count(*) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid() and state = 'active' and query like %s"
    )
    with psycopg.connect(url) as observer:
        (count,) = observer.execute(command, [f"%{query}%"]).fetchone()
        return count
