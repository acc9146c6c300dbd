"""Whatever a database holds and however it is set: the service works on it, or one line says what to change."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest
from click.testing import CliRunner, Result

from app.cli import main
from db.schema.migrate import migrate
from support.database import execute, fetch, new_database, new_owner, new_role, with_role
from support.people import SECRET, make_token
from support.service import running

pytestmark = pytest.mark.requirement("SC-09")

COMMANDS = [["migrate"], ["migrate", "--sql"], ["check"], ["serve"]]

TABLES = ["alembic_version", "tasks", "users"]


def run(url: str, *command: str) -> Result:
    environment = {"DATABASE_URL": url, "JWT_SECRET": SECRET, "COLUMNS": "1000", "PORT": "0"}
    return CliRunner().invoke(main, command, env=environment)


def assert_refused(result: Result, reason: str) -> None:
    assert result.exit_code == 1, result.output
    assert reason in result.output
    assert "Traceback" not in result.output


def places(url: str) -> list[tuple[object, ...]]:
    """Where tables are, with their names."""
    return fetch(
        url, "select schemaname, tablename from pg_tables where schemaname !~ '^(pg_|information)' order by 1, 2"
    )


def contents(url: str) -> object:
    """What a stranger's tables are: their columns and the versions that they hold."""
    with psycopg.connect(url) as connection:
        columns = connection.execute(
            "select table_name, column_name from information_schema.columns where table_schema = 'public' order by 1, 2"
        ).fetchall()
        return columns, connection.execute("select * from alembic_version").fetchall()


def strangers(url: str, version: str, *tables: str) -> None:
    """Another application, whose migrations Alembic makes too."""
    execute(url, "create table alembic_version (version_num varchar(32) primary key)")
    execute(url, f"insert into alembic_version values ('{version}')")
    for table in tables:
        execute(url, f"create table {table} (id integer primary key, name text)")


@pytest.mark.requirement("DR-04", "NF-03")
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("version", ["0001", "0002", "0016", "ae1027a6acf"])
@pytest.mark.parametrize("tables", [(), ("users",), ("users", "tasks")], ids=len)
def test_another_application_keeps_its_tables(
    empty_url: str, version: str, tables: tuple[str, ...], command: list[str]
) -> None:
    strangers(empty_url, version, *tables)
    before = contents(empty_url)

    result = run(empty_url, *command)

    assert_refused(result, "another application has alembic_version")
    assert "in the schema public" in result.output
    assert contents(empty_url) == before


@pytest.mark.requirement("DR-04", "NF-03")
def test_a_schema_of_our_own_lets_us_live_beside_another_application(cluster_url: str) -> None:
    with new_owner(cluster_url, "superuser") as owner, new_database(cluster_url, owner=owner) as admin_url:
        strangers(admin_url, "0016", "users", "tasks")
        before = contents(admin_url)
        url = with_role(admin_url, owner)
        refused = run(url, "migrate").output
        _, advice, _ = refused.split("`")
        for statement in advice.split("; "):
            execute(admin_url, statement)

        migrated = run(url, "migrate")

        assert migrated.exit_code == 0, migrated.output
        assert [name for schema, name in places(admin_url) if schema == "taskpact"] == TABLES
        assert_serves(url)
        assert contents(admin_url) == before
        execute(admin_url, "alter role {} reset search_path", owner)


def assert_serves(url: str) -> None:
    """Check and service are content, and the service does what it should, also with other ways of claims."""
    checked = run(url, "check")
    assert checked.exit_code == 0, checked.output
    for claims in ("auto", "set_config", "set_local"):
        with running(url, DATABASE_CLAIMS=claims) as service:
            headers = {"Authorization": f"Bearer {make_token('alice')}"}
            made = httpx.post(f"{service}/api/alice/tasks", json={"title": claims}, headers=headers)
            assert made.status_code == httpx.codes.CREATED, made.text
            assert httpx.get(service + made.headers["location"], headers=headers).json() == made.json()
            assert httpx.get(f"{service}/readyz").status_code == httpx.codes.OK


