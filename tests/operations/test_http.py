"""The service offers what HTTP offers beside the operations: links, methods, negotiation, compression."""

from __future__ import annotations

import gzip
import re
import socket
import time
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import httpx
import pytest
import yaml

from support.paths import CONTRACT
from support.people import Person
from support.service import running

PATHS = yaml.safe_load(CONTRACT.read_text())["paths"]
METHODS = {"get", "put", "post", "patch", "delete"}
PAGES = ["/", "/docs/", "/docs/swagger-ui.css", "/openapi.yaml", "/openapi.json", "/healthz", "/readyz"]
LARGE = 100
"""Tasks, a page of which is worth compressing."""


def create(person: Person, *, tasks: int = 1, **members: object) -> list[str]:
    created = [person.client.post(person.tasks, json={"title": "Buy oat milk"} | members) for _ in range(tasks)]
    return [answer.json()["id"] for answer in created]


@pytest.fixture
def large(alice: Person) -> Person:
    """Somebody whose first page is large."""
    create(alice, tasks=LARGE)
    return alice


@pytest.mark.requirement("FR-07")
@pytest.mark.parametrize("query", ["limit=2", "limit=2&completed=false", "limit=2&completed=true"])
def test_links_lead_through_the_pages_of_the_same_list(alice: Person, query: str) -> None:
    ids = create(alice, tasks=5)
    if "true" in query:
        for task_id in ids:
            alice.client.patch(f"{alice.tasks}/{task_id}/complete")

    listed, url = [], f"{alice.tasks}?{query}"
    while url:
        page = alice.client.get(url)
        listed += [task["id"] for task in page.json()["items"]]
        link = page.links.get("next", {}).get("url")
        wanted = parse_qs(query) | {"cursor": [page.json()["next_cursor"]]} if link else {}
        assert parse_qs(urlsplit(link or "").query) == wanted
        url = str(page.url.join(link)) if link else ""

    assert listed == ids[::-1]


@pytest.mark.requirement("FR-07")
def test_a_link_keeps_the_limit_that_holds_where_none_was_sent(large: Person) -> None:
    first = large.client.get(large.tasks)

    second = large.client.get(first.url.join(first.links["next"]["url"]))

    assert len(second.json()["items"]) == len(first.json()["items"]) == LARGE / 2
    assert "link" not in second.headers


@pytest.mark.requirement("FR-11")
def test_a_toggle_answers_the_task_and_says_where_it_is(alice: Person) -> None:
    (task_id,) = create(alice)
    path = f"{alice.tasks}/{task_id}"

    toggled = alice.client.patch(f"{path}/complete")

    assert toggled.headers["content-location"] == path
    assert alice.client.get(path).json() == toggled.json()
    assert alice.client.get(path).headers["etag"] == toggled.headers["etag"]


@pytest.mark.requirement("FR-07", "FR-08")
@pytest.mark.parametrize(
    "path", [*(path for path, item in PATHS.items() if "get" in item), "/api/{user_id}/tasks?limit=100", *PAGES]
)
def test_head_has_the_headers_of_get_and_no_body(large: Person, path: str) -> None:
    url = path.format(user_id=large.id, task_id=create(large)[0])
    got, head = large.client.get(url), large.client.head(url)

    assert (head.status_code, head.content) == (got.status_code, b"")
    for headers in (got.headers, head.headers):
        del headers["x-request-id"], headers["date"]
    assert head.headers == got.headers


@pytest.mark.requirement("SR-01")
@pytest.mark.parametrize("path", PATHS)
def test_options_tells_anybody_the_methods_of_a_path(service_url: str, path: str) -> None:
    methods = {method.upper() for method in METHODS & PATHS[path].keys()} | {"OPTIONS"}
    if "GET" in methods:
        methods.add("HEAD")

    answer = httpx.options(service_url + path.format(user_id="nobody", task_id="none"))

    assert (answer.status_code, answer.content) == (204, b"")
    assert set(answer.headers["allow"].split(", ")) == methods
    assert ("merge-patch" in answer.headers.get("accept-patch", "")) == path.endswith("{task_id}")


@pytest.mark.requirement("SC-01")
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("path", PAGES)
def test_load_balancers_may_ask_with_options(service_url: str, path: str, version: str) -> None:
    """HAProxy's check asks so by default: `OPTIONS / HTTP/1.0`, without a Host."""
    head, body = ask_with_options(service_url, path, version)

    assert re.match(rb"HTTP/1\.[01] 204 ", head), head
    assert body == b""
    assert b"allow: get, head, options\r\n" in head.lower()


@pytest.mark.requirement("SC-01")
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_the_whole_server_may_be_asked_with_options(service_url: str, version: str) -> None:
    head, body = ask_with_options(service_url, "*", version)

    assert re.match(rb"HTTP/1\.[01] 204 ", head), head
    assert body == b""


def ask_with_options(service_url: str, target: str, version: str) -> tuple[bytes, bytes]:
    """Head and body of the answer to `OPTIONS target`, asked without a library between."""
    host, _, port = service_url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        fields = "Host: x\r\nConnection: close\r\n" if version == "1.1" else ""
        connection.sendall(f"OPTIONS {target} HTTP/{version}\r\n{fields}\r\n".encode())
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    return head, body


@pytest.mark.requirement("FR-18")
@pytest.mark.parametrize("path", PAGES)
def test_a_page_says_which_methods_it_has(service_url: str, path: str) -> None:
    answer = httpx.post(service_url + path)

    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert answer.json()["type"].endswith("method-not-allowed")


