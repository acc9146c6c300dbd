"""Migrations distribute the tables where there is Citus, and `taskpact check` says whether claims reach its shards.

The extension is a stub, which refuses what was seen to be refused by a real one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import psycopg
import pytest
from click.testing import CliRunner

from app.cli import main
from db.embedded import embedded_server
from db.schema.checks import check_database
from db.schema.migrate import migrate
from db.schema.recommendations import inspect_database
from db.statements import Statement
from db.tasks import Tasks, User
from db.wire.pool import Pool
from support import citus_stub
from support.database import fetch, new_database
from support.people import SECRET

pytestmark = pytest.mark.skipif("TEST_DATABASE_URL" in os.environ, reason="the stub needs the embedded server")

DISTRIBUTED = """
    select logicalrelid::text, partkey, count(*) over (partition by colocationid) from pg_dist_partition
    where logicalrelid::oid in (select oid from pg_class) order by 1
"""
IN_FORCE = """
    select (select rolcanlogin from pg_roles where rolname = 'taskpact_api'),
        (select array_agg(relname || relrowsecurity || relforcerowsecurity order by relname) from pg_class
         where relname in ('users', 'tasks')),
        has_column_privilege('taskpact_api', 'tasks', 'created_at', 'INSERT'),
        current_setting('citus.propagate_set_commands', true), current_setting('citus.enable_unsafe_triggers', true)
"""
FORCED = ["taskstruetrue", "userstruetrue"]
NOT_FORCED = ["taskstruefalse", "userstruefalse"]
TASKS = "select user_id, id, title, version, created_at, updated_at from tasks order by id"


@pytest.fixture(scope="module")
def stub_cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server on which databases may have the stub."""
    with embedded_server(tmp_path_factory.mktemp("citus")) as url:
        citus_stub.install(url)
        yield url


@pytest.fixture
def plain_url(stub_cluster_url: str) -> Iterator[str]:
    with new_database(stub_cluster_url) as url:
        yield url


@pytest.fixture
def citus_url(plain_url: str) -> str:
    citus_stub.create(plain_url)
    return plain_url


