"""No user sees the tasks of another, and an account follows its tokens until it is deleted."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from support.operations import OPERATIONS, TASK_OPERATIONS, WRITES, Operation
from support.people import Person, make_token
from support.proxy import Proxy
from support.service import running

Make = Callable[..., Person]

ONE_CONNECTION = {"DATABASE_POOL_SIZE": "1", "DATABASE_QUEUE_SIZE": "100"}
"""Everybody's requests take turns on it, and none is refused because others wait."""


@pytest.fixture(scope="module")
def proxy(database_url: str) -> Iterator[Proxy]:
    with Proxy(database_url) as proxy:
        yield proxy


@pytest.fixture(scope="module", params=["true", "false"], ids=["provisioning", "closed"])
def narrow_url(proxy: Proxy, request: pytest.FixtureRequest) -> Iterator[str]:
    """A service with one connection, whose round trips are counted."""
    with running(proxy.url, **ONE_CONNECTION, PROVISION_USERS=request.param) as url:
        yield url


@pytest.fixture(scope="module")
def closed_url(database_url: str) -> Iterator[str]:
    """A service that makes no users."""
    with running(database_url, PROVISION_USERS="false") as url:
        yield url


def look(
    proxy: Proxy, person: Person, method: str, path: str, body: object, headers: dict[str, str]
) -> tuple[Any, ...]:
    """What an outsider can tell of an answer, and how often the service asked the database for it."""
    before = proxy.syncs
    response = person.client.request(method, path, json=body, headers=headers)
    told = {name: value for name, value in response.headers.items() if name not in ("date", "x-request-id")}
    return response.status_code, told, re.sub('urn:uuid:[^"]*', "", response.text), proxy.syncs - before


@pytest.mark.requirement("SR-05", "SC-03")
@pytest.mark.parametrize("operation", TASK_OPERATIONS.values(), ids=TASK_OPERATIONS)
@pytest.mark.parametrize(
    "headers",
    [{}, {"If-Match": '"1"'}, {"If-Match": "*"}, {"If-Match": '"7"'}, {"If-None-Match": '"1"'}],
    ids=["plain", "matching", "any", "not-matching", "none-match"],
)
def test_another_users_task_takes_as_many_round_trips_as_a_missing_one(
    proxy: Proxy,
    narrow_url: str,
    alice: Person,
    bob: Person,
    person: Make,
    operation: Operation,
    headers: dict[str, str],
) -> None:
    alice.client.post(alice.tasks, json={"title": "mine"})
    task_id = bob.client.post(bob.tasks, json={"title": "x"}).json()["id"]
    caller = person(alice.id, url=narrow_url)
    caller.client.get(caller.tasks)

    theirs, missing = (
        look(proxy, caller, operation.method, operation.path(caller.id, id_), operation.body, headers)
        for id_ in (task_id, str(UUID(int=UUID(task_id).int ^ 1)))
    )

    assert theirs == missing
    # A condition that the operation does not evaluate is refused before anybody looks for the task.
    is_evaluated = headers.keys() <= operation.conditions
    assert (theirs[0], theirs[-1] > 0) == ((404, True) if is_evaluated else (422, False))


@pytest.mark.requirement("FR-05", "SR-05", "SC-03")
def test_a_user_who_exists_cannot_be_told_from_one_who_does_not(
    proxy: Proxy, narrow_url: str, alice: Person, bob: Person, person: Make
) -> None:
    task_id = bob.client.post(bob.tasks, json={"title": "x"}).json()["id"]
    caller = person(alice.id, url=narrow_url)

    for operation in TASK_OPERATIONS.values():
        theirs, nobodys = (
            look(proxy, caller, operation.method, operation.path(user_id, task_id), operation.body, {})
            for user_id in (bob.id, f"user-{uuid4().hex}")
        )
        assert theirs == nobodys
        assert (theirs[0], theirs[3]) == (403, 0)


