"""Clients generated from the contract alone, into folders that nobody keeps, and services for them to meet."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from clients.generators import COMMANDS, HERE, run
from db.schema.migrate import migrate
from support.database import new_database
from support.paths import CONTRACT
from support.people import make_token
from support.programs import node_modules
from support.service import running

TOKEN_SECONDS = 600


@pytest.fixture
def credentials() -> list[str]:
    """Somebody new, and their token."""
    user_id = f"user-{uuid4().hex}"
    return [user_id, make_token(user_id, exp=int(time.time()) + TOKEN_SECONDS)]


@pytest.fixture(scope="session")
def python_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the generated package `taskpact_client`, and the scripts that use it."""
    folder = tmp_path_factory.mktemp("python")
    command = [
        COMMANDS / "openapi-python-client",
        "generate",
        "--path",
        CONTRACT,
        "--config",
        HERE / "python" / "python.yaml",
    ]
    # A warning fails it.
    run(*command, "--meta", "none", "--output-path", folder / "taskpact_client", "--fail-on-warning", cwd=folder)
    for script in ("life.py", "example.py"):
        shutil.copy(HERE / "python" / script, folder)
    return folder


@pytest.fixture(scope="session")
def typescript_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the generated types, and the scripts that use them, compiled."""
    modules = node_modules(HERE / "typescript")
    folder = tmp_path_factory.mktemp("typescript")
    (folder / "node_modules").symlink_to(modules)
    (folder / "package.json").write_text('{"type": "module"}')
    said = run(modules / ".bin" / "openapi-typescript", CONTRACT, "--output", folder / "schema.d.ts", cwd=folder)
    assert "warn" not in said.lower()
    for name in ("life.ts", "example.ts", "tsconfig.json"):
        shutil.copy(HERE / "typescript" / name, folder)
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
