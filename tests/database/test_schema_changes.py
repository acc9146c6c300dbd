"""The schema changes under a running service: nobody waits for long, nothing fails, and old and new go together."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
import pytest
from click.testing import CliRunner

from app.cli import main
from db.schema import migrate as schema_migrate
from db.schema.checks import check_database
from db.schema.migrate import LOCK_SECONDS, logger, migrate
from db.schema.version import VERSIONS, head
from support.database import DEFINITIONS, fetch
from support.paths import ROOT
from support.people import SECRET, make_token
from support.service import free_port, is_ready, running

FIRST = "0001"
LOAD_SECONDS = 1.5

NEXT = """
    alter table tasks add column due_at timestamptz;
    alter table users add column locale text;
    create index tasks_user_id_due_at on tasks (user_id, due_at);
    create table labels (id uuid primary key, user_id text not null references users (id) on delete cascade);
    grant select on labels to taskpact_api;
    update alembic_version set version_num = '0999';
"""
"""What a later release's migration may do."""

GRANTS = """
    select table_name, null, privilege_type from information_schema.role_table_grants where grantee = 'taskpact_api'
    union all select table_name, column_name, privilege_type from information_schema.role_column_grants
    where grantee = 'taskpact_api' order by 1, 2, 3
"""

FILES = """
    select relname, pg_relation_filenode(oid) from pg_class where oid in ('users'::regclass, 'tasks'::regclass)
"""


@pytest.fixture
def first_url(empty_url: str) -> str:
    """A database as the first release left it, with a task."""
    migrate(empty_url, FIRST)
    with psycopg.connect(empty_url) as connection:
        connection.execute("insert into users (id) values ('alice')")
        connection.execute("insert into tasks (user_id, id, title) values ('alice', gen_random_uuid(), 'Buy oat milk')")
    return empty_url


@contextmanager
def load(url: str) -> Iterator[Counter[int]]:
    """Two users who go on creating, reading, changing and deleting; yields what they were answered."""
    statuses: Counter[int] = Counter()
    ended = threading.Event()

    def use(user: str) -> None:
        headers = {"Authorization": f"Bearer {make_token(user)}"}
        with httpx.Client(base_url=url, headers=headers) as client:
            while not ended.is_set():
                created = client.post(f"/api/{user}/tasks", json={"title": "x"})
                task = f"/api/{user}/tasks/{created.json().get('id')}"
                for answer in (
                    created,
                    client.get(task),
                    client.patch(f"{task}/complete"),
                    client.put(task, json={"title": "y"}),
                    client.get(f"/api/{user}/tasks"),
                    client.delete(task),
                ):
                    statuses[answer.status_code] += 1

    users = [threading.Thread(target=use, args=(f"user-{uuid4().hex}",)) for _ in range(2)]
    for user in users:
        user.start()
    try:
        time.sleep(LOAD_SECONDS)
        yield statuses
        time.sleep(LOAD_SECONDS)
    finally:
        ended.set()
        for user in users:
            user.join()
    print(dict(statuses))


@pytest.mark.requirement("DR-04", "SC-04")
def test_a_service_goes_on_while_a_later_release_migrates_and_starts_again_after_it(empty_url: str) -> None:
    migrate(empty_url)
    with running(empty_url) as url:
        with load(url) as statuses, psycopg.connect(empty_url) as connection:
            connection.execute(f"set local lock_timeout = '{LOCK_SECONDS}s'")
            connection.execute(NEXT)
            connection.commit()
        assert is_ready(url)
    with running(empty_url) as url, load(url) as later:
        assert is_ready(url)

    assert statuses.keys() == later.keys() == {200, 201, 204}
    assert statuses.total() > 50


