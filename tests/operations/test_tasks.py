"""The seven operations do what the contract says, over a socket, on a real database."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote
from uuid import UUID

import httpx
import psycopg
import pytest
import yaml

from support.operations import CHANGES, TASK_OPERATIONS, Operation
from support.paths import CONTRACT
from support.people import Person, make_token

UUID_VERSION = 7

USER_ID = yaml.safe_load(CONTRACT.read_bytes())["components"]["schemas"]["UserId"]


def create(person: Person, **members: object) -> dict[str, object]:
    response = person.client.post(person.tasks, json={"title": "Buy oat milk"} | members)
    assert response.status_code == 201, response.text
    return response.json()


@pytest.mark.requirement("FR-06", "FR-16")
def test_a_created_task_is_answered_with_its_place_and_entity_tag(alice: Person) -> None:
    response = alice.client.post(alice.tasks, json={"title": "  Buy oat milk ", "description": "two litres"})

    assert response.status_code == 201
    task = response.json()
    assert response.headers["location"] == f"{alice.tasks}/{task['id']}"
    assert response.headers["etag"] == '"1"'
    assert UUID(task["id"]).version == UUID_VERSION
    assert task == {
        "id": task["id"],
        "user_id": alice.id,
        "title": "  Buy oat milk ",
        "description": "two litres",
        "completed": False,
        "created_at": task["created_at"],
        "updated_at": task["created_at"],
    }


@pytest.mark.requirement("FR-06")
def test_the_location_of_a_user_id_with_reserved_characters_leads_to_the_task(person: Callable[..., Person]) -> None:
    odd = person("provider|a/b?c#d e%2F€")

    response = odd.client.post("/api/provider%7Ca%2Fb%3Fc%23d%20e%252F%E2%82%AC/tasks", json={"title": "x"})

    assert response.status_code == 201
    assert odd.client.get(response.headers["location"]).json() == response.json()


@pytest.mark.requirement("FR-07")
def test_pages_list_every_task_once_newest_first(alice: Person) -> None:
    created = [create(alice, title=f"task {number}")["id"] for number in range(7)]

    listed, cursor = [], None
    while True:
        page = alice.client.get(alice.tasks, params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        listed += [task["id"] for task in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert listed == created[::-1]


@pytest.mark.requirement("FR-07")
def test_a_page_that_is_exactly_full_is_the_last(alice: Person) -> None:
    create(alice)
    create(alice)

    page = alice.client.get(alice.tasks, params={"limit": 2}).json()

    assert (len(page["items"]), page["next_cursor"]) == (2, None)


@pytest.mark.requirement("FR-07")
def test_a_cursor_stays_good_after_its_task_was_deleted(alice: Person) -> None:
    ids = [create(alice)["id"] for _ in range(3)]
    cursor = alice.client.get(alice.tasks, params={"limit": 1}).json()["next_cursor"]
    alice.client.delete(f"{alice.tasks}/{cursor}")

    page = alice.client.get(alice.tasks, params={"cursor": cursor}).json()

    assert [task["id"] for task in page["items"]] == ids[1::-1]


@pytest.mark.requirement("FR-07")
@pytest.mark.parametrize("completed", [True, False])
def test_the_filter_lists_only_what_is_completed_or_only_what_is_not(alice: Person, completed: bool) -> None:
    done, pending = create(alice)["id"], create(alice)["id"]
    alice.client.patch(f"{alice.tasks}/{done}/complete")

    page = alice.client.get(alice.tasks, params={"completed": str(completed).lower()}).json()

    assert [task["id"] for task in page["items"]] == [done if completed else pending]


@pytest.mark.requirement("FR-07")
def test_without_a_limit_a_page_has_fifty_tasks(alice: Person) -> None:
    for _ in range(51):
        create(alice)

    page = alice.client.get(alice.tasks).json()

    assert len(page["items"]) == 50
    assert page["next_cursor"]


@pytest.mark.requirement("FR-08")
def test_a_task_is_read_as_it_was_created(alice: Person) -> None:
    task = create(alice)

    response = alice.client.get(f"{alice.tasks}/{task['id']}")

    assert response.json() == task
    assert response.headers["cache-control"] == "private, no-cache"


@pytest.mark.requirement("FR-08", "FR-18")
@pytest.mark.parametrize("tag", ['"1"', 'W/"1"', '"7", "1"', "*"])
def test_a_read_that_brings_nothing_new_is_answered_304(alice: Person, tag: str) -> None:
    task = create(alice)

    response = alice.client.get(f"{alice.tasks}/{task['id']}", headers={"If-None-Match": tag})

    assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", '"1"')
    assert "content-type" not in response.headers


@pytest.mark.requirement("FR-08")
@pytest.mark.parametrize("tag", ['"2"', "1", '""', "nonsense"])
def test_a_read_with_another_entity_tag_is_answered_whole(alice: Person, tag: str) -> None:
    task = create(alice)

    response = alice.client.get(f"{alice.tasks}/{task['id']}", headers={"If-None-Match": tag})

    assert response.json() == task


@pytest.mark.requirement("FR-09", "FR-17")
def test_a_replaced_task_loses_a_description_that_is_absent_and_keeps_its_completion(alice: Person) -> None:
    task = create(alice, description="old")
    alice.client.patch(f"{alice.tasks}/{task['id']}/complete")

    response = alice.client.put(f"{alice.tasks}/{task['id']}", json={"title": "new"})

    assert response.status_code == 200
    assert response.headers["etag"] == '"3"'
    changed = response.json()
    assert (changed["title"], changed["description"], changed["completed"]) == ("new", None, True)
    assert changed["created_at"] == task["created_at"]
    assert changed["updated_at"] > task["updated_at"]


@pytest.mark.requirement("FR-09")
def test_a_replacement_may_say_whether_the_task_is_completed(alice: Person) -> None:
    task = create(alice)

    response = alice.client.put(f"{alice.tasks}/{task['id']}", json={"title": "new", "completed": True})

    assert response.json()["completed"] is True


@pytest.mark.requirement("FR-12")
@pytest.mark.parametrize("media_type", ["application/merge-patch+json", "application/json"])
@pytest.mark.parametrize(
    ("patch", "title", "description", "completed"),
    [
        pytest.param({"title": "new"}, "new", "old", False, id="title"),
        pytest.param({"description": "new"}, "Buy oat milk", "new", False, id="description"),
        pytest.param({"description": None}, "Buy oat milk", None, False, id="description-removed"),
        pytest.param({"completed": True}, "Buy oat milk", "old", True, id="completed"),
        pytest.param({"title": "a", "description": "b", "completed": True}, "a", "b", True, id="all"),
        pytest.param({}, "Buy oat milk", "old", False, id="nothing"),
    ],
)
def test_a_patch_changes_only_the_members_sent(
    alice: Person,
    media_type: str,
    patch: dict[str, object],
    title: str,
    description: str | None,
    completed: bool,
) -> None:
    task = create(alice, description="old")

    response = alice.client.patch(f"{alice.tasks}/{task['id']}", json=patch, headers={"Content-Type": media_type})

    changed = response.json()
    assert (changed["title"], changed["description"], changed["completed"]) == (title, description, completed)


@pytest.mark.requirement("FR-12", "FR-17")
def test_a_change_that_changes_nothing_keeps_entity_tag_and_time(alice: Person) -> None:
    task = create(alice, description="old")

    response = alice.client.patch(f"{alice.tasks}/{task['id']}", json={"title": task["title"]})

    assert response.headers["etag"] == '"1"'
    assert response.json() == task


@pytest.mark.requirement("FR-10")
def test_a_deleted_task_is_gone_for_good(alice: Person, owner: psycopg.Connection) -> None:
    task = create(alice)

    response = alice.client.delete(f"{alice.tasks}/{task['id']}")

    assert (response.status_code, response.content) == (204, b"")
    assert "content-type" not in response.headers
    assert alice.client.delete(f"{alice.tasks}/{task['id']}").status_code == 404
    assert owner.execute("select count(*) from tasks where id = %s", [task["id"]]).fetchone() == (0,)


@pytest.mark.requirement("FR-11")
def test_a_toggle_completes_a_task_and_takes_it_back(alice: Person) -> None:
    task = create(alice)

    toggled = [alice.client.patch(f"{alice.tasks}/{task['id']}/complete").json()["completed"] for _ in range(3)]

    assert toggled == [True, False, True]


@pytest.mark.requirement("FR-11", "SC-04")
def test_no_toggle_is_lost_when_many_come_at_once(alice: Person) -> None:
    task = create(alice)
    toggles = 51

    with ThreadPoolExecutor(8) as threads:
        responses = list(
            threads.map(lambda _: alice.client.patch(f"{alice.tasks}/{task['id']}/complete"), range(toggles))
        )

    assert {response.status_code for response in responses} == {200}
    final = alice.client.get(f"{alice.tasks}/{task['id']}")
    assert final.json()["completed"] is True
    assert final.headers["etag"] == f'"{toggles + 1}"'
    assert sorted(int(response.headers["etag"].strip('"')) for response in responses) == list(range(2, toggles + 2))


@pytest.mark.requirement("FR-18", "SC-04")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize(
    "tag", ['"2"', 'W/"1"', 'w/"1"', '"99999999999999999999"', "0", '"-1"', '"01"', '""', 'x"1"', '"1"x', '"2" "1"'],
    ids=[
        "newer", "weak", "weak-lower", "huge", "no-tag", "negative", "padded", "empty", "before", "after", "2",
    ],
)  # fmt: skip
def test_a_change_under_another_entity_tag_is_refused_and_changes_nothing(
    alice: Person, change: Operation, tag: str
) -> None:
    task = create(alice)

    path = change.path(alice.id, task["id"])
    response = alice.client.request(change.method, path, json=change.body, headers={"If-Match": tag})

    assert response.status_code == 412
    assert alice.client.get(f"{alice.tasks}/{task['id']}").json() == task


@pytest.mark.requirement("FR-18")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("tag", ['"1"', '"8", "1"', '"8,","1"', '"1" ,', "*"])
def test_a_change_under_the_right_entity_tag_is_made(alice: Person, change: Operation, tag: str) -> None:
    task = create(alice)

    path = change.path(alice.id, task["id"])
    response = alice.client.request(change.method, path, json=change.body, headers={"If-Match": tag})

    assert response.is_success


@pytest.mark.requirement("FR-18", "SR-05")
@pytest.mark.parametrize("operation", TASK_OPERATIONS.values(), ids=TASK_OPERATIONS)
@pytest.mark.parametrize("condition", [None, '"1"', "*"], ids=["plain", "tag", "any"])
def test_a_task_that_does_not_exist_is_not_found(alice: Person, operation: Operation, condition: str | None) -> None:
    path = operation.path(alice.id)
    headers = dict.fromkeys(operation.conditions, condition) if condition else {}
    response = alice.client.request(operation.method, path, json=operation.body, headers=headers)

    assert response.status_code == 404
    assert response.json()["type"].endswith(":task-not-found")


@pytest.mark.requirement("FR-08", "FR-07")
def test_head_answers_as_get_does_without_the_body(alice: Person) -> None:
    task = create(alice)

    for path in (alice.tasks, f"{alice.tasks}/{task['id']}"):
        got, head = alice.client.get(path), alice.client.head(path)

        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(got.content))
        assert head.headers.get("etag") == got.headers.get("etag")


@pytest.mark.requirement("FR-13", "FR-14", "SR-09")
@pytest.mark.parametrize(
    "members",
    [
        pytest.param({"title": "x" * 200}, id="longest-title"),
        pytest.param({"title": "𝄞" * 200}, id="longest-title-beyond-the-basic-plane"),
        pytest.param({"title": "x", "description": "x" * 2000}, id="longest-description"),
        pytest.param({"title": "x", "description": ""}, id="empty-description"),
        pytest.param({"title": "x", "description": None}, id="null-description"),
        pytest.param({"title": "\u001c"}, id="a-control-character-is-not-blank"),
        *(
            pytest.param({"title": invisible, "description": invisible}, id=f"invisible-{ord(invisible):04X}")
            for invisible in "\u0085\u200b\u2800\u3164\u180e\u00ad\u115f\u2060\u200d\ufe0f\U000e0020"
        ),
        pytest.param({"title": "'; drop table tasks; --", "description": '"\\\n{}%s$1'}, id="sql-is-text"),
    ],
)
def test_what_the_contract_allows_is_kept_as_sent(alice: Person, members: dict[str, object]) -> None:
    task = create(alice, **members)

    assert members.items() <= task.items()


@pytest.mark.requirement("FR-06", "FR-07", "FR-18", "SC-03")
@pytest.mark.parametrize("character", ["x", "é", "語", "🙂", "%", "/", "."])
def test_the_longest_valid_values_break_no_bound_of_an_answer(person: Callable[..., Person], character: str) -> None:
    somebody = person(character * USER_ID["maxLength"])
    client, tasks = somebody.client, f"/api/{quote(somebody.id, safe='')}/tasks"
    members = {"title": character * 200, "description": character * 2000}
    key = {"Idempotency-Key": "k" * 255}

    made = [client.post(tasks, json=members, headers=key) for _ in range(2)]
    place = made[0].headers["location"]
    answers = [*made, client.get(place)]
    changes = {"PUT": members | {"completed": True}, "PATCH": members}
    answers += [client.request(method, place, json=body) for method, body in changes.items()]
    answers.append(client.patch(f"{place}/complete"))
    client.post(tasks, json=members)
    first = client.get(tasks, params={"limit": 1, "completed": False})
    cursor = client.get(tasks, params={"limit": 1}).json()["next_cursor"]
    answers += [first, client.get(tasks, params={"limit": 100, "cursor": cursor, "completed": True})]
    listed = client.get(place).headers["etag"].ljust(1024, ",")
    answers.append(client.delete(place, headers={"If-Match": listed}))

    assert [answer.status_code for answer in answers] == [201, 201, 200, 200, 200, 200, 200, 200, 204]
    assert {answer.headers["location"] for answer in made} == {place}


@pytest.mark.requirement("FR-04", "FR-05", "FR-06")
@pytest.mark.parametrize("sub", [".", ".."])
@pytest.mark.parametrize("path", [".", "..", "%2E", "%2e%2E", "alice"])
def test_a_user_id_that_a_path_would_swallow_is_none(service_url: str, sub: str, path: str) -> None:
    """Clients drop such segments, encoded or not (RFC 3986, section 5.2.4), so no `Location` could lead to the task."""
    ours, others = make_token(sub), make_token("alice")

    with socket.create_connection((httpx.URL(service_url).host, httpx.URL(service_url).port or 80)) as connection:
        answers = []
        for token in (ours, others):
            connection.sendall(
                f"GET /api/{path}/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
            )
            answers.append(int(connection.recv(65_536).split()[1]))

    assert answers[0] == 401
    assert answers[1] == (200 if path == "alice" else 403)


@pytest.mark.requirement("FR-05")
@pytest.mark.parametrize("sub", ["...", ".a", "..a", "a.", "a..", "...."])
def test_other_user_ids_with_dots_are_as_any(person: Callable[..., Person], sub: str) -> None:
    somebody = person(sub)
    task = create(somebody)
    assert somebody.client.get(f"/api/{sub}/tasks/{task['id']}").json() == task


@pytest.mark.requirement("FR-13", "FR-14", "FR-18")
@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        pytest.param({"title": ""}, "/title", id="empty-title"),
        pytest.param({"title": " \t\u00a0\u3000"}, "/title", id="blank-title"),
        pytest.param({"title": "x" * 201}, "/title", id="long-title"),
        pytest.param({"title": None}, "/title", id="null-title"),
        pytest.param({"title": "a\0b"}, "/title", id="nul-in-title"),
        pytest.param({"title": "x", "description": "x" * 2001}, "/description", id="long-description"),
        pytest.param({"title": "x", "description": "\0"}, "/description", id="nul-in-description"),
        pytest.param({"title": "x", "completed": True}, "", id="unknown-member"),
        pytest.param({"title": "x", "user_id": "bob"}, "", id="identity-in-body"),
        pytest.param({}, "", id="no-title"),
    ],
)
def test_what_the_contract_forbids_is_refused_with_its_place(
    alice: Person, members: dict[str, object], pointer: str
) -> None:
    response = alice.client.post(alice.tasks, json=members)

    assert response.status_code == 422
    assert pointer in [error["pointer"] for error in response.json()["errors"]]
    assert alice.client.get(alice.tasks).json()["items"] == []


@pytest.mark.requirement("FR-06", "SR-12")
def test_the_first_task_makes_its_user_from_the_tokens_claims(
    person: Callable[..., Person], owner: psycopg.Connection
) -> None:
    carol = person(email="carol@example.org", name="Carol")

    create(carol)

    row = owner.execute("select email, name from users where id = %s", [carol.id]).fetchone()
    assert row == ("carol@example.org", "Carol")


@pytest.mark.requirement("FR-06", "SC-04")
def test_a_users_first_tasks_may_come_at_once(person: Callable[..., Person]) -> None:
    carol = person(email="carol@example.org")

    with ThreadPoolExecutor(8) as threads:
        responses = list(threads.map(lambda n: carol.client.post(carol.tasks, json={"title": f"{n}"}), range(16)))

    assert {response.status_code for response in responses} == {201}
    assert len(carol.client.get(carol.tasks).json()["items"]) == 16
