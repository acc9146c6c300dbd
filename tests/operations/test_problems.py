"""Every error is a problem document of one shape, and tells nothing that it should not."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
import yaml

from app.probes import READINESS_SECONDS
from db.schema.migrate import migrate
from db.schema.version import head
from handlers.problems import TYPE_PREFIX
from openapi.schemas import compile_schema
from support.database import new_database
from support.paths import CONTRACT
from support.people import Person, make_token
from support.service import running, running_process

JSON = {"Content-Type": "application/json"}
SCHEMAS = yaml.safe_load(CONTRACT.read_text())["components"]["schemas"]
PROBLEM = compile_schema(
    SCHEMAS["Problem"]
    | {
        "properties": SCHEMAS["Problem"]["properties"]
        | {"type": SCHEMAS["ProblemType"], "errors": {"type": "array", "items": SCHEMAS["ProblemError"]}}
    },
    "",
)


def assert_problem(response: httpx.Response, status: int, name: str) -> dict[str, Any]:
    """The response is this problem, as the contract describes problems."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert PROBLEM.is_valid(problem), problem
    assert problem["type"] == TYPE_PREFIX + name
    assert problem["status"] == status
    assert UUID(problem["instance"].removeprefix("urn:uuid:")).version == 4
    assert ("errors" in problem) == (name == "invalid-request")
    return problem


@pytest.mark.requirement("FR-18", "FR-19", "SR-04")
@pytest.mark.parametrize(
    ("headers", "challenge"),
    [
        pytest.param({}, "Bearer", id="no-header"),
        pytest.param({"Authorization": "Basic eDp5"}, "Bearer", id="another-scheme"),
        pytest.param({"Authorization": "Bearer"}, 'Bearer error="invalid_token"', id="no-token"),
        pytest.param({"Authorization": "Bearer x.y.z"}, 'Bearer error="invalid_token"', id="no-jwt"),
    ],
)
def test_401_says_how_to_authenticate(alice: Person, headers: dict[str, str], challenge: str) -> None:
    response = httpx.get(f"{alice.client.base_url}{alice.tasks}", headers=headers)

    assert_problem(response, 401, "unauthenticated")
    assert response.headers["www-authenticate"] == challenge


@pytest.mark.requirement("FR-05", "FR-18", "SR-05")
def test_403_is_the_same_whether_or_not_the_other_user_exists(alice: Person, bob: Person) -> None:
    bob.client.post(bob.tasks, json={"title": "x"})

    problems = [
        assert_problem(alice.client.get(path), 403, "forbidden") for path in (bob.tasks, "/api/nobody-at-all/tasks")
    ]

    for problem in problems:
        del problem["instance"]
    assert problems[0] == problems[1]


@pytest.mark.requirement("FR-18", "FR-19")
@pytest.mark.parametrize(
    "path",
    [
        "/api",
        "/api/",
        "/api/{user}",
        "/api//tasks",
        "/api/{user}/tasks/",
        "/api/{user}/tasks/{task}/",
        "/api/{user}/task",
        "/api/{user}/tasks/{task}/done",
        "/nothing",
        "/%00",
        "/api/{user}/tasks/{task}/complete/x",
    ],
)
def test_404_for_what_is_not_in_the_contract(alice: Person, path: str) -> None:
    raw = path.format(user=alice.id, task=uuid4())

    response = alice.client.send(alice.client.build_request("GET", httpx.URL("/").copy_with(raw_path=raw.encode())))

    assert_problem(response, 404, "path-not-found")


@pytest.mark.requirement("FR-18", "FR-19")
def test_404_for_a_task_that_is_not_there(alice: Person) -> None:
    assert_problem(alice.client.get(f"{alice.tasks}/{uuid4()}"), 404, "task-not-found")


