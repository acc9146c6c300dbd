"""A connection comes through what goes wrong on a wire, and is never used again with anything left on it."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import psycopg
import pytest
import uvloop
from psycopg import errors

from db.statements import Statement
from support.connections import ECHO, FAIL, SLEEP, WHO, active, connected, run, until
from support.proxy import Proxy

SESSION = "select current_user, coalesce(current_setting('taskpact.user_id', true), '')"


@pytest.mark.requirement("SR-03", "SR-08")
def test_claims_hold_for_one_statement_and_are_gone_after_it(database_url: str, prepare: bool) -> None:
    async def main() -> None:
        async with connected(database_url, prepare=prepare) as (connection, _):
            for name in (b"alice", b"bob", b"alice"):
                assert await connection.run(name, WHO, ()) == [(b"taskpact_api", name, b"UTC")]
            with pytest.raises(errors.DivisionByZero):
                await connection.run(b"carol", FAIL, (b"0",))
            assert await connection.run(b"", WHO, ()) == [(b"taskpact_api", b"", b"UTC")]

    run(main)


def test_a_failed_statement_leaves_the_connection_usable(database_url: str, prepare: bool) -> None:
    async def main() -> None:
        async with connected(database_url, prepare=prepare) as (connection, lost):
            for divisor in (b"0", b"1", b"0", b"x", b"1"):
                try:
                    rows = await connection.run(b"alice", FAIL, (divisor,))
                except psycopg.DataError:
                    assert divisor != b"1"
                else:
                    assert (divisor, rows) == (b"1", [(b"1",)])
            assert lost == []

    run(main)


def test_a_failed_statement_undoes_what_came_before_it_in_its_pipeline(database_url: str) -> None:
    """The claims are the transaction's first message: they fail with the second."""
    name = f"user-{uuid4().hex}"
    insert = Statement(
        b"i", b"with u as (insert into users (id) values ($1) returning id) select 1 / 0 from u", ("id",)
    )

    async def main() -> None:
        async with connected(database_url) as (connection, _):
            with pytest.raises(errors.DivisionByZero):
                await connection.run(name.encode(), insert, (name.encode(),))

    run(main)
    with psycopg.connect(database_url) as owner:
        assert owner.execute("select count(*) from users where id = %s", [name]).fetchone() == (0,)


def test_a_value_that_no_socket_takes_at_once_arrives_whole(database_url: str, prepare: bool) -> None:
    value = b"0123456789abcdef" * 2_000_000

    async def main() -> None:
        async with connected(database_url, prepare=prepare, statement_seconds=60) as (connection, _):
            assert await connection.run(b"alice", ECHO, (value,)) == [(value,)]
            assert await connection.run(b"alice", ECHO, (b"small",)) == [(b"small",)]

    run(main)


def test_the_server_ends_a_statement_in_time_and_the_connection_stays_clean(database_url: str, prepare: bool) -> None:
    async def main() -> None:
        async with connected(database_url, prepare=prepare, statement_seconds=0.5) as (connection, lost):
            for name in (b"alice", b"bob"):
                with pytest.raises(errors.QueryCanceled):
                    await connection.run(name, SLEEP, ())
                assert await connection.run(name, WHO, ()) == [(b"taskpact_api", name, b"UTC")]
            assert lost == []

    run(main)
    assert until(lambda: active(database_url, "pg_sleep") == 0)


def test_a_request_that_is_cancelled_in_mid_flight_takes_its_connection_with_it(database_url: str) -> None:
    async def main() -> None:
        async with connected(database_url) as (connection, lost):
            task = asyncio.ensure_future(connection.run(b"alice", SLEEP, ()))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert connection.is_lost
            while not lost:
                await asyncio.sleep(0.01)

    run(main)
    assert until(lambda: active(database_url, "pg_sleep") == 0)


def test_a_server_that_falls_silent_takes_its_connection_with_it(database_url: str) -> None:
    async def main(proxy: Proxy) -> None:
        async with connected(proxy.url, statement_seconds=0.1) as (connection, lost):
            proxy.is_black_hole = True
            with pytest.raises(TimeoutError):
                await connection.run(b"alice", WHO, ())
            assert connection.is_lost
            while not lost:
                await asyncio.sleep(0.01)

    with Proxy(database_url) as proxy:
        uvloop.run(main(proxy))


@pytest.mark.parametrize("moment", ["idle", "waiting"])
def test_a_connection_that_the_server_closes_is_known_to_be_lost(database_url: str, moment: str) -> None:
    async def main() -> None:
        async with connected(database_url) as (connection, lost):
            ((pid,),) = await connection.run(b"a", Statement(b"pid", b"select pg_backend_pid()", ()), ())
            waiting = asyncio.ensure_future(connection.run(b"a", SLEEP, ())) if moment == "waiting" else None
            await asyncio.sleep(0.1)
            with psycopg.connect(database_url) as owner:
                owner.execute("select pg_terminate_backend(%s)", [int(pid)])
            if waiting:
                with pytest.raises(psycopg.OperationalError):
                    await waiting
            for _ in range(500):
                await asyncio.sleep(0.01)
                if lost:
                    break
            assert lost == [connection]

    run(main)


def test_a_connection_that_is_cut_in_mid_answer_is_lost(database_url: str) -> None:
    big = Statement(b"big", b"select repeat('x', 100000000)", ())

    async def main(proxy: Proxy) -> None:
        async with connected(proxy.url) as (connection, lost):
            waiting = asyncio.ensure_future(connection.run(b"a", big, ()))
            await asyncio.sleep(0.05)
            await asyncio.to_thread(proxy.cut)
            with pytest.raises(psycopg.OperationalError):
                await waiting
            assert lost == [connection]

    with Proxy(database_url) as proxy:
        uvloop.run(main(proxy))
