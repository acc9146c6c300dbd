"""A real PostgreSQL with the schema from the migrations, the service on a real socket, and people with tokens."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import jwt
import psycopg
import pytest
import uvicorn
from psycopg import sql

from app.application import create_app
from app.http.protocol import Protocol
from app.observe.logs import configure_logs
from app.settings import read_settings
from db.embedded import embedded_server
from db.schema.migrate import migrate
from db.url import to_conninfo
from support import citus_stub

pytest_plugins = ["support.traceability"]

SECRET = "a secret that only these tests know, and of 32 bytes at least"
START_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a token, and a client that sends it."""

    id: str
    client: httpx.Client

    @property
    def tasks(self) -> str:
        return f"/api/{self.id}/tasks"


def make_token(sub: object, *, secret: str = SECRET, **claims: object) -> str:
    """A token that is good for a minute, unless the claims say otherwise; a claim that is None is left out."""
    now = int(time.time())
    payload = {"sub": sub, "iat": now, "exp": now + 60} | claims
    return jwt.encode({name: value for name, value in payload.items() if value is not None}, secret, "HS256")


@pytest.fixture(scope="session")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server on which databases and roles may be made: `TEST_DATABASE_URL`, or an embedded one.

    With `TEST_CITUS`, each of its databases has the stub of Citus, so that claims travel as they do there.
    """
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield to_conninfo(url)
        return
    with embedded_server(tmp_path_factory.mktemp("cluster")) as url:
        if os.environ.get("TEST_CITUS"):
            citus_stub.install(url)
            citus_stub.create(with_database(url, "template1"))
        yield url


@contextmanager
def new_database(cluster_url: str, *, owner: str | None = None) -> Iterator[str]:
    """An empty database of its own, dropped afterwards; its URL logs in as the cluster's URL does."""
    name = f"taskpact_test_{uuid4().hex}"
    with psycopg.connect(cluster_url, autocommit=True) as connection:
        command = sql.SQL("create database {}").format(sql.Identifier(name))
        if owner:
            command += sql.SQL(" owner {}").format(sql.Identifier(owner))
        connection.execute(command)
    try:
        yield (
            psycopg.conninfo.make_conninfo(cluster_url, dbname=name)
            if "://" not in cluster_url
            else with_database(cluster_url, name)
        )
    finally:
        with psycopg.connect(cluster_url, autocommit=True) as connection:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def with_database(url: str, name: str) -> str:
    """The same URL, for another database."""
    address, question_mark, options = url.partition("?")
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}/{name}{question_mark}{options}"


@pytest.fixture(scope="session")
def database_url(cluster_url: str) -> Iterator[str]:
    """A database with the schema that the migrations make."""
    with new_database(cluster_url) as url:
        migrate(url)
        yield url


@pytest.fixture
def owner(database_url: str) -> Iterator[psycopg.Connection]:
    """A connection as whoever made the tables; nothing that it changes stays unless it commits."""
    with psycopg.connect(database_url) as connection:
        yield connection
        connection.rollback()


@contextmanager
def running(database_url: str, **variables: str) -> Iterator[str]:
    """The service on a socket, configured by these variables; yields its URL."""
    keys = {} if "JWT_JWKS_URL" in variables else {"JWT_SECRET": SECRET}
    settings = read_settings({"DATABASE_URL": database_url, "LOG_LEVEL": "error"} | keys | variables)
    configure_logs(settings.log_level, settings.log_format)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(settings),
                loop="uvloop",
                http=Protocol,
                lifespan="on",
                log_config=None,
                access_log=False,
                timeout_keep_alive=settings.keep_alive_seconds,
            )
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the service does not start")
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(START_SECONDS)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Service:
    """The service as its command runs it."""

    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def running_process(database_url: str, log: Path, **variables: str) -> Iterator[str]:
    """The service as its command runs it, a process of its own that logs to `log`; yields its URL."""
    with serving(database_url, log, **variables) as service:
        yield service.url


@contextmanager
def serving(database_url: str, log: Path, **variables: str) -> Iterator[Service]:
    """The same, with its process."""
    url = f"http://127.0.0.1:{variables.get('PORT') or free_port()}"
    environment = (
        os.environ | {"DATABASE_URL": database_url, "JWT_SECRET": SECRET, "PORT": url.rpartition(":")[2]} | variables
    )
    with log.open("wb") as stderr:
        process = subprocess.Popen([sys.executable, "-m", "app", "serve"], env=environment, stderr=stderr)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not is_ready(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the service does not start: {log.read_text()}")
            time.sleep(0.05)
        yield Service(url, process)
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


@pytest.fixture(scope="session")
def service_url(database_url: str) -> Iterator[str]:
    """The service, as most tests want it."""
    with running(database_url) as url:
        yield url


@pytest.fixture
def person(service_url: str) -> Iterator[Callable[..., Person]]:
    """Makes people, each new unless named."""
    clients: list[httpx.Client] = []

    def make(user_id: str | None = None, *, url: str = service_url, **claims: object) -> Person:
        user_id = user_id or f"user-{uuid4().hex}"
        headers = {"Authorization": f"Bearer {make_token(user_id, **claims)}"}
        clients.append(httpx.Client(base_url=url, headers=headers))
        return Person(user_id, clients[-1])

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def alice(person: Callable[..., Person]) -> Person:
    return person()


@pytest.fixture
def bob(person: Callable[..., Person]) -> Person:
    return person()


CONTRACT = Path(__file__).parents[1] / "openapi" / "openapi.yaml"