@pytest.mark.requirement("FR-18", "FR-19")
@pytest.mark.parametrize(
    ("suffix", "method", "allow"),
    [
        pytest.param("", "PUT", "GET, HEAD, OPTIONS, POST", id="tasks"),
        pytest.param("", "PROPFIND", "GET, HEAD, OPTIONS, POST", id="unknown-method"),
        pytest.param("/{task}", "POST", "DELETE, GET, HEAD, OPTIONS, PATCH, PUT", id="task"),
        pytest.param("/{task}/complete", "GET", "OPTIONS, PATCH", id="complete"),
        pytest.param("/{task}/complete", "HEAD", "OPTIONS, PATCH", id="head"),
    ],
)
def test_405_lists_every_method_of_the_path(alice: Person, suffix: str, method: str, allow: str) -> None:
    # The route is looked at before the token.
    response = httpx.request(method, f"{alice.client.base_url}{alice.tasks}{suffix.format(task=uuid4())}")

    assert (response.status_code, response.headers["allow"]) == (405, allow)
    if method != "HEAD":
        assert_problem(response, 405, "method-not-allowed")


@pytest.mark.requirement("FR-18", "FR-19")
@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "application/problem+json",
        "application/json;q=0",
        "application/json;q=0.0, */*",
        "application/*;q=0, */*;q=1",
        "*/*;q=0",
        "application/xml, text/*, image/png",
        "application/jsonx",
        "application/merge-patch+json",
    ],
)
def test_406_for_a_client_that_wants_no_json(alice: Person, accept: str) -> None:
    task = alice.client.post(alice.tasks, json={"title": "x"}).json()
    path = f"{alice.tasks}/{task['id']}"
    headers = {"Accept": accept}

    answers = [
        alice.client.get(alice.tasks, headers=headers),
        alice.client.get(path, headers=headers),
        alice.client.post(alice.tasks, json={"title": "x"}, headers=headers),
        alice.client.put(path, json={"title": "y"}, headers=headers),
        alice.client.patch(path, json={"title": "y"}, headers=headers),
        alice.client.patch(f"{path}/complete", headers=headers),
    ]

    for answer in answers:
        assert_problem(answer, 406, "not-acceptable")
    assert alice.client.get(alice.tasks).json()["items"] == [task]
    # What is answered without content is not to be accepted.
    assert alice.client.delete(path, headers=headers).status_code == 204


@pytest.mark.requirement("FR-08")
@pytest.mark.parametrize(
    "accept",
    [
        "application/json",
        "*/*",
        "application/*",
        "APPLICATION/JSON",
        "text/html, application/json;q=0.001",
        "text/html, */*; q=0.1",
        "application/json ; charset=utf-8",
        "application/*;q=0, application/json",
        "application/json;q=0, application/json;q=0.5",
        "application/json;q=x",
        "application/problem+json, application/json",
        "",
        ",",
        "nonsense/",
        "application/json" + ";a=b" * 1000,
    ],
)
def test_a_client_that_takes_json_gets_it(alice: Person, accept: str) -> None:
    assert alice.client.get(alice.tasks, headers={"Accept": accept}).status_code == 200


@pytest.mark.requirement("FR-08")
def test_accept_headers_are_one_list(alice: Person) -> None:
    headers = [*alice.client.headers.items(), ("Accept", "text/html"), ("Accept", "application/json")]
    headers = [(name, value) for name, value in headers if (name, value) != ("accept", "*/*")]

    assert httpx.get(f"{alice.client.base_url}{alice.tasks}", headers=headers).status_code == 200


@pytest.mark.requirement("FR-18", "FR-19")
def test_412_for_another_version(alice: Person) -> None:
    task = alice.client.post(alice.tasks, json={"title": "x"}).json()

    response = alice.client.delete(f"{alice.tasks}/{task['id']}", headers={"If-Match": '"2"'})

    assert_problem(response, 412, "precondition-failed")


BODY_LIMIT_BYTES = 65_536


@pytest.mark.requirement("FR-18", "FR-19")
def test_413_for_a_body_over_64_kib(alice: Person) -> None:
    title = b'{"title":"x"}'

    largest = alice.client.post(alice.tasks, content=title.ljust(BODY_LIMIT_BYTES), headers=JSON)
    too_large = alice.client.post(alice.tasks, content=title.ljust(BODY_LIMIT_BYTES + 1), headers=JSON)

    assert largest.status_code == 201
    assert_problem(too_large, 413, "content-too-large")


