"""In a real browser the documentation is enough to try the API, and it loads nothing from elsewhere."""

from __future__ import annotations

import json
import os
import time
from importlib.metadata import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest
from httpx import codes

from support.people import make_token
from support.reverse_proxy import offering
from support.service import running

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.browser

TOKEN_SECONDS = 600
# A picture of what one tries out: without the command, which shows the token, and the answers that there might be.
SHORTER = """
    .curl-command, .responses-inner > div > h4, .responses-table:not(.live-responses-table) { display: none }
    textarea { min-height: 60px !important; height: 60px !important }
"""
# The page's policy forbids styles, except those that a script adopts.
ADOPT = "css => { const sheet = new CSSStyleSheet(); sheet.replaceSync(css); document.adoptedStyleSheets = [sheet] }"
# Chromium reports an answer of 4xx in the console by itself, whatever the page does with it.
REPORT_OF_422 = "Failed to load resource: the server responded with a status of 422 (Unprocessable Entity)"


def authorise(page: Page, token: str) -> None:
    page.get_by_role("button", name="Authorize").click()
    page.get_by_label("auth-bearer-value").fill(token)
    page.locator(".auth-container .authorize").click()
    page.locator(".auth-container .btn-done").click()


def try_out(page: Page, operation_id: str, **ids: str) -> Locator:
    """The opened operation with these ids filled in. All else is as Swagger UI fills it from the contract."""
    operation = page.locator(f"#operations-tasks-{operation_id}")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Try it out").click()
    for name, value in ids.items():
        operation.get_by_placeholder(name, exact=True).fill(value)
    return operation


def execute(operation: Locator, status: int) -> Any:
    """The body that the page shows under this status, or None if the answer has none."""
    operation.get_by_role("button", name="Execute").click()
    answer = operation.locator(".live-responses-table .response").filter(has_text=str(status))
    answer.wait_for()
    return None if status == codes.NO_CONTENT else json.loads(answer.locator("pre.microlight").first.inner_text())


@pytest.mark.requirement("SC-01", "FR-06", "FR-07", "FR-19")
def test_a_task_is_created_and_listed_and_a_mistake_explained(
    page: Page, service_url: str, asked: list[str], complaints: list[str]
) -> None:
    user_id = f"user-{uuid4().hex[:8]}"
    page.goto("/docs/")
    authorise(page, make_token(user_id, exp=int(time.time()) + TOKEN_SECONDS))

    creation = try_out(page, "create_task", user_id=user_id)
    body = creation.locator("textarea.body-param__text")
    body.fill('{"title": "Buy oat milk"}')
    created = execute(creation, 201)
    if path := os.environ.get("SCREENSHOT"):
        page.evaluate(ADOPT, SHORTER)
        creation.screenshot(path=path)
    listed = execute(try_out(page, "list_tasks", user_id=user_id), 200)
    assert complaints == []
    body.fill('{"title": ""}')
    problem = execute(creation, 422)

    assert (created["title"], created["user_id"]) == ("Buy oat milk", user_id)
    assert listed["items"] == [created]
    assert {error["pointer"] for error in problem["errors"]} == {"/title"}
    assert complaints == [REPORT_OF_422]
    assert [url for url in asked if not url.startswith((f"{service_url}/", "data:"))] == []


@pytest.mark.requirement("SC-01", "SC-07", "SC-08")
def test_every_operation_works_as_the_page_opens_with_ids_alone(page: Page) -> None:
    user_id = f"user-{uuid4().hex[:8]}"
    page.goto("/docs/")
    authorise(page, make_token(user_id, exp=int(time.time()) + TOKEN_SECONDS))

    first = try_out(page, "create_task", user_id=user_id)
    tasks = [execute(first, codes.CREATED)]
    first.get_by_role("button", name="Clear").click()
    tasks.insert(0, execute(first, codes.CREATED))
    listed = execute(try_out(page, "list_tasks", user_id=user_id), codes.OK)
    ids = {"user_id": user_id, "task_id": tasks[0]["id"]}
    read = execute(try_out(page, "get_task", **ids), codes.OK)
    toggled = execute(try_out(page, "toggle_task_completion", **ids), codes.OK)
    replaced = execute(try_out(page, "replace_task", **ids), codes.OK)
    updated = execute(try_out(page, "update_task", **ids), codes.OK)
    execute(try_out(page, "delete_task", **ids), codes.NO_CONTENT)

    assert listed == {"items": tasks, "next_cursor": None}
    assert read == tasks[0]
    assert toggled["completed"]
    assert {task["title"] for task in (tasks[0], replaced, updated)} == {"Buy oat milk"}


@pytest.mark.requirement("SC-01")
def test_the_documentation_works_under_the_path_that_a_proxy_strips(
    page: Page, database_url: str, asked: list[str], complaints: list[str]
) -> None:
    user_id = f"user-{uuid4().hex[:8]}"
    with running(database_url, ROOT_PATH="/todo") as service_url, offering(service_url, "/todo", strips=True) as url:
        page.goto(f"{url}/")
        page.get_by_role("link", name="Documentation").click()
        authorise(page, make_token(user_id, exp=int(time.time()) + TOKEN_SECONDS))
        listed = execute(try_out(page, "list_tasks", user_id=user_id), 200)

    assert listed["items"] == []
    assert complaints == []
    assert [other for other in asked if not other.startswith((f"{url}/", "data:"))] == []


def test_swagger_ui_comes_from_the_wheel(page: Page, asked: list[str]) -> None:
    wheel = {file.name: file for file in files("swagger-ui-bundle") or []}
    page.goto("/docs/")
    page.locator("#operations-tasks-create_task").wait_for()

    served = {url.rpartition("/")[2]: url for url in asked if "/docs/" in url}
    assert {"swagger-ui.css", "swagger-ui-bundle.js"} <= served.keys()
    for name in served.keys() & wheel.keys():
        assert httpx.get(served[name]).content == Path(wheel[name].locate()).read_bytes()


@pytest.mark.requirement("SC-01")
def test_the_first_page_complains_of_nothing(
    page: Page, service_url: str, asked: list[str], complaints: list[str]
) -> None:
    response = page.goto("/", wait_until="networkidle")

    assert response
    assert response.ok
    assert complaints == []
    assert [url for url in asked if not url.startswith((f"{service_url}/", "data:"))] == []


def test_what_is_wrong_with_a_page_is_seen(page: Page, asked: list[str], complaints: list[str]) -> None:
    body = '<style></style><img src="http://elsewhere.example/"><script>throw Error("uncaught")</script>'
    policy = {"Content-Type": "text/html", "Content-Security-Policy": "style-src 'none'"}
    page.route("/wrong", lambda route: route.fulfill(body=body, headers=policy))

    page.goto("/wrong", wait_until="networkidle")

    assert asked[1] == "http://elsewhere.example/"
    for complaint in ("style-src-elem forbids inline", "uncaught", "ERR_NAME_NOT_RESOLVED: http://elsewhere.example/"):
        assert [said for said in complaints if complaint in said] != []
