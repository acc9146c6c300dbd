"""Every answer has the id of its request, and the log has one line for each request, under the same id."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from handlers.problems import TYPE_PREFIX
from support.people import Person, make_token
from support.service import running_process

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

UUID_GIVEN = "5f0c3a52-8a4e-4d0e-9d5e-2f6b1c7a9e10"
HEX_GIVEN = UUID_GIVEN.replace("-", "")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "{tasks}", 200),
        ("POST", "{tasks}", 415),
        ("PUT", "{tasks}", 405),
        ("GET", "{tasks}/x", 422),
        ("GET", "/nowhere", 404),
        ("GET", "/api/somebody-else/tasks", 403),
        ("GET", "/healthz", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/docs/", 200),
    ],
)
def test_every_answer_has_an_id(alice: Person, method: str, path: str, status: int) -> None:
    path = path.format(tasks=alice.tasks)
    own = alice.client.request(method, path)
    given = alice.client.request(method, path, headers={"X-Request-Id": UUID_GIVEN})

    assert (own.status_code, given.status_code) == (status, status)
    assert UUID(own.headers["x-request-id"]).version == 4
    assert given.headers.get_list("x-request-id") == [UUID_GIVEN]
    if status >= 400:
        assert own.json()["instance"] == f"urn:uuid:{own.headers['x-request-id']}"
        assert given.json()["instance"] == f"urn:uuid:{UUID_GIVEN}"


@pytest.mark.parametrize(
    ("given", "instance"),
    [
        pytest.param(HEX_GIVEN, f"{TYPE_PREFIX}request/{HEX_GIVEN}", id="nginx"),
        pytest.param(UUID_GIVEN.upper(), f"urn:uuid:{UUID_GIVEN.upper()}", id="upper-case"),
        pytest.param("a", f"{TYPE_PREFIX}request/a", id="short"),
        pytest.param("web/7+x=._~:-", f"{TYPE_PREFIX}request/web/7+x=._~:-", id="no-uuid"),
        pytest.param("x" * 128, f"{TYPE_PREFIX}request/{'x' * 128}", id="longest"),
    ],
)
def test_a_callers_id_is_taken_over(alice: Person, given: str, instance: str) -> None:
    response = alice.client.get("/nowhere", headers={"X-Request-Id": given})

    assert response.headers["x-request-id"] == given
    assert response.json()["instance"] == instance


@pytest.mark.requirement("SR-02")
@pytest.mark.parametrize("given", [b"", b"x" * 129, b"a b", b'"a"', b"<a>", b"a,b", b"a\tb", "ä".encode(), b"{x}"])
def test_an_id_that_is_not_safe_everywhere_is_replaced(alice: Person, given: bytes) -> None:
    response = alice.client.get(alice.tasks, headers={b"X-Request-Id": given})

    assert response.status_code == 200
    assert UUID(response.headers["x-request-id"]).version == 4


def test_the_log_has_one_line_for_each_request_under_the_id_that_was_told(tmp_path: Path, database_url: str) -> None:
    headers = {"Authorization": f"Bearer {make_token('alice')}", "traceparent": TRACEPARENT}
    with running_process(database_url, tmp_path / "log", LOG_FORMAT="json") as url:
        read = httpx.get(f"{url}/api/alice/tasks", headers=headers | {"X-Request-Id": "a-7"})
        forbidden = httpx.get(f"{url}/api/bob/tasks", headers=headers | {"traceparent": TRACEPARENT.upper()})
        page = httpx.get(f"{url}/nowhere", headers={"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"})

    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    by_id = {
        response.headers["x-request-id"]: [
            line for line in lines if line.get("request_id") == response.headers["x-request-id"]
        ]
        for response in (read, forbidden, page)
    }
    ((line,), (reason, refused), (nowhere,)) = by_id.values()
    assert line == {
        "request_id": "a-7",
        "method": "GET",
        "operation": "list_tasks",
        "status": 200,
        "milliseconds": line["milliseconds"],
        "user_id": "alice",
        "traceparent": TRACEPARENT,
        "event": "request",
        "level": "info",
        "timestamp": line["timestamp"],
    }
    assert 0 < line["milliseconds"] < 10_000
    assert (reason["event"], refused["status"], refused["traceparent"]) == ("authorization_failed", 403, None)
    assert (nowhere["status"], nowhere["operation"], nowhere["traceparent"]) == (404, None, None)


BOTH_RENDERINGS = """
import msgspec, structlog
from app.observe.logs import RequestLine, configure_logs, request_logger
configure_logs("info", "json")
line = RequestLine(
    request_id="1", method="GET", operation=None, status=200, milliseconds=1.5, user_id='"ä\\u2028', traceparent=None
)
request_logger("info", "json")(line)
structlog.get_logger().info(**msgspec.structs.asdict(line))
request_logger("info", "console")(line)
assert request_logger("warning", "json") is request_logger("error", "console") is None
"""


def test_the_short_way_to_a_line_writes_what_structlog_would() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BOTH_RENDERINGS],
        capture_output=True,
        encoding="utf-8",
        # JSON is UTF-8 whatever the locale says.
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        check=True,
        timeout=30,
    )

    short, *long = map(json.loads, done.stderr.rstrip("\n").split("\n"))
    assert [line | {"timestamp": short["timestamp"]} for line in long] == [short, short]
    assert len({len(line["timestamp"]) for line in (short, *long)}) == 1
    assert all(line["timestamp"].endswith("Z") for line in (short, *long))
