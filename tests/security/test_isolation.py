"""Users reach only their own data: by the API, by the statements' filter, and by row-level security behind it."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import errors, sql

import db.tasks
from db import statements
from db.schema.migrate import migrate
from db.statements import Statement
from db.tasks import TaskNotFound, Tasks, User
from db.wire.pool import Pool
from support.database import new_database
from support.operations import OPERATIONS, TASK_OPERATIONS, Operation
from support.people import Person


@pytest.mark.requirement("FR-05", "SR-03", "SR-05", "SC-03")
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
@pytest.mark.parametrize("path_is", ["own", "others"])
@pytest.mark.parametrize("task_is", ["own", "others", "missing"])
def test_every_pairing_of_caller_path_and_task_owner(
    alice: Person, bob: Person, operation: Operation, path_is: str, task_is: str
) -> None:
    tasks = {who.id: who.client.post(who.tasks, json={"title": f"{who.id}'s"}).json() for who in (alice, bob)}
    task_id = {"own": tasks[alice.id]["id"], "others": tasks[bob.id]["id"], "missing": str(uuid4())}[task_is]
    path = operation.path((alice if path_is == "own" else bob).id, task_id)

    response = alice.client.request(operation.method, path, json=operation.body)

    if path_is == "others":
        assert response.status_code == 403
    elif operation.needs_task and task_is != "own":
        assert response.status_code == 404
    else:
        assert response.status_code == operation.status
    assert bob.id not in response.text
    assert bob.client.get(f"{bob.tasks}/{tasks[bob.id]['id']}").json() == tasks[bob.id]


@pytest.mark.requirement("SR-05")
@pytest.mark.parametrize("operation", TASK_OPERATIONS.values(), ids=TASK_OPERATIONS)
def test_another_users_task_cannot_be_told_from_a_missing_one(alice: Person, bob: Person, operation: Operation) -> None:
    task = bob.client.post(bob.tasks, json={"title": "x"}).json()

    answers = []
    for task_id in (task["id"], str(UUID(int=UUID(task["id"]).int ^ 1))):
        response = alice.client.request(operation.method, operation.path(alice.id, task_id), json=operation.body)
        headers = {name: value for name, value in response.headers.items() if name not in ("date", "x-request-id")}
        answers.append((response.status_code, headers, re.sub('urn:uuid:[^"]*', "", response.text)))

    assert answers[0] == answers[1]


@pytest.fixture
def two_users(owner: psycopg.Connection) -> tuple[str, str]:
    """The ids of two users with a task each; they vanish with the test's transaction."""
    names = (f"user-{uuid4().hex}", f"user-{uuid4().hex}")
    for name in names:
        owner.execute("insert into users (id) values (%s)", [name])
        owner.execute("insert into tasks (user_id, id, title) values (%s, %s, 'x')", [name, uuid4()])
    return names


def become(connection: psycopg.Connection, user_id: str | None) -> None:
    """Goes on as the service's role, with a user's claims or none."""
    connection.execute("select set_config('role', 'taskpact_api', true)")
    if user_id is not None:
        connection.execute("select set_config('taskpact.user_id', %s, true)", [user_id])


LEAKS = {
    "users": [
        ("select", "select from users where id = %(other)s"),
        ("update", "update users set name = 'x' where id = %(other)s"),
        ("insert", "insert into users (id) values ('someone-' || %(other)s)"),
    ],
    "tasks": [
        ("select", "select from tasks where user_id = %(other)s"),
        ("update", "update tasks set title = 'x' where user_id = %(other)s"),
        ("delete", "delete from tasks where user_id = %(other)s"),
        ("insert", "insert into tasks (user_id, id, title) values (%(other)s, gen_random_uuid(), 'x')"),
    ],
}  # fmt: skip


def leaks(connection: psycopg.Connection, table: str, user_id: str | None, other: str) -> list[str]:
    """The ways in which the service's role, under these claims, reaches another user's rows."""
    found = []
    for way, command in LEAKS[table]:
        with connection.transaction(force_rollback=True):
            become(connection, user_id)
            try:
                if connection.execute(command, {"other": other}).rowcount:
                    found.append(way)
            except errors.InsufficientPrivilege:
                pass
    return found


@pytest.mark.requirement("SR-03", "SC-03")
@pytest.mark.parametrize("table", LEAKS)
@pytest.mark.parametrize("claims", ["own", "empty", "none"])
def test_row_level_security_lets_nobody_reach_another_users_rows(
    owner: psycopg.Connection, two_users: tuple[str, str], table: str, claims: str
) -> None:
    mine, other = two_users

    assert leaks(owner, table, {"own": mine, "empty": "", "none": None}[claims], other) == []


@pytest.mark.requirement("SR-03")
@pytest.mark.parametrize("table", LEAKS)
@pytest.mark.parametrize(
    "damage",
    [
        "alter table {table} disable row level security",
        "drop policy {policy} on {table}; create policy {policy} on {table} using (true) with check (true)",
    ],
    ids=["switched-off", "opened"],
)
def test_the_test_of_a_policy_sees_it_when_the_policy_is_gone(
    owner: psycopg.Connection, two_users: tuple[str, str], table: str, damage: str
) -> None:
    mine, other = two_users
    names = {"table": sql.Identifier(table), "policy": sql.Identifier(f"{table}_owner")}
    owner.execute(sql.SQL(damage).format(**names))

    assert leaks(owner, table, mine, other) == [way for way, _ in LEAKS[table]]


