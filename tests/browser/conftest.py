"""Debian's Chromium, driven by Playwright, which brings no browser of its own here."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from support.programs import missing

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

VIEWPORT = {"width": 1000, "height": 1140}
# What a page's policy forbids is said in the console too, whether or not the browser says so itself.
REPORT_VIOLATIONS = """addEventListener("securitypolicyviolation",
    event => console.error(`${event.effectiveDirective} forbids ${event.blockedURI}`))"""


# Playwright's event loop runs in this thread while a browser is open: other modules want one of their own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None or importlib.util.find_spec("playwright") is None:
        missing("Chromium and Playwright are needed for tests/browser, and are not installed")
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - most who collect these tests do not have it

    # Root cannot have a sandbox; and no name is looked up, so that nothing leaves this machine.
    options = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, service_url: str) -> Iterator[Page]:
    """An empty page of a browser that was never here; paths are the service's."""
    context = browser.new_context(base_url=service_url, viewport=VIEWPORT)
    context.add_init_script(REPORT_VIOLATIONS)
    yield context.new_page()
    context.close()


@pytest.fixture
def complaints(page: Page) -> list[str]:
    """Errors and warnings in the page's console, exceptions that nobody caught, requests that got no answer."""
    said: list[str] = []
    page.on("console", lambda message: message.type in {"error", "warning"} and said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(f"{request.failure}: {request.url}"))
    return said


@pytest.fixture
def asked(page: Page) -> list[str]:
    """The URLs that the page asks for, in order."""
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    return urls
