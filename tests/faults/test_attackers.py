"""A well-behaved user beside one attacker: nearly all is answered, nearly as fast as beside a crowd on /healthz.

The crowd has a client process of its own as each attacker has, and is measured just before it, on the same machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
import pytest
import uvloop

from db.schema.migrate import migrate
from faults.attackers import Attack, Experience, WellBehaved, beside, report
from faults.postgres import Postgres
from support.database import new_database
from support.people import make_token
from support.service import Service, serving

pytestmark = pytest.mark.attackers

HEALTH_SECONDS = 0.8
ATTACK_SECONDS = 1.8
UNREAD_SECONDS = 8.0

SLOWEST_SECONDS = 1.5
TIMES_HEALTH = 5
ANSWERED_SHARE = 0.99

MEMORY_BYTES = 300 << 20
KEPT_BYTES = 100 << 20
"""What may stay of the memory that readers who never read took."""

ROOT = "/api/mallory/tasks"


def largest_tasks(database_url: str, user_id: str) -> str:
    """Gives the user 100 tasks that fill as many bytes as a task can, and returns the id of one."""
    with psycopg.connect(database_url) as connection:
        connection.execute("insert into users (id) values (%s)", (user_id,))
        connection.execute(
            """
            insert into tasks (id, user_id, title, description)
            select gen_random_uuid(), %s, repeat(chr(1), 200), repeat(chr(1), 2000) from generate_series(1, 100)
            """,
            (user_id,),
        )
        row = connection.execute("select id::text from tasks where user_id = %s limit 1", (user_id,)).fetchone()
    assert row is not None
    return str(row[0])


@dataclass(frozen=True)
class Mallory:
    """An attacker's requests: those without a token, and those with a valid one."""

    task_id: str

    def stranger(self, target: str = ROOT, fields: str = "", method: str = "GET", body: str = "") -> list[bytes]:
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        return [f"{method} {target} HTTP/1.1\r\nHost: x\r\n{fields}{length}\r\n{body}".encode()]

    def user(self, target: str = "", fields: str = "", method: str = "GET", body: str = "") -> list[bytes]:
        token = f"Authorization: Bearer {make_token('mallory', exp=int(time.time()) + 600)}\r\n"
        json_ = "Content-Type: application/json\r\n" if body else ""
        return self.stranger(ROOT + target, token + fields + json_, method, body)

    @property
    def task(self) -> str:
        return f"/{self.task_id}"


def filled(piece: str, size: int = 60_000) -> str:
    return piece * (size // len(piece))


CREATE = '{"title": "x"}'

STRANGERS: dict[str, Callable[[Mallory], Attack]] = {
    "128 ask /readyz": lambda m: Attack(128, m.stranger("/readyz")),
    "256 without a token": lambda m: Attack(256, m.stranger()),
    "128 with a forged token": lambda m: Attack(
        128, m.stranger(fields=f"Authorization: Bearer {make_token('mallory', secret='x' * 32)}\r\n")
    ),
    "32 with a token of 60 KB": lambda m: Attack(32, m.stranger(fields=f"Authorization: Bearer {filled('eyJ.')}\r\n")),
    "8 paths of 60 KB of /%2f": lambda m: Attack(8, m.stranger(filled("/%2f"))),
    "32 paths of 60 KB of /%2f": lambda m: Attack(32, m.stranger(filled("/%2f"))),
    "32 paths of 60 KB below /api": lambda m: Attack(32, m.stranger("/api/" + filled("%2f"))),
    "8 with 16,000 lines a:": lambda m: Attack(8, m.stranger(fields=filled("a:\r\n", 64_000))),
    "32 with 16,000 lines a:": lambda m: Attack(32, m.stranger(fields=filled("a:\r\n", 64_000))),
    "32 with a head of 70 KB": lambda m: Attack(32, m.stranger(fields=f"A: {filled('b', 70_000)}\r\n")),
    "64 that speak no HTTP": lambda _: Attack(64, [b"NONSENSE\r\n\r\n"]),
    "64 ask HEAD": lambda m: Attack(64, m.stranger(method="HEAD"), has_bodies=False),
    "64 ask OPTIONS": lambda m: Attack(64, m.stranger(method="OPTIONS")),
    "128 ask what is not there": lambda m: Attack(128, m.stranger("/nowhere")),
    "64 ask for pages": lambda m: Attack(64, [*m.stranger("/"), *m.stranger("/openapi.json")]),
    "8 paths of 60 KB below /docs": lambda m: Attack(8, m.stranger("/docs/" + filled("a/"))),
    "64 pipeline 64 each": lambda m: Attack(64, [64 * m.stranger()[0]], answers=64),
    "200 bodies, a byte a second": lambda m: Attack(
        200, [m.stranger(fields="Content-Length: 1000\r\n", method="POST")[0]], mode="trickle"
    ),
}
"""Attackers without a valid token."""

USERS: dict[str, Callable[[Mallory], Attack]] = {
    "48 with 60 KB of Accept": lambda m: Attack(48, m.user(fields=f"Accept: {filled('a/b;q=0,')}\r\n")),
    "48 with 60 KB of Accept-Encoding": lambda m: Attack(
        48, m.user("?limit=100", fields=f"Accept-Encoding: {filled('a;q=0,')}\r\n")
    ),
    "64 with If-Match of 1,000": lambda m: Attack(
        64, m.user(m.task, fields=f"If-Match: {filled(chr(34) + '9' + chr(34) + ',', 1000)}\r\n", method="DELETE")
    ),
    "128 read one task": lambda m: Attack(128, m.user(m.task)),
    "128 create": lambda m: Attack(128, m.user(method="POST", body=CREATE)),
    "128 toggle one task": lambda m: Attack(128, m.user(f"{m.task}/complete", method="PATCH")),
    "128 create under keys of their own": lambda m: Attack(
        128, m.user(fields="Idempotency-Key: key-########\r\n", method="POST", body=CREATE)
    ),
    "128 create under one key": lambda m: Attack(
        128, m.user(fields="Idempotency-Key: the-only-key\r\n", method="POST", body=CREATE)
    ),
    "64 ask for the largest pages": lambda m: Attack(64, m.user("?limit=100")),
    "64 ask for them compressed": lambda m: Attack(64, m.user("?limit=100", fields="Accept-Encoding: gzip\r\n")),
    "64 with 200 unknown members": lambda m: Attack(
        64, m.user(method="POST", body=json.dumps({f"member-{number}": number for number in range(200)}))
    ),
    "48 with 60 KB of unknown members": lambda m: Attack(
        48, m.user(method="POST", body=json.dumps({f"{number}": 0 for number in range(5_000)}))
    ),
    "16 with bodies of 3 MB": lambda m: Attack(16, m.user(method="POST", body=f'{{"title": "{"x" * 3_000_000}"}}')),
    "200 bodies of a user, a byte a second": lambda m: Attack(
        200, m.user(fields="Content-Length: 1000\r\nContent-Type: application/json\r\n", method="POST"), mode="trickle"
    ),
    "64 of a user pipeline 64 reads each": lambda m: Attack(64, [64 * m.user(m.task)[0]], answers=64),
    "64 ask for another's tasks": lambda m: Attack(
        64, [request.replace(b"/mallory/", b"/alice/", 1) for request in m.user()]
    ),
}
"""Attackers with one valid token."""


@pytest.fixture(scope="module")
def attacked(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Mallory]]:
    """A service that all attackers of this module try, one after the other."""
    with new_database(postgres.url) as url:
        migrate(url)
        mallory = Mallory(largest_tasks(url, "mallory"))
        with serving(url, tmp_path_factory.mktemp("attacked") / "log") as service:
            yield service, mallory


