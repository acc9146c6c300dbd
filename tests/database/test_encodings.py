"""Texts are kept as they are, whatever encoding the world around the service is set to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from app.cli import main
from support.database import execute, fetch, new_database, with_database
from support.people import SECRET, make_token
from support.service import running_process

pytestmark = pytest.mark.requirement("FR-03", "NF-03", "SC-09")

TITLE = "é" * 150 + "日本語 🙂"


def assert_keeps(url: str) -> None:
    headers = {"Authorization": f"Bearer {make_token('alice')}"}
    made = httpx.post(f"{url}/api/alice/tasks", json={"title": TITLE}, headers=headers)
    assert (made.status_code, made.json().get("title")) == (201, TITLE), made.text


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP", "WIN1252"])
def test_the_environment_changes_no_text(own_database: str, tmp_path: Path, encoding: str) -> None:
    with running_process(own_database, tmp_path / "log", PGCLIENTENCODING=encoding) as url:
        assert_keeps(url)
    assert fetch(own_database, "select title from tasks") == [(TITLE,)]


def test_the_url_changes_no_text(own_database: str, tmp_path: Path) -> None:
    parameter = f"{'&' if '?' in own_database else '?'}client_encoding=LATIN1"
    with running_process(own_database + parameter, tmp_path / "log") as url:
        assert_keeps(url)
    assert fetch(own_database, "select title from tasks") == [(TITLE,)]


def test_the_setting_of_a_database_changes_no_text(own_database: str, tmp_path: Path) -> None:
    (name,) = fetch(own_database, "select current_database()")[0]
    execute(own_database, "alter database {} set client_encoding = 'LATIN1'", str(name))
    with running_process(own_database, tmp_path / "log") as url:
        assert_keeps(url)
    assert fetch(own_database, "select convert_to(title, 'UTF8') from tasks") == [(TITLE.encode(),)]


@pytest.fixture(params=["LATIN1", "SQL_ASCII", "EUC_JP"])
def other_encoding(request: pytest.FixtureRequest, cluster_url: str) -> Iterator[tuple[str, str]]:
    """An encoding, and the URL of an empty database that has it."""
    with new_database(cluster_url) as url:
        name = f"taskpact_test_{request.param.lower()}"
        execute(
            cluster_url,
            f"create database {{}} encoding '{request.param}' lc_collate 'C' lc_ctype 'C' template template0",
            name,
        )
        try:
            yield request.param, with_database(url, name)
        finally:
            execute(cluster_url, "drop database {} with (force)", name)


@pytest.mark.parametrize("command", [["migrate"], ["migrate", "--sql"], ["check"], ["serve"]], ids=" ".join)
def test_a_database_that_cannot_hold_every_text_is_refused(other_encoding: tuple[str, str], command: list[str]) -> None:
    encoding, url = other_encoding
    environment = {"DATABASE_URL": url, "JWT_SECRET": SECRET, "COLUMNS": "1000"}
    result = CliRunner().invoke(main, command, env=environment)

    assert result.exit_code == 1, result.output
    assert f"the database's encoding is {encoding}, and must be UTF8" in result.output
    assert "Traceback" not in result.output
    assert fetch(url, "select count(*) from pg_class where relname in ('users', 'tasks', 'alembic_version')") == [(0,)]
