"""`taskpact check` finds a pooler that does not keep prepared statements."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from conftest import free_port, with_database
from db import schema
from faults.postgres import ROOTS_USER, Postgres

pytestmark = pytest.mark.faults


@contextmanager
def pgbouncer(postgres: Postgres, pool_mode: str) -> Iterator[str]:
    """Debian's PgBouncer before the server; yields a URL through it."""
    binary = shutil.which("pgbouncer")
    if binary is None:
        if os.environ.get("CI"):
            pytest.fail("PgBouncer is missing")
        pytest.skip("PgBouncer is missing")
    port = free_port()
    settings = Path(postgres.folder) / f"pgbouncer-{pool_mode}.ini"
    settings.write_text(
        f"[databases]\n* = host=127.0.0.1 port={postgres.port} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {pool_mode}\n"
        "ignore_startup_parameters = extra_float_digits\n"
    )
    settings.chmod(0o644)
    command = ["pgbouncer", "-q", *(["-u", ROOTS_USER] if os.geteuid() == 0 else []), str(settings)]
    process = subprocess.Popen(command, executable=binary)
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                psycopg.connect(url, prepare_threshold=None).close()
                break
            except psycopg.OperationalError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize(("pool_mode", "keeps"), [("transaction", False), ("session", True)])
def test_a_pooler_that_loses_prepared_statements_is_found(
    postgres: Postgres, database_url: str, pool_mode: str, keeps: bool
) -> None:
    with pgbouncer(postgres, pool_mode) as url:
        pooled = with_database(url, str(conninfo_to_dict(database_url)["dbname"]))
        checks = {check.name: check for _ in range(5) for check in schema.inspect(pooled, prepare=True, pool_size=10)}
        without = schema.inspect(pooled, prepare=False, pool_size=10)

    assert checks["prepared statements"].passed is keeps
    if not keeps:
        assert "set DATABASE_PREPARE=false" in checks["prepared statements"].detail
    assert [(check.name, check.passed) for check in without[:2]] == [("indexes", True), ("connections", True)]
