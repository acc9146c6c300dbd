"""What an operation, a task and a connection cost, and whether these constants foretell what load does.

    python tests/bench/scaling.py --folder /var/tmp/taskpact-scaling --json scaling.json --svg docs

Needs wrk, and 8 GB of disk. Fills three databases by COPY (100 users with 100 tasks each, 10,000 with 100, 100 with
100,000) and keeps them in the folder for the next run. CPU is what the kernel says that each process ran
(/proc/PID/schedstat): other load on the machine disturbs it far less than the time on the clock.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from uuid import UUID

import click
import httpx
import psutil
import psycopg
import rows
from contenders import HOST, Failed
from load import require_wrk

from db.embedded import embedded_server
from db.schema.migrate import migrate

HERE = Path(__file__).parent

SIZES = {"few": (100, 100), "many_users": (10_000, 100), "many_tasks": (100, 100_000)}
"""Users, and tasks of each."""

INDEXES = {
    "tasks_id": "create index tasks_id on tasks using hash (id)",
    "tasks_user_id_completed_id": "create index tasks_user_id_completed_id on tasks (user_id, completed, id)",
}
SIZE_QUERIES = {
    "row": "pg_relation_size('tasks')",
    "tasks_pkey": "pg_relation_size('tasks_pkey')",
    "tasks_id": "pg_relation_size('tasks_id')",
    "tasks_user_id_completed_id": "pg_relation_size('tasks_user_id_completed_id')",
    "everything": "pg_total_relation_size('tasks')",
}
LOG = "pg_current_wal_insert_lsn() - '0/0'"
OPERATIONS = rows.OPERATIONS[:-1]


def task_id(number: int) -> str:
    """An id of version 7 (RFC 9562), whose time grows with the number."""
    scattered = number * 0x9E3779B97F4A7C15
    high = (1_727_000_000_000 + number) << 16 | 7 << 12 | scattered & 0xFFF
    return f"{high << 64 | 2 << 62 | scattered >> 4 & (1 << 62) - 1:032x}"


def fill(url: str, users: int, tasks: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
        with cursor.copy("copy users (id) from stdin") as copy:
            copy.write("".join(f"user-{user}\n" for user in range(users)))
        # Foreign keys are not looked up, and indexes are made afterwards: that is how much is brought in at once.
        cursor.execute("set session_replication_role = replica; set maintenance_work_mem = '1GB'")
        for name in INDEXES:
            cursor.execute(f"drop index {name}")
        with cursor.copy("copy tasks (user_id, id, title, description) from stdin") as copy:
            for turn in range(tasks):
                copy.write(
                    "".join(
                        f"user-{user}\t{task_id(turn * users + user)}\tTask {turn}: buy oat milk"
                        "\tThe barista kind, two litres.\n"
                        for user in range(users)
                    )
                )
        for statement in INDEXES.values():
            cursor.execute(statement)
        cursor.execute("vacuum (analyze) users, tasks")


def database(cluster_url: str, name: str, users: int, tasks: int) -> str:
    """The URL of a database of this size, filled where it is missing."""
    url = cluster_url.replace("///postgres?", f"///{name}?")
    with psycopg.connect(cluster_url, autocommit=True) as connection:
        if connection.execute("select 1 from pg_database where datname = %s", [f"{name}_filled"]).fetchone():
            return url.replace(name, f"{name}_filled")
        connection.execute(f"drop database if exists {name}")
        connection.execute(f"create database {name}")
        migrate(url)
        fill(url, users, tasks)
        connection.execute(f"alter database {name} rename to {name}_filled")
    return url.replace(name, f"{name}_filled")


def ran_us(pid: int) -> float:
    """How long all threads of a process ran, in microseconds."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            total += int((thread / "schedstat").read_text().split()[0])
    return total / 1000


def tree_us(pids: list[int]) -> float:
    return sum(ran_us(pid) for pid in pids)


def backends(url: str) -> list[int]:
    """The server's processes for the clients of this database, but for this one."""
    with psycopg.connect(url) as connection:
        query = "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        return [pid for (pid,) in connection.execute(query)]


def value(url: str, expression: str) -> int:
    with psycopg.connect(url) as connection:
        ((found,),) = connection.execute(f"select {expression}").fetchall()
        return int(found)


