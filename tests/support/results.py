"""A plugin of pytest that prints, at the end of a run, what came of the tests of each requirement."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

OUTCOMES = ("passed", "failed", "error", "skipped", "xfailed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Hands the requirements that a case proves to its reports."""
    for item in items:
        numbers = {number for mark in item.iter_markers("requirement") for number in mark.args}
        item.user_properties += [("requirement", number) for number in numbers]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for outcome in OUTCOMES:
        for report in terminalreporter.stats.get(outcome, []):
            for name, number in report.user_properties:
                if name == "requirement":
                    counts[number][outcome] += 1
    if counts and not terminalreporter.config.option.verbose < 0:
        terminalreporter.section("cases of each requirement")
        for number, count in sorted(counts.items()):
            terminalreporter.write_line(
                f"{number}  {', '.join(f'{count[outcome]} {outcome}' for outcome in OUTCOMES if count[outcome])}"
            )