@contextmanager
def release_before(folder: Path, database_url: str) -> Iterator[str]:
    """The service as it was before the newest migration was written."""
    if not (ROOT / ".git").exists():
        pytest.skip("there is no history")
    newest = max(path.name for path in VERSIONS.glob("[0-9]*.py"))
    log = ["git", "log", "--diff-filter=A", "--format=%H^", "--", f"db/migrations/versions/{newest}"]
    commit = subprocess.check_output(log, cwd=ROOT, text=True).strip()
    archive = ["git", "archive", commit, "app", "db", "handlers", "openapi"]
    done = subprocess.run(archive, cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("the history is too short")
    unpack = ["tar", "--extract", "--directory", str(folder)]
    subprocess.run(unpack, input=done.stdout, check=True)
    url = f"http://127.0.0.1:{free_port()}"
    variables = {
        "DATABASE_URL": database_url,
        "JWT_SECRET": SECRET,
        "PORT": url.rpartition(":")[2],
        "LOG_LEVEL": "error",
    }
    # Where Python starts, its packages come before those that are installed.
    process = subprocess.Popen([sys.executable, "-m", "app", "serve"], cwd=folder, env=os.environ | variables)
    try:
        deadline = time.monotonic() + 20
        while not is_ready(url):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.requirement("DR-04", "SC-04")
def test_the_release_before_goes_on_while_this_one_migrates(tmp_path: Path, empty_url: str) -> None:
    versions = sorted(path.name.partition("_")[0] for path in VERSIONS.glob("[0-9]*.py"))
    migrate(empty_url, versions[-2])
    with release_before(tmp_path, empty_url) as url, load(url) as statuses:
        assert migrate(empty_url) == versions[-1]

    assert statuses.keys() == {200, 201, 204}
    assert statuses.total() > 50


@pytest.mark.requirement("DR-04", "NF-03")
def test_a_database_that_a_later_release_migrated_suffices_and_is_left_alone(empty_url: str) -> None:
    migrate(empty_url)
    with psycopg.connect(empty_url) as connection:
        connection.execute(NEXT)

    checks = {check.name: check for check in check_database(empty_url)}

    assert all(check.passed for check in checks.values())
    assert checks["schema"].detail == f"at 0999, newer than {head()}"
    assert run_migrate(empty_url) == (0, "The schema is at 0999.\n", "")
    assert run_migrate(empty_url, "--sql") == (0, "", "")


def run_migrate(url: str, *options: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["migrate", *options], env={"DATABASE_URL": url, "JWT_SECRET": SECRET})
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.requirement("DR-04")
def test_no_migration_writes_a_table_anew(first_url: str) -> None:
    before = fetch(first_url, FILES)

    migrate(first_url)

    assert len(before) == 2
    assert fetch(first_url, FILES) == before


@pytest.mark.requirement("DR-04")
def test_a_migration_that_finds_a_lock_lets_others_pass_and_tries_again(
    monkeypatch: pytest.MonkeyPatch, first_url: str
) -> None:
    failed: list[int] = []
    monkeypatch.setattr(logger, "warning", lambda _, attempt: failed.append(attempt))
    monkeypatch.setattr(schema_migrate, "LOCK_PAUSE_SECONDS", (0.1, 0.2))
    migrating = threading.Thread(target=migrate, args=(first_url,))
    with psycopg.connect(first_url) as report:
        report.execute("select from tasks")
        migrating.start()
        longest = 0.0
        deadline = time.monotonic() + 20
        while len(failed) < 2:
            assert time.monotonic() < deadline
            started = time.monotonic()
            with psycopg.connect(first_url) as reader:
                reader.execute("select from tasks")
            longest = max(longest, time.monotonic() - started)
        assert check_database(first_url)[-1].passed is False
    migrating.join()

    print(f"the longest wait of a reader: {longest:.2f} s")
    assert 0.5 < longest < 5 * LOCK_SECONDS
    assert all(check.passed for check in check_database(first_url))


@pytest.mark.requirement("DR-04", "NF-03")
def test_a_migration_that_never_gets_its_locks_says_so_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, first_url: str
) -> None:
    monkeypatch.setattr(schema_migrate, "LOCK_ATTEMPTS", 2)
    monkeypatch.setattr(schema_migrate, "LOCK_PAUSE_SECONDS", (0, 0))
    with psycopg.connect(first_url) as report:
        report.execute("select from tasks")

        code, printed, told = run_migrate(first_url)

    assert (code, printed) == (1, "")
    assert "Error: other transactions hold locks that the migration needs: end them" in told
    assert fetch(first_url, "select version_num from alembic_version") == [(FIRST,)]


@pytest.mark.requirement("DR-04")
@pytest.mark.parametrize("start", ["nothing", FIRST])
def test_the_sql_that_is_printed_makes_the_schema(database_url: str, empty_url: str, start: str) -> None:
    if start == FIRST:
        migrate(empty_url, FIRST)
    code, printed, told = run_migrate(empty_url, "--sql")
    assert (code, told) == (0, "")
    assert printed.startswith("BEGIN;\n\nset local lock_timeout = '1s';\n")

    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute(printed)

    for query in (*DEFINITIONS.values(), GRANTS, "select version_num from alembic_version"):
        assert fetch(empty_url, query) == fetch(database_url, query)
    assert all(check.passed for check in check_database(empty_url))
    assert run_migrate(empty_url, "--sql") == (0, "", "")
