"""Resident memory of one Taskpact worker after each 20,000 of 100,000 requests: it must come to rest.

python tests/bench/memory.py
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import rows
from contenders import COMMANDS, run_alone, running
from load import require_wrk, run_wrk
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from db.embedded import embedded_server

CONNECTIONS = 16
SLICE_SECONDS = 2
"""wrk stops by time, not by count: a step ends with the slice that fills it."""


@click.command()
@click.option("--requests", type=click.IntRange(1), default=100_000, show_default=True, help="In all, of the mix.")
@click.option("--step", type=click.IntRange(1), default=20_000, show_default=True, help="Requests between two looks.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Where to write the figures.")
def main(*, requests: int, step: int, json_path: Path | None) -> None:
    """Watch one worker's resident memory under the mix."""
    require_wrk()
    with TemporaryDirectory(prefix="taskpact-bench-") as name, embedded_server(Path(name) / "data") as cluster_url:
        urls = rows.make_databases(cluster_url, ["taskpact"])
        file = Path(name) / "mix.tsv"
        rows.write_requests(file, "mix", 0)
        with (
            running("taskpact", COMMANDS["taskpact"], urls["taskpact"]) as server,
            Progress(transient=True) as progress,
        ):
            bar = progress.add_task("requests", total=requests)
            sent = 0
            looks = [(sent, server.resident_mib())]
            while sent < requests:
                sent += run_wrk(server, file, connections=CONNECTIONS, seconds=SLICE_SECONDS).requests
                progress.update(bar, completed=sent)
                if sent >= step * len(looks):
                    looks.append((sent, server.resident_mib()))
    table = Table("requests", "resident MiB", title="One worker")
    for count, mib in looks:
        table.add_row(f"{count:,}", f"{mib:.1f}")
    Console().print(table)
    if json_path:
        json_path.write_text(json.dumps([{"requests": count, "resident_mib": mib} for count, mib in looks]) + "\n")


if __name__ == "__main__":
    run_alone(main)
