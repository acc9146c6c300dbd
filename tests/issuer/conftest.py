"""Better Auth on a real socket, on the database that the service uses, and people who signed up there."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from conftest import new_database
from db.schema.migrate import migrate
from support.programs import node_modules

HERE = Path(__file__).parent
BETTER_AUTH_SECRET = "a secret that only Better Auth and these tests know"
README_ORIGIN = "http://localhost:3000"
README_SECRET = "<BETTER_AUTH_SECRET>"
START_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who signed up at the issuer, with the cookies of their session."""

    id: str
    email: str
    name: str
    client: httpx.Client

    def token(self, path: str = "/api/auth/token") -> str:
        """A new token, as a frontend fetches it."""
        response = self.client.get(path)
        assert response.status_code == 200, response.text
        return response.json()["token"]


@dataclass(frozen=True, slots=True)
class Issuer:
    """Better Auth, running."""

    url: str
    database_url: str
    clients: list[httpx.Client]

    def sign_up(self, name: str) -> Session:
        """A new person with a session, made as a browser does it: cookies, and an `Origin`."""
        client = httpx.Client(base_url=self.url, headers={"Origin": self.url})
        self.clients.append(client)
        credentials = {"email": f"{name.lower()}-{uuid4().hex}@example.org", "password": uuid4().hex, "name": name}
        response = client.post("/api/auth/sign-up/email", json=credentials)
        assert response.status_code == 200, response.text
        return Session(response.json()["user"]["id"], credentials["email"], name, client)

    def key_requests_at_seconds(self) -> list[float]:
        """When the key set was asked for."""
        return httpx.get(f"{self.url}/key-requests").json()

    def settings(self, name: str) -> dict[str, str]:
        """The service's variables as the README has them, for the address and the secret of this issuer."""
        text = (HERE / name).read_text().replace(README_ORIGIN, self.url).replace(README_SECRET, BETTER_AUTH_SECRET)
        return dict(line.split("=", 1) for line in text.splitlines())


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
