"""What clients do not take is bounded, for each and for all; slow readers do not pay for those who never read."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from uuid import uuid4

import psycopg
import pytest

from app import application
from app.http import memory
from app.http.memory import HeldBytes
from support.people import make_token
from support.service import running
from support.sockets import connect, received, statuses

LIMIT_BYTES = 4_194_304
PAGES = 10
LARGEST = """
    insert into tasks (id, user_id, title, description)
    select gen_random_uuid(), %s, repeat(U&'\\+01F600', 200), repeat(U&'\\+01F600', 2000) from generate_series(1, 100)
"""
"""A page of tasks, about as many bytes as there can be: 0.9 MB."""


class Connection:
    def __init__(self) -> None:
        self.is_cut_off = False

    def abort(self) -> None:
        self.is_cut_off = True


@pytest.fixture(scope="module")
def url(database_url: str) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(application, "HeldBytes", partial(HeldBytes, LIMIT_BYTES))
        with running(database_url, REQUESTS_PER_USER="1000", DATABASE_QUEUE_SIZE="1000") as url:
            yield url


@pytest.fixture
def user_id(database_url: str) -> str:
    """A user with a page of the largest tasks."""
    user_id = f"user-{uuid4().hex}"
    with psycopg.connect(database_url) as connection:
        connection.execute("insert into users (id) values (%s)", [user_id])
        connection.execute(LARGEST, [user_id])
    return user_id


def request(user_id: str, method: str = "GET", body: str = "") -> bytes:
    fields = ["Host: x", f"Authorization: Bearer {make_token(user_id)}"]
    fields += ["Content-Type: application/json", f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([f"{method} /api/{user_id}/tasks HTTP/1.1", *fields, "", body]).encode()


def page(user_id: str, *fields: str) -> bytes:
    return (
        request(user_id)
        .replace(b"tasks", b"tasks?limit=100", 1)
        .replace(b"Host: x", "\r\n".join(["Host: x", *fields]).encode())
    )


def read_fast(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1_048_576)


def take(connection: socket.socket) -> int:
    """How many bytes come without a pause."""
    connection.settimeout(0.2)
    size = 0
    with suppress(TimeoutError, ConnectionResetError):
        while chunk := connection.recv(65_536):
            size += len(chunk)
    return size


@pytest.mark.requirement("SR-14")
def test_the_slowest_of_whoever_holds_most_is_cut_off() -> None:
    held = HeldBytes(100)
    other, little, first, second, third = connections = [Connection() for _ in range(5)]
    held.hold(other, "bob", 30)
    held.hold(little, "alice", 1)
    held.hold(first, "alice", 30)
    held.hold(second, "alice", 30)
    held.hold(first, "alice", 20)
    held.hold(third, "alice", 21)

    assert [one.is_cut_off for one in connections] == [False, False, False, True, False]
    assert held.total_bytes == 72


@pytest.mark.requirement("SR-14")
def test_memory_is_given_back_once_after_the_limit_was_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back: list[None] = []
    monkeypatch.setattr(memory, "_trim", lambda: given_back.append(None))
    held = HeldBytes(100)
    connections = [Connection() for _ in range(20)]
    for connection in connections:
        held.hold(connection, None, 10)
    for connection in connections * 2:
        held.hold(connection, None, 0)

    assert held.total_bytes == 0
    assert len(given_back) == 1


@pytest.mark.requirement("SR-14")
def test_readers_who_never_read_are_cut_off_and_a_slow_one_is_not(url: str, user_id: str, database_url: str) -> None:
    slow_id = f"user-{uuid4().hex}"
    with psycopg.connect(database_url) as owner:
        owner.execute("insert into users (id) values (%s)", [slow_id])
        owner.execute(LARGEST, [slow_id])
    with ExitStack() as stack:
        slow = stack.enter_context(connect(url, receive_bytes=4_096))
        slow.sendall(page(slow_id, "Connection: close"))
        assert slow.recv(1_000)
        greedy = [stack.enter_context(connect(url, receive_bytes=4_096)) for _ in range(30)]
        for connection in greedy:
            # The kernel takes some pages by itself.
            connection.sendall(page(user_id) * PAGES)
            assert connection.recv(1)
        read_fast(slow)
        answer = received(slow)
        for connection in greedy:
            read_fast(connection)
        taken = [take(connection) for connection in greedy]

    assert len(answer) > 850_000
    assert answer.endswith(b"}")
    # As many pages as fit into the limit wait for whoever takes them after all.
    assert 1 <= sum(size > PAGES * 850_000 for size in taken) <= 5


@pytest.mark.requirement("SR-14")
def test_the_next_request_waits_until_the_answer_before_it_is_taken(url: str, user_id: str, database_url: str) -> None:
    def count() -> int:
        with psycopg.connect(database_url) as connection:
            row = connection.execute("select count(*) from tasks where user_id = %s", [user_id]).fetchone()
        assert row
        return int(row[0])

    with connect(url, receive_bytes=4_096) as connection:
        # One page may fit into what the kernel takes.
        pages, creates = 20, 20
        connection.sendall(page(user_id) * pages + request(user_id, "POST", '{"title":"x"}') * creates)
        time.sleep(1)
        before = count()
        connection.sendall(page(user_id, "Connection: close"))
        read_fast(connection)
        answers = received(connection)

    assert before == 100
    assert statuses(answers) == [200] * pages + [201] * creates + [200]
    assert count() == 100 + creates