@pytest.mark.requirement("SR-03")
@pytest.mark.parametrize("table", LEAKS)
def test_a_policy_that_is_dropped_without_another_hides_even_the_own_rows(
    owner: psycopg.Connection, two_users: tuple[str, str], table: str
) -> None:
    mine, _ = two_users
    column = {"users": "id", "tasks": "user_id"}[table]
    count = sql.SQL("select count(*) from {} where {} = %s").format(sql.Identifier(table), sql.Identifier(column))

    def count_own() -> int:
        with owner.transaction(force_rollback=True):
            become(owner, mine)
            (number,) = owner.execute(count, [mine]).fetchone()
            return number

    before = count_own()
    owner.execute(sql.SQL("drop policy {} on {}").format(sql.Identifier(f"{table}_owner"), sql.Identifier(table)))

    assert (before, count_own()) == (1, 0)


@pytest.mark.requirement("SR-03", "DR-01")
def test_every_table_with_users_data_is_under_row_level_security_forced_where_that_is_safe(
    owner: psycopg.Connection,
) -> None:
    tables = owner.execute(
        "select relname, relrowsecurity, relforcerowsecurity from pg_class"
        " where relkind = 'r' and relnamespace = current_schema::regnamespace order by relname"
    ).fetchall()

    # Citus would lose the rows of tables that force it when their owner moves shards.
    forced = "TEST_CITUS" not in os.environ
    assert tables == [("alembic_version", False, False), ("tasks", True, forced), ("users", True, forced)]


@pytest.mark.requirement("SR-08")
@pytest.mark.parametrize(
    "command",
    [
        "create table evil (x int)",
        "create schema evil",
        "alter table tasks disable row level security",
        "alter table tasks no force row level security",
        "drop policy tasks_owner on tasks",
        "drop table tasks",
        "truncate tasks",
        "alter table tasks add column x int",
        "alter role taskpact_api bypassrls",
        "create role evil",
        "delete from users",
        "update tasks set user_id = 'x'",
        "update tasks set version = 0",
        "update tasks set created_at = now()",
        "update tasks set updated_at = now()",
        "update users set created_at = now()",
        "update alembic_version set version_num = ''",
        pytest.param(
            "insert into tasks (user_id, id, title, created_at) values ('x', gen_random_uuid(), 'x', now())",
            marks=pytest.mark.skipif("TEST_CITUS" in os.environ, reason="Citus writes defaults into an insert itself"),
        ),
        "alter function tasks_touch() rename to evil",
        "alter table tasks disable trigger all",
    ],
)
def test_the_services_role_may_do_no_more_than_it_needs(owner: psycopg.Connection, command: str) -> None:
    become(owner, "x")

    with pytest.raises(errors.InsufficientPrivilege):
        owner.execute(command)


OWNER_FILTER = rb"(tasks\.user_id|users\.id) = (\$\d+::VARCHAR)"


def unfiltered(statement: Statement) -> Statement:
    """The statement without its owner filter."""
    return replace(statement, sql=re.sub(OWNER_FILTER, rb"\2 is not null", statement.sql))


@pytest.fixture
def two_owners(cluster_url: str) -> Iterator[tuple[str, dict[str, str]]]:
    """A database of its own with a task for each of two users: its URL, and the tasks' ids."""

    async def fill(url: str) -> dict[str, str]:
        async with Pool(url, size=1) as pool:
            created = {
                name: await Tasks(pool).create(User(name), title=f"{name}'s", description=None)
                for name in ("alice", "bob")
            }
            return {name: task_id for name, (task_id, _) in created.items()}

    with new_database(cluster_url) as url:
        migrate(url)
        yield url, asyncio.run(fill(url))


@pytest.mark.requirement("SR-03", "SC-03")
@pytest.mark.parametrize(
    ("has_filter", "has_policies", "leaking"),
    [
        pytest.param(True, True, False, id="both"),
        pytest.param(False, True, False, id="policies-alone"),
        pytest.param(True, False, False, id="filter-alone"),
        pytest.param(False, False, True, id="neither"),
    ],
)
def test_filter_and_policies_each_hold_alone(
    monkeypatch: pytest.MonkeyPatch,
    two_owners: tuple[str, dict[str, str]],
    has_filter: bool,
    has_policies: bool,
    leaking: bool,
) -> None:
    url, task_ids = two_owners
    if not has_filter:
        monkeypatch.setattr(db.tasks, "GET", unfiltered(statements.GET))
        for name in ("LIST", "REPLACE", "UPDATE", "TOGGLE", "DELETE"):
            variants = getattr(statements, name)
            monkeypatch.setattr(db.tasks, name, {key: unfiltered(value) for key, value in variants.items()})
    if not has_policies:
        with psycopg.connect(url, autocommit=True) as owner:
            owner.execute("alter table tasks disable row level security")
            owner.execute("alter table users disable row level security")

    assert asyncio.run(reached(url, task_ids["bob"])) == (
        ["list", "get", "replace", "update", "toggle", "delete"] if leaking else []
    )


async def reached(url: str, task_id: str) -> list[str]:
    """The operations by which Alice reaches Bob's task."""
    alice = User("alice")
    found = []
    async with Pool(url, size=1) as pool:
        tasks = Tasks(pool)
        page = await tasks.page(alice, limit=100, cursor=None, completed=None)
        if any(task_id.encode() in item for item in page.items):
            found.append("list")
        attempts: dict[str, Callable[[], object]] = {
            "get": lambda: tasks.get(alice, task_id),
            "replace": lambda: tasks.replace(
                alice, task_id, title="stolen", description=None, completed=None, versions=None
            ),
            "update": lambda: tasks.update(
                alice, task_id, title="stolen", description=None, completed=None, versions=None
            ),
            "toggle": lambda: tasks.toggle(alice, task_id, versions=None),
            "delete": lambda: tasks.delete(alice, task_id, versions=None),
        }
        for name, attempt in attempts.items():
            try:
                await attempt()
            except TaskNotFound:
                continue
            found.append(name)
    return found
