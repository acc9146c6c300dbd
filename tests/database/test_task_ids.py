"""Ids of tasks sort as the tasks were made, whichever process of the machine made them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from uuid import RFC_4122, UUID

import httpx
import pytest

from db.task_ids import TICKS_PER_MILLISECOND, TaskIds
from support.people import make_token
from support.service import running_process

pytestmark = pytest.mark.requirement("FR-04")

NOW_NS = 1_760_000_000_123_456_789


def test_an_id_is_a_uuid_of_version_7_with_the_time_of_its_making() -> None:
    uuid = UUID(TaskIds(lambda: NOW_NS).new())

    assert (uuid.version, uuid.variant) == (7, RFC_4122)
    assert uuid.int >> 80 == NOW_NS // 1_000_000
    assert (uuid.int >> 64) % 4096 == NOW_NS % 1_000_000 * TICKS_PER_MILLISECOND // 1_000_000


@pytest.mark.parametrize(
    "times_ns", [[NOW_NS] * 10_000, range(NOW_NS, NOW_NS - 10**10, -(10**6))], ids=["stands", "goes-back"]
)
def test_ids_grow_while_the_clock_does_not(times_ns: list[int]) -> None:
    clock = iter(times_ns)
    task_ids = TaskIds(lambda: next(clock))
    made = [task_ids.new() for _ in times_ns]

    assert made == sorted(set(made))


def test_ids_of_one_tick_differ() -> None:
    assert len({TaskIds(lambda: NOW_NS).new() for _ in range(1000)}) == 1000


def test_ids_of_two_processes_sort_as_they_were_made() -> None:
    program = (
        "import sys; from db.task_ids import TaskIds; t = TaskIds()\nfor _ in sys.stdin: print(t.new(), flush=True)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    made = []
    for number in range(2000):
        process = processes[number % 2]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        made.append(process.stdout.readline())
    for process in processes:
        process.communicate(timeout=10)

    assert made == sorted(made)


def test_tasks_of_two_workers_are_listed_newest_first(database_url: str, tmp_path: Path) -> None:
    headers = {"Authorization": f"Bearer {make_token('in-order')}"}
    with running_process(database_url, tmp_path / "log", WORKERS="2") as url:
        # Each connection belongs to one worker; several make it likely that both take part.
        clients = [httpx.Client(base_url=url, headers=headers) for _ in range(8)]
        made = [
            clients[number % 8].post("/api/in-order/tasks", json={"title": str(number)}).json()["id"]
            for number in range(200)
        ]
        for client in clients:
            client.close()

    assert made == sorted(made)