def fill(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("insert into users (id) values ('alice'), ('bob')")
        connection.execute(
            "insert into tasks (user_id, id, title)"
            " select case n % 2 when 0 then 'alice' else 'bob' end, gen_random_uuid(), 'x' from generate_series(1, 9) n"
        )


def check(url: str, **variables: str) -> dict[str, tuple[bool, str]]:
    return {
        row.name: (row.passed, row.detail)
        for row in inspect_database(url, prepare=False, claims=variables.get("claims", "auto"), pool_size=1)
    }


def command(url: str, *arguments: str) -> str:
    result = CliRunner().invoke(main, arguments, env={"DATABASE_URL": url, "JWT_SECRET": SECRET})
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.requirement("DR-04", "SR-03")
@pytest.mark.parametrize("filled", [False, True], ids=["empty", "filled"])
def test_migrations_distribute_and_going_down_brings_plain_tables_back(citus_url: str, filled: bool) -> None:
    migrate(citus_url)
    if filled:
        fill(citus_url)
    before = fetch(citus_url, TASKS)

    assert fetch(citus_url, DISTRIBUTED) == [("tasks", "user_id", 2), ("users", "id", 2)]
    assert fetch(citus_url, IN_FORCE) == [(True, NOT_FORCED, True, "local", "on")]
    assert all(row.passed for row in check_database(citus_url))
    migrate(citus_url, "0002")
    assert fetch(citus_url, DISTRIBUTED) == []
    assert fetch(citus_url, IN_FORCE) == [(True, FORCED, False, None, None)]
    migrate(citus_url)
    assert fetch(citus_url, DISTRIBUTED) == [("tasks", "user_id", 2), ("users", "id", 2)]
    assert fetch(citus_url, TASKS) == before
    migrate(citus_url, "base")
    assert fetch(citus_url, DISTRIBUTED) == []


@pytest.mark.requirement("SR-03", "SC-10")
@pytest.mark.parametrize("how", ["migrate", "printed"])
def test_force_is_found_on_distributed_tables_and_taken_off(citus_url: str, how: str) -> None:
    migrate(citus_url)
    with psycopg.connect(citus_url) as owner:
        owner.execute("alter table tasks force row level security")
    found = check_database(citus_url)[-1]
    assert (found.name, found.passed) == ("policies", False)
    assert "Citus would lose" in found.detail

    if how == "migrate":
        migrate(citus_url)
    else:
        with psycopg.connect(citus_url, autocommit=True) as connection:
            connection.execute(command(citus_url, "migrate", "--sql"))

    assert check_database(citus_url)[-1].passed
    assert command(citus_url, "migrate", "--sql") == ""


@pytest.mark.requirement("DR-04")
@pytest.mark.parametrize("how", ["migrate", "printed"])
def test_an_extension_that_comes_later_needs_only_another_migrate(plain_url: str, how: str) -> None:
    migrate(plain_url)
    fill(plain_url)
    assert command(plain_url, "migrate", "--sql") == ""
    citus_stub.create(plain_url)
    assert not check(plain_url)["shards"][0]

    if how == "migrate":
        command(plain_url, "migrate")
    else:
        with psycopg.connect(plain_url, autocommit=True) as connection:
            connection.execute(command(plain_url, "migrate", "--sql"))

    assert check(plain_url)["shards"] == (True, "users and tasks are distributed over 2 nodes, and claims reach them")
    assert command(plain_url, "migrate", "--sql") == ""


@pytest.mark.requirement("DR-04")
@pytest.mark.parametrize("function", ["create_distributed_table", "undistribute_table"])
def test_rows_that_would_be_lost_stop_it(citus_url: str, function: str) -> None:
    """As they would be if forced policies hid them from whoever moves them."""
    migrate(citus_url)
    fill(citus_url)
    if function == "create_distributed_table":
        migrate(citus_url, "0002")
    distributed = fetch(citus_url, DISTRIBUTED)
    with psycopg.connect(citus_url, autocommit=True) as owner:
        (body,) = owner.execute("select pg_get_functiondef(%s::regproc)", [f"pg_catalog.{function}"]).fetchone()
        owner.execute(body.replace("begin", "begin delete from tasks;", 1))

    with pytest.raises(Exception, match="rows were lost"):
        migrate(citus_url, *(["0002"] if function == "undistribute_table" else []))

    assert fetch(citus_url, DISTRIBUTED) == distributed
    assert len(fetch(citus_url, TASKS)) == 9


REFUSE = """
    create function refuse() returns trigger language plpgsql as $$
    begin raise insufficient_privilege using message = 'new row violates row-level security policy'; end $$;
    create trigger refuse before insert on users execute function refuse()
"""


@pytest.mark.requirement("SR-03", "NF-03")
@pytest.mark.parametrize(
    ("damage", "claims", "says"),
    [
        pytest.param(
            "delete from pg_dist_partition where logicalrelid = 'tasks'::regclass",
            "auto",
            "not distributed: run `taskpact migrate`",
            id="not-distributed",
        ),
        pytest.param("select 1", "set_config", "DATABASE_CLAIMS=set_config does not reach the shards", id="set-config"),
        pytest.param(REFUSE, "auto", "citus.propagate_set_commands must be local", id="refused"),
        pytest.param(
            "alter table users disable row level security",
            "auto",
            "claims do not reach the shards",
            id="seen-by-others",
        ),
    ],
)
def test_the_check_asks_the_shards(citus_url: str, damage: str, claims: str, says: str) -> None:
    migrate(citus_url)
    with psycopg.connect(citus_url, autocommit=True) as owner:
        owner.execute(damage)

    passed, detail = check(citus_url, claims=claims)["shards"]

    assert not passed
    assert says in detail
    assert fetch(citus_url, "select count(*) from users") == [(0,)]


LOSE_ONE = """
    create function lose() returns trigger language plpgsql as $$
    begin
        if get_shard_id_for_distribution_column('users', new.id) = 2 then
            raise connection_failure using message = 'connection to the remote node worker:5434 failed';
        end if;
        return new;
    end $$;
    create trigger lose before insert on users for each row execute function lose()
"""


@pytest.mark.requirement("NF-03", "SC-10")
def test_the_check_asks_every_node_names_the_one_that_is_lost_and_goes_on(citus_url: str) -> None:
    migrate(citus_url)
    with psycopg.connect(citus_url, autocommit=True) as owner:
        owner.execute(LOSE_ONE)

    rows = inspect_database(citus_url, prepare=True, claims="auto", pool_size=1)

    assert [row.name for row in rows if not row.passed] == ["shards"]
    shards = next(row for row in rows if row.name == "shards")
    assert shards.detail.startswith("1 of 2 nodes do not answer: worker:5434: ")
    assert rows[-1].name == "prepared statements"


@pytest.mark.requirement("NF-03")
@pytest.mark.parametrize(
    ("has_citus", "claims", "told_by"),
    [
        pytest.param(False, "auto", "user", id="plain"),
        pytest.param(True, "auto", "begin", id="citus"),
        pytest.param(True, "set_config", "claims", id="citus-set-config"),
        pytest.param(False, "set_config", "claims", id="plain-set-config"),
        pytest.param(False, "set_local", "begin", id="plain-set-local"),
    ],
)
def test_the_database_says_how_claims_travel(plain_url: str, has_citus: bool, claims: str, told_by: str) -> None:
    if has_citus:
        citus_stub.create(plain_url)
    migrate(plain_url)
    told = Statement(
        b"told",
        b"select split_part(name, '_', 1) from pg_prepared_statements"
        b" where split_part(name, '_', 1) in ('user', 'claims', 'begin')",
        (),
    )

    async def ask() -> None:
        async with Pool(plain_url, size=1, claims=claims) as pool:
            await Tasks(pool).create(User("alice"), title="x", description=None)
            assert await pool.run("alice", told, ()) == [(told_by.encode(),)]

    asyncio.run(ask())