@pytest.mark.requirement("DR-04", "SR-08")
@pytest.mark.parametrize(
    "search_path", ['"$user", public', "''", "nowhere", "nowhere, public", "pg_catalog, public", '"Odd name"']
)
def test_names_are_the_same_for_migrations_and_service_whatever_the_search_path(
    cluster_url: str, search_path: str
) -> None:
    with new_owner(cluster_url, "superuser") as owner, new_database(cluster_url, owner=owner) as admin_url:
        url = with_role(admin_url, owner)
        execute(admin_url, "create schema authorization {}", owner)
        execute(admin_url, "create schema {} authorization {}", "Odd name", owner)
        execute(admin_url, f"alter role {{}} set search_path = {search_path}", owner)
        expected = {'"$user", public': owner, '"Odd name"': "Odd name"}.get(search_path, "public")

        migrated = run(url, "migrate")

        assert migrated.exit_code == 0, migrated.output
        assert places(admin_url) == [(expected, name) for name in TABLES]
        assert run(url, "migrate", "--sql").output == ""
        assert_serves(url)
        migrate(url, "base")
        assert places(admin_url) == []


@pytest.mark.requirement("DR-04")
def test_the_sql_for_administrators_goes_to_the_same_schema(cluster_url: str) -> None:
    with new_owner(cluster_url, "superuser") as owner, new_database(cluster_url, owner=owner) as admin_url:
        url = with_role(admin_url, owner)
        execute(admin_url, "create schema authorization {}", owner)
        script = run(url, "migrate", "--sql").output
        with psycopg.connect(admin_url, autocommit=True) as connection:
            connection.execute("set search_path = public")
            connection.execute(script)

        assert places(admin_url) == [(owner, name) for name in TABLES]


@pytest.mark.requirement("SR-08", "NF-03")
def test_tables_in_a_schema_of_another_are_found_and_named(cluster_url: str) -> None:
    """The owner migrates, and has a schema of its own name; another log-in serves."""
    with (
        new_role(cluster_url) as login,
        new_owner(cluster_url, "superuser") as owner,
        new_database(cluster_url, owner=owner) as url,
    ):
        execute(url, "create schema authorization {}", owner)
        migrate(with_role(url, owner))
        execute(url, "grant taskpact_api to {}", login)
        execute(url, "grant usage on schema {} to {}", owner, login)
        as_login = with_role(url, login)

        for command in ("check", "serve"):
            result = run(as_login, command)
            assert_refused(result, f"the tables are in {owner}, which is not on the search path of {login}")
        execute(url, result.output.split("`")[1])
        assert_serves(as_login)
        execute(url, "alter role {} reset search_path", login)


@pytest.mark.requirement("SR-08", "NF-03")
def test_the_service_says_when_its_role_may_not_use_the_schema(cluster_url: str) -> None:
    with new_owner(cluster_url, "superuser") as owner, new_database(cluster_url, owner=owner) as url:
        execute(url, "create schema authorization {}", owner)
        as_owner = with_role(url, owner)
        migrate(as_owner)
        execute(url, "revoke usage on schema {} from taskpact_api", owner)

        assert_refused(run(as_owner, "check"), f"`grant usage on schema {owner} to taskpact_api`")


SETTINGS = {
    "row_security": "off",
    "standard_conforming_strings": "off",
    "session_replication_role": "replica",
}


@pytest.mark.requirement("NF-03")
@pytest.mark.parametrize("place", ["role", "database", "url"])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_the_statements_depend_on_is_refused_by_name(
    cluster_url: str, name: str, command: list[str], place: str
) -> None:
    with new_owner(cluster_url, "superuser") as owner, new_database(cluster_url, owner=owner) as admin_url:
        url = with_role(admin_url, owner)
        migrate(url)
        ((database,),) = fetch(admin_url, "select current_database()")
        if place == "url":
            url += f"&options=-c%20{name}%3D{SETTINGS[name]}"
        else:
            execute(
                admin_url, f"alter {place} {{}} set {name} = {SETTINGS[name]}", owner if place == "role" else database
            )

        result = run(url, *command)

        assert_refused(result, f"{name} is {SETTINGS[name]}, and must be ")
        if place != "url":
            # What the line advises mends it.
            execute(cluster_url, result.output.split("`")[1])
            assert run(url, "check").exit_code == 0


