"""What an operation costs does not grow with the number of tasks or users: no plan sorts, and none scans a table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from db import statements
from db.schema.migrate import migrate
from db.statements import Statement
from support.database import new_database

USERS = 500
OWNERS = {"many-owners": USERS, "few-owners": 2}
TASKS_OF_ONE = 20_000
TASK_ID = UUID(int=7)

STATEMENTS = {
    statement.name.decode(): statement
    for value in vars(statements).values()
    for statement in (value.values() if isinstance(value, dict) else [value])
    if isinstance(statement, Statement) and re.search(rb"\b(tasks|users)\b", statement.sql)
}

VALUES = {
    "user_id": "'user-1'", "email": "null", "name": "null",
    "task_id": f"'{TASK_ID}'", "title": "'x'", "description": "null", "has_description": "true", "versions": "null",
    "cursor": f"'{UUID(int=2**127)}'", "limit": "51", "completed": "true",
    "idempotency_key": "'k'", "idempotency_fingerprint": "'x'",
}  # fmt: skip


@pytest.fixture(scope="module", params=OWNERS.values(), ids=OWNERS)
def filled(cluster_url: str, request: pytest.FixtureRequest) -> Iterator[psycopg.Connection]:
    """A database in which one user has many tasks, and some others, or all of them, have some."""
    with new_database(cluster_url) as url:
        migrate(url)
        with psycopg.connect(url, autocommit=True) as owner:
            owner.execute("insert into users (id) select 'user-' || n from generate_series(1, %s) n", [USERS])
            # Ids grow as time does, so that the order of all tasks is the one in which they are stored.
            new_id = "('01920f3c-0000-7000-8000-' || lpad(to_hex(n::int), 12, '0'))::uuid"
            owner.execute(
                "insert into tasks (user_id, id, title, completed)"
                f" select 'user-' || n %% %s::int + 1, {new_id}, 'x', n %% 100 = 0 from generate_series(1, %s::int) n",
                [request.param, 20 * request.param],
            )
            owner.execute(
                "insert into tasks (user_id, id, title, completed)"
                f" select 'user-1', {new_id}, 'x', n %% 100 = 0 from generate_series(%s::int, %s::int) n",
                [20 * request.param + 1, 20 * request.param + TASKS_OF_ONE],
            )
            owner.execute("analyze")
            yield owner


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


@pytest.mark.requirement("DR-02")
@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("name", STATEMENTS)
def test_no_plan_sorts_or_scans_a_table(filled: psycopg.Connection, name: str, mode: str) -> None:
    statement = STATEMENTS[name]
    values = ", ".join(VALUES[parameter] for parameter in statement.parameters)
    with filled.transaction(force_rollback=True):
        filled.execute(f"set local plan_cache_mode = {mode}")
        filled.execute(
            "select set_config('role', 'taskpact_api', true), set_config('taskpact.user_id', 'user-1', true)"
        )
        filled.execute(f'prepare "{name}" as {statement.sql.decode()}')
        ((explained,),) = filled.execute(f'explain (format json) execute "{name}" ({values})').fetchall()
        filled.execute(f'deallocate "{name}"')

    plan = list(nodes(explained[0]["Plan"]))
    assert [node["Node Type"] for node in plan if node["Node Type"] in ("Sort", "Incremental Sort")] == []
    assert [node for node in plan if node["Node Type"].endswith("Seq Scan")] == []
    assert [node for node in plan if node["Node Type"].startswith("Bitmap")] == []
    if name.startswith("list"):
        # By way of another index, a page would go through other users' tasks.
        assert [node for node in plan if "user_id" not in node.get("Index Cond", "user_id")] == []
        assert [node["Index Name"] for node in plan if "Index Name" in node] != []


@pytest.mark.requirement("DR-02")
def test_there_are_indexes_on_the_owner_and_on_the_task_id(owner: psycopg.Connection) -> None:
    rows = owner.execute("select indexdef from pg_indexes where tablename = 'tasks'").fetchall()

    leading = {definition.partition("(")[2].partition(",")[0].strip(" )") for (definition,) in rows}
    assert leading == {"user_id", "id"}
