"""Every number of REQUIREMENTS.md has an operation or a test that names it, and no name is made up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from conftest import CONTRACT

ROOT = Path(__file__).parents[1]
NUMBER = r"\b(?:FR|SR|DR|NF|SC)-[0-9]{2}\b"

REQUIRED = set(re.findall(rf"^\| ({NUMBER}) \|", (ROOT / "REQUIREMENTS.md").read_text(), re.MULTILINE))


def numbers_in_tests() -> set[str]:
    marks = re.findall(r"mark\.requirement\(([^)]*)\)", "".join(p.read_text() for p in ROOT.glob("tests/**/test_*.py")))
    return set(re.findall(NUMBER, " ".join(marks)))


def numbers_in_contract() -> set[str]:
    paths = yaml.safe_load(CONTRACT.read_text())["paths"].values()
    operations = [operation for path in paths for operation in path.values() if isinstance(operation, dict)]
    return {number for operation in operations for number in operation["x-requirements"]}


@pytest.mark.requirement("SC-06")
def test_every_requirement_has_an_operation_or_a_test() -> None:
    assert sorted(REQUIRED - numbers_in_tests() - numbers_in_contract()) == []


@pytest.mark.requirement("SC-06")
def test_every_number_that_is_named_is_required() -> None:
    assert sorted((numbers_in_tests() | numbers_in_contract()) - REQUIRED) == []
