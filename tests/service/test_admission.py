"""Each user has room for a number of requests, strangers take none of it, and probes cost the database nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import httpx
import psycopg
import pytest

from app.probes import READINESS_SECONDS, Readiness
from db.schema.version import SchemaMismatch
from db.wire.failures import DatabaseUnavailable
from db.wire.pool import Pool
from handlers.problems import TYPE_PREFIX
from support.people import make_token
from support.proxy import Proxy
from support.service import running

REQUESTS_PER_USER = 4


@pytest.fixture(scope="module")
def url(database_url: str) -> Iterator[str]:
    with running(database_url, REQUESTS_PER_USER=str(REQUESTS_PER_USER), DATABASE_POOL_SIZE="8") as url:
        yield url


async def ask(url: str, user_id: str, *, count: int, method: str = "GET", path: str = "/tasks") -> Counter[int]:
    """Sends so many requests of one user at once, and counts the statuses."""
    headers = {"Authorization": f"Bearer {make_token(user_id)}"}
    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=20) as client:
        answers = await asyncio.gather(
            *(client.request(method, f"/api/{user_id}{path}", json={"title": "x"} if method == "POST" else None)
              for _ in range(count))
        )  # fmt: skip
    for answer in answers:
        if answer.status_code == 429:
            assert answer.json()["type"] == TYPE_PREFIX + "too-many-requests"
            assert answer.headers["retry-after"] == "1"
            assert answer.headers["cache-control"] == "no-store"
    return Counter(answer.status_code for answer in answers)


@pytest.mark.requirement("SR-14", "FR-18")
def test_a_user_with_too_many_requests_in_flight_is_refused_and_others_are_not(
    url: str, owner: psycopg.Connection
) -> None:
    """A lock keeps every request of both waiting, so that they are in flight together."""

    async def main() -> tuple[Counter[int], Counter[int]]:
        greedy = asyncio.create_task(ask(url, "greedy", count=10))
        await asyncio.sleep(0.5)
        modest = asyncio.create_task(ask(url, "modest", count=REQUESTS_PER_USER))
        await asyncio.sleep(0.5)
        owner.rollback()
        return await greedy, await modest

    owner.execute("lock table tasks in access exclusive mode")
    greedy, modest = asyncio.run(main())

    assert greedy == {200: REQUESTS_PER_USER, 429: 10 - REQUESTS_PER_USER}
    assert modest == {200: REQUESTS_PER_USER}


@pytest.mark.requirement("SR-14")
def test_room_is_free_again_when_requests_are_answered_or_their_clients_have_left(
    url: str, owner: psycopg.Connection
) -> None:
    async def leave() -> None:
        asking = asyncio.create_task(ask(url, "leaver", count=REQUESTS_PER_USER))
        await asyncio.sleep(0.3)
        asking.cancel()
        await asyncio.wait([asking])

    owner.execute("lock table tasks in access exclusive mode")
    asyncio.run(leave())
    owner.rollback()
    rounds = [asyncio.run(ask(url, "leaver", count=REQUESTS_PER_USER)) for _ in range(3)]

    assert rounds == [{200: REQUESTS_PER_USER}] * 3


@pytest.mark.requirement("SR-13")
def test_requests_without_a_valid_token_take_nobodys_room(url: str) -> None:
    """Whatever they claim: another user's token, a forged one, or none."""

    async def main() -> list[int]:
        tokens = [
            None,
            "x",
            make_token("victim", secret="another secret, which is of 32 bytes at least"),
            make_token("b"),
        ]
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            answers = await asyncio.gather(
                *(client.get("/api/victim/tasks", headers={"Authorization": f"Bearer {token}"} if token else {})
                  for token in tokens * 10)
            )  # fmt: skip
        return [answer.status_code for answer in answers]

    statuses = asyncio.run(main())

    assert Counter(statuses) == {401: 30, 403: 10}
    assert asyncio.run(ask(url, "victim", count=REQUESTS_PER_USER)) == {200: REQUESTS_PER_USER}


@pytest.mark.requirement("SR-13")
def test_however_many_probes_ask_the_database_is_asked_once_in_a_while(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(database_url) as proxy:

        async def syncs_of(probes: int, seconds: float) -> int:
            monkeypatch.setattr("app.probes.READINESS_SECONDS", seconds)
            async with Pool(proxy.url, size=1) as pool:
                readiness = Readiness(pool)
                await readiness.check()
                before = proxy.syncs
                await asyncio.gather(*(readiness.check() for _ in range(probes)))
                await readiness.check()
                return proxy.syncs - before

        assert asyncio.run(syncs_of(200, 60)) == 0
        # Those that come at once share one question, even when an answer is good for no time at all.
        assert asyncio.run(syncs_of(200, 0)) == 2


@pytest.mark.requirement("SR-13")
def test_requests_are_answered_while_the_probes_database_is_silent(url: str, owner: psycopg.Connection) -> None:
    """A lock that only the probe's statement meets: readiness waits, and nobody else does."""
    owner.execute("lock table alembic_version in access exclusive mode")

    async def main() -> tuple[Counter[int], list[int]]:
        async with httpx.AsyncClient(base_url=url, limits=httpx.Limits(max_connections=100), timeout=20) as client:
            await asyncio.sleep(READINESS_SECONDS)
            probes = asyncio.gather(*(client.get("/readyz") for _ in range(100)))
            await asyncio.sleep(0.2)
            answered = await ask(url, "worker", count=REQUESTS_PER_USER)
            owner.rollback()
            return answered, [probe.status_code for probe in await probes]

    answered, probes = asyncio.run(main())

    assert answered == {200: REQUESTS_PER_USER}
    assert probes == [200] * 100


@pytest.mark.parametrize("failure", [DatabaseUnavailable, SchemaMismatch])
def test_a_failure_is_remembered_as_long_and_grows_with_nobody_who_asks(
    monkeypatch: pytest.MonkeyPatch, failure: type[Exception]
) -> None:
    asked = 0

    async def fail(_pool: object) -> None:
        nonlocal asked
        asked += 1
        raise failure

    async def main() -> list[BaseException | None]:
        readiness = Readiness(None)  # type: ignore[arg-type]
        return await asyncio.gather(*(readiness.check() for _ in range(50)), return_exceptions=True)

    monkeypatch.setattr("app.probes.check_version", fail)
    failures = asyncio.run(main())

    assert asked == 1
    assert {type(each) for each in failures} == {failure}
    assert len({id(each) for each in failures}) == 50
