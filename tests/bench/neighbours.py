"""What an account with a million tasks does to the others: the same load beside it, and beside one with a hundred.

    python tests/bench/neighbours.py

Prints the medians of interleaved rounds, and the first database's to the second's. Either account lists its tasks all
the while, a hundred at a time and as often: what differs is how many it has.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import click
import httpx
import psycopg
import rows
from contenders import COMMANDS, Server, run_alone, running
from growth import FEW_TASKS, FILL_TASKS, MANY_TASKS
from load import Sample, require_wrk, run_wrk
from rich.console import Console
from rich.table import Table

from db.embedded import embedded_server

GIANT = "giant"
OPERATIONS = ("read", "list", "create", "toggle")
CONNECTIONS = 16


def browse(server: Server, is_over: threading.Event) -> None:
    """Pages through the big account's tasks until it is over."""
    headers = {"Authorization": f"Bearer {rows.token(GIANT)}"}
    with httpx.Client(base_url=server.url, headers=headers) as client:
        cursor: dict[str, str] = {}
        while not is_over.wait(0.01):
            page = client.get(f"/api/{GIANT}/tasks", params={"limit": "100", **cursor}).raise_for_status().json()
            cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else {}


def measure(server: Server, requests: Path, seconds: int) -> Sample:
    is_over = threading.Event()
    browsing = threading.Thread(target=browse, args=(server, is_over))
    browsing.start()
    try:
        return run_wrk(server, requests, connections=CONNECTIONS, seconds=seconds)
    finally:
        is_over.set()
        browsing.join()


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option("--seconds", type=click.IntRange(1), default=1, show_default=True, help="Of load in each round.")
def main(rounds: int, seconds: int) -> None:
    """Measure neighbours of an account with a million tasks."""
    require_wrk()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="taskpact-bench-")))
        # The second one is like the first, under the name of a contender that has row-level security too.
        urls = rows.make_databases(stack.enter_context(embedded_server(folder / "data")), ["taskpact", "set-local"])
        for name, count in (("taskpact", FEW_TASKS), ("set-local", MANY_TASKS)):
            with psycopg.connect(urls[name], autocommit=True) as connection:
                connection.execute("insert into users (id) values (%s)", [GIANT])
                connection.execute(FILL_TASKS, [GIANT, count])
                connection.execute("vacuum (analyze) users, tasks")
                connection.execute("checkpoint")
        servers = {name: stack.enter_context(running(name, COMMANDS["taskpact"], url)) for name, url in urls.items()}
        samples: dict[tuple[str, str], list[Sample]] = {}
        for number in range(rounds + 1):
            for operation in OPERATIONS:
                requests = folder / f"{operation}.tsv"
                rows.write_requests(requests, operation, number)
                for name in sorted(servers, reverse=bool(number % 2)):
                    sample = measure(servers[name], requests, seconds)
                    if number:
                        samples.setdefault((operation, name), []).append(sample)
    table = Table("operation", title=f"Beside an account with {MANY_TASKS:,} tasks, and one with {FEW_TASKS}")
    for column in ("requests/s beside few", "many", "ratio", "p99 ms beside few", "many", "ratio"):
        table.add_column(column, justify="right")
    for operation in OPERATIONS:
        pairs = list(zip(samples[operation, "taskpact"], samples[operation, "set-local"], strict=True))
        cells = []
        for figure in ("requests_per_second", "p99_ms"):
            without, beside = ([getattr(sample, figure) for sample in side] for side in zip(*pairs, strict=True))
            ratio = median(b / a for a, b in zip(without, beside, strict=True))
            cells += [f"{median(without):,.1f}", f"{median(beside):,.1f}", f"{ratio:.2f}"]
        table.add_row(operation, *cells)
    Console().print(table)


if __name__ == "__main__":
    run_alone(main)
