"""Writes docs/traceability.md: each requirement, its operations, and its tests with their last results.

    python tests/support/traceability.py   a second, after any edit of a test, the contract or REQUIREMENTS.md
    tox run -e matrix                      runs first what did not wholly pass here; `-- --run all`: every listed test

Numbers and lines are read from the sources. Results come from wherever tests run: pytest, in whichever environment,
leaves them in .traceability.json, so that nothing runs twice to be counted. What never ran here keeps the result that
the document had.

Two gates see that the committed document is not stale. test_requirements.py runs nothing: it finds a moved line, a new
test, a changed text, a case more than passed. With `CI=true` this script writes nothing, and fails unless the document
is to the byte what the tests of that checkout gave: in `.ci/run` it comes last, when all of them have run.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "REQUIREMENTS.md"
CONTRACT = ROOT / "openapi" / "openapi.yaml"
MATRIX = ROOT / "docs" / "traceability.md"
STALE = (
    "docs/traceability.md is stale: run python tests/support/traceability.py"
    " or, where results differ, tox run -e matrix"
)

PYTEST = Path(sys.executable).with_name("pytest")

RESULTS = ROOT / ".traceability.json"
NOT_RUN = "not run"
# Of each test in the document: its name, file and result.
RESULT = re.compile(r"^\| \[`(\w+)`\]\(\.\./(\S+)#[-L\d]+\) \| (.+) \|$", re.MULTILINE)


class Requirement(NamedTuple):
    number: str
    text: str
    section: str
    line: int


class Operation(NamedTuple):
    id: str
    numbers: list[str]
    line: int


class Proof(NamedTuple):
    path: str
    name: str
    numbers: list[str]
    lines: str

    @property
    def id(self) -> str:
        """As pytest names it, without the cases of a parametrized one."""
        return f"{self.path}::{self.name}"


def requirements() -> list[Requirement]:
    found, section = [], ""
    for line, text in enumerate(REQUIREMENTS.read_text().splitlines(), 1):
        if text.startswith("## "):
            section = text
        elif row := re.fullmatch(r"\| ([A-Z]{2}-[0-9]{2}) \| (.*) \|", text):
            found.append(Requirement(*row.groups(), section, line))
    return found


def operations() -> list[Operation]:
    text = CONTRACT.read_text()
    lines = [line.strip() for line in text.splitlines()]
    return [
        Operation(
            operation["operationId"],
            operation["x-requirements"],
            lines.index(f"operationId: {operation['operationId']}") + 1,
        )
        for path in yaml.safe_load(text)["paths"].values()
        for operation in path.values()
        if "operationId" in operation
    ]


def proofs() -> list[Proof]:
    """Those that name a requirement; what a file imports from another counts where it is written."""
    found = []
    for path in sorted(ROOT.glob("tests/**/test_*.py"), key=lambda path: (len(path.parts), path)):
        if "node_modules" in path.parts:
            continue
        module = ast.parse(path.read_text())
        of_all = [mark for node in module.body if isinstance(node, ast.Assign) for mark in numbers_in([node.value])]
        for node in module.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                numbers = of_all + numbers_in(node.decorator_list)
                if numbers:
                    lines = f"L{node.lineno}-L{node.end_lineno}"
                    found.append(Proof(path.relative_to(ROOT).as_posix(), node.name, numbers, lines))
    return found


def numbers_in(nodes: Iterable[ast.expr]) -> list[str]:
    """The arguments of every `pytest.mark.requirement(...)`."""
    return [
        ast.literal_eval(number)
        for node in nodes
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.requirement"
        for number in call.args
    ]


def document(results: Mapping[str, str]) -> str:
    """The whole of docs/traceability.md, with these results by test."""
    required, offered, proven = requirements(), operations(), proofs()
    lines = [
        "# From requirements to the lines that prove them",
        "",
        "Written by `tox run -e matrix` from [REQUIREMENTS.md](../REQUIREMENTS.md), the `x-requirements` in",
        "[the contract](../openapi/openapi.yaml), the `requirement` marks of [the tests](../tests), and their results.",
        "A parametrized test is one test, and passes once for each of its cases.",
        "",
        "| requirements | operations | tests | results |",
        "| --- | --- | --- | --- |",
        f"| {len(required)} | {len(offered)} | {len(proven)} | {total(results, proven)} |",
    ]
    section = ""
    for requirement in required:
        if requirement.section != section:
            section = requirement.section
            lines += ["", section]
        mine = [proof for proof in proven if requirement.number in proof.numbers]
        links = [
            f"[`{operation.id}`](../openapi/openapi.yaml#L{operation.line})"
            for operation in offered
            if requirement.number in operation.numbers
        ]
        lines += [
            "",
            f"### [{requirement.number}](../REQUIREMENTS.md#L{requirement.line})",
            "",
            requirement.text,
            "",
            *([f"Operations: {', '.join(links)}", ""] if links else []),
            f"| test | {total(results, mine)} |",
            "| --- | --- |",
            *(
                f"| [`{proof.name}`](../{proof.path}#{proof.lines}) | {results.get(proof.id, NOT_RUN)} |"
                for proof in mine
            ),
        ]
    return "\n".join(lines) + "\n"


def total(results: Mapping[str, str], proven: Iterable[Proof]) -> str:
    counts: Counter[str] = Counter()
    for proof in proven:
        for result in results.get(proof.id, f"1 {NOT_RUN}").split(", "):
            number, _, outcome = result.partition(" ")
            counts[outcome] += int(number)
    return in_words(counts)


def in_words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in sorted(counts))


def results_in(text: str) -> dict[str, str]:
    """The results that a document shows, by test."""
    return {f"{path}::{name}": result for name, path, result in RESULT.findall(text) if result != NOT_RUN}


def results_seen() -> dict[str, str]:
    """What came of each test when it last ran here."""
    seen: dict[str, str] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return seen


def cases() -> dict[str, int]:
    """How many cases each test has: one, unless it is parametrized."""
    command = [PYTEST, "--collect-only", "-q", *{proof.path for proof in proofs()}]
    listed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    counts = Counter(line.partition("[")[0] for line in listed.splitlines())
    return {proof.id: counts[proof.id] for proof in proofs()}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Remembers the result of each test that ran with all its cases; one that was skipped has none."""
    if any("[" in argument for argument in config.args):
        return
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for outcome in ("passed", "failed", "error", "skipped", "xfailed"):
        for report in terminalreporter.stats.get(outcome, []):
            counts[report.nodeid.partition("[")[0]][outcome] += 1
    in_part = {item.nodeid.partition("[")[0] for item in terminalreporter.stats.get("deselected", [])}
    whole = {
        test: in_words(count) for test, count in counts.items() if test not in in_part and set(count) != {"skipped"}
    }
    RESULTS.write_text(json.dumps(results_seen() | whole))


def main() -> bool:
    """Whether a test failed, or the committed document is stale."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", choices=["unproven", "all"], help="run these tests first")
    run = parser.parse_args().run

    failed = False
    if run:
        proven = {} if run == "all" else results_seen()
        ids = [test for test, number in cases().items() if proven.get(test) != f"{number} passed"]
        failed = bool(ids) and subprocess.run([PYTEST, *ids], cwd=ROOT, check=False).returncode != 0

    committed = MATRIX.read_text()
    if os.environ.get("CI") != "true":
        MATRIX.write_text(document(results_in(committed) | results_seen()))
        return failed
    current = document(results_seen())
    if current != committed:
        print(*difflib.unified_diff(committed.splitlines(), current.splitlines(), n=0, lineterm=""), STALE, sep="\n")
    return failed or current != committed


if __name__ == "__main__":
    sys.exit(main())