@pytest.mark.requirement("FR-18")
def test_options_finds_nothing_where_nothing_is(service_url: str) -> None:
    assert httpx.options(f"{service_url}/nothing").status_code == httpx.codes.NOT_FOUND


@pytest.mark.requirement("FR-20")
def test_options_is_no_preflight_unless_it_says_so(database_url: str) -> None:
    origin = {"Origin": "https://app.example"}
    with running(database_url, CORS_ORIGINS="https://app.example") as url:
        plain, cross = (httpx.options(f"{url}/api/alice/tasks", headers=headers) for headers in ({}, origin))
        preflight = httpx.options(
            f"{url}/api/alice/tasks", headers=origin | {"Access-Control-Request-Method": "DELETE"}
        )

    assert [answer.headers.get("allow") for answer in (plain, cross, preflight)] == ["GET, HEAD, OPTIONS, POST"] * 2 + [
        None
    ]
    assert (plain.status_code, cross.status_code, preflight.status_code) == (204, 204, 200)
    assert cross.headers["access-control-allow-origin"] == "https://app.example"


@pytest.mark.requirement("FR-08")
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "BREW"])
def test_every_answer_tells_its_time(alice: Person, method: str) -> None:
    answer = alice.client.request(method, alice.tasks)

    assert abs(parsedate_to_datetime(answer.headers["date"]).timestamp() - time.time()) < 60


@pytest.mark.requirement("FR-20")
def test_answers_say_what_they_depend_on(database_url: str, alice: Person) -> None:
    path = f"{alice.tasks}/{create(alice)[0]}"
    origin = "https://app.example"

    assert alice.client.get(alice.tasks).headers["vary"] == "Accept, Accept-Encoding"
    assert alice.client.get(path).headers["vary"] == "Accept"
    assert alice.client.get(path, headers={"If-None-Match": "*"}).headers["vary"] == "Accept"
    with running(database_url, CORS_ORIGINS=origin) as url:
        answer = httpx.get(
            url + path, headers={"Origin": origin, "Authorization": alice.client.headers["authorization"]}
        )
    assert answer.headers["vary"] == "Accept, Origin"


SAFELISTED = {"Cache-Control", "Content-Type"}
"""What scripts may read of every answer (Fetch standard)."""

BETWEEN = {"Content-Encoding", "Vary"}
"""What browsers and caches read, and scripts have no use for."""


@pytest.mark.requirement("FR-20")
def test_scripts_of_allowed_origins_may_send_and_read_every_header_of_the_contract(database_url: str) -> None:
    components = yaml.safe_load(CONTRACT.read_text())["components"]
    sent = {item["name"] for item in components["parameters"].values() if item["in"] == "header"}
    read = {name for answer in components["responses"].values() for name in answer.get("headers", {})}
    origin = {"Origin": "https://app.example"}

    with running(database_url, CORS_ORIGINS="https://app.example") as url:
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": ",".join(sent).lower()}
        preflight = httpx.options(f"{url}/api/alice/tasks", headers=origin | asked)
        answer = httpx.get(f"{url}/api/alice/tasks", headers=origin)

    assert (preflight.status_code, preflight.text) == (200, "OK")
    exposed = set(answer.headers["access-control-expose-headers"].split(", "))
    assert read - SAFELISTED - BETWEEN - exposed == set()


CODINGS = [
    ("gzip", True),
    ("deflate, GZip;q=0.5, br", True),
    ("x-gzip", True),
    ("*", True),
    ("*;q=0.1, identity;q=0", True),
    ("gzip, identity", True),
    ("gzip;q=0", False),
    ("gzip;q=0.000, *", False),
    ("gzip;q=0.5, identity", False),
    ("*;q=0", False),
    ("identity", False),
    ("br", False),
    ("gzipped", False),
    ("", False),
    (None, False),
]


@pytest.mark.requirement("FR-07")
@pytest.mark.parametrize(("accept_encoding", "is_compressed"), CODINGS)
def test_a_large_page_is_compressed_for_who_asks_for_it(
    large: Person, accept_encoding: str | None, is_compressed: bool
) -> None:
    del large.client.headers["accept-encoding"]
    plain = large.client.get(large.tasks, params={"limit": LARGE})
    headers = {} if accept_encoding is None else {"Accept-Encoding": accept_encoding}
    with large.client.stream("GET", large.tasks, params={"limit": LARGE}, headers=headers) as answer:
        body = b"".join(answer.iter_raw())

    assert answer.headers.get("content-encoding") == ("gzip" if is_compressed else None)
    assert (gzip.decompress(body) if is_compressed else body) == plain.content
    assert answer.headers["content-length"] == str(len(body))
    assert len(body) * (2 if is_compressed else 1) <= len(plain.content)
    assert "content-encoding" not in plain.headers


@pytest.mark.requirement("FR-07", "FR-08")
def test_what_is_small_or_has_an_entity_tag_is_never_compressed(alice: Person) -> None:
    (task_id,) = create(alice, title="\x01" * 200, description="\x01" * 2000)

    for path in (alice.tasks, f"{alice.tasks}/{task_id}", f"{alice.tasks}/{uuid4()}"):
        assert "content-encoding" not in alice.client.get(path, headers={"Accept-Encoding": "gzip"}).headers
