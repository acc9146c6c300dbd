"""A line of the log never decides an answer: neither when it cannot be written, nor when nobody reads it."""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from app.observe import lines
from app.observe.lines import LineWriter
from support.people import make_token
from support.service import running_process

FULL = Path("/dev/full")
PIPE_BYTES = 65_536


@contextmanager
def pipe(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A named pipe, and the end from which it is read."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield path, reader
    finally:
        os.close(reader)


def statuses(url: str, count: int) -> list[int]:
    """Of requests over one connection that log a warning each, and of those that log a request alone."""
    token = {"Authorization": f"Bearer {make_token('alice')}"}
    with httpx.Client(base_url=url, timeout=5) as client:
        return [
            client.get(path, headers=headers).status_code
            for _ in range(count)
            for path, headers in (
                ("/api/alice/tasks", {}),
                ("/api/bob/tasks", token),
                ("/api/alice/tasks", token),
                ("/healthz", {}),
            )
        ]


@pytest.mark.requirement("SR-11", "SR-13")
def test_a_full_disk_changes_no_answer(database_url: str) -> None:
    with running_process(database_url, FULL) as url:
        assert statuses(url, 20) == [401, 403, 200, 200] * 20


@pytest.mark.requirement("SR-11", "SR-13")
def test_a_reader_that_is_gone_changes_no_answer(database_url: str, tmp_path: Path) -> None:
    with pipe(tmp_path) as (path, reader):
        spare = os.dup(reader)
        with running_process(database_url, path) as url:
            null = os.open(os.devnull, os.O_RDONLY)
            for descriptor in (reader, spare):
                os.dup2(null, descriptor)
            os.close(null)

            assert statuses(url, 20) == [401, 403, 200, 200] * 20
        os.close(spare)


@pytest.mark.requirement("SR-11", "SR-13")
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_reader_that_stops_reading_changes_no_answer_and_is_told_what_it_missed(
    database_url: str, tmp_path: Path, log_format: str
) -> None:
    with pipe(tmp_path) as (path, reader), running_process(database_url, path, LOG_FORMAT=log_format) as url:
        # The lines of one round fill the pipe several times, and then what may wait in the process.
        rounds = lines.WAITING_LIMIT_BYTES // 1000
        assert statuses(url, rounds) == [401, 403, 200, 200] * rounds

        read, deadline = b"", time.monotonic() + 10
        # What follows the last line end is a line that is not whole yet.
        while b"log_lines_dropped" not in read.rpartition(b"\n")[0] and time.monotonic() < deadline:
            try:
                read += os.read(reader, PIPE_BYTES)
            except BlockingIOError:
                statuses(url, 1)

    assert b"log_lines_dropped" in read
    if log_format == "json":
        told = [json.loads(line) for line in read.rpartition(b"\n")[0].splitlines()]
        dropped = sum(line["count"] for line in told if line["event"] == "log_lines_dropped")
        assert 0 < dropped < 6 * rounds


# The writer by itself.


@contextmanager
def writing(tmp_path: Path) -> Iterator[tuple[LineWriter, int, list[int]]]:
    """A writer to a pipe, the end from which it is read, and what it told of dropped lines."""
    told: list[int] = []
    with pipe(tmp_path) as (path, reader):
        descriptor = os.open(path, os.O_WRONLY)
        writer = LineWriter(descriptor, on_recovered=told.append)
        try:
            yield writer, reader, told
        finally:
            writer.close()
            os.close(descriptor)


def read_until(reader: int, is_enough: Callable[[bytes], bool]) -> bytes:
    read, deadline = b"", time.monotonic() + 10
    while not is_enough(read) and time.monotonic() < deadline:
        try:
            read += os.read(reader, PIPE_BYTES)
        except BlockingIOError:
            time.sleep(0.01)
    return read


def test_lines_arrive_whole_and_in_order(tmp_path: Path) -> None:
    written = [f"{number} " + "é" * (number % 700) + "\n" for number in range(1000)]
    with writing(tmp_path) as (writer, reader, told):
        for line in written:
            writer.write(line)
        expected = "".join(written).encode()

        assert read_until(reader, lambda read: len(read) >= len(expected)) == expected
    assert (writer.dropped, told) == (0, [])


@pytest.mark.parametrize(("takes_writes_whole", "limit_bytes"), [(True, 65_536), (False, select.PIPE_BUF)])
def test_a_write_holds_no_more_than_is_never_mixed_with_another_worker_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes_writes_whole: bool, limit_bytes: int
) -> None:
    sizes_bytes: list[int] = []
    real_write = os.write

    def write(descriptor: int, data: bytes) -> int:
        sizes_bytes.append(len(data))
        return real_write(descriptor, data)

    monkeypatch.setattr(lines.os, "write", write)
    line = "x" * 999 + "\n"
    with pipe(tmp_path) as (path, reader):
        descriptor = os.open(tmp_path / "file" if takes_writes_whole else path, os.O_WRONLY | os.O_CREAT)
        writer = LineWriter(descriptor, on_recovered=[].append)
        for _ in range(200):
            writer.write(line)
        if not takes_writes_whole:
            read_until(reader, lambda read: len(read) >= 200 * len(line))
        writer.close()
        os.close(descriptor)

    assert sum(sizes_bytes) == 200 * len(line)
    assert limit_bytes - len(line) < max(sizes_bytes) <= limit_bytes


