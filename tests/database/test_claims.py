"""All ways in which claims travel: who asks is told exactly, and nothing stays of it, whatever goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from psycopg import errors, pq
from psycopg.conninfo import make_conninfo

from db.statements import SESSION_CLAIMS, Statement
from db.tasks import Tasks, User
from db.wire.connection import Connection
from db.wire.pool import Pool
from support.connections import connected, pgconn_of

WAYS = ["session", "set_config", "set_local"]

WHO = Statement(b"who", b"select current_user, current_setting('taskpact.user_id')", ())
SETTINGS = Statement(
    b"settings",
    b"select current_setting('role'), current_setting('TimeZone'), current_setting('statement_timeout'),"
    b" current_setting('taskpact.user_id')",
    (),
)
OUTSIDE = (
    "select current_setting('role'), current_setting('taskpact.user_id', true), current_setting('statement_timeout')"
)

CHARACTERS = st.sampled_from("'\"\\$;-%\n\t eE{}\u0085€😀\u202e") | st.characters(
    exclude_categories=["Cs"], exclude_characters="\0"
)
USER_IDS = st.text(CHARACTERS, min_size=1, max_size=255)


@pytest.fixture(params=WAYS)
def claims(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.fixture(scope="module", params=["on", "off"])
def literal_connection(
    database_url: str, runner: asyncio.Runner, request: pytest.FixtureRequest
) -> Iterator[Connection]:
    """Claims are literals here, and a backslash means itself, or does not."""
    url = make_conninfo(database_url, options=f"-c standard_conforming_strings={request.param}")

    async def connect() -> Connection:
        return await Connection.connect(
            url, prepare=True, claims="set_local", statement_seconds=5, on_lost=lambda _: None
        )

    connection = runner.run(connect())
    yield connection
    runner.run(asyncio.sleep(0))
    connection.close()


@pytest.mark.requirement("SR-03", "SR-09")
@given(user_id=USER_IDS)
def test_no_user_id_breaks_out_of_its_literal(
    literal_connection: Connection, runner: asyncio.Runner, user_id: str
) -> None:
    rows = runner.run(literal_connection.run(user_id.encode(), WHO, ()))

    assert rows == [(b"taskpact_api", user_id.encode())]


@pytest.mark.requirement("SR-03", "SR-09")
@pytest.mark.parametrize(
    "user_id",
    [
        pytest.param("'; reset role; --", id="quote"),
        pytest.param("\\'; reset role; --", id="backslash-quote"),
        pytest.param("\\", id="backslash"),
        pytest.param("' || current_user || '", id="concatenation"),
        pytest.param("$$; reset role; $$", id="dollars"),
        pytest.param("E'\\x27", id="escape-string"),
        pytest.param("😀" * 255, id="longest"),
        pytest.param("\\" * 255, id="all-backslashes"),
        pytest.param("'" * 255, id="all-quotes"),
        pytest.param("default", id="a-word-of-the-command"),
    ],
)
def test_a_hostile_user_id_arrives_as_it_is(
    literal_connection: Connection, runner: asyncio.Runner, user_id: str
) -> None:
    rows = runner.run(literal_connection.run(user_id.encode(), WHO, ()))

    assert rows == [(b"taskpact_api", user_id.encode())]


@pytest.mark.requirement("SR-03")
@pytest.mark.parametrize("prepare", [True, False], ids=["prepared", "not-prepared"])
def test_all_ways_tell_the_same_and_leave_no_user(database_url: str, claims: str, prepare: bool) -> None:
    left_alone = [b"taskpact_api", b"", b"5s"] if claims == "session" else [b"none", b"", b"0"]

    async def main() -> None:
        async with connected(database_url, claims=claims, prepare=prepare) as (connection, _):
            pgconn = pgconn_of(connection)
            for name in (b"alice", b"bob"):
                assert await connection.run(name, SETTINGS, ()) == [(b"taskpact_api", b"UTC", b"5s", name)]
            asyncio.get_running_loop().remove_reader(pgconn.socket)
            pgconn.exit_pipeline_mode()
            pgconn.nonblocking = 0
            left = pgconn.exec_(OUTSIDE.encode())
            assert [left.get_value(0, column) for column in range(3)] == left_alone

    uvloop.run(main())


@pytest.mark.requirement("SR-03")
def test_a_session_that_others_may_have_in_between_is_told_nothing(database_url: str) -> None:
    """A pooler tells its clients of a process that does not exist."""
    settings = "select current_setting('role'), current_setting('statement_timeout')"

    async def main() -> None:
        async with connected(database_url, claims="set_config") as (connection, _):
            pgconn = pgconn_of(connection)
            assert await connection.run(b"alice", SESSION_CLAIMS, (b"5s", b"%d" % (pgconn.backend_pid + 1))) == []
            asyncio.get_running_loop().remove_reader(pgconn.socket)
            pgconn.exit_pipeline_mode()
            pgconn.nonblocking = 0
            left = pgconn.exec_(settings.encode())
            assert [left.get_value(0, column) for column in range(2)] == [b"none", b"0"]

    uvloop.run(main())


FAILURES = [
    pytest.param("select 1 / 0", errors.DivisionByZero, id="statement"),
    pytest.param("select * from nowhere", errors.UndefinedTable, id="syntax"),
    pytest.param("insert into users (id) values ('somebody-else')", errors.InsufficientPrivilege, id="policy"),
    pytest.param("select pg_sleep(30)", errors.QueryCanceled, id="time-out"),
    pytest.param("set local transaction_read_only = off; select 1", errors.SyntaxError, id="two-commands"),
]


@pytest.mark.requirement("SC-04")
@pytest.mark.parametrize(("sql", "error"), FAILURES)
@pytest.mark.parametrize("prepare", [True, False], ids=["prepared", "not-prepared"])
def test_a_failure_leaves_no_transaction_open(
    database_url: str, claims: str, prepare: bool, sql: str, error: type[psycopg.Error]
) -> None:
    failing = Statement(b"failing", sql.encode(), ())

    async def main() -> None:
        async with connected(database_url, claims=claims, prepare=prepare, statement_seconds=0.3) as (connection, _):
            pgconn = pgconn_of(connection)
            for name in (b"alice", b"bob"):
                with pytest.raises(error):
                    await connection.run(name, failing, ())
                assert pgconn.transaction_status == pq.TransactionStatus.IDLE
                assert await connection.run(name, WHO, ()) == [(b"taskpact_api", name)]
            assert not connection.is_lost

    uvloop.run(main())


@pytest.mark.requirement("SR-12", "SC-04")
def test_what_fails_with_the_commit_is_told_and_undone(own_database: str, claims: str) -> None:
    with psycopg.connect(own_database, autocommit=True) as owner:
        owner.execute("alter table tasks alter constraint tasks_user_id_fkey deferrable initially deferred")
    task = Statement(b"task", b"insert into tasks (user_id, id, title) values ('alice', $1, 'x')", ("id",))

    async def main() -> None:
        async with connected(own_database, claims=claims) as (connection, _):
            pgconn = pgconn_of(connection)
            with pytest.raises(errors.ForeignKeyViolation):
                await connection.run(b"alice", task, (str(uuid4()).encode(),))
            assert pgconn.transaction_status == pq.TransactionStatus.IDLE
            assert await connection.run(b"bob", WHO, ()) == [(b"taskpact_api", b"bob")]

    uvloop.run(main())
    with psycopg.connect(own_database) as owner:
        assert owner.execute("select count(*) from tasks").fetchone() == (0,)


@pytest.mark.requirement("SC-04")
def test_a_value_that_no_socket_takes_at_once_goes_either_way(database_url: str, claims: str) -> None:
    echo = Statement(b"echo", b"select $1::text", ("text",))
    value = b"0123456789abcdef" * 500_000

    async def main() -> None:
        async with connected(database_url, claims=claims, statement_seconds=60) as (connection, _):
            assert await connection.run(b"alice", echo, (value,)) == [(value,)]

    uvloop.run(main())


@pytest.mark.requirement("SR-03", "SC-04")
def test_callers_of_one_connection_never_see_each_others_claims(database_url: str, claims: str) -> None:
    fail = Statement(b"fail", b"select 1 / $1::integer", ("divisor",))

    async def main() -> None:
        async with Pool(database_url, size=1, claims=claims, wait_seconds=30) as pool:

            async def caller(number: int) -> None:
                name = f"user-{number}"
                for turn in range(10):
                    if (number + turn) % 3 == 0:
                        with pytest.raises(errors.DivisionByZero):
                            await pool.run(name, fail, (b"0",))
                    assert await pool.run(name, WHO, ()) == [(b"taskpact_api", name.encode())]

            await asyncio.gather(*map(caller, range(20)))

    uvloop.run(main())


@pytest.mark.requirement("SR-03")
def test_tasks_are_their_owners_either_way(database_url: str, claims: str) -> None:
    alice, bob = User(f"alice-{uuid4()}"), User(f"bob's \\ {uuid4()}")

    async def main() -> None:
        async with Pool(database_url, size=1, claims=claims) as pool:
            tasks = Tasks(pool)
            for user in (alice, bob):
                await tasks.create(user, title=user.id, description=None)
            for user in (alice, bob):
                page = await tasks.page(user, limit=10, cursor=None, completed=None)
                assert len(page.items) == 1

    uvloop.run(main())
