"""Prometheus reads what all workers counted, on a port of its own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from uuid import uuid4

import httpx
import psutil
import psycopg
import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from app.cli import main
from app.observe import metrics
from app.observe.metrics import MEMORY, SCRAPES_LIMIT
from db.schema.migrate import migrate
from support.database import new_database
from support.people import SECRET, make_token
from support.service import SERVE, free_port, running_process, serving

WAIT_SECONDS = 20
POOL_SIZE = 4


Samples = dict[tuple[str, ...], float]


def scrape(port: int) -> Samples:
    """The samples, by name and the values of their labels."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").raise_for_status().text
    return {
        (sample.name, *(value for name, value in sorted(sample.labels.items()) if name != "pid")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def counted(samples: Samples) -> dict[tuple[str, ...], float]:
    """How many requests the samples tell, by operation and status."""
    name = "taskpact_request_duration_seconds_count"
    return {key[1:]: value for key, value in samples.items() if key[0] == name and key[1] != "none"}


def wait_for(port: int, condition: Callable[[Samples], bool]) -> Samples:
    """The samples, as soon as they meet the condition."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition(samples := scrape(port)):
        assert time.monotonic() < deadline, samples
        time.sleep(0.2)
    return samples


def test_requests_pools_tokens_and_errors_of_all_workers_are_told(tmp_path: Path, cluster_url: str) -> None:
    port = free_port()
    user = f"user-{uuid4().hex}"
    headers = {"Authorization": f"Bearer {make_token(user)}"}
    variables = {"METRICS_PORT": str(port), "WORKERS": "2", "DATABASE_POOL_SIZE": str(POOL_SIZE)}
    sent: Counter[tuple[str, str]] = Counter()
    with new_database(cluster_url) as database_url:
        migrate(database_url)
        with running_process(database_url, tmp_path / "log", **variables) as url:
            tasks = f"{url}/api/{user}/tasks"
            for _ in range(10):
                sent["create_task", str(httpx.post(tasks, json={"title": "x"}, headers=headers).status_code)] += 1
                sent["list_tasks", str(httpx.get(tasks, headers=headers).status_code)] += 1
                sent["get_task", str(httpx.get(f"{tasks}/{uuid4()}", headers=headers).status_code)] += 1
                sent["list_tasks", str(httpx.get(tasks).status_code)] += 1
            with psycopg.connect(database_url) as connection:
                connection.execute("alter table tasks rename to elsewhere")
            sent["list_tasks", str(httpx.get(tasks, headers=headers).status_code)] += 1

            samples = wait_for(
                port,
                lambda samples: (
                    counted(samples) == sent
                    # These are up to a second behind the requests.
                    and ("taskpact_database_errors_total", "42") in samples
                    and samples["taskpact_token_cache_hits_total",] + samples["taskpact_token_cache_misses_total",]
                    == 31
                ),
            )

    assert sent == {
        ("create_task", "201"): 10,
        ("list_tasks", "200"): 10,
        ("get_task", "404"): 10,
        ("list_tasks", "401"): 10,
        ("list_tasks", "500"): 1,
    }
    assert samples["taskpact_request_duration_seconds_bucket", "+Inf", "get_task", "404"] == 10
    assert 0 < samples["taskpact_request_duration_seconds_sum", "get_task", "404"] < 100
    # A statement that the schema made stale is run once more.
    assert samples["taskpact_database_errors_total", "42"] >= 1
    assert samples["taskpact_database_connections_limit",] > 0
    assert 1 <= samples["taskpact_database_connections_idle",] <= samples["taskpact_database_connections",]
    assert samples["taskpact_database_requests_waiting",] == 0
    verified = samples["taskpact_token_cache_misses_total",]
    assert 1 <= verified == samples["taskpact_token_cache_size",] <= 2
    assert samples["taskpact_token_cache_hits_total",] == 31 - verified


def test_refused_requests_are_counted_apart(tmp_path: Path, database_url: str, owner: psycopg.Connection) -> None:
    port, headers = free_port(), {"Authorization": f"Bearer {make_token('alice')}"}
    variables = {"METRICS_PORT": str(port), "DATABASE_POOL_SIZE": "1", "DATABASE_STATEMENT_SECONDS": "1"}
    with running_process(database_url, tmp_path / "log", **variables) as url:
        owner.execute("lock table tasks")
        with ThreadPoolExecutor(10) as people:
            tasks = [f"{url}/api/alice/tasks"] * 10
            answers = list(people.map(lambda task: httpx.get(task, headers=headers), tasks))
        owner.rollback()

        samples = wait_for(
            port,
            lambda samples: sum(counted(samples).values()) == 10 and samples["taskpact_requests_refused_total",] > 0,
        )

    # One has the connection, and three may wait for it.
    assert sum(answer.json()["type"].endswith(":overloaded") for answer in answers) == 6
    assert samples["taskpact_requests_refused_total",] == 6


def test_what_a_dead_worker_counted_stays_and_what_it_had_is_gone(tmp_path: Path, database_url: str) -> None:
    port = free_port()
    with running_process(database_url, tmp_path / "log", METRICS_PORT=str(port), WORKERS="2") as url:
        wait_for(port, lambda samples: samples["taskpact_workers",] == 2)
        for _ in range(10):
            httpx.get(f"{url}/api/alice/tasks")
        wait_for(port, lambda samples: counted(samples) == {("list_tasks", "401"): 10})
        killed = min(workers_of(port))
        folder = folder_of(killed)
        os.kill(killed, signal.SIGKILL)

        wait_for(port, lambda samples: samples["taskpact_workers",] == 1)
        wait_for(port, lambda _: killed not in workers_of(port) and len(workers_of(port)) == 2)
        samples = wait_for(port, lambda samples: samples["taskpact_workers",] == 2)
        for _ in range(10):
            httpx.get(f"{url}/api/alice/tasks")
        more = wait_for(port, lambda samples: sum(counted(samples).values()) == 20)
        owners = {file.stem.rpartition("_")[2] for file in folder.iterdir()}

    assert counted(samples) == {("list_tasks", "401"): 10}
    assert counted(more) == {("list_tasks", "401"): 20}
    # The new worker goes on with the files of the dead one.
    assert owners == {"MainProcess", "worker-0", "worker-1"}
    assert folder.parent == (MEMORY if MEMORY.is_dir() else Path(tempfile.gettempdir()))
    assert not folder.exists()


def folder_of(process_id: int) -> Path:
    """The folder of the metrics files that the process has mapped."""
    (folder,) = {Path(file.path).parent for file in psutil.Process(process_id).memory_maps() if "metrics-" in file.path}
    return folder


def workers_of(port: int) -> set[int]:
    """The processes that the one behind the port started to serve."""
    (parent,) = {
        c.pid for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port == port
    }
    workers = set()
    for child in psutil.Process(parent).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "spawn_main" in " ".join(child.cmdline()):
                workers.add(child.pid)
    return workers


@pytest.mark.requirement("NF-03")
def test_without_a_port_the_library_is_not_imported() -> None:
    code = (
        "import sys; from app.application import create_app; from app.settings import read_settings;"
        f"create_app(read_settings({{'DATABASE_URL': 'postgresql:///x', 'JWT_SECRET': '{SECRET}'}}));"
        "assert 'prometheus_client' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


@pytest.mark.requirement("NF-03")
def test_a_port_in_use_is_reported_before_anything_starts(database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        variables = {"DATABASE_URL": database_url, "JWT_SECRET": SECRET, "METRICS_PORT": port, "PORT": "0"}
        result = CliRunner().invoke(main, ["serve"], env=variables)

    assert result.exit_code == 1
    assert result.stderr == f"Error: cannot listen on 127.0.0.1, port {port}: Address already in use\n"


def test_the_port_answers_a_bounded_number_of_connections_and_goes_on(tmp_path: Path, database_url: str) -> None:
    """Silent connections hold its threads; one more is closed at once, and their time is bounded."""
    port = free_port()
    with running_process(database_url, tmp_path / "log", METRICS_PORT=str(port)), ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(SCRAPES_LIMIT)]
        time.sleep(0.5)
        with socket.create_connection(("127.0.0.1", port), timeout=5) as refused, suppress(ConnectionError):
            assert refused.recv(1) == b""
        cut_off = {connection.recv(1) for connection in silent}

        assert cut_off == {b""}
        assert httpx.get(f"http://127.0.0.1:{port}/metrics").status_code == 200


def test_two_workers_count_where_shared_memory_cannot_be_written(tmp_path: Path, database_url: str) -> None:
    rights = [] if os.geteuid() == 0 else ["--map-root-user"]
    apart = ["unshare", "--mount", *rights, "sh", "-c", f'mount -t tmpfs -o ro none {MEMORY} && exec "$@"', ""]
    if subprocess.run([*apart, "true"], check=False).returncode:
        pytest.skip("this machine lets nobody mount file systems of their own")
    port = free_port()
    variables = {"METRICS_PORT": str(port), "WORKERS": "2", "TMPDIR": str(tmp_path)}
    with serving(database_url, tmp_path / "log", command=[*apart, *SERVE], **variables):
        wait_for(port, lambda samples: samples["taskpact_workers",] == 2)

        assert len(list(tmp_path.glob("taskpact-metrics-*/*"))) > 0


@pytest.mark.requirement("NF-03")
def test_without_a_folder_for_the_files_the_start_fails_in_one_line(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(metrics, "MEMORY", tmp_path / "nowhere")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "neither"))
    variables = {"DATABASE_URL": database_url, "JWT_SECRET": SECRET, "METRICS_PORT": str(free_port()), "PORT": "0"}

    result = CliRunner().invoke(main, ["serve"], env=variables)

    assert result.exit_code == 1
    assert re.fullmatch("Error: METRICS_PORT needs a folder .* TMPDIR: .*No such file.*neither.*\n", result.stderr)