def fare(service: Service, attack: Attack, seconds: float = ATTACK_SECONDS) -> tuple[Experience, Experience]:
    """What a user sees beside a crowd that asks for health, and then beside the attacker."""

    async def main() -> tuple[Experience, Experience]:
        pid = service.process.pid
        health = Attack(128, [b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"])
        with closing(WellBehaved(service.url, "alice")) as user:
            await user.live(0.2, Experience())
            calm = await beside(service.url, health, HEALTH_SECONDS, user=user, pid=pid)
            return calm, await beside(service.url, attack, seconds, user=user, pid=pid)

    return uvloop.run(main())


def assert_is_well(seen: Experience, health: Experience) -> None:
    assert seen.answered_share >= ANSWERED_SHARE, seen.failures
    assert seen.slowest_seconds < SLOWEST_SECONDS
    assert seen.median_seconds <= TIMES_HEALTH * health.median_seconds


@pytest.mark.requirement("SR-13")
@pytest.mark.parametrize("attacker", STRANGERS)
def test_nobody_without_a_token_is_felt(attacked: tuple[Service, Mallory], attacker: str) -> None:
    service, mallory = attacked

    health, seen = fare(service, STRANGERS[attacker](mallory))

    report(f"no token: {attacker}", seen, health)
    assert_is_well(seen, health)


@pytest.mark.requirement("SR-14")
@pytest.mark.parametrize("attacker", USERS)
def test_no_user_takes_the_service_from_another(attacked: tuple[Service, Mallory], attacker: str) -> None:
    service, mallory = attacked

    health, seen = fare(service, USERS[attacker](mallory))

    report(f"one token: {attacker}", seen, health)
    assert_is_well(seen, health)


@pytest.mark.requirement("SR-14")
@pytest.mark.parametrize("connections", [256, 2_600])
def test_readers_who_never_read_take_little_memory(database_url: str, tmp_path: Path, connections: int) -> None:
    mallory = Mallory(largest_tasks(database_url, "mallory"))
    attack = Attack(connections, [32 * mallory.user("?limit=100")[0]], mode="silent", answers=32)

    with serving(database_url, tmp_path / "log") as service:
        process = psutil.Process(service.process.pid)
        health, seen = fare(service, attack, seconds=UNREAD_SECONDS)
        ends_at = time.monotonic() + 5
        while process.memory_info().rss > health.peak_bytes + KEPT_BYTES and time.monotonic() < ends_at:
            time.sleep(0.1)
        seen.after_bytes = process.memory_info().rss

    report(f"one token: {connections} never read", seen, health)
    assert seen.peak_bytes < MEMORY_BYTES
    assert seen.after_bytes < health.peak_bytes + KEPT_BYTES
    assert_is_well(seen, health)
