"""What tests ask for by name: a real PostgreSQL with the schema from the migrations, the service, and people."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from tempfile import TemporaryDirectory
from uuid import uuid4

import httpx
import psycopg
import pytest

from db.embedded import embedded_server
from db.schema.migrate import migrate
from db.url import to_conninfo
from support import citus_stub
from support.database import new_database, with_database
from support.people import Person, make_token
from support.service import running

pytest_plugins = ["support.results"]

# Each pytest that begins closes the folder that all of them have in common to other users, PostgreSQL's too, whose
# servers then end in a panic. So each run has its own; `--basetemp` names one that stays.
_own_folder = TemporaryDirectory(prefix="taskpact-tests-", ignore_cleanup_errors=True)
os.environ["PYTEST_DEBUG_TEMPROOT"] = _own_folder.name


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


@pytest.fixture
def empty_url(cluster_url: str) -> Iterator[str]:
    """An empty database."""
    with new_database(cluster_url) as url:
        yield url


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