@pytest.mark.requirement("FR-07", "SR-05")
def test_another_users_task_as_a_cursor_tells_no_more_than_a_made_up_one(
    proxy: Proxy, narrow_url: str, alice: Person, bob: Person, person: Make
) -> None:
    alice.client.post(alice.tasks, json={"title": "mine"})
    task_id = bob.client.post(bob.tasks, json={"title": "x"}).json()["id"]
    caller = person(alice.id, url=narrow_url)

    theirs, made_up = (
        look(proxy, caller, "GET", f"{caller.tasks}?cursor={cursor}", None, {})
        for cursor in (UUID(task_id).hex, f"{UUID(task_id).int ^ 1:032x}")
    )

    assert theirs == made_up
    assert (theirs[0], theirs[3]) == (200, 1)


async def work(client: httpx.AsyncClient, name: str, url: str, *, turns: int, lenient: bool) -> int:
    """Works through all operations as this user, failing on purpose too, and checks that every answer is theirs.

    With `lenient`, an answer may be 503. Returns how many answers there were.
    """
    headers = {"Authorization": f"Bearer {make_token(name)}"}
    tasks, answers, known = f"{url}/api/{name}/tasks", 0, {}

    async def ask(method: str, path: str, *statuses: int, **options: Any) -> httpx.Response | None:
        nonlocal answers
        options.setdefault("headers", headers)
        response = await client.request(method, path, **options)
        answers += 1
        others = {*re.findall("crowd-[0-9]+", response.text)} - {name}
        assert others == set(), f"{name} was told of {others}"
        if lenient and response.status_code == 503:
            return None
        assert response.status_code in statuses, (method, path, response.text)
        return response

    for turn in range(turns):
        created = await ask("POST", tasks, 201, json={"title": f"{name} {turn}"})
        if created is None:
            continue
        task = created.json()
        known[task["id"]] = task["title"]
        at = f"{tasks}/{task['id']}"
        await ask("PUT", at, 422, json={"title": ""})
        await ask("PUT", at, 412, json={"title": "x"}, headers=headers | {"If-Match": '"99"'})
        await ask("GET", f"{tasks}/{uuid4()}", 404)
        await ask("GET", f"{url}/api/somebody/tasks", 403)
        await ask("GET", tasks, 401, headers={"Authorization": "Bearer x"})
        await ask("PATCH", f"{at}/complete", 200)
        got = await ask("GET", at, 200)
        assert got is None or (got.json()["user_id"], got.json()["title"]) == (name, task["title"])
        if not lenient:
            listed = (await ask("GET", f"{tasks}?limit=100", 200)).json()["items"]
            assert {item["id"]: item["title"] for item in listed} == known
            if turn % 2:
                await ask("DELETE", at, 204)
                del known[task["id"]]
    return answers


