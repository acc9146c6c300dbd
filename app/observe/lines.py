"""Writes the log's lines, and never makes anybody wait for that: a thread of its own does the writing."""

from __future__ import annotations

import atexit
import os
import select
import stat
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

GATHER_SECONDS: Final = 0.05
"""How long lines gather before they are written: fewer writes, and the thread wakes twenty times a second at most."""

WAITING_LIMIT_BYTES: Final = 1_048_576
"""How much may wait to be written: some three thousand lines."""

PIPE_WRITE_LIMIT_BYTES: Final = select.PIPE_BUF
"""A write of so many bytes to a pipe is not mixed with those of other workers (POSIX, write)."""

FILE_WRITE_LIMIT_BYTES: Final = 65_536
"""The same for a file or a device, which takes a write whole. Fewer are better: the event loop waits for each."""

CLOSE_SECONDS: Final = 1.0
"""How long the end of the process waits for the last lines."""


def write_limit_bytes(descriptor: int) -> int:
    """How many bytes one write may hold, and still not be mixed with those of other workers."""
    mode = os.fstat(descriptor).st_mode
    return FILE_WRITE_LIMIT_BYTES if stat.S_ISREG(mode) or stat.S_ISCHR(mode) else PIPE_WRITE_LIMIT_BYTES


class LineWriter:
    """A text stream of whole lines, for a file descriptor that may be full, gone, or slow.

    `write` only takes the line; a thread writes it. A line is dropped when it cannot be written, or when too much waits
    already. Dropped lines are counted, and `on_recovered` is told their number when a line could be written again.
    """

    def __init__(self, descriptor: int, *, on_recovered: Callable[[int], None]) -> None:
        self._descriptor = descriptor
        self._write_limit_bytes = write_limit_bytes(descriptor)
        self._on_recovered = on_recovered
        self._lock = threading.Lock()
        self._lines: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._has_lines = threading.Event()
        self._is_closing = threading.Event()
        self._last_byte = b"\n"
        self._told = 0
        self.dropped = 0
        """How many lines were lost."""
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def write(self, text: str) -> int:
        """Takes a line, with its line end."""
        self.write_bytes(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def write_bytes(self, line: bytes) -> None:
        """Takes a line in UTF-8, with its line end."""
        with self._lock:
            if self._waiting_bytes + len(line) > WAITING_LIMIT_BYTES:
                self.dropped += 1
                return
            self._waiting_bytes += len(line)
            self._lines.append(line)
        if not self._has_lines.is_set():
            self._has_lines.set()

    def flush(self) -> None:
        """Does nothing: the thread writes as soon as it can."""

    def isatty(self) -> bool:
        """Whether the lines go to a terminal."""
        return os.isatty(self._descriptor)

    def close(self) -> None:
        """Writes what waits, for a moment at most."""
        self._is_closing.set()
        self._has_lines.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while not (self._is_closing.is_set() and not self._lines):
            self._has_lines.wait()
            self._is_closing.wait(GATHER_SECONDS)
            self._has_lines.clear()
            while lines := self._take():
                if self._write(lines) and self.dropped > self._told:
                    dropped, self._told = self.dropped - self._told, self.dropped
                    self._on_recovered(dropped)

    def _take(self) -> list[bytes]:
        """As many waiting lines as one write may hold, at least one if any waits."""
        taken: list[bytes] = []
        size_bytes = 0
        with self._lock:
            while self._lines and (not taken or size_bytes + len(self._lines[0]) <= self._write_limit_bytes):
                taken.append(self._lines.popleft())
                size_bytes += len(taken[-1])
            self._waiting_bytes -= size_bytes
        return taken

    def _write(self, lines: list[bytes]) -> bool:
        """Whether all of them were written; those that were not are counted."""
        # A line of which only a part was written is ended before the next one.
        rest = (b"" if self._last_byte == b"\n" else b"\n") + b"".join(lines)
        try:
            while rest:
                try:
                    written = os.write(self._descriptor, rest)
                except BlockingIOError:
                    # Somebody who shares the descriptor has made it non-blocking.
                    select.select([], [self._descriptor], [])
                    continue
                self._last_byte = rest[written - 1 : written]
                rest = rest[written:]
        except OSError:
            with self._lock:
                self.dropped += min(len(lines), rest.count(b"\n"))
            return False
        return True