@contextmanager
def service(url: str, workers: int, pool_size: int, **variables: str) -> Iterator[tuple[str, list[int]]]:
    """The service; yields its URL and its workers' processes."""
    port = random.randrange(20_000, 30_000)  # noqa: S311
    environment = os.environ | {
        "DATABASE_URL": url, "JWT_SECRET": rows.SECRET, "HOST": HOST, "PORT": str(port), "WORKERS": str(workers),
        "DATABASE_POOL_SIZE": str(pool_size),
    } | variables  # fmt: skip
    command = [sys.executable, "-c", "from app.cli import main; main()", "serve"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while True:
            with suppress(httpx.TransportError):
                if httpx.get(f"http://{HOST}:{port}/readyz").is_success:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failed("the service does not start")
            time.sleep(0.05)
        found = psutil.Process(process.pid)
        yield f"http://{HOST}:{port}", [found.pid, *(child.pid for child in found.children(recursive=True))]
    finally:
        process.terminate()
        process.wait(20)


def write_requests(path: Path, kinds: tuple[str, ...], users: int, tasks: int, *, owners: int = 200) -> None:
    """Requests of these kinds, for so many of the users."""
    chance = random.Random(rows.SEED)  # noqa: S311
    people = {f"user-{user}": rows.token(f"user-{user}") for user in chance.sample(range(users), min(users, owners))}
    with path.open("w") as file:
        for _ in range(rows.REQUESTS_PER_FILE):
            user = chance.choice(list(people))
            number = chance.randrange(tasks) * users + int(user[5:])
            target_id = UUID(task_id(number))
            method, target, body = rows.request(chance.choice(kinds), user, target_id, chance.randrange(10**6))
            file.write(f"{method}\t{target}\t{people[user]}\t{'' if body is None else json.dumps(body)}\n")


def load(
    url: str, requests: Path, *, workers: int, seconds: int, connections: int = 16, pool_size: int = 16
) -> dict[str, float]:
    """One load run: requests per second, latencies, and what service and database ran for each request."""
    with service(url, workers, pool_size) as (address, pids):
        command = [
            require_wrk(), "--threads", "1", "--connections", str(connections), "--script", str(HERE / "wrk.lua"),
            "--duration", "SECONDS", address, "--", str(requests),
        ]  # fmt: skip

        def wrk(duration: int) -> dict[str, float]:
            arguments = [f"{duration}s" if word == "SECONDS" else word for word in command]
            done = subprocess.run(arguments, capture_output=True, text=True, check=True)
            report: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
            if report["refused"] or report["broken"]:
                raise Failed(f"not all were successes: {report}")
            return report

        wrk(1)
        asked = {pid: ran_us(pid) for pid in backends(url)}
        served, log = tree_us(pids), value(url, LOG)
        report = wrk(seconds)
        count = report["requests"]
        return {
            "workers": workers,
            "requests_per_second": count / report["seconds"],
            "p50_ms": report["p50_ms"],
            "p99_ms": report["p99_ms"],
            "service_us": (tree_us(pids) - served) / count,
            "database_us": sum(ran_us(pid) - asked.get(pid, 0) for pid in backends(url)) / count,
            "wal_bytes": (value(url, LOG) - log) / count,
        }


def connection_mib(url: str) -> float:
    """What a served connection's process has for itself, in MiB: the median of sixteen."""
    with service(url, 1, 16) as (address, _), httpx.Client(base_url=address) as client:
        user = "user-1"
        threads = [
            threading.Thread(
                target=lambda: [
                    client.get(f"/api/{user}/tasks", headers={"Authorization": f"Bearer {rows.token(user)}"})
                    for _ in range(20)
                ]
            )
            for _ in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sizes = []
        for pid in backends(url):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            sizes.append(sum(int(line.split()[1]) for line in lines if line.startswith("Private")) / 1024)
        return median(sizes)


@contextmanager
def confined(cluster_url: str, cores: int) -> Iterator[None]:
    """Lets service, server and load have so many cores, all of them together."""
    with psycopg.connect(cluster_url) as connection:
        postmaster = psutil.Process(connection.info.backend_pid).parent()
    # Whoever is started by one of these inherits it.
    processes = [psutil.Process(), postmaster, *postmaster.children()]
    allowed = psutil.Process().cpu_affinity()
    for process in processes:
        process.cpu_affinity(allowed[:cores])
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.cpu_affinity(allowed)


def draw(
    folder: Path,
    cores: dict[int, dict[str, float]],
    workers: list[dict[str, float]],
    sizes: dict[str, dict[str, float]],
) -> None:
    import matplotlib as mpl  # noqa: PLC0415 - a second that only a chart needs

    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "taskpact", "font.family": "sans-serif", "font.size": 9}
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 2.8), layout="constrained")
    left.plot(list(cores), [run["requests_per_second"] for run in cores.values()], "o-", c="#0a7d5a")
    left.set(title="Throughput against cores", xlabel="cores, for all that runs", ylabel="requests/s")
    left.set_xticks(list(cores))
    numbers = [run["workers"] for run in workers]
    middle.plot(numbers, [run["requests_per_second"] for run in workers], "o-", c="#0a7d5a")
    middle.set(title=f"Throughput against workers, {os.cpu_count()} cores", xlabel="workers", ylabel="requests/s")
    middle.set_xticks(numbers)
    counts = [users * tasks for users, tasks in SIZES.values()]
    for name, colour in (("p50_ms", "#0a7d5a"), ("p99_ms", "#8a8f98")):
        right.plot(counts, [sizes[size][name] for size in SIZES], "o-", c=colour, label=name[:3])
    right.set(title="Latency against rows", xlabel="tasks", ylabel="ms", xscale="log")
    right.legend(frameon=False)
    for axis in (left, middle, right):
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "scaling.svg", metadata={"Date": None})


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), required=True, help="Where the databases are kept.")
@click.option("--seconds", type=click.IntRange(1), default=8, show_default=True, help="Of each load run.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Where to write all that was measured.")
@click.option("--svg", "svg_folder", type=click.Path(path_type=Path), help="Where to draw scaling.svg.")
@click.option("--fill-only", is_flag=True, help="Only make the databases.")
def main(*, folder: Path, seconds: int, json_path: Path | None, svg_folder: Path | None, fill_only: bool) -> None:
    """Measures, loads, and compares."""
    require_wrk()
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, object] = {"cores": os.cpu_count()}
    with embedded_server(folder) as cluster_url:
        urls = {name: database(cluster_url, name, *size) for name, size in SIZES.items()}
        if fill_only:
            return
        mixes = {name: folder / f"{name}.tsv" for name in SIZES}
        for name, size in SIZES.items():
            write_requests(mixes[name], rows.MIX, *size)
        found["bytes_per_task"] = {
            name: {
                part: value(urls[name], query) / value(urls[name], "count(*) from tasks")
                for part, query in SIZE_QUERIES.items()
            }
            for name in SIZES
        }
        print(json.dumps(found, indent=1), flush=True)
        found["connection_mib"] = connection_mib(urls["many_users"])
        constants = {}
        for operation in OPERATIONS:
            write_requests(path := folder / f"{operation}.tsv", (operation,), *SIZES["many_users"])
            constants[operation] = load(urls["many_users"], path, workers=1, seconds=seconds)
        found["constants"] = constants
        found["foretold"] = {
            name: sum(constants[kind][name] for kind in rows.MIX) / len(rows.MIX)
            for name in ("service_us", "database_us")
        }
        print(json.dumps(found, indent=1), flush=True)
        sizes = {name: load(urls[name], mixes[name], workers=1, seconds=seconds) for name in SIZES}
        workers = [load(urls["many_users"], mixes["many_users"], workers=n, seconds=seconds) for n in (1, 2, 4)]
        cores = {}
        for count in range(1, (os.cpu_count() or 1) + 1):
            with confined(cluster_url, count):
                cores[count] = load(urls["many_users"], mixes["many_users"], workers=count, seconds=seconds)
        found |= {"load_by_size": sizes, "load_by_workers": workers, "load_by_cores": cores}
        print(json.dumps(found, indent=1))
    if json_path:
        json_path.write_text(json.dumps(found, indent=1))
    if svg_folder:
        draw(svg_folder, cores, workers, sizes)


if __name__ == "__main__":
    main()
