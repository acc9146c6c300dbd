"""What was asked, what was answered, and whether the database says the same, row by row."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import psycopg

COLUMNS = ("scenario", "writes", "acknowledged", "refused", "unknown", "found", "lost", "doubled", "reads ok",
           "longest stall", "slowest")  # fmt: skip

REPORT: list[tuple[str, ...]] = []
"""A line for each scenario that ended, for the summary."""


class State(NamedTuple):
    """A task as the last answer about it said."""

    title: str
    completed: bool
    version: int


@dataclass
class Fate:
    """A task that exists, for all we know: the states that it may be in (None: there is none), after so many writes.

    It may be in more than one once a write's outcome is unknown; from then on nobody writes to it.
    """

    states: set[State | None]
    acknowledged: int = 1

    @property
    def state(self) -> State:
        (state,) = self.states
        assert state is not None
        return state


@dataclass
class Ledger:
    """Every write's outcome: acknowledged (2xx), refused (503 that says that nothing was done), or unknown (none)."""

    fates: dict[tuple[str, str], Fate] = field(default_factory=dict)
    """Tasks by owner and id."""
    created_perhaps: set[tuple[str, str]] = field(default_factory=set)
    """Owner and title of tasks whose creation was not answered; each title is used once."""
    count: Counter[str] = field(default_factory=Counter)
    """By outcome: `writes`, `acknowledged`, `refused`, `unknown`, `reads`, `failed_reads`, `unreachable`."""
    problems: Counter[str] = field(default_factory=Counter)
    """By type: the answers that were 503."""
    unexpected: Counter[str] = field(default_factory=Counter)
    """What should not have happened at all."""
    answer_seconds: list[float] = field(default_factory=list)
    """How long each answered request took."""
    refusal_seconds: list[float] = field(default_factory=list)
    """The same, for those that were answered 503."""
    success_at: list[float] = field(default_factory=list)
    """When requests succeeded, by `time.monotonic()`."""
    refused_at: list[float] = field(default_factory=list)
    """When requests were answered 503."""

    def longest_stall_seconds(self) -> float:
        """The longest time in which nothing succeeded."""
        times = sorted(self.success_at)
        return max((after - before for before, after in pairwise(times)), default=0.0)

    def first_success_after(self, moment: float) -> float:
        """Seconds from this moment to the first success after it."""
        return min((at for at in self.success_at if at >= moment), default=float("inf")) - moment

    def last_refusal_after(self, moment: float) -> float:
        """Seconds from this moment to the last refusal after it."""
        return max((at for at in self.refused_at if at >= moment), default=moment) - moment

    def refused(self, seconds: float, problem: str) -> None:
        self.problems[problem] += 1
        self.answer_seconds.append(seconds)
        self.refusal_seconds.append(seconds)
        self.refused_at.append(time.monotonic())

    def succeeded(self, seconds: float) -> None:
        self.answer_seconds.append(seconds)
        self.success_at.append(time.monotonic())

    def compare(self, rows: Iterable[tuple[str, str, str, bool, int]]) -> Counter[str]:
        """Counts acknowledged writes that are `found` and `lost`, and writes that were `doubled` or never done."""
        result: Counter[str] = Counter()
        missing = dict(self.fates)
        created_perhaps = set(self.created_perhaps)
        for user_id, task_id, title, completed, version in rows:
            fate = missing.pop((user_id, task_id), None)
            if fate is None:
                if (user_id, title) in created_perhaps:
                    created_perhaps.remove((user_id, title))
                else:
                    result["doubled"] += 1
                continue
            possible = [state.version for state in fate.states if state is not None]
            if State(title, completed, version) in fate.states:
                result["found"] += fate.acknowledged
            elif not possible or version > max(possible):
                result["doubled"] += 1
            else:
                result["lost"] += max(1, min(possible) - version)
        for fate in missing.values():
            result["found" if None in fate.states else "lost"] += fate.acknowledged
        return result


def settle(scenario: str, ledger: Ledger, database_url: str) -> None:
    """Compares the ledger with the database and adds the scenario's line to the report.

    Nothing may be lost or doubled, and nothing may have been answered but success and honest refusal.
    """
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("select user_id, id::text, title, completed, version from tasks").fetchall()
    result = ledger.compare(rows)
    count = ledger.count
    REPORT.append(
        (
            scenario,
            *(str(count[name]) for name in ("writes", "acknowledged", "refused", "unknown")),
            *(str(result[name]) for name in ("found", "lost", "doubled")),
            str(count["reads"]),
            f"{ledger.longest_stall_seconds():.2f} s",
            f"{max(ledger.answer_seconds, default=0):.2f} s",
        )
    )
    print(dict(zip(COLUMNS, REPORT[-1], strict=True)), dict(ledger.unexpected))
    assert not ledger.unexpected, ledger.unexpected
    assert (result["lost"], result["doubled"]) == (0, 0)
    assert result["found"] == count["acknowledged"]
