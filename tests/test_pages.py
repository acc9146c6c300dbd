"""What is outside the contract: health, readiness, documentation."""

from __future__ import annotations

import re

import httpx
import pytest


@pytest.mark.requirement("SC-01")
@pytest.mark.parametrize(("path", "answer"), [("/healthz", {"status": "alive"}), ("/readyz", {"status": "ready"})])
def test_health_and_readiness_need_no_token(service_url: str, path: str, answer: dict[str, str]) -> None:
    response = httpx.get(service_url + path)

    assert (response.status_code, response.json()) == (200, answer)


@pytest.mark.requirement("SC-01")
@pytest.mark.parametrize("path", ["/", "/docs", "/docs/"])
def test_the_root_leads_to_the_documentation(service_url: str, path: str) -> None:
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


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_redirects_stay_on_this_host(service_url: str, path: str) -> None:
    response = httpx.get(service_url + path, headers={"Host": "evil.example"})

    assert (response.status_code, response.headers["location"]) == (307, "/docs/")