@pytest.mark.requirement("FR-18", "FR-19")
def test_413_for_chunks_before_they_are_read_whole(alice: Person) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 16 * BODY_LIMIT_BYTES:
            sent += 1024
            yield b" " * 1024

    response = alice.client.post(alice.tasks, content=endless(), headers=JSON)

    assert_problem(response, 413, "content-too-large")


@pytest.mark.requirement("FR-18", "FR-19")
def test_413_comes_before_the_body_that_was_announced(alice: Person) -> None:
    host, port = alice.client.base_url.host, alice.client.base_url.port
    head = (
        f"POST {alice.tasks} HTTP/1.1\r\nHost: x\r\nAuthorization: {alice.client.headers['authorization']}\r\n"
        "Content-Type: application/json\r\nContent-Length: 10000000000\r\n\r\n"
    )
    with socket.create_connection((host, port), timeout=5) as connection:
        connection.sendall(head.encode())

        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


@pytest.mark.requirement("FR-18", "FR-19")
@pytest.mark.parametrize(
    "content_type",
    [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx", "application/merge-patch+json",
     "application/json; charset=utf-16", "", ";", "application/problem+json"],
)  # fmt: skip
def test_415_for_another_media_type(alice: Person, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}

    response = alice.client.post(alice.tasks, content=b'{"title":"x"}', headers=headers)

    assert_problem(response, 415, "unsupported-media-type")
    assert response.headers.get("accept-encoding") == ("identity" if "Content-Encoding" in headers else None)


@pytest.mark.requirement("FR-18", "FR-19")
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, identity"])
def test_415_for_a_content_coding(alice: Person, coding: str) -> None:
    headers = JSON | {"Content-Encoding": coding}

    response = alice.client.post(alice.tasks, content=b'{"title":"x"}', headers=headers)

    assert_problem(response, 415, "unsupported-media-type")
    assert response.headers.get("accept-encoding") == ("identity" if "Content-Encoding" in headers else None)


@pytest.mark.requirement("FR-06")
@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", 'application/json;charset="UTF-8"']
)
def test_spellings_of_the_media_type_do_not_matter(alice: Person, content_type: str) -> None:
    response = alice.client.post(alice.tasks, content=b'{"title":"x"}', headers={"Content-Type": content_type})

    assert response.status_code == 201


@pytest.mark.requirement("FR-18", "FR-19")
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b" ", id="blank"),
        pytest.param(b"{", id="cut-off"),
        pytest.param(b'{"title":"x"}x', id="more-after-it"),
        pytest.param(b'{"title":"\xff"}', id="not-utf-8"),
        pytest.param(b'\xef\xbb\xbf{"title":"x"}', id="byte-order-mark"),
        pytest.param('{"title":"x"}'.encode("utf-16"), id="utf-16"),
        pytest.param(b'{"title":"\\ud800"}', id="lone-surrogate"),
        pytest.param(b'{"\\udfff":1,"title":"x"}', id="lone-surrogate-in-a-name"),
        pytest.param(b'{"title":NaN}', id="nan"),
        pytest.param(b'{"title":1e999}', id="infinite"),
        pytest.param(b"[" * 60_000, id="deep-and-cut-off"),
        pytest.param(b"[" * 30_000 + b"]" * 30_000, id="deep"),
        pytest.param(b'{"a":' * 300 + b"1" + b"}" * 300, id="rather-deep"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="array"),
        pytest.param(b'"title"', id="string"),
        pytest.param(b'{"title":' + b"9" * 50_000 + b"}", id="long-number"),
    ],
)
def test_422_for_a_body_that_is_not_what_it_should_be(alice: Person, body: bytes) -> None:
    response = alice.client.post(alice.tasks, content=body, headers=JSON)

    problem = assert_problem(response, 422, "invalid-request")
    assert all("pointer" in error for error in problem["errors"])


@pytest.mark.requirement("FR-06")
def test_a_chunked_body_is_read(alice: Person) -> None:
    response = alice.client.post(alice.tasks, content=iter([b'{"title":', b'"x"}']), headers=JSON)

    assert response.status_code == 201


