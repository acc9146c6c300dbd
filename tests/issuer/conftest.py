"""Better Auth on a real socket, on the database that the service uses."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from db.schema.migrate import migrate
from issuer.better_auth import BETTER_AUTH_SECRET, Issuer
from support.database import new_database
from support.programs import node_modules

HERE = Path(__file__).parent
START_SECONDS = 60


@pytest.fixture(scope="session")
def start_issuer(cluster_url: str) -> Callable[..., object]:
    """Runs an issuer on a database of its own, which the service may share."""
    node_modules(HERE)
    command = ["node", "server.mjs"]

    @contextmanager
    def start(jwt_options: dict[str, object] | None = None) -> Iterator[Issuer]:
        with new_database(cluster_url) as database_url:
            migrate(database_url)
            variables = {
                "PATH": os.environ["PATH"],
                "DATABASE_URL": database_url,
                "BETTER_AUTH_SECRET": BETTER_AUTH_SECRET,
                "BETTER_AUTH_TELEMETRY": "0",
            }
            if jwt_options is not None:
                variables["JWT_OPTIONS"] = json.dumps(jwt_options)
            with subprocess.Popen(
                command, cwd=HERE, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as process:
                lines: queue.SimpleQueue[str] = queue.SimpleQueue()
                # Read to the end, so that what it says later never fills the pipe.
                reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
                reader.start()
                issuer = None
                try:
                    url = lines.get(timeout=START_SECONDS).strip()
                    assert url, "Better Auth does not start; its standard error says why"
                    issuer = Issuer(url, database_url, [])
                    yield issuer
                finally:
                    for client in issuer.clients if issuer else ():
                        client.close()
                    process.stdin.close()
                    try:
                        process.wait(START_SECONDS)
                    except subprocess.TimeoutExpired:
                        process.kill()
                    reader.join()

    return start


def _read(lines: Iterator[str], into: queue.SimpleQueue[str]) -> None:
    for line in lines:
        into.put(line)
    into.put("")
