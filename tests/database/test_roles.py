"""The service runs whoever logs in, always as a role that policies bind, and refuses to run where they would not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import uuid4

import psycopg
import pytest
from click.testing import CliRunner, Result
from psycopg import errors
from sqlalchemy import Connection, text
from starlette.types import Message

from app.application import StartRefused, create_app
from app.cli import main
from app.settings import read_settings
from db.schema.checks import OWNER_COLUMNS, check_database, examine
from db.schema.engine import create_engine
from db.schema.migrate import migrate
from db.statements import API_ROLE
from support.database import OWNERS, execute, new_database, new_owner, new_role, with_role
from support.people import SECRET
from support.service import assert_keeps_users_apart


@contextmanager
def without_role(cluster_url: str) -> Iterator[None]:
    """The cluster without the service's role; what it was granted elsewhere is kept under another name meanwhile."""
    aside = f"taskpact_test_{uuid4().hex}"
    with psycopg.connect(cluster_url, autocommit=True) as connection:
        exists = connection.execute("select from pg_roles where rolname = %s", [API_ROLE]).fetchone() is not None
    if exists:
        execute(cluster_url, "alter role {} rename to {}", API_ROLE, aside)
    try:
        yield
    finally:
        if exists:
            execute(cluster_url, "drop role if exists {}", API_ROLE)
            execute(cluster_url, "alter role {} rename to {}", aside, API_ROLE)


@contextmanager
def owned_database(cluster_url: str, owner: str) -> Iterator[str]:
    with new_database(cluster_url, owner=owner) as url:
        yield with_role(url, owner)


def command(url: str, name: str) -> Result:
    return CliRunner().invoke(main, [name], env={"DATABASE_URL": url, "JWT_SECRET": SECRET, "PORT": "0"})


