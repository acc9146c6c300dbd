"""Pages of the configured origins, and no others, may call the service from a browser (Fetch standard, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from support.people import make_token
from support.service import running

ORIGINS = (
    "https://app.example",
    "http://my_app.example",
    "http://[::1]:5173",
    "capacitor://localhost",
    "tauri://localhost",
    "chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb",
    "moz-extension://2c127fa4-62c7-7e4f-90e5-472b45eecfdc",
    "safari-web-extension://E3DA05BD-0D3D-4D4C-A3B6-06D9C4A37F80",
)

OTHERS = (
    "null",
    "https://other.example",
    "http://app.example",
    "https://app.example:8443",
    "https://app.example.evil.example",
    "https://APP.example",
    "http://localhost",
    "capacitor://localhost.evil",
    "tauri://localhost:1",
    "safari-web-extension://e3da05bd-0d3d-4d4c-a3b6-06d9c4a37f80",
)

TRACING = (
    "sentry-trace,baggage",
    "traceparent,tracestate",
    "b3",
    "x-b3-traceid,x-b3-spanid,x-b3-sampled",
    "x-datadog-trace-id,x-datadog-parent-id,x-datadog-origin,x-datadog-sampling-priority",
    "newrelic",
    "request-id,request-context",
    "x-amzn-trace-id",
    "uber-trace-id",
    "x-requested-with",
    "authorization,content-type,idempotency-key,sentry-trace,baggage,tracestate",
)
"""What libraries in browsers add to each request, as browsers ask for it: sorted or not, in lower case."""


@pytest.fixture(scope="module")
def url(database_url: str) -> Iterator[str]:
    with running(database_url, CORS_ORIGINS=", ".join(ORIGINS)) as url:
        yield url


def preflight(url: str, origin: str, headers: str = "authorization") -> httpx.Response:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": headers}
    return httpx.options(f"{url}/api/alice/tasks", headers={"Origin": origin} | asked)


@pytest.mark.requirement("FR-20")
@pytest.mark.parametrize("origin", ORIGINS)
def test_pages_of_every_kind_of_origin_may_call(url: str, origin: str) -> None:
    asked = preflight(url, origin)
    answer = httpx.get(
        f"{url}/api/alice/tasks", headers={"Origin": origin, "Authorization": f"Bearer {make_token('alice')}"}
    )

    assert (asked.status_code, answer.status_code) == (200, 200)
    for response in (asked, answer):
        assert response.headers["access-control-allow-origin"] == origin
        assert response.headers["access-control-allow-credentials"] == "true"


@pytest.mark.requirement("FR-20")
@pytest.mark.parametrize("origin", OTHERS)
def test_an_origin_that_differs_in_anything_may_not(url: str, origin: str) -> None:
    for response in (preflight(url, origin), httpx.get(f"{url}/api/alice/tasks", headers={"Origin": origin})):
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.requirement("FR-20")
@pytest.mark.parametrize("headers", TRACING)
def test_scripts_may_send_what_tracing_adds(url: str, headers: str) -> None:
    allowed = preflight(url, ORIGINS[0], headers).headers["access-control-allow-headers"]

    assert set(headers.split(",")) <= set(allowed.split(","))
