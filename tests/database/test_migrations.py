"""The migrations make the schema that the models describe, and the database keeps its own rules."""

from __future__ import annotations

import subprocess
import sys
from uuid import uuid4

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import errors

from db.models import BLANKS, Base
from db.schema.checks import check_database
from db.schema.engine import create_engine
from db.schema.migrate import migrate
from db.schema.version import head
from support.database import DEFINITIONS, fetch

EVERYTHING = """
    select 'relation', relname from pg_class where relnamespace = 'public'::regnamespace
    union select 'function', proname from pg_proc where pronamespace = 'public'::regnamespace
    union select 'type', typname from pg_type where typnamespace = 'public'::regnamespace
    union select 'grant', defaclrole::regrole::text from pg_default_acl
    union select 'grant', nspname || nspacl::text from pg_namespace where nspacl::text like '%taskpact_api%'
"""

MIGRATE = "import sys; from db.schema.migrate import migrate; migrate(sys.argv[1])"


@pytest.fixture
def user_id(owner: psycopg.Connection) -> str:
    """A user, who is gone after the test."""
    user_id = f"user-{uuid4().hex}"
    owner.execute("insert into users (id) values (%s)", [user_id])
    return user_id


@pytest.fixture
def task_id(owner: psycopg.Connection, user_id: str) -> str:
    """The user's task, a day old."""
    task_id = str(uuid4())
    owner.execute(
        "insert into tasks (user_id, id, title, created_at, updated_at)"
        " values (%s, %s, 'Buy oat milk', now() - interval '1 day', now() - interval '1 day')",
        [user_id, task_id],
    )
    return task_id


@pytest.mark.requirement("DR-04")
def test_the_migrations_go_up_down_and_up_again(empty_url: str) -> None:
    migrate(empty_url)
    first = {name: fetch(empty_url, query) for name, query in DEFINITIONS.items()}
    migrate(empty_url, "base")
    migrate(empty_url)

    assert {name: fetch(empty_url, query) for name, query in DEFINITIONS.items()} == first
    assert all(check.passed for check in check_database(empty_url))


@pytest.mark.requirement("DR-04")
def test_going_down_leaves_nothing_behind(empty_url: str) -> None:
    migrate(empty_url)
    migrate(empty_url, "base")

    assert fetch(empty_url, EVERYTHING) == []


@pytest.mark.requirement("DR-04")
def test_a_database_that_is_at_the_newest_version_stays_as_it_is(empty_url: str) -> None:
    migrate(empty_url)
    with psycopg.connect(empty_url) as connection:
        connection.execute("insert into users (id) values ('somebody')")

    migrate(empty_url)

    assert fetch(empty_url, "select id from users") == [("somebody",)]


@pytest.mark.requirement("DR-01", "DR-02", "DR-04")
def test_alembic_finds_no_difference_between_models_and_migrations(database_url: str) -> None:
    with create_engine(database_url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})

        assert compare_metadata(context, Base.metadata) == []


@pytest.mark.requirement("DR-01", "DR-02", "DR-03", "DR-04")
@pytest.mark.parametrize("kind", DEFINITIONS)
def test_models_and_migrations_make_the_same(database_url: str, empty_url: str, kind: str) -> None:
    Base.metadata.create_all(create_engine(empty_url))

    assert fetch(empty_url, DEFINITIONS[kind]) == fetch(database_url, DEFINITIONS[kind])


@pytest.mark.requirement("DR-04", "FR-13")
def test_titles_that_become_blank_get_a_name_and_all_others_stay(empty_url: str) -> None:
    titles = ["\ufeff", "\ufeff \ufeff", "a\ufeff", "\u200b"]
    migrate(empty_url, "0002")
    with psycopg.connect(empty_url) as connection:
        connection.execute("alter table tasks no force row level security")
        for number, title in enumerate(titles):
            insert(connection, "users", "", {"id": str(number)})
            insert(connection, "tasks", str(number), {"title": title})
        connection.execute("alter table tasks force row level security")

    migrate(empty_url)

    assert fetch(empty_url, "select title from tasks order by user_id") == [
        ("Untitled",), ("Untitled",), ("a\ufeff",), ("\u200b",),
    ]  # fmt: skip
    assert fetch(empty_url, "select relforcerowsecurity from pg_class where relname = 'tasks'") == [(True,)]


@pytest.mark.requirement("DR-04", "SC-04")
def test_several_processes_may_migrate_one_database_at_once(empty_url: str) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", MIGRATE, empty_url], stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    outputs = [process.communicate(timeout=60)[1] for process in processes]

    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    assert all(check.passed for check in check_database(empty_url))


KEYED = {"idempotency_key": "x", "idempotency_fingerprint": b"x"}

INVALID = [
    pytest.param("users", {"id": ""}, errors.CheckViolation, id="user-id-empty"),
    pytest.param("users", {"id": "x" * 256}, errors.CheckViolation, id="user-id-too-long"),
    pytest.param("users", {"id": None}, errors.NotNullViolation, id="user-id-null"),
    pytest.param("users", {"created_at": None}, errors.NotNullViolation, id="user-created-at-null"),
    pytest.param("tasks", {"title": ""}, errors.CheckViolation, id="title-empty"),
    pytest.param("tasks", {"title": "é" * 201}, errors.CheckViolation, id="title-too-long"),
    pytest.param("tasks", {"description": "é" * 2001}, errors.CheckViolation, id="description-too-long"),
    pytest.param("tasks", {"user_id": "nobody"}, errors.ForeignKeyViolation, id="user-unknown"),
    pytest.param("tasks", KEYED | {"idempotency_key": ""}, errors.CheckViolation, id="key-empty"),
    pytest.param("tasks", KEYED | {"idempotency_key": "x" * 256}, errors.CheckViolation, id="key-too-long"),
    *(
        pytest.param("tasks", {column: None}, errors.NotNullViolation, id=f"{column}-null")
        for column in ("user_id", "id", "title", "completed", "version", "created_at", "updated_at")
    ),
    *(
        pytest.param("tasks", {"title": chr(int(code, 16)) * 3}, errors.CheckViolation, id=f"title-blank-{code}")
        for code in BLANKS.split("\\")[1:]
    ),
]