@pytest.mark.requirement("FR-18", "FR-19")
@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("limit=", "limit"),
        ("limit=1.0", "limit"),
        ("limit=" + "9" * 1000, "limit"),
        ("limit=1&limit=1", "limit"),
        ("limt=1", "limt"),
        ("completed=1", "completed"),
        ("cursor=x", "cursor"),
        ("cursor=01920f3c-7a10-7cde-9b1a-3f5e7d9c1b2a", "cursor"),
        ("%00=1", "\0"),
        ("=1", ""),
        ("limit=1%ff", ""),
        ("user_id=bob", "user_id"),
        ("&".join(f"a{n}=1" for n in range(200)), ""),
    ],
)
def test_422_names_the_parameter(alice: Person, query: str, parameter: str) -> None:
    problem = assert_problem(alice.client.get(f"{alice.tasks}?{query}"), 422, "invalid-request")

    assert [error.get("parameter") for error in problem["errors"]] == [parameter]


@pytest.mark.requirement("FR-18", "FR-19")
@pytest.mark.parametrize("task_id", ["1", "x", "%00", "%ff", "01920f3c-7a10-7cde-9b1a-3f5e7d9c1b2", "{x}"])
def test_422_for_a_task_id_that_is_none(alice: Person, task_id: str) -> None:
    problem = assert_problem(alice.client.get(f"{alice.tasks}/{task_id}"), 422, "invalid-request")

    assert [error["parameter"] for error in problem["errors"]] == ["task_id"]


@pytest.mark.requirement("FR-18")
def test_errors_of_a_body_are_listed_together_and_bounded(alice: Person) -> None:
    members = {f"unknown-{number}" + "x" * 2000: 1 for number in range(10)} | {"title": "", "description": 1}

    problem = assert_problem(alice.client.post(alice.tasks, json=members), 422, "invalid-request")

    assert {"/title", "/description", ""} <= {error["pointer"] for error in problem["errors"]}
    assert all(len(error["detail"]) <= 1000 for error in problem["errors"])


@pytest.mark.requirement("FR-18")
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_content_type_without_a_body_is_ignored(alice: Person, method: str) -> None:
    task = alice.client.post(alice.tasks, json={"title": "x"}).json()

    response = alice.client.request(method, f"{alice.tasks}/{task['id']}", headers=JSON)

    assert response.is_success


ORDER = [
    pytest.param("/api/nobody/nothing", "POST", {}, 404, id="route-before-token"),
    pytest.param("/api/nobody/tasks", "PUT", {}, 405, id="method-before-token"),
    pytest.param("/api/nobody/tasks?x=1", "POST", {"Content-Type": "x"}, 401, id="token-before-owner"),
    pytest.param(
        "/api/nobody/tasks?x=1", "POST", {"Accept": "text/html", "token": "yes"}, 403, id="owner-before-acceptability"
    ),
    pytest.param(
        "{tasks}",
        "POST",
        {"Content-Type": "x", "token": "yes", "Accept": "text/html"},
        406,
        id="acceptability-before-media-type",
    ),
    pytest.param("{tasks}", "POST", {"Content-Type": "x", "token": "yes"}, 415, id="media-type-before-size"),
    pytest.param(
        "{tasks}", "POST", {"Content-Type": "application/json", "token": "yes"}, 413, id="size-before-validity"
    ),
    pytest.param(
        "{tasks}/{id}",
        "PUT",
        {"Content-Type": "application/json", "token": "yes", "short": "yes", "If-Match": '"7"'},
        422,
        id="validity-before-existence",
    ),
]


@pytest.mark.requirement("FR-05", "FR-18")
@pytest.mark.parametrize(("path", "method", "headers", "status"), ORDER)
def test_checks_come_in_their_order(
    alice: Person, path: str, method: str, headers: dict[str, str], status: int
) -> None:
    """Each request is wrong in every later way, too."""
    headers = dict(headers)
    if headers.pop("token", None):
        headers["Authorization"] = alice.client.headers["authorization"]
    body = b"{" if headers.pop("short", None) else b"{" * (BODY_LIMIT_BYTES + 1)

    response = httpx.request(
        method, f"{alice.client.base_url}{path.format(tasks=alice.tasks, id=uuid4())}", headers=headers, content=body
    )

    assert response.status_code == status


