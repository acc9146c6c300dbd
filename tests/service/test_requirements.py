"""Every number of REQUIREMENTS.md has a test, no number is made up, and docs/traceability.md shows them all."""

from __future__ import annotations

import pytest

from support.traceability import MATRIX, STALE, cases, document, operations, proofs, requirements, results_in

REQUIRED = {requirement.number for requirement in requirements()}
TESTED = {number for proof in proofs() for number in proof.numbers}
OFFERED = {number for operation in operations() for number in operation.numbers}


@pytest.mark.requirement("SC-06")
def test_every_requirement_has_a_test() -> None:
    assert sorted(REQUIRED - TESTED) == []


@pytest.mark.requirement("SC-06")
def test_every_number_that_is_named_is_required() -> None:
    assert sorted((TESTED | OFFERED) - REQUIRED) == []


# The last two have no number, since a stale matrix would show that they failed.
def test_the_matrix_names_the_lines_of_today() -> None:
    written = MATRIX.read_text()

    fresh = document(results_in(written)) == written
    assert fresh, STALE


def test_the_matrix_shows_that_every_case_of_today_passed() -> None:
    shown = results_in(MATRIX.read_text())

    assert [test for test, number in cases().items() if shown.get(test) != f"{number} passed"] == [], STALE