def insert(connection: psycopg.Connection, table: str, user_id: str, values: dict[str, object]) -> None:
    row = ({"id": "x"} if table == "users" else {"user_id": user_id, "id": uuid4(), "title": "x"}) | values
    columns, places = ", ".join(row), ", ".join(["%s"] * len(row))
    connection.execute(f"insert into {table} ({columns}) values ({places})", list(row.values()))


@pytest.mark.requirement("DR-03", "FR-13", "FR-14", "SR-12")
@pytest.mark.parametrize(("table", "values", "error"), INVALID)
def test_the_database_refuses_what_the_contract_forbids(
    owner: psycopg.Connection, user_id: str, table: str, values: dict[str, object], error: type[psycopg.Error]
) -> None:
    with pytest.raises(error):
        insert(owner, table, user_id, values)


@pytest.mark.requirement("DR-03")
@pytest.mark.parametrize(
    ("table", "values"),
    [
        pytest.param("users", {"id": "€" * 255}, id="user-id"),
        pytest.param("tasks", {"title": "x"}, id="title-shortest"),
        pytest.param("tasks", {"title": "😀" * 200, "description": "😀" * 2000}, id="longest"),
        pytest.param("tasks", {"title": " x\u3000", "description": ""}, id="blanks-around"),
        pytest.param("tasks", KEYED | {"idempotency_key": "x" * 255}, id="longest-key"),
    ],
)
def test_the_database_takes_what_the_contract_allows(
    owner: psycopg.Connection, user_id: str, table: str, values: dict[str, object]
) -> None:
    insert(owner, table, user_id, values)


@pytest.mark.requirement("DR-03", "SC-04")
def test_a_user_has_one_task_under_a_key(owner: psycopg.Connection, user_id: str) -> None:
    insert(owner, "tasks", user_id, KEYED)

    with pytest.raises(errors.UniqueViolation):
        insert(owner, "tasks", user_id, KEYED)


@pytest.mark.requirement("DR-04")
def test_tasks_stay_as_they_are_when_the_schema_goes_up_and_down(empty_url: str) -> None:
    row = "select user_id, id, title, description, completed, version, created_at, updated_at, xmin::text from tasks"
    migrate(empty_url, "0001")
    with psycopg.connect(empty_url) as connection:
        connection.execute("insert into users (id) values ('somebody')")
        connection.execute(
            "insert into tasks (user_id, id, title)"
            " select 'somebody', gen_random_uuid(), 'x' from generate_series(1, 100)"
        )
    before = fetch(empty_url, row)
    migrate(empty_url)
    with psycopg.connect(empty_url) as connection:
        insert(connection, "tasks", "somebody", KEYED)
        connection.execute("delete from tasks where idempotency_key is not null")

    # A table that had been rewritten, or a row that had been written again, would show another transaction.
    assert fetch(empty_url, row) == before
    migrate(empty_url, "0001")
    assert fetch(empty_url, row) == before
    migrate(empty_url)
    assert all(check.passed for check in check_database(empty_url))


@pytest.mark.requirement("FR-16", "FR-17")
@pytest.mark.parametrize(
    "change",
    [
        pytest.param("title = 'new'", id="title"),
        pytest.param("completed = not completed", id="completed"),
        pytest.param("created_at = now() - interval '9 years', description = 'new'", id="created-at"),
        pytest.param("updated_at = now() - interval '9 years', version = 77", id="updated-at"),
    ],
)
def test_whoever_changes_a_task_moves_its_time_and_version_and_keeps_its_creation(
    owner: psycopg.Connection, task_id: str, change: str
) -> None:
    owner.execute(f"update tasks set {change} where id = %s", [task_id])

    moved = owner.execute(
        "select created_at = now() - interval '1 day', updated_at between now() and clock_timestamp(), version"
        " from tasks where id = %s",
        [task_id],
    )
    assert moved.fetchone() == (True, True, 2)


@pytest.mark.requirement("FR-17")
def test_a_change_that_changes_nothing_moves_nothing(owner: psycopg.Connection, task_id: str) -> None:
    owner.execute("update tasks set title = title where id = %s", [task_id])

    kept = owner.execute("select updated_at = created_at, version from tasks where id = %s", [task_id])
    assert kept.fetchone() == (True, 1)


@pytest.mark.requirement("SR-12")
def test_a_users_tasks_go_with_the_user(owner: psycopg.Connection, user_id: str, task_id: str) -> None:
    owner.execute("delete from users where id = %s", [user_id])

    assert owner.execute("select from tasks where id = %s", [task_id]).fetchall() == []


def test_the_head_that_the_service_needs_is_alembics() -> None:
    config = Config()
    config.set_main_option("script_location", "db:migrations")

    assert ScriptDirectory.from_config(config).get_current_head() == head()
