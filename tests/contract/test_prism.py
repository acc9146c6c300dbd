"""Prism, which reads the contract in its own way, objects to no answer that the tests of the operations get.

Those tests run here a second time, with Prism between them and the service: the fixtures of this file take the place of
the usual ones.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from operations.test_http import *  # noqa: F403 - the same tests again, as the docstring says
from operations.test_idempotency import *  # noqa: F403
from operations.test_tasks import *  # noqa: F403
from security.test_isolation import *  # noqa: F403
from support.paths import CONTRACT
from support.people import Person
from support.service import START_SECONDS, free_port, is_ready, running

pytestmark = pytest.mark.contract

# Prism 5.14 fails by itself, with 500, at a HEAD that no operation names, and answers other methods that none names; it
# unpacks what was compressed and does not say so; it takes `*` for a path, and `.` and `..` out of one.
del test_head_answers_as_get_does_without_the_body  # noqa: F821 - they came with the stars
del test_head_has_the_headers_of_get_and_no_body  # noqa: F821
del test_every_answer_tells_its_time  # noqa: F821
del test_a_large_page_is_compressed_for_who_asks_for_it  # noqa: F821
del test_the_whole_server_may_be_asked_with_options  # noqa: F821
del test_a_user_id_that_a_path_would_swallow_is_none  # noqa: F821


@pytest.fixture(scope="module")
def service_url(tools: Path, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service seen through Prism, which passes everything on and notes in a header what breaks the contract."""
    url = f"http://127.0.0.1:{free_port()}"
    log = tmp_path_factory.mktemp("prism") / "prism.log"
    with running(database_url) as upstream, log.open("wb") as output:
        # What a test sends wrong is its own affair: answers alone are judged.
        command = [tools / "prism", "proxy", CONTRACT, upstream, "--port", url.rpartition(":")[2]]
        command += ["--validate-request", "false", "--cors", "false"]
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not is_ready(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"Prism does not start: {log.read_text()}")
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait(START_SECONDS)
    # Tests that make a client of their own do not see the header.
    assert "Violation: response" not in log.read_text()


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


def test_the_people_of_these_tests_see_what_prism_objects_to(alice: Person) -> None:
    with pytest.raises(AssertionError, match="POST"):
        alice.client.post(f"{alice.tasks}/nothing-is-posted-here")