async def hang_up(name: str, url: str, turns: int) -> None:
    """Asks as this user and goes away before the answer, at another moment each time."""
    host, _, port = url.removeprefix("http://").partition(":")
    body = json.dumps({"title": f"{name} left"}).encode()
    head = (
        f"POST /api/{name}/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {make_token(name)}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    for turn in range(turns):
        _, writer = await asyncio.open_connection(host, int(port))
        # Every other time before the body is complete.
        writer.write(head + (body if turn % 2 else body[:-3]))
        await asyncio.sleep(0.0004 * (turn % 8))
        writer.transport.abort()


async def crowd(url: str, *, people: int, turns: int, leavers: int = 0, lenient: bool = False) -> int:
    # A client each, as people have; certificates would take longer to load than all this.
    async with httpx.AsyncClient(verify=False, timeout=30, limits=httpx.Limits(max_connections=people)) as client:  # noqa: S501
        names = [f"crowd-{uuid4().int}" for _ in range(people + leavers)]
        answers, *_ = await asyncio.gather(
            asyncio.gather(*(work(client, name, url, turns=turns, lenient=lenient) for name in names[:people])),
            *(hang_up(name, url, turns * 4) for name in names[people:]),
        )
        return sum(answers)


@pytest.mark.requirement("SR-03", "SC-03", "SC-04", "NF-01")
@pytest.mark.parametrize("prepare", ["true", "false"], ids=["prepared", "not-prepared"])
@pytest.mark.parametrize("leavers", [0, 4], ids=["all-stay", "some-hang-up"])
def test_a_crowd_on_one_connection_sees_each_only_their_own(database_url: str, prepare: str, leavers: int) -> None:
    with running(database_url, **ONE_CONNECTION, DATABASE_PREPARE=prepare) as url:
        answers = asyncio.run(crowd(url, people=16, turns=3, leavers=leavers))

    assert answers >= 16 * 3 * 9


@pytest.mark.requirement("SR-03", "SC-03", "SC-04", "NF-01")
def test_a_crowd_whose_connection_breaks_again_and_again_sees_each_only_their_own(database_url: str) -> None:
    done = threading.Event()

    def cut(proxy: Proxy) -> int:
        times = 0
        while not done.wait(0.05):
            proxy.cut()
            times += 1
        return times

    with (
        Proxy(database_url) as proxy,
        running(proxy.url, **ONE_CONNECTION) as url,
        ThreadPoolExecutor(1) as threads,
    ):
        cutting = threads.submit(cut, proxy)
        answers = asyncio.run(crowd(url, people=12, turns=4, leavers=2, lenient=True))
        done.set()
        times = cutting.result()
        finally_ = asyncio.run(crowd(url, people=4, turns=1))

    assert (answers >= 12 * 4, times > 0, finally_ > 0) == (True, True, True)


@pytest.mark.requirement("SR-03", "SC-03", "SC-04")
def test_strangers_whose_writes_fail_in_the_database_leave_nothing_behind_for_the_next(
    database_url: str, owner: psycopg.Connection
) -> None:
    """On one connection, a foreign key refuses every other write: the claims of the refused one must be gone."""
    known = [f"crowd-{uuid4().int}" for _ in range(6)]
    strangers = [f"crowd-{uuid4().int}" for _ in range(6)]
    owner.execute("insert into users (id) select unnest(%s::text[])", [known])
    owner.commit()

    async def refused(client: httpx.AsyncClient, url: str, name: str) -> set[int]:
        headers = {"Authorization": f"Bearer {make_token(name)}"}
        path = f"{url}/api/{name}/tasks"
        return {(await client.post(path, json={"title": "x"}, headers=headers)).status_code for _ in range(20)}

    async def main(url: str) -> list[set[int]]:
        async with httpx.AsyncClient(verify=False, timeout=30) as client:  # noqa: S501 - nothing here is encrypted
            _, *statuses = await asyncio.gather(
                asyncio.gather(*(work(client, name, url, turns=3, lenient=False) for name in known)),
                *(refused(client, url, name) for name in strangers),
            )
            return statuses

    with running(database_url, **ONE_CONNECTION, PROVISION_USERS="false") as url:
        assert asyncio.run(main(url)) == [{401}] * len(strangers)
    left = owner.execute("select count(*) from users where id = any(%s)", [strangers]).fetchone()
    assert left == (0,)


def row(owner: psycopg.Connection, user_id: str) -> tuple[str | None, str | None] | None:
    """The email and the name that the database has of a user."""
    owner.rollback()
    return owner.execute("select email, name from users where id = %s", [user_id]).fetchone()


def forget(owner: psycopg.Connection, user_id: str) -> None:
    owner.execute("delete from users where id = %s", [user_id])
    owner.commit()


def count_tasks(owner: psycopg.Connection, user_id: str) -> int:
    owner.rollback()
    (count,) = owner.execute("select count(*) from tasks where user_id = %s", [user_id]).fetchone()
    return count


@pytest.mark.requirement("SR-12", "FR-04")
def test_who_leaves_takes_the_tasks_along_and_comes_back_to_none(
    owner: psycopg.Connection, person: Make, bob: Person
) -> None:
    leaver = person(email="leaver@example.com", name="Leaver")
    old = [leaver.client.post(leaver.tasks, json={"title": "old"}).json()["id"] for _ in range(3)]
    bob.client.post(bob.tasks, json={"title": "x"})

    forget(owner, leaver.id)
    left = count_tasks(owner, leaver.id)
    listed = leaver.client.get(leaver.tasks)
    got = [leaver.client.get(f"{leaver.tasks}/{id_}").status_code for id_ in old]
    created = leaver.client.post(leaver.tasks, json={"title": "new"})

    assert (left, listed.status_code, listed.json()["items"], got) == (0, 200, [], [404] * 3)
    assert created.status_code == 201
    assert [task["title"] for task in leaver.client.get(leaver.tasks).json()["items"]] == ["new"]
    assert row(owner, leaver.id) == ("leaver@example.com", "Leaver")
    assert count_tasks(owner, bob.id) == 1


@pytest.mark.requirement("SR-12", "FR-04", "SR-04")
def test_without_provisioning_who_leaves_is_not_authenticated_any_more(
    owner: psycopg.Connection, closed_url: str, alice: Person, person: Make
) -> None:
    task_id = alice.client.post(alice.tasks, json={"title": "x"}).json()["id"]
    leaver = person(alice.id, url=closed_url)
    before = leaver.client.get(f"{leaver.tasks}/{task_id}").status_code
    forget(owner, alice.id)

    answers = [
        leaver.client.request(one.method, one.path(leaver.id, task_id), json=one.body, headers=headers)
        for one in OPERATIONS.values()
        for headers in ({}, dict.fromkeys(one.conditions, '"1"'))
    ]

    assert before == 200
    assert {(a.status_code, a.headers["www-authenticate"]) for a in answers} == {(401, 'Bearer error="invalid_token"')}
    assert row(owner, alice.id) is None


@pytest.mark.requirement("SR-12", "FR-06", "SC-04")
def test_a_task_that_is_created_while_its_user_is_being_deleted_finds_a_fresh_account(
    owner: psycopg.Connection, alice: Person
) -> None:
    """The statement saw the user and waits for the deletion; when that commits, it starts over."""
    alice.client.post(alice.tasks, json={"title": "old"})
    owner.execute("delete from users where id = %s", [alice.id])

    with ThreadPoolExecutor(1) as threads:
        creating = threads.submit(alice.client.post, alice.tasks, json={"title": "new"})
        time.sleep(0.3)
        was_waiting = not creating.done()
        owner.commit()
        created = creating.result()

    assert (was_waiting, created.status_code) == (True, 201)
    assert [task["title"] for task in alice.client.get(alice.tasks).json()["items"]] == ["new"]


@pytest.mark.requirement("FR-04", "SC-04")
def test_many_first_writes_at_once_make_one_account(owner: psycopg.Connection, alice: Person) -> None:
    with ThreadPoolExecutor(8) as threads:
        statuses = list(
            threads.map(lambda n: alice.client.post(alice.tasks, json={"title": str(n)}).status_code, range(24))
        )

    assert statuses == [201] * 24
    assert (row(owner, alice.id), count_tasks(owner, alice.id)) == ((None, None), 24)


@pytest.mark.requirement("FR-04")
@pytest.mark.parametrize(
    ("later", "expected"),
    [
        pytest.param({"email": "new@example.com", "name": "New"}, ("new@example.com", "New"), id="both-change"),
        pytest.param({"email": "new@example.com", "name": "Old"}, ("new@example.com", "Old"), id="email-changes"),
        pytest.param({"email": "old@example.com", "name": "New"}, ("old@example.com", "New"), id="name-changes"),
        pytest.param({"name": "New"}, ("old@example.com", "New"), id="email-unsaid"),
        pytest.param({"email": "new@example.com"}, ("new@example.com", "Old"), id="name-unsaid"),
        pytest.param({}, ("old@example.com", "Old"), id="both-unsaid"),
        pytest.param({"email": "", "name": ""}, ("", ""), id="both-empty"),
        pytest.param({"email": 1, "name": ["x"]}, ("old@example.com", "Old"), id="both-odd"),
        pytest.param({"email": "a\0b", "name": "x" * 1_001}, ("old@example.com", "Old"), id="both-not-to-be-stored"),
    ],
)
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_email_and_name_follow_a_new_token_with_any_write_and_what_it_does_not_say_stays(
    owner: psycopg.Connection, person: Make, later: dict[str, Any], expected: tuple[str, str], write: Operation
) -> None:
    """Many issuers leave the profile out of some tokens: that it is unsaid does not mean that it is gone."""
    before = person(email="old@example.com", name="Old")
    task = before.client.post(before.tasks, json={"title": "x"}).json()
    after = person(before.id, **later)

    response = after.client.request(write.method, write.path(after.id, task["id"]), json=write.body)

    assert response.status_code == write.status
    assert row(owner, before.id) == expected


@pytest.mark.parametrize(
    "profile", [{"email": "a\0b"}, {"name": "\ud800"}, {"email": "x" * 5000}], ids=["nul", "surrogate", "long"]
)
def test_a_profile_that_cannot_be_stored_is_left_out(
    person: Make, owner: psycopg.Connection, profile: dict[str, str]
) -> None:
    somebody = person(**profile)

    assert somebody.client.post(somebody.tasks, json={"title": "x"}).status_code == 201
    assert row(owner, somebody.id) == (None, None)


@pytest.mark.requirement("FR-04")
def test_a_profile_that_says_nothing_new_writes_nothing(owner: psycopg.Connection, person: Make) -> None:
    somebody = person(email="same@example.com", name="Same")
    version = "select xmin::text from users where id = %s"
    somebody.client.post(somebody.tasks, json={"title": "x"})
    (before,) = owner.execute(version, [somebody.id]).fetchone()

    for again in (somebody, person(somebody.id, email="same@example.com"), person(somebody.id)):
        at = again.client.post(again.tasks, json={"title": "y"}).headers["location"]
        assert again.client.patch(f"{at}/complete").status_code == 200
        assert again.client.delete(at).status_code == 204

    owner.rollback()
    assert owner.execute(version, [somebody.id]).fetchone() == (before,)


@pytest.mark.requirement("FR-04")
def test_a_token_is_followed_once(owner: psycopg.Connection, person: Make) -> None:
    """Two tokens that say different things do not take turns with each write."""
    older = person(email="old@example.com")
    older.client.post(older.tasks, json={"title": "x"})
    newer = person(older.id, email="new@example.com")
    newer.client.post(newer.tasks, json={"title": "y"})

    at = older.client.post(older.tasks, json={"title": "z"}).headers["location"]

    assert older.client.patch(f"{at}/complete").status_code == 200
    assert row(owner, older.id) == ("new@example.com", None)


@pytest.mark.requirement("FR-04")
def test_following_a_token_takes_no_round_trip_of_its_own(proxy: Proxy, database_url: str, person: Make) -> None:
    del database_url
    with running(proxy.url, **ONE_CONNECTION) as url:
        people = [person("crowd-follows", url=url, email=f"{n}@example.com") for n in range(3)]
        people[0].client.get(people[0].tasks)
        before = proxy.syncs
        created = [one.client.post(one.tasks, json={"title": "x"}) for one in people]
        toggled = [one.client.patch(f"{created[0].headers['location']}/complete") for one in people]

    assert [answer.status_code for answer in created + toggled] == [201] * 3 + [200] * 3
    assert proxy.syncs - before == 6


@pytest.mark.requirement("FR-04")
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_without_provisioning_a_user_without_a_row_is_not_authenticated(closed_url: str, operation: Operation) -> None:
    stranger = f"user-{uuid4().hex}"

    response = httpx.request(
        operation.method,
        closed_url + operation.path(stranger),
        json=operation.body,
        headers={"Authorization": f"Bearer {make_token(stranger)}"},
    )

    assert (response.status_code, response.headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')


@pytest.mark.requirement("FR-04")
def test_without_provisioning_a_user_with_a_row_works(
    closed_url: str, owner: psycopg.Connection, alice: Person, person: Make
) -> None:
    """Whoever keeps the users keeps their profiles, too: the service writes neither."""
    alice.client.post(alice.tasks, json={"title": "x"})
    somebody = person(alice.id, url=closed_url, email="new@example.com")

    created = somebody.client.post(somebody.tasks, json={"title": "x"})
    statuses = []
    for name in ("get_task", "replace_task", "update_task", "toggle_task_completion", "delete_task", "get_task"):
        one = OPERATIONS[name]
        answer = somebody.client.request(one.method, one.path(somebody.id, created.json()["id"]), json=one.body)
        statuses.append(answer.status_code)

    assert (created.status_code, statuses) == (201, [200, 200, 200, 200, 204, 404])
    assert row(owner, alice.id) == (None, None)