async def start(url: str) -> Message:
    """What the service answers to a server that asks it to start."""
    answers: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        answers.append(message)

    settings = read_settings({"DATABASE_URL": url, "JWT_SECRET": SECRET})
    with suppress(StartRefused):
        await create_app(settings)({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    return answers[0]


@pytest.mark.requirement("SR-08", "DR-04", "FR-15")
@pytest.mark.parametrize("kind", OWNERS)
def test_migrations_and_service_run_as_the_owner(cluster_url: str, kind: str) -> None:
    with without_role(cluster_url), new_owner(cluster_url, kind) as owner, owned_database(cluster_url, owner) as url:
        migrate(url)

        assert [check.detail for check in check_database(url) if not check.passed] == []
        assert_keeps_users_apart(url)

        migrate(url, "base")
        with psycopg.connect(cluster_url) as connection:
            left = connection.execute("select from pg_roles where rolname = %s", [API_ROLE]).fetchall()
        assert left == []


@pytest.mark.requirement("SR-08")
def test_the_service_runs_as_a_log_in_that_was_granted_nothing_but_the_role(cluster_url: str) -> None:
    with (
        new_role(cluster_url) as login,
        new_database(cluster_url) as owner_url,
    ):
        migrate(owner_url)
        execute(cluster_url, "grant {} to {}", API_ROLE, login)
        url = with_role(owner_url, login)

        assert [check.detail for check in check_database(url) if not check.passed] == []
        assert_keeps_users_apart(url)


@pytest.mark.requirement("SR-08")
def test_a_log_in_that_does_not_own_the_database_cannot_migrate_it(cluster_url: str) -> None:
    with new_role(cluster_url) as login, new_database(cluster_url) as owner_url:
        result = command(with_role(owner_url, login), "migrate")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: the database refused: permission denied for schema public\n"


@pytest.mark.requirement("SR-08")
def test_a_log_in_without_the_role_is_told_what_to_grant(cluster_url: str) -> None:
    with new_role(cluster_url) as login, new_database(cluster_url) as owner_url:
        migrate(owner_url)

        failed = check_database(with_role(owner_url, login))[-1]

    assert (failed.name, failed.passed) == ("role", False)
    assert f"`grant taskpact_api to {login}`" in failed.detail


@pytest.mark.requirement("DR-04")
def test_two_databases_of_one_owner_go_up_and_down_apart(cluster_url: str) -> None:
    with (
        without_role(cluster_url),
        new_owner(cluster_url) as owner,
        owned_database(cluster_url, owner) as first,
        owned_database(cluster_url, owner) as second,
    ):
        migrate(first)
        migrate(second)
        migrate(first, "base")

        assert all(check.passed for check in check_database(second))
        migrate(first)
        migrate(second, "base")
        assert all(check.passed for check in check_database(first))
        migrate(first, "base")


@pytest.mark.requirement("DR-04")
def test_a_second_owner_works_once_it_was_granted_the_role_and_is_told_so_before(cluster_url: str) -> None:
    with (
        without_role(cluster_url),
        new_owner(cluster_url) as first_owner,
        new_owner(cluster_url) as second_owner,
        owned_database(cluster_url, first_owner) as first,
        owned_database(cluster_url, second_owner) as second,
    ):
        migrate(first)
        result = command(second, "migrate")
        with psycopg.connect(cluster_url) as connection:
            version = connection.info.server_version
        assert result.exit_code == (version >= 160000)
        if result.exit_code:
            # Since PostgreSQL 16, CREATEROLE alone does not allow to grant a role that somebody else made.
            assert result.stderr == (
                "Error: the database refused: the role taskpact_api was made by somebody else,"
                f" who must run: grant taskpact_api to {second_owner}\n"
            )
            execute(first, f"grant {API_ROLE} to {second_owner}")
            migrate(second)

        assert all(check.passed for check in check_database(second))
        migrate(second, "base")
        assert all(check.passed for check in check_database(first))
        migrate(first, "base")


@pytest.mark.requirement("DR-04")
def test_an_owner_who_may_not_make_roles_is_told_what_to_ask_for(cluster_url: str) -> None:
    with (
        without_role(cluster_url),
        new_role(cluster_url) as owner,
        owned_database(cluster_url, owner) as url,
    ):
        result = command(url, "migrate")

        assert result.exit_code == 1
        assert result.stderr == (
            "Error: the database refused: whoever may make roles must run:"
            f" create role taskpact_api; grant taskpact_api to {owner}\n"
        )
        execute(cluster_url, "create role {}", API_ROLE)
        execute(cluster_url, "grant {} to {}", API_ROLE, owner)
        migrate(url)
        assert all(check.passed for check in check_database(url))
        migrate(url, "base")


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    """A transaction of the owner in which anything may be broken, and nothing stays."""
    with create_engine(database_url).connect() as connection:
        yield connection


BREAKAGES = [
    pytest.param("alter role taskpact_api superuser", "role", "must not be superuser", id="superuser"),
    pytest.param("alter role taskpact_api bypassrls", "role", "BYPASSRLS", id="bypassrls"),
    pytest.param("alter role taskpact_api createrole", "role", "CREATEROLE", id="createrole"),
    pytest.param("alter role taskpact_api rename to gone", "role", "run `taskpact migrate`", id="no-role"),
    pytest.param(
        "create role powerful bypassrls; grant powerful to taskpact_api", "role", "powerful", id="member-of-bypassrls"
    ),
    pytest.param(
        "create role owning; alter table tasks owner to owning; grant owning to taskpact_api",
        "role",
        "owning",
        id="member-of-the-owner",
    ),
    pytest.param("drop owned by taskpact_api", "database", "permission denied", id="no-grants"),
    pytest.param("drop table alembic_version", "schema", "run `taskpact migrate`", id="empty"),
    pytest.param("delete from alembic_version", "schema", "run `taskpact migrate`", id="no-version"),
    pytest.param(
        "update alembic_version set version_num = '0000'",
        "schema",
        "the schema is at 0000, the service needs",
        id="older",
    ),
    pytest.param(
        "update alembic_version set version_num = 'ae1027a6acf'",
        "schema",
        "ae1027a6acf is not a version of",
        id="of-others",
    ),
    pytest.param("drop table tasks", "schema", "no table tasks", id="no-table"),
    pytest.param("alter table users owner to taskpact_api", "schema", "may change users", id="owner-itself"),
    pytest.param("grant create on schema public to public", "schema", "may change users or its schema", id="create"),
    pytest.param("grant all on tasks to taskpact_api", "schema", "may change tasks", id="truncate"),
    *(
        pytest.param(statement.format(table), "policies", table, id=f"{name}-{table}")
        for table in OWNER_COLUMNS
        for name, statement in {
            "disabled": "alter table {0} disable row level security",
            "not-forced": "alter table {0} no force row level security",
            "no-policy": "drop policy {0}_owner on {0}",
            "open-for-reading": "alter policy {0}_owner on {0} using (true)",
            "open-for-writing": "alter policy {0}_owner on {0} with check (true)",
            "for-reading-only": "drop policy {0}_owner on {0};"
            " create policy {0}_owner on {0} for select to taskpact_api using (true)",
            "a-second-one": "create policy also on {0} to taskpact_api using (true)",
            "one-for-everybody": "create policy also on {0} using (true)",
        }.items()
    ),
]


@pytest.mark.requirement("SR-03", "SR-08")
def test_the_check_passes_where_nothing_is_broken(connection: Connection) -> None:
    assert [(check.name, check.passed) for check in examine(connection)] == [
        ("database", True),
        ("role", True),
        ("schema", True),
        ("policies", True),
    ]


@pytest.mark.requirement("SR-03", "SR-08")
@pytest.mark.parametrize(("breakage", "name", "detail"), BREAKAGES)
def test_the_check_finds_what_would_let_users_see_each_other(
    connection: Connection, breakage: str, name: str, detail: str
) -> None:
    for statement in breakage.split(";"):
        connection.execute(text(statement))

    last = examine(connection)[-1]

    assert (last.name, last.passed) == (name, False)
    assert detail in last.detail


@pytest.mark.requirement("SR-03")
def test_a_policy_for_others_is_none_of_the_services_business(connection: Connection) -> None:
    connection.execute(text("create role analyst"))
    connection.execute(text("create policy for_analysts on tasks for select to analyst using (true)"))

    assert all(check.passed for check in examine(connection))


@pytest.mark.requirement("SR-03", "SR-08", "NF-03")
@pytest.mark.parametrize(
    ("breakage", "message"),
    [
        pytest.param("drop table tasks, users, alembic_version", "run `taskpact migrate`", id="empty"),
        pytest.param("update alembic_version set version_num = '0000'", "run `taskpact migrate`", id="older"),
        pytest.param("alter table tasks disable row level security", "row-level security is not forced", id="open"),
    ],
)
def test_the_service_does_not_start_on_such_a_database(cluster_url: str, breakage: str, message: str) -> None:
    with new_database(cluster_url) as url:
        migrate(url)
        execute(url, breakage)

        served = command(url, "serve")
        started = asyncio.run(start(url))

    assert (served.exit_code, served.stdout) == (1, "")
    assert served.stderr.startswith("Error: ")
    assert message in served.stderr
    assert started["type"] == "lifespan.startup.failed"
    assert message in started["message"]


@pytest.mark.requirement("SR-08")
@pytest.mark.parametrize(
    "statement",
    [
        "create table stolen (id text)",
        "create schema stolen",
        "create function stolen() returns int language sql as 'select 1'",
        "alter table tasks disable row level security",
        "alter table tasks no force row level security",
        "alter domain task_title drop constraint task_title_check",
        "alter table tasks drop constraint tasks_idempotency_key_length",
        "alter policy tasks_owner on tasks using (true)",
        "create policy stolen on tasks using (true)",
        "drop policy tasks_owner on tasks",
        "drop table tasks",
        "drop trigger tasks_touch on tasks",
        "truncate tasks",
        "truncate users cascade",
        "create index stolen on tasks (title)",
        "create role stolen",
        "alter role taskpact_api bypassrls",
        "update alembic_version set version_num = 'x'",
        "delete from users",
        "update tasks set created_at = now()",
        "update tasks set version = 7",
        "update tasks set user_id = 'x'",
        "insert into tasks (user_id, id, title, version) values ('x', gen_random_uuid(), 'x', 7)",
        "update users set id = 'x'",
    ],
)
def test_the_services_role_cannot_change_the_schema(owner: psycopg.Connection, statement: str) -> None:
    owner.execute(f"set local role {API_ROLE}")

    with pytest.raises(errors.InsufficientPrivilege):
        owner.execute(statement)
