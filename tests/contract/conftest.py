"""The gates' tools, installed as the lock file names them, and Prism between the people and the service."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from conftest import CONTRACT, START_SECONDS, Person, free_port, running
from support.programs import node_modules

HERE = Path(__file__).parent

pytest.register_assert_rewrite(
    "operations.test_http", "operations.test_idempotency", "security.test_isolation", "operations.test_tasks"
)


@pytest.fixture(scope="session")
def tools() -> Path:
    """The folder of the tools' commands, with their packages installed as the lock file names them."""
    return node_modules(HERE) / ".bin"


@pytest.fixture(scope="session")
def service_url(tools: Path, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service seen through Prism, which passes everything on and notes in a header what breaks the contract."""
    port = free_port()
    log = tmp_path_factory.mktemp("prism") / "prism.log"
    with running(database_url) as upstream, log.open("wb") as output:
        # What a test sends wrong is its own affair: answers alone are judged.
        command = [tools / "prism", "proxy", CONTRACT, upstream, "--port", str(port)]
        command += ["--validate-request", "false", "--cors", "false"]
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + START_SECONDS
            while not answers(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"Prism does not start: {log.read_text()}")
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait(START_SECONDS)
    # What others than the people below asked for, too.
    assert "Violation: response" not in log.read_text()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").is_success
    except httpx.TransportError:
        return False


@pytest.fixture
def person(person: Callable[..., Person]) -> Callable[..., Person]:
    """Makes people whose client fails at the first answer that Prism objects to."""

    def make(*args: object, **options: object) -> Person:
        somebody = person(*args, **options)
        somebody.client.event_hooks = {"response": [refuse_violations]}
        return somebody

    return make


def refuse_violations(response: httpx.Response) -> None:
    assert response.headers.get("sl-violations") is None, f"{response.request.method} {response.request.url}"
