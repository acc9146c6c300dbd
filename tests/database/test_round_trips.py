"""An operation takes one round trip to the database, and one that fails takes two at most."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from uuid import uuid4

import pytest

from support.operations import OPERATIONS, TASK_OPERATIONS, Operation
from support.people import Person
from support.proxy import Proxy
from support.service import running

Make = Callable[..., Person]


@pytest.fixture(scope="module")
def proxy(database_url: str) -> Iterator[Proxy]:
    with Proxy(database_url) as proxy:
        yield proxy


@pytest.fixture(scope="module", params=["true", "false"], ids=["prepared", "not-prepared"])
def proxied_url(proxy: Proxy, request: pytest.FixtureRequest) -> Iterator[str]:
    with running(proxy.url, DATABASE_PREPARE=request.param, DATABASE_POOL_SIZE="1") as url:
        yield url


FILTERED = replace(OPERATIONS["list_tasks"], suffix=f"?limit=1&completed=false&cursor={'f' * 32}")


@pytest.mark.parametrize("operation", [*OPERATIONS.values(), FILTERED], ids=[*OPERATIONS, "list_tasks-filtered"])
@pytest.mark.parametrize("is_conditional", [False, True], ids=["plain", "conditional"])
def test_an_operation_takes_one_round_trip(
    proxy: Proxy, proxied_url: str, person: Make, operation: Operation, is_conditional: bool
) -> None:
    somebody = person(url=proxied_url)
    task = somebody.client.post(somebody.tasks, json={"title": "x"}).json()
    before = proxy.syncs

    path = operation.path(somebody.id, task["id"])
    precondition = dict.fromkeys(operation.conditions, '"1"') if is_conditional else {}
    response = somebody.client.request(operation.method, path, json=operation.body, headers=precondition)

    assert response.status_code < 400
    assert proxy.syncs - before == 1


def test_a_key_takes_no_further_round_trip(proxy: Proxy, proxied_url: str, person: Make) -> None:
    somebody = person(url=proxied_url)
    round_trips, statuses = [], []
    for title in ("x", "x", "y"):
        before = proxy.syncs
        response = somebody.client.post(somebody.tasks, json={"title": title}, headers={"Idempotency-Key": "k"})
        round_trips.append(proxy.syncs - before)
        statuses.append(response.status_code)

    assert (statuses, round_trips) == ([201, 201, 422], [1, 1, 1])


def test_an_unknown_users_create_takes_no_further_round_trip(proxy: Proxy, person: Make) -> None:
    with running(proxy.url, DATABASE_POOL_SIZE="1", PROVISION_USERS="false") as url:
        nobody = person(url=url)
        assert (
            nobody.client.post(nobody.tasks, json={"title": "x"}).status_code == 401
        )  # and has prepared its statement
        round_trips, statuses = [], []
        for key in ({}, {"Idempotency-Key": "k"}):
            before = proxy.syncs
            response = nobody.client.post(nobody.tasks, json={"title": "x"}, headers=key)
            round_trips.append(proxy.syncs - before)
            statuses.append(response.status_code)

    assert (statuses, round_trips) == ([401, 401], [1, 2])


@pytest.mark.parametrize("operation", TASK_OPERATIONS.values(), ids=TASK_OPERATIONS)
@pytest.mark.parametrize(
    ("task_id", "precondition", "status", "round_trips"),
    [
        pytest.param("{missing}", {}, 404, 1, id="missing"),
        pytest.param("{missing}", {"If-Match": '"1"'}, 404, 2, id="missing-conditional"),
        pytest.param("{id}", {"If-Match": '"7"'}, 412, 2, id="mismatch"),
    ],
)
def test_a_failure_takes_two_at_most(
    proxy: Proxy, proxied_url: str, person: Make, operation: Operation,
    task_id: str, precondition: dict[str, str], status: int, round_trips: int,
) -> None:  # fmt: skip
    if operation.method == "GET":
        precondition, status, round_trips = {}, 404 if status == 404 else 200, 1
    somebody = person(url=proxied_url)
    task = somebody.client.post(somebody.tasks, json={"title": "x"}).json()
    path = operation.path(somebody.id, task_id.format(missing=uuid4(), **task))
    before = proxy.syncs

    response = somebody.client.request(operation.method, path, json=operation.body, headers=precondition)

    assert response.status_code == status
    assert proxy.syncs - before == round_trips
