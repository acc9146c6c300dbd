"""Health, readiness and the documentation are served without a token, outside the contract."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from base64 import b64encode
from hashlib import sha256

import httpx
import pytest
from starlette.staticfiles import StaticFiles

from support.people import Person, make_token
from support.service import running


@pytest.mark.requirement("SC-01")
@pytest.mark.parametrize(("path", "answer"), [("/healthz", {"status": "alive"}), ("/readyz", {"status": "ready"})])
def test_health_and_readiness_need_no_token(service_url: str, path: str, answer: dict[str, str]) -> None:
    response = httpx.get(service_url + path)

    assert (response.status_code, response.json()) == (200, answer)


@pytest.mark.requirement("SC-01")
def test_the_first_page_tells_what_this_is_and_leads_on(service_url: str) -> None:
    page = httpx.get(service_url)

    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "<h1>Taskpact</h1>" in page.text
    assert "curl " in page.text
    links = re.findall(r'href="([^"]*)"', page.text)
    assert links == ["docs/", "openapi.yaml", "openapi.json", "healthz", "readyz"]
    assert [httpx.get(page.url.join(link)).status_code for link in links] == [200] * len(links)
    assert re.search(r"src=|https?:|//|<script|style=|\son[a-z]+=", page.text) is None


@pytest.mark.requirement("SC-07")
def test_the_curl_line_of_the_first_page_creates_a_task(service_url: str) -> None:
    line = re.findall("<pre>(.*?)</pre>", httpx.get(service_url).text, re.DOTALL)[0]
    command = ["sh", "-c", line]

    created = subprocess.run(
        command, env=os.environ | {"URL": service_url, "TOKEN": make_token("demo")}, capture_output=True, check=True
    )

    assert json.loads(created.stdout)["title"] == "Buy oat milk"


@pytest.mark.parametrize("path", ["/docs/" + 4_000 * "a/", "/docs/" + 100 * "../", "/" + 300 * "a"])
def test_a_path_longer_than_any_pages_is_not_looked_up(
    service_url: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []
    monkeypatch.setattr(StaticFiles, "lookup_path", lambda _, path: looked_up.append(path))

    with socket.create_connection(httpx.URL(service_url).netloc.decode().split(":")) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))

    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"application/problem+json" in answer
    assert looked_up == []


@pytest.mark.requirement("SC-01")
@pytest.mark.parametrize("path", ["/docs", "/docs/"])
def test_the_documentation_shows_the_contract(service_url: str, path: str) -> None:
    response = httpx.get(service_url + path, follow_redirects=True)

    assert response.status_code == 200
    assert response.url.path == "/docs/"
    assert '"/openapi.json"' in response.text


def test_the_documentation_asks_no_other_host(service_url: str) -> None:
    page = httpx.get(f"{service_url}/docs/").text

    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources
    for source in sources:
        assert not source.startswith(("http", "//"))
        assert httpx.get(f"{service_url}/docs/{source}").status_code == 200
    assert "validatorUrl: null" in page


@pytest.mark.requirement("SR-01")
@pytest.mark.parametrize(
    "path", ["/docs/../../../etc/passwd", "/docs/%2e%2e/%2e%2e/etc/passwd", "/docs/..%2f..%2fetc%2fpasswd"]
)
def test_the_documentation_serves_its_own_files_only(service_url: str, path: str) -> None:
    with httpx.Client(base_url=service_url) as client:
        response = client.send(client.build_request("GET", httpx.URL("/").copy_with(raw_path=path.encode())))

    assert response.status_code == 404


@pytest.mark.parametrize("path", ["/healthz/", "/readyz/", "/openapi.yaml/", "/openapi.json/"])
def test_no_redirect_leads_to_a_host_that_the_client_names(service_url: str, path: str) -> None:
    response = httpx.get(service_url + path, headers={"Host": "evil.example"})

    assert (response.status_code, response.headers.get("location")) == (404, None)


def test_the_redirect_stays_on_this_host(service_url: str) -> None:
    response = httpx.get(f"{service_url}/docs", headers={"Host": "evil.example"})

    assert (response.status_code, response.headers["location"]) == (307, "/docs/")


SECURITY = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
HTML = ["/", "/docs/", "/docs/index.html"]


@pytest.mark.requirement("SR-10")
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/{user}/tasks", 200),
        ("POST", "/api/{user}/tasks", 415),
        ("GET", "/api/{user}/tasks/x", 422),
        ("GET", "/api/nobody/tasks", 403),
        ("PUT", "/api/{user}/tasks", 405),
        ("OPTIONS", "/api/{user}/tasks", 204),
        ("HEAD", "/api/{user}/tasks", 200),
        ("GET", "/nothing", 404),
        ("POST", "/healthz", 405),
        ("GET", "/healthz", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/docs", 307),
        ("GET", "/docs/swagger-ui.css", 200),
        *(("GET", path, 200) for path in HTML),
    ],
)
def test_every_answer_has_the_security_headers(alice: Person, method: str, path: str, status: int) -> None:
    answer = alice.client.request(method, path.format(user=alice.id), follow_redirects=False)

    assert answer.status_code == status
    names = [name for name, _ in answer.headers.multi_items()]
    assert [names.count(name) for name in SECURITY] == [1, 1, 1]
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; ")
    assert answer.headers["content-security-policy"].endswith("frame-ancestors 'none'")
    if path not in HTML:
        assert SECURITY.items() <= answer.headers.items()
    assert "strict-transport-security" not in answer.headers


@pytest.mark.requirement("SR-10")
def test_what_is_no_http_is_answered_with_the_security_headers_too(service_url: str) -> None:
    with socket.create_connection(("127.0.0.1", int(service_url.rpartition(":")[2])), timeout=5) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        head = connection.makefile("rb").read().partition(b"\r\n\r\n")[0].decode().lower()

    for name, value in SECURITY.items():
        assert f"\r\n{name}: {value}" in head


@pytest.mark.requirement("FR-19")
@pytest.mark.parametrize("part", ["bytes=0-1", "bytes=99999999-", "bytes=x", "lines=0-1", "bytes=0-0,2-2"])
def test_files_are_sent_whole(service_url: str, part: str) -> None:
    whole, answer = [httpx.get(f"{service_url}/docs/swagger-ui.css", headers=h) for h in ({}, {"Range": part})]

    assert (answer.status_code, answer.content) == (200, whole.content)


@pytest.mark.requirement("SR-10")
@pytest.mark.parametrize("path", HTML)
def test_a_page_may_load_what_stands_in_it_and_its_own_files(service_url: str, path: str) -> None:
    page = httpx.get(service_url + path)
    policy = page.headers["content-security-policy"]

    for kind, text in re.findall(r"<(script|style)>(.*?)</", page.text, re.DOTALL):
        digest = b64encode(sha256(text.encode()).digest()).decode()
        assert re.search(rf"{kind}-src [^;]*'sha256-{re.escape(digest)}'", policy)
    assert "unsafe" not in policy
    assert "http" not in policy
    assert re.findall(r'<[^>]* (?:style|on[a-z]+)="', page.text) == []


@pytest.mark.requirement("SR-10")
def test_hsts_is_said_where_it_is_set(database_url: str) -> None:
    with running(database_url, HSTS_SECONDS="31536000") as url:
        answers = [httpx.get(url + path) for path in ("/", "/healthz", "/api/alice/tasks", "/nothing")]

    assert {answer.headers["strict-transport-security"] for answer in answers} == {"max-age=31536000"}
