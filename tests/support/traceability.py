"""Writes docs/traceability.md: each requirement with its operations and its tests.

Run `python tests/support/traceability.py` after a test is added, renamed or removed, or when the text of a requirement
or the list of an operation changes: test_requirements.py fails until then. The document names no lines and no results.
What came of the tests of each requirement is printed at the end of a run of pytest, by support/results.py.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import yaml

# As a command, this file finds no package beside it.
ROOT = Path(__file__).parents[2]
MATRIX = ROOT / "docs" / "traceability.md"
STALE = "docs/traceability.md is stale: run python tests/support/traceability.py"
INTRODUCTION = """\
# From requirements to the tests that prove them

Written by `python tests/support/traceability.py` from [REQUIREMENTS.md](../REQUIREMENTS.md), the `x-requirements` in
[the contract](../openapi/openapi.yaml) and the `requirement` marks of [the tests](../tests). A run of pytest prints
how many cases of each requirement passed.
"""


class Requirement(NamedTuple):
    number: str
    text: str
    section: str


class Proof(NamedTuple):
    """A test, and the numbers of the requirements that it proves."""

    path: str
    name: str
    numbers: list[str]


def requirements() -> list[Requirement]:
    found, section = [], ""
    for text in (ROOT / "REQUIREMENTS.md").read_text().splitlines():
        if text.startswith("## "):
            section = text
        elif row := re.fullmatch(r"\| ([A-Z]{2}-[0-9]{2}) \| (.*) \|", text):
            found.append(Requirement(*row.groups(), section))
    return found


def operations() -> dict[str, list[str]]:
    """The numbers that each operation of the contract names."""
    contract = yaml.safe_load((ROOT / "openapi" / "openapi.yaml").read_text())
    return {
        operation["operationId"]: operation["x-requirements"]
        for path in contract["paths"].values()
        for operation in path.values()
        if "operationId" in operation
    }


def proofs() -> list[Proof]:
    """The tests that name a requirement; what a file imports from another counts where it is written."""
    found = []
    for path in ROOT.glob("tests/**/test_*.py"):
        if "node_modules" in path.parts:
            continue
        module = ast.parse(path.read_text())
        of_all = [mark for node in module.body if isinstance(node, ast.Assign) for mark in numbers_in([node.value])]
        for node in module.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                numbers = of_all + numbers_in(node.decorator_list)
                if numbers:
                    found.append(Proof(path.relative_to(ROOT).as_posix(), node.name, numbers))
    return sorted(found)


def numbers_in(nodes: Iterable[ast.expr]) -> list[str]:
    """The arguments of every `pytest.mark.requirement(...)`."""
    return [
        ast.literal_eval(number)
        for node in nodes
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.requirement"
        for number in call.args
    ]


def document() -> str:
    """The whole of docs/traceability.md."""
    offered, proven = operations(), proofs()
    blocks = [INTRODUCTION]
    for section, required in groupby(requirements(), key=lambda requirement: requirement.section):
        blocks.append(f"{section}\n")
        for requirement in required:
            blocks.append(f"### {requirement.number}\n\n{requirement.text}\n")
            names = [f"`{name}`" for name, numbers in offered.items() if requirement.number in numbers]
            if names:
                blocks.append(f"Operations: {', '.join(names)}\n")
            mine = [proof for proof in proven if requirement.number in proof.numbers]
            for path, tests in groupby(mine, key=lambda proof: proof.path):
                blocks.append("\n".join([f"[{path}](../{path})", *(f"- `{test.name}`" for test in tests)]) + "\n")
    return "\n".join(blocks)


if __name__ == "__main__":
    MATRIX.write_text(document())
