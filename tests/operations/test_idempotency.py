"""A create that is repeated under one `Idempotency-Key` makes one task, whatever happens between the tries."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx
import psycopg
import pytest

from support.people import Person, make_token
from support.proxy import Proxy
from support.service import running

BODY = {"title": "Buy oat milk", "description": "two litres"}
AT_ONCE = 20


def key(name: str | None = None) -> dict[str, str]:
    return {"Idempotency-Key": name or str(uuid4())}


def ids(person: Person) -> list[str]:
    return [task["id"] for task in person.client.get(person.tasks).json()["items"]]


@pytest.mark.requirement("FR-06", "FR-21", "SC-04")
def test_a_repeated_call_is_answered_with_the_same_task(alice: Person) -> None:
    headers = key()

    first, second = (alice.client.post(alice.tasks, json=BODY, headers=headers) for _ in range(2))

    assert (second.status_code, second.json()) == (201, first.json())
    assert [second.headers[name] for name in ("location", "etag")] == [
        first.headers[name] for name in ("location", "etag")
    ]
    assert first.headers["location"] == f"{alice.tasks}/{first.json()['id']}"
    assert ids(alice) == [first.json()["id"]]


@pytest.mark.requirement("FR-06", "FR-21")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param('{"title":"x","description":"y"}', '{ "description" : "y",\n"title":"x" }', id="order-and-space"),
        pytest.param('{"title":"\u20ac"}', '{"title":"\\u20ac"}', id="escapes"),
        pytest.param('{"title":"x"}', '{"title":"x","description":null}', id="null-is-absent"),
    ],
)
def test_how_the_body_is_written_does_not_matter(alice: Person, first: str, second: str) -> None:
    headers = key() | {"Content-Type": "application/json"}

    answers = [alice.client.post(alice.tasks, content=body.encode(), headers=headers) for body in (first, second)]

    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()


@pytest.mark.requirement("FR-06", "FR-21", "FR-18", "FR-19")
@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"title": "another"}, id="title"),
        pytest.param({"description": "another"}, id="description"),
        pytest.param({"description": None}, id="no-description"),
        pytest.param({"title": "two litres", "description": "Buy oat milk"}, id="exchanged"),
    ],
)
def test_a_key_with_another_body_is_refused_and_changes_nothing(alice: Person, other: dict[str, object]) -> None:
    headers = key()
    task = alice.client.post(alice.tasks, json=BODY, headers=headers).json()

    refused = alice.client.post(alice.tasks, json=BODY | other, headers=headers)

    assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")
    assert refused.json()["type"] == "tag:taskpact.example,2026:idempotency-key-reused"
    assert ids(alice) == [task["id"]]
    assert alice.client.get(f"{alice.tasks}/{task['id']}").json() == task


@pytest.mark.requirement("FR-06", "FR-21", "SC-04")
@pytest.mark.parametrize("is_new", [True, False], ids=["new-user", "known-user"])
def test_calls_at_once_create_one_task(alice: Person, owner: psycopg.Connection, is_new: bool) -> None:
    if not is_new:
        alice.client.post(alice.tasks, json={"title": "another"})
    headers = key()

    with ThreadPoolExecutor(AT_ONCE) as threads:
        answers = list(
            threads.map(lambda _: alice.client.post(alice.tasks, json=BODY, headers=headers), range(AT_ONCE))
        )

    assert [answer.status_code for answer in answers] == [201] * AT_ONCE
    assert len({answer.text for answer in answers}) == 1
    assert len({answer.headers["location"] for answer in answers}) == 1
    count = owner.execute(
        "select count(*) from tasks where user_id = %s and idempotency_key is not null", [alice.id]
    ).fetchone()
    assert count == (1,)


@pytest.mark.requirement("FR-06", "FR-21", "SC-04")
def test_of_calls_at_once_with_different_bodies_one_wins(alice: Person) -> None:
    headers = key()

    with ThreadPoolExecutor(AT_ONCE) as threads:
        answers = list(
            threads.map(
                lambda n: alice.client.post(alice.tasks, json={"title": f"{n % 2}"}, headers=headers), range(AT_ONCE)
            )
        )

    created = [answer.json() for answer in answers if answer.status_code == 201]
    assert [answer.status_code for answer in answers if answer.status_code != 201] == [422] * (AT_ONCE // 2)
    assert ids(alice) == list({task["id"] for task in created})


@pytest.mark.requirement("FR-06", "FR-21", "FR-15", "SC-04")
def test_a_call_whose_answer_was_lost_may_be_repeated(database_url: str, owner: psycopg.Connection) -> None:
    user, headers = f"user-{uuid4().hex}", key()
    headers["Authorization"] = f"Bearer {make_token(user)}"
    with Proxy(database_url) as proxy, running(proxy.url) as url:
        tasks = f"{url}/api/{user}/tasks"
        httpx.get(tasks, headers=headers)
        # The answer is under way for so long that the connection breaks before it arrives.
        proxy.delay_seconds = 1.0
        lost: list[int] = []
        call = threading.Thread(
            target=lambda: lost.append(httpx.post(tasks, json=BODY, headers=headers, timeout=30).status_code)
        )
        call.start()
        deadline = time.monotonic() + 20
        while not (rows := owner.execute("select id from tasks where user_id = %s", [user]).fetchall()):
            assert time.monotonic() < deadline
            owner.rollback()
            time.sleep(0.02)
        proxy.cut()
        call.join()
        proxy.delay_seconds = 0.0

        again = httpx.post(tasks, json=BODY, headers=headers)
        listed = httpx.get(tasks, headers=headers).json()["items"]

    assert lost == [503]
    assert (again.status_code, again.json()["id"]) == (201, str(rows[0][0]))
    assert listed == [again.json()]


@pytest.mark.requirement("FR-06", "FR-21", "SR-03", "SC-03")
def test_a_key_is_its_users_own(alice: Person, bob: Person) -> None:
    headers = key()

    tasks = [person.client.post(person.tasks, json=BODY, headers=headers).json() for person in (alice, bob)]

    assert [task["user_id"] for task in tasks] == [alice.id, bob.id]
    assert (ids(alice), ids(bob)) == ([tasks[0]["id"]], [tasks[1]["id"]])


@pytest.mark.requirement("FR-06", "FR-21")
def test_a_task_that_changed_meanwhile_is_answered_as_it_is_now(alice: Person) -> None:
    headers = key()
    task = alice.client.post(alice.tasks, json=BODY, headers=headers).json()
    changed = alice.client.put(f"{alice.tasks}/{task['id']}", json={"title": "new", "completed": True})

    again = alice.client.post(alice.tasks, json=BODY, headers=headers)

    assert (again.status_code, again.json(), again.headers["etag"]) == (201, changed.json(), changed.headers["etag"])


@pytest.mark.requirement("FR-06", "FR-21", "FR-10")
def test_a_key_is_forgotten_with_its_task(alice: Person) -> None:
    headers = key()
    task = alice.client.post(alice.tasks, json=BODY, headers=headers).json()
    alice.client.delete(f"{alice.tasks}/{task['id']}")

    again = alice.client.post(alice.tasks, json={"title": "another"}, headers=headers)

    assert again.status_code == 201
    assert again.json()["id"] != task["id"]


@pytest.mark.requirement("FR-06", "FR-21")
def test_without_a_key_each_call_creates_a_task(alice: Person) -> None:
    for _ in range(2):
        alice.client.post(alice.tasks, json=BODY)

    assert len(ids(alice)) == 2


@pytest.mark.requirement("FR-06", "FR-21", "FR-18")
@pytest.mark.parametrize("name", ["", "x" * 256, "\u00e9", "a\tb"], ids=["empty", "too-long", "not-ascii", "tab"])
def test_a_key_that_is_none_is_refused(alice: Person, name: str) -> None:
    response = alice.client.post(alice.tasks, json=BODY, headers={"Idempotency-Key": name.encode("latin-1")})

    assert response.status_code == 422
    assert [error["parameter"] for error in response.json()["errors"]] == ["idempotency-key"]


@pytest.mark.requirement("FR-06", "FR-21")
@pytest.mark.parametrize("name", ["k", "x" * 255, '"a quoted string"', "'; drop table tasks; --"])
def test_a_key_is_any_name_that_can_be_printed(alice: Person, name: str) -> None:
    answers = [alice.client.post(alice.tasks, json=BODY, headers=key(name)) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [201, 201]
    assert len({answer.json()["id"] for answer in answers}) == 1


@pytest.mark.requirement("FR-06", "FR-21", "SR-12")
def test_keys_work_where_somebody_else_keeps_the_users(
    database_url: str, owner: psycopg.Connection, person: Callable[..., Person]
) -> None:
    with running(database_url, PROVISION_USERS="false") as url:
        somebody = person(url=url)
        headers = key()
        unknown = somebody.client.post(somebody.tasks, json=BODY, headers=headers)
        owner.execute("insert into users (id) values (%s)", [somebody.id])
        owner.commit()
        answers = [somebody.client.post(somebody.tasks, json=BODY, headers=headers) for _ in range(2)]

    assert unknown.status_code == 401
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()


@pytest.mark.requirement("FR-06", "FR-21")
def test_the_answer_does_not_show_the_key(alice: Person) -> None:
    headers = key()

    task = alice.client.post(alice.tasks, json=BODY, headers=headers)

    assert headers["Idempotency-Key"] not in json.dumps([task.json(), dict(task.headers)])
