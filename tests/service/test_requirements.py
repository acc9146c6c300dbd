"""Every requirement has a test, no number is made up, and docs/traceability.md names today's tests."""

from __future__ import annotations

from difflib import unified_diff

import pytest

from support.traceability import MATRIX, STALE, document, operations, proofs, requirements

REQUIRED = {requirement.number for requirement in requirements()}
TESTED = {number for proof in proofs() for number in proof.numbers}
OFFERED = {number for numbers in operations().values() for number in numbers}


@pytest.mark.requirement("SC-06")
def test_every_requirement_has_a_test() -> None:
    assert sorted(REQUIRED - TESTED) == []


@pytest.mark.requirement("SC-06")
def test_every_number_that_is_named_is_required() -> None:
    assert sorted((TESTED | OFFERED) - REQUIRED) == []


@pytest.mark.requirement("SC-06")
def test_the_document_names_the_tests_of_today() -> None:
    differences = [*unified_diff(MATRIX.read_text().splitlines(), document().splitlines(), n=0, lineterm="")]

    assert not differences, "\n".join([STALE, *differences])
