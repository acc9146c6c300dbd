"""Behind a pooler, with far fewer connections than clients, nothing is mixed up, and `check` finds what it lacks."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import uvloop
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db.schema.recommendations import inspect_database
from faults.ledger import Ledger, settle
from faults.load import load
from support.service import free_port, running_process

pytestmark = pytest.mark.faults

PEOPLE = 200
POOL_SIZE = 5
KEEPING_VERSION = (1, 21)
"""The first PgBouncer that may keep prepared statements."""
READY_SECONDS = 10
WARNING = "DATABASE_PREPARE is taken to be false"


@contextmanager
def pgbouncer(database_url: str, folder: Path, pool_mode: str, prepared_statements: int) -> Iterator[str]:
    """A PgBouncer before the database that keeps so many prepared statements; yields the URL by way of it."""
    command = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if command is None:
        assert not os.environ.get("CI"), "pgbouncer is missing"
        pytest.skip("pgbouncer is missing")
    said = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    could_keep = tuple(map(int, said.split()[1].split(".")[:2])) >= KEEPING_VERSION
    if prepared_statements and not could_keep:
        pytest.skip(f"{said.splitlines()[0]} keeps no prepared statements")
    target = conninfo_to_dict(database_url)
    port = free_port()
    server = {name: target[name] for name in ("host", "port", "dbname", "user", "password") if name in target}
    (folder / "users").write_text(f'"{target.get("user", "postgres")}" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"""
        [databases]
        {target["dbname"]} = {make_conninfo("", **server)}
        [pgbouncer]
        listen_addr = 127.0.0.1
        listen_port = {port}
        unix_socket_dir =
        auth_type = any
        pool_mode = {pool_mode}
        default_pool_size = {POOL_SIZE}
        {f"max_prepared_statements = {prepared_statements}" if could_keep else ""}
        max_client_conn = {2 * PEOPLE}
        """.replace("\n        ", "\n")
    )
    folder.chmod(0o755)
    for parent in folder.parents:
        if os.geteuid() == 0 and parent != Path("/") and parent.owner() == "root":
            parent.chmod(parent.stat().st_mode | 0o011)
    # It refuses to run as root.
    options = ["-u", "nobody"] if os.geteuid() == 0 else []
    with (folder / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen([command, *options, str(folder / "pgbouncer.ini")], stdout=log, stderr=log)
    url = f"postgresql://{target.get('user', 'postgres')}@127.0.0.1:{port}/{target['dbname']}?sslmode=disable"
    try:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                psycopg.connect(url).close()
                break
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, (folder / "pgbouncer.log").read_text()
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(READY_SECONDS)


@pytest.mark.requirement("SR-03", "SC-03", "SC-04")
@pytest.mark.parametrize("prepare", ["false", "true"])
def test_200_people_share_5_connections_of_a_pooler(database_url: str, tmp_path: Path, prepare: str) -> None:
    statements = "lost" if prepare == "true" else "none"

    share(database_url, tmp_path, prepare, 0, f"PgBouncer, prepared statements: {statements}")

    assert (tmp_path / "log").read_text().count(WARNING) == (prepare == "true")


def test_a_pooler_that_keeps_prepared_statements_is_given_them(database_url: str, tmp_path: Path) -> None:
    share(database_url, tmp_path, "true", 100, "PgBouncer, prepared statements: kept")

    assert WARNING not in (tmp_path / "log").read_text()


def share(database_url: str, folder: Path, prepare: str, kept: int, scenario: str) -> None:
    """200 people write and read by way of a pooler with five connections; nobody is refused, nothing is lost."""
    ledger = Ledger()
    variables = {"DATABASE_POOL_SIZE": "50", "DATABASE_QUEUE_SIZE": str(PEOPLE), "DATABASE_PREPARE": prepare}

    async def main(url: str) -> None:
        async with load(url, ledger, people=PEOPLE, pause_seconds=0.1):
            await asyncio.sleep(5)

    with (
        pgbouncer(database_url, folder, "transaction", kept) as pooled,
        running_process(pooled, folder / "log", **variables) as url,
    ):
        uvloop.run(main(url))
    settle(scenario, ledger, database_url)
    assert (ledger.count["refused"], ledger.count["failed_reads"], ledger.count["unknown"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("pool_mode", "kept", "passes"), [("transaction", 0, False), ("transaction", 100, True), ("session", 0, True)]
)
def test_a_pooler_that_loses_prepared_statements_is_found(
    database_url: str, tmp_path: Path, pool_mode: str, kept: int, passes: bool
) -> None:
    with pgbouncer(database_url, tmp_path, pool_mode, kept) as pooled:
        checks = {check.name: check for _ in range(5) for check in inspect_database(pooled, prepare=True, pool_size=10)}
        without = inspect_database(pooled, prepare=False, pool_size=10)

    assert checks["prepared statements"].passed is passes
    if not passes:
        assert "set DATABASE_PREPARE=false" in checks["prepared statements"].detail
    assert [check.name for check in without if not check.passed] == []
