"""The engine accepts and refuses what Connexion's own validators do, and hands the handler the same values.

Connexion is the oracle: its request and response validation, with its JSON and parameter validators, its URI parser and
its way from a request to a handler's arguments, run unchanged, strictly. generated.py makes contracts, and requests and
responses from them, about half of them valid. differences.py lists what the two do differently; anything else fails.
"""

from __future__ import annotations

import logging
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings

from engine.differences import DIFFERENCES, Difference, agreed
from engine.generated import INPUTS_PER_CONTRACT, contracts
from engine.oracle import REFUSED, Case, Place, outcomes

CONTRACTS: dict[Place, int] = {"query": 800, "path": 400, "header": 200, "body": 1100, "response": 600}
"""How many contracts are generated with a schema in each place."""


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    # Connexion logs each refusal.
    caplog.set_level(logging.CRITICAL, logger="connexion")


@pytest.mark.conformance
@pytest.mark.parametrize(("place", "number"), CONTRACTS.items(), ids=CONTRACTS)
def test_engine_and_connexion_agree(place: Place, number: int, pytestconfig: pytest.Config) -> None:
    """What the engine accepts, Connexion accepts, with the same values for the handler; listed differences aside."""
    tally: Counter[str] = Counter()

    @settings(
        max_examples=number,
        # The same cases in every run, unless a seed is given: hypothesis would not look at it otherwise.
        derandomize=pytestconfig.getoption("--hypothesis-seed") is None,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    @given(cases=contracts(place))
    def agrees(cases: list[Case]) -> None:
        for case in cases:
            by_engine, by_connexion = outcomes(case)
            tally["agreed" if by_engine == by_connexion else "listed"] += 1
            tally["valid" if by_engine is not REFUSED else "invalid"] += 1
            assert agreed(case), f"{case}\nengine: {by_engine}\nConnexion: {by_connexion}"

    agrees()

    print(place, dict(tally))
    assert tally["valid"] + tally["invalid"] >= number * INPUTS_PER_CONTRACT
    assert 1 / 3 < tally["valid"] / (tally["valid"] + tally["invalid"]) < 2 / 3


@pytest.mark.conformance
@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.name)
def test_a_listed_difference_is_still_one(difference: Difference) -> None:
    """Its example is treated differently by the two, and no other row of the table says why."""
    explanations = [other.name for other in DIFFERENCES if other.explains(difference.example)]

    by_engine, by_connexion = outcomes(difference.example)
    assert by_engine != by_connexion
    assert explanations == [difference.name]
