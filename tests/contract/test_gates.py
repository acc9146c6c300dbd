"""Linters from outside find nothing in the contract; where there is something, they find it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.paths import CONTRACT

pytestmark = pytest.mark.contract

HERE = Path(__file__).parent
LINT_SECONDS = 120
GATES = {
    "spectral": ["spectral", "lint", "--ruleset", HERE / "spectral.yaml", "--fail-severity", "hint"],
    "zalando": ["spectral", "lint", "--ruleset", HERE / "zalando.yaml", "--fail-severity", "hint"],
    "ibm": ["lint-openapi", "--ruleset", HERE / "ibm.yaml", "--warnings-limit", "0", "--no-colors"],
    "redocly": ["redocly", "lint", "--config", HERE / "redocly.yaml", "--format", "stylish"],
}


@pytest.fixture
def lint(gate: str, tools: Path) -> Callable[[Path], subprocess.CompletedProcess[str]]:
    """Lints a contract with the gate."""
    command, *options = GATES[gate]

    def run(contract: Path) -> subprocess.CompletedProcess[str]:
        # As a path relative to the rules, which is what their overrides name.
        path = os.path.relpath(contract, HERE)
        return subprocess.run(
            [tools / command, *options, path],
            cwd=HERE,
            env=os.environ | {"REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LINT_SECONDS,
            check=False,
        )

    return run


@pytest.mark.requirement("SC-05", "SC-08")
@pytest.mark.parametrize("gate", GATES)
def test_linters_find_nothing(lint: Callable[[Path], subprocess.CompletedProcess[str]]) -> None:
    completed = lint(CONTRACT)

    assert completed.returncode == 0, completed.stdout


def without_security(contract: dict[str, Any]) -> None:
    del contract["security"]


def with_a_wrong_example(contract: dict[str, Any]) -> None:
    contract["components"]["examples"]["TitleOnly"]["value"] = {"title": 1}


def with_an_unused_component(contract: dict[str, Any]) -> None:
    contract["components"]["schemas"]["Unused"] = deepcopy(contract["components"]["schemas"]["Title"])


def with_a_name_in_camel_case(contract: dict[str, Any]) -> None:
    contract["components"]["schemas"]["TaskCreate"]["properties"]["dueAt"] = {"type": "string"}


@pytest.mark.parametrize(
    ("gate", "fault", "rule"),
    [
        ("spectral", without_security, "owasp:api2:2023-write-restricted"),
        ("spectral", with_a_wrong_example, "oas3-valid-media-example"),
        ("spectral", with_an_unused_component, "oas3-unused-component"),
        ("redocly", without_security, "security-defined"),
        ("redocly", with_a_wrong_example, "no-invalid-media-type-examples"),
        ("redocly", with_an_unused_component, "no-unused-components"),
        ("zalando", with_a_name_in_camel_case, "must-use-snake-case-for-property-names"),
        ("ibm", with_a_name_in_camel_case, "ibm-property-casing-convention"),
        ("ibm", with_a_wrong_example, "oas3-valid-media-example"),
    ],
)
def test_linters_find_a_fault(
    lint: Callable[[Path], subprocess.CompletedProcess[str]],
    tmp_path: Path,
    fault: Callable[[dict[str, Any]], None],
    rule: str,
) -> None:
    contract = yaml.safe_load(CONTRACT.read_text())
    fault(contract)
    faulty = tmp_path / "openapi.yaml"
    faulty.write_text(yaml.safe_dump(contract, sort_keys=False))

    completed = lint(faulty)

    assert completed.returncode != 0
    assert rule in completed.stdout