@pytest.mark.requirement("NF-03")
@pytest.mark.parametrize(
    "setting", ["quote_all_identifiers = on", "client_encoding = 'LATIN1'", "DateStyle = 'German'"]
)
def test_a_setting_of_the_log_in_that_does_no_harm_is_passed_over(cluster_url: str, setting: str) -> None:
    with new_owner(cluster_url, "superuser") as owner, new_database(cluster_url, owner=owner) as admin_url:
        execute(admin_url, f"alter role {{}} set {setting}", owner)
        url = with_role(admin_url, owner)

        assert run(url, "migrate").exit_code == 0
        assert_serves(url)


@pytest.mark.requirement("FR-11")
@pytest.mark.parametrize("claims", ["auto", "set_config", "set_local"])
@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_changes_of_one_task_at_once_succeed_whatever_the_default_isolation(
    own_database: str, isolation: str, claims: str
) -> None:
    ((database,),) = fetch(own_database, "select current_database()")
    execute(own_database, f"alter database {{}} set default_transaction_isolation = '{isolation}'", str(database))
    migrate(own_database)
    headers = {"Authorization": f"Bearer {make_token('alice')}"}
    with (
        running(own_database, DATABASE_CLAIMS=claims, REQUESTS_PER_USER="1000") as url,
        httpx.Client(base_url=url, headers=headers, timeout=30) as client,
        ThreadPoolExecutor(16) as threads,
    ):
        task = client.post("/api/alice/tasks", json={"title": "x"}).headers["location"]
        toggled = list(threads.map(lambda _: client.patch(f"{task}/complete").status_code, range(200)))

        assert toggled == [200] * 200
        assert client.get(task).headers["etag"] == '"201"'


@pytest.mark.requirement("SR-08")
@pytest.mark.parametrize("by_hand", [False, True], ids=["migrate", "sql"])
def test_default_privileges_give_nobody_rights_on_our_tables(cluster_url: str, *, by_hand: bool) -> None:
    with (
        new_role(cluster_url) as stranger,
        new_owner(cluster_url, "superuser") as owner,
        new_database(cluster_url, owner=owner) as admin_url,
    ):
        url = with_role(admin_url, owner)
        for holder in (stranger, "public", "taskpact_api"):
            execute(url, f"alter default privileges grant all on tables to {holder}")
        if by_hand:
            execute(url, run(url, "migrate", "--sql").output)
        else:
            migrate(url)

        held = """
            select distinct grantee::regrole::text, privilege_type from pg_class, aclexplode(relacl)
            where relname in ('users', 'tasks', 'alembic_version') and grantee <> relowner order by 1, 2
        """
        # Insert and update are granted by column.
        assert fetch(url, held) == [("taskpact_api", "DELETE"), ("taskpact_api", "SELECT")]
        checked = run(url, "check")
        assert checked.exit_code == 0, checked.output
        assert "none but taskpact_api's" in checked.output

        execute(url, "grant select on tasks to {}", stranger)
        checked = run(url, "check")
        assert checked.exit_code == 0, checked.output
        assert f"others may read the tables: {stranger} SELECT on tasks" in checked.output

        execute(url, "grant update (version_num) on alembic_version to {}", stranger)
        checked = run(url, "check")
        assert_refused(checked, f"{stranger} UPDATE on alembic_version")
        execute(url, "revoke all on alembic_version from {}", stranger)

        execute(url, "grant insert, truncate on alembic_version to public")
        checked = run(url, "check")
        assert_refused(checked, "(PUBLIC INSERT, TRUNCATE on alembic_version, ")
        execute(url, checked.output.split("`")[1])
        assert run(url, "check").exit_code == 0
        execute(url, "drop owned by {}", stranger)
        execute(url, "alter default privileges revoke all on tables from taskpact_api")