@pytest.fixture(scope="module")
def broken(cluster_url: str) -> Iterator[tuple[str, str]]:
    """A service whose database is damaged after it started."""
    with new_database(cluster_url) as url:
        migrate(url)
        with running(url) as service_url:
            yield service_url, url


@pytest.mark.requirement("FR-18", "SR-10")
def test_500_tells_nothing_of_what_went_wrong(broken: tuple[str, str]) -> None:
    service_url, database_url = broken
    headers = {"Authorization": f"Bearer {make_token('alice')}"}
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("alter table tasks rename column title to titel")
        response = httpx.post(f"{service_url}/api/alice/tasks", json={"title": "x"}, headers=headers)
        owner.execute("alter table tasks rename column titel to title")

    problem = assert_problem(response, 500, "internal-error")
    assert "titel" not in json.dumps(problem)
    assert "column" not in json.dumps(problem)


@pytest.mark.requirement("SC-05")
def test_500_when_our_own_answer_breaks_the_contract(broken: tuple[str, str]) -> None:
    service_url, database_url = broken
    headers = {"Authorization": f"Bearer {make_token('alice')}"}
    task = httpx.post(f"{service_url}/api/alice/tasks", json={"title": "x"}, headers=headers).json()
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("alter domain task_title drop constraint task_title_check")
        owner.execute("update tasks set title = ' '")
        read = httpx.get(f"{service_url}/api/alice/tasks/{task['id']}", headers=headers)
        listed = httpx.get(f"{service_url}/api/alice/tasks", headers=headers)
        owner.execute("update tasks set title = 'x'")

    assert_problem(read, 500, "internal-error")
    assert_problem(listed, 500, "internal-error")


@pytest.mark.requirement("FR-18")
def test_503_when_the_schema_is_another(broken: tuple[str, str]) -> None:
    service_url, database_url = broken
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("update alembic_version set version_num = 'another'")
        time.sleep(READINESS_SECONDS)
        response = httpx.get(f"{service_url}/readyz")
        owner.execute("update alembic_version set version_num = %s", [head()])

    assert_problem(response, 503, "database-unavailable")
    assert response.headers["retry-after"] == "1"
    time.sleep(READINESS_SECONDS)
    assert httpx.get(f"{service_url}/readyz").status_code == 200


@pytest.mark.requirement("FR-18", "SR-10")
def test_503_when_the_database_is_gone(cluster_url: str) -> None:
    headers = {"Authorization": f"Bearer {make_token('alice')}"}
    with new_database(cluster_url) as url:
        migrate(url)
        with running(url) as service_url:
            assert httpx.get(f"{service_url}/api/alice/tasks", headers=headers).status_code == 200
            name = url.partition("?")[0].rpartition("/")[2]
            with psycopg.connect(cluster_url, autocommit=True) as owner:
                owner.execute(f'alter database "{name}" allow_connections false')
                owner.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])

            response = httpx.get(f"{service_url}/api/alice/tasks", headers=headers)
            alive = httpx.get(f"{service_url}/healthz")

    problem = assert_problem(response, 503, "database-unavailable")
    assert response.headers["retry-after"] == "1"
    assert name not in json.dumps(problem)
    assert alive.status_code == 200


def test_a_client_that_leaves_in_mid_body_is_no_fault_of_ours(database_url: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running_process(database_url, log, LOG_FORMAT="json") as url:
        port = int(url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            head = (
                f"POST /api/alice/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {make_token('alice')}\r\n"
                'Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"title":'
            )
            connection.sendall(head.encode())
            time.sleep(0.2)
        deadline = time.monotonic() + 5
        while "create_task" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.02)

    (line,) = [line for line in map(json.loads, log.read_text().splitlines()) if line.get("operation") == "create_task"]
    assert (line["event"], line["level"], line["status"]) == ("request", "info", None)
    assert "internal-error" not in log.read_text()


@pytest.mark.requirement("FR-19")
@pytest.mark.parametrize(("path", "method", "status"), [("/healthz", "POST", 405), ("/docs/nothing.js", "GET", 404)])
def test_errors_outside_the_contract_are_problems_too(service_url: str, path: str, method: str, status: int) -> None:
    response = httpx.request(method, service_url + path)

    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert PROBLEM.is_valid(response.json())
