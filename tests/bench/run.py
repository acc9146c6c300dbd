"""Taskpact and its peers side by side: the same machine, database server, rows and load, one process each.

    python tests/bench/run.py

Needs wrk (`apt-get install wrk`), and for two of the peers Node 20, and Go with pgx. All of them write an access log,
to nowhere. Rounds are interleaved and the order turns, so that a machine whose speed drifts drifts for all. CPU is what
a request takes of the contender's process, and of the database. Taskpact runs as it ships, with row-level security and
its answers validated; no peer has the former, only Connexion the latter: that is their advantage.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import psycopg
import rows
from contenders import COMMANDS, TITLES, Cluster, Server, check, reason_to_leave_out, run_alone, running
from load import Sample, require_wrk, run_pgbench, run_wrk
from report import Samples, draw, print_tables, summarize, to_json
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from db.embedded import embedded_server

BASE = "usual"
LIMITS = {"uvicorn": ("read",), "pgbench": ("read", "list", "create", "replace", "toggle")}
WARM_UP_SECONDS = 1
MAX_CONNECTIONS = 300
"""Each contender keeps its connections open, sixteen or so, and pgbench has as many as there is load."""


def split(_context: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    names = value.split(",")
    known = TITLES if parameter.name == "only" else rows.SCENARIOS
    if unknown := set(names) - set(known):
        raise click.BadParameter(f"{', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return names


@click.command()
@click.option("--seconds", type=click.IntRange(1), default=5, show_default=True, help="Of load in each round.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--connections", type=click.IntRange(1), default=16, show_default=True)
@click.option(
    "--only",
    callback=split,
    default=",".join(name for name in TITLES if name != "set-local"),
    show_default=True,
    help="Who takes part.",
)
@click.option("--operations", callback=split, default=",".join(rows.SCENARIOS), show_default=True)
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Where to write everything that was measured."
)
@click.option("--svg", "svg_path", type=click.Path(path_type=Path), help="Where to draw the ratios.")
def main(
    *,
    seconds: int,
    rounds: int,
    connections: int,
    only: list[str],
    operations: list[str],
    json_path: Path | None,
    svg_path: Path | None,
) -> None:
    """Measure Taskpact and its peers."""
    require_wrk()
    console = Console()
    reasons = {name: reason_to_leave_out(name) for name in only}
    for reason in filter(None, reasons.values()):
        console.print(reason)
    names = [name for name in only if not reasons[name]]
    base = BASE if BASE in names else names[0]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="taskpact-bench-")))
        with embedded_server(folder / "data") as url, psycopg.connect(url, autocommit=True) as connection:
            # The server takes the setting when it starts again.
            connection.execute(f"alter system set max_connections = {MAX_CONNECTIONS}")
        urls = rows.make_databases(stack.enter_context(embedded_server(folder / "data")), names)
        servers = {
            name: stack.enter_context(running(name, COMMANDS[name], urls[name])) for name in names if name in COMMANDS
        }
        database = Cluster(folder / "data")
        warm_up(servers.values(), folder, connections)

        def measure(operation: str, name: str, requests: Path) -> Sample:
            if name in servers:
                return run_wrk(servers[name], requests, connections=connections, seconds=seconds, database=database)
            return run_pgbench(urls[name], operation, connections=connections, seconds=seconds)

        samples = interleave(measure, names, operations, rounds, folder, console)
        for server in servers.values():
            server.memory_mib.append(server.resident_mib())
    results = summarize(samples, base)
    print_tables(console, results, servers.values(), base)
    settings: dict[str, object] = {"seconds": seconds, "rounds": rounds, "connections": connections, "base": base}
    if json_path:
        json_path.write_text(json.dumps(to_json(results, servers.values(), samples, settings), indent=1) + "\n")
    if svg_path:
        draw(svg_path, results, base)


def warm_up(servers: Iterable[Server], folder: Path, connections: int) -> None:
    """Proves that all do the same work, and has each prepare its connections and statements."""
    requests = folder / "mix.tsv"
    rows.write_requests(requests, "mix", 0)
    for server in servers:
        if server.name not in LIMITS:
            check(server)
        server.memory_mib.append(server.resident_mib())
        run_wrk(server, requests, connections=connections, seconds=WARM_UP_SECONDS)


def interleave(
    measure: Callable[[str, str, Path], Sample],
    names: list[str],
    operations: list[str],
    rounds: int,
    folder: Path,
    console: Console,
) -> Samples:
    """Measures all operations and contenders, round by round."""
    samples: Samples = {
        (operation, name): [] for operation in operations for name in names if operation in LIMITS.get(name, operations)
    }
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=rounds * len(samples))
        for number, operation in product(range(1, rounds + 1), operations):
            requests = folder / f"{operation}.tsv"
            rows.write_requests(requests, operation, number)
            taking_part = [name for name in names if (operation, name) in samples]
            turn = number % len(taking_part) if taking_part else 0
            for name in taking_part[turn:] + taking_part[:turn]:
                progress.update(bar, description=f"round {number}: {operation}, {name}")
                samples[operation, name].append(measure(operation, name, requests))
                progress.advance(bar)
    return samples


if __name__ == "__main__":
    run_alone(main)
