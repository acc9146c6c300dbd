"""A condition that an operation does not evaluate is refused, and so is a body that it does not take."""

from __future__ import annotations

import pytest

from support.operations import CONDITIONS, OPERATIONS, Operation
from support.people import Person

DATE = "Sat, 29 Oct 1994 19:43:31 GMT"
REFUSED = [
    pytest.param(operation, condition, id=f"{operation.id}-{condition}")
    for operation in OPERATIONS.values()
    for condition in sorted(CONDITIONS - operation.conditions)
]


def new_task(person: Person) -> str:
    task_id: str = person.client.post(person.tasks, json={"title": "mine"}).json()["id"]
    return task_id


def send(person: Person, operation: Operation, task_id: str, headers: dict[str, str]) -> tuple[int, object]:
    response = person.client.request(
        operation.method, operation.path(person.id, task_id), json=operation.body, headers=headers
    )
    return response.status_code, response.json() if response.content else None


@pytest.mark.requirement("FR-18")
@pytest.mark.parametrize(("operation", "condition"), REFUSED)
def test_a_condition_that_is_not_evaluated_is_refused_and_nothing_is_done(
    alice: Person, operation: Operation, condition: str
) -> None:
    task_id = new_task(alice)
    before = alice.client.get(alice.tasks).json()

    status, problem = send(alice, operation, task_id, {condition: DATE if condition.endswith("Since") else "*"})

    assert status == 422
    assert problem["errors"] == [  # type: ignore[index]
        {"parameter": condition.lower(), "detail": "the operation does not evaluate this condition"}
    ]
    assert alice.client.get(alice.tasks).json() == before


@pytest.mark.requirement("FR-18")
def test_a_date_is_ignored_beside_the_entity_tag_that_takes_its_place(alice: Person) -> None:
    """RFC 9110, sections 13.1.3 and 13.1.4."""
    path = f"{alice.tasks}/{new_task(alice)}"

    read = alice.client.get(path, headers={"If-None-Match": '"1"', "If-Modified-Since": DATE})
    changed = alice.client.patch(path, json={}, headers={"If-Match": '"1"', "If-Unmodified-Since": DATE})

    assert (read.status_code, changed.status_code) == (304, 200)


@pytest.mark.requirement("FR-11")
@pytest.mark.parametrize("body", [b"", b"{}", b" { }\n"], ids=["none", "object", "spaces"])
@pytest.mark.parametrize("media_type", ["application/json", "text/plain", None])
def test_a_toggle_with_a_body_that_says_nothing_is_a_toggle(alice: Person, body: bytes, media_type: str | None) -> None:
    path = f"{alice.tasks}/{new_task(alice)}"

    response = alice.client.patch(
        f"{path}/complete", content=body, headers={"Content-Type": media_type} if media_type else {}
    )

    assert (response.status_code, response.json()["completed"]) == (200, True)


@pytest.mark.requirement("FR-11")
@pytest.mark.parametrize(
    "body",
    [b'{"completed": true}', b"[]", b"null", b"false", b"{", b"\0", b"{}{}", b" " * 2000, b"x" * 70_000],
    ids=["member", "array", "null", "false", "broken", "binary", "two", "long-spaces", "long"],
)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_toggle_with_a_body_that_says_something_is_refused_and_toggles_nothing(
    alice: Person, body: bytes, chunked: bool
) -> None:
    path = f"{alice.tasks}/{new_task(alice)}"

    response = alice.client.patch(f"{path}/complete", content=iter([body]) if chunked else body)

    assert response.status_code == 422
    assert response.json()["errors"] == [{"pointer": "", "detail": "the operation takes no body"}]
    assert alice.client.get(path).json()["completed"] is False


@pytest.mark.requirement("FR-08", "FR-10")
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_body_of_a_read_or_a_delete_is_ignored(alice: Person, method: str) -> None:
    path = f"{alice.tasks}/{new_task(alice)}"

    assert alice.client.request(method, path, content=b'{"completed": true}').is_success