def test_what_waits_is_bounded_and_the_rest_is_counted_and_told_once_it_is_read_again(tmp_path: Path) -> None:
    line = "x" * 999 + "\n"
    with writing(tmp_path) as (writer, reader, told):
        for _ in range(3000):
            writer.write(line)
        dropped = writer.dropped
        read_until(reader, lambda read: len(read) >= (3000 - dropped) * len(line))
        writer.write("after\n")
        read_until(reader, lambda read: b"after" in read)
        deadline = time.monotonic() + 5
        while not told and time.monotonic() < deadline:
            time.sleep(0.01)

    kept_bytes = (3000 - dropped) * len(line)
    assert lines.WAITING_LIMIT_BYTES / 2 < kept_bytes <= lines.WAITING_LIMIT_BYTES + PIPE_BYTES + len(line) * 5
    assert sum(told) == writer.dropped == dropped


def test_a_line_of_which_a_part_was_written_is_ended_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that is full in the middle of a line, and has room again later."""
    room = [3, OSError(), 100, 100]
    path = tmp_path / "log"
    real_write = os.write

    def write(descriptor: int, data: bytes) -> int:
        step = room.pop(0)
        if isinstance(step, OSError):
            raise step
        return real_write(descriptor, data[:step])

    monkeypatch.setattr(lines.os, "write", write)
    told: list[int] = []
    with path.open("wb") as file:
        writer = LineWriter(file.fileno(), on_recovered=told.append)
        writer.write("first\n")
        time.sleep(5 * lines.GATHER_SECONDS)
        writer.write("second\n")
        writer.close()

    assert path.read_bytes() == b"fir\nsecond\n"
    assert told == [1]


def test_the_end_of_the_process_waits_only_a_moment_for_a_reader_that_has_stopped(tmp_path: Path) -> None:
    with writing(tmp_path) as (writer, reader, _):
        for _ in range(500):
            writer.write("x" * 999 + "\n")
        started = time.monotonic()
        writer.close()
        waited_seconds = time.monotonic() - started
        read_until(reader, lambda read: len(read) >= 500_000)

    assert waited_seconds < 3 * lines.CLOSE_SECONDS


def test_a_console_shows_control_characters_escaped(database_url: str, tmp_path: Path) -> None:
    """They could move the cursor, or begin a line that nobody wrote."""
    log = tmp_path / "log"
    token = make_token("a\x1b[2Jb\nc\u2028d\x9be")
    with running_process(database_url, log, LOG_FORMAT="console") as url:
        answer = httpx.get(f"{url}/api/x/tasks", headers={"Authorization": f"Bearer {token}"})

    assert answer.status_code == 403
    (line,) = [line for line in log.read_text().split("\n") if "user_id" in line and "x1b" in line]
    assert "a\\x1b[2Jb\\nc\\u2028d\\x9be" in line
