"""Clients generated from the contract alone, into folders that nobody keeps, and services for them to meet."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from db.schema.migrate import migrate
from support.database import new_database
from support.paths import CONTRACT
from support.programs import node_modules
from support.service import running

HERE = Path(__file__).parent
COMMANDS = Path(sys.executable).parent
COMMAND_SECONDS = 120

Run = Callable[..., str]


@pytest.fixture(scope="session")
def run() -> Run:
    """Runs a command, which must succeed, and gives what it says."""

    def run(*command: object, cwd: Path) -> str:
        path = f"{COMMANDS}{os.pathsep}{os.environ['PATH']}"
        completed = subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env=os.environ | {"PATH": path, "PYTHONPATH": "", "PYTHONWARNINGS": "error", "NO_COLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert completed.returncode == 0, completed.stdout
        return completed.stdout

    return run


@pytest.fixture(scope="session")
def python_client(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the generated package `taskpact_client`, and the scripts that use it."""
    folder = tmp_path_factory.mktemp("python")
    command = [COMMANDS / "openapi-python-client", "generate", "--path", CONTRACT, "--config", HERE / "python.yaml"]
    # A warning fails it.
    run(*command, "--meta", "none", "--output-path", folder / "taskpact_client", "--fail-on-warning", cwd=folder)
    for script in ("life.py", "example.py"):
        shutil.copy(HERE / script, folder)
    return folder


@pytest.fixture(scope="session")
def typescript_client(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the generated types, and the scripts that use them, compiled."""
    modules = node_modules(HERE)
    folder = tmp_path_factory.mktemp("typescript")
    (folder / "node_modules").symlink_to(modules)
    (folder / "package.json").write_text('{"type": "module"}')
    said = run(modules / ".bin" / "openapi-typescript", CONTRACT, "--output", folder / "schema.d.ts", cwd=folder)
    assert "warn" not in said.lower()
    for name in ("life.ts", "example.ts", "tsconfig.json"):
        shutil.copy(HERE / name, folder)
    run(modules / ".bin" / "tsc", cwd=folder)
    return folder


@pytest.fixture(scope="session")
def damaged_url(cluster_url: str) -> Iterator[str]:
    """A service whose tasks cannot be written: 500."""
    with new_database(cluster_url) as url:
        migrate(url)
        with running(url) as service_url:
            with psycopg.connect(url) as owner:
                owner.execute("alter table tasks rename column title to titel")
            yield service_url


@pytest.fixture(scope="session")
def gone_url(cluster_url: str) -> Iterator[str]:
    """A service whose database went away: 503."""
    with new_database(cluster_url) as url:
        migrate(url)
        with running(url) as service_url:
            with psycopg.connect(url) as owner:
                name = owner.info.dbname
            with psycopg.connect(cluster_url, autocommit=True) as owner:
                owner.execute(f'alter database "{name}" allow_connections false')
                owner.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
            yield service_url
