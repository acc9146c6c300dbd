"""Prism, which reads the contract in its own way, objects to no answer that the tests of the operations get."""

from __future__ import annotations

import pytest

from operations.test_http import *  # noqa: F403 - the same tests again: the fixtures here put the service behind Prism
from operations.test_idempotency import *  # noqa: F403 - likewise
from operations.test_tasks import *  # noqa: F403
from security.test_isolation import *  # noqa: F403

pytestmark = pytest.mark.contract

# Prism 5.14 fails by itself, with 500, at a HEAD that no operation names, and answers other methods that none names; it
# unpacks what was compressed and does not say so.
del test_head_answers_as_get_does_without_the_body  # noqa: F821 - they came with the stars
del test_head_has_the_headers_of_get_and_no_body  # noqa: F821
del test_every_answer_tells_its_time  # noqa: F821
del test_a_large_page_is_compressed_for_who_asks_for_it  # noqa: F821


def test_the_people_of_these_tests_see_what_prism_objects_to(alice: Person) -> None:  # noqa: F405
    with pytest.raises(AssertionError, match="POST"):
        alice.client.post(f"{alice.tasks}/nothing-is-posted-here")
