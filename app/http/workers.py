"""The processes that serve: one, or several on one port."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any, Final

import structlog
import uvicorn
from uvicorn.config import STARTUP_FAILURE

from app.http.server import SHUTDOWN_SECONDS, Server, run
from app.observe.metrics import forget_gauges

logger = structlog.get_logger()

LEAVE_SECONDS: Final = 2
"""How long a worker may take to end after SHUTDOWN_SECONDS."""

RESTART_SECONDS: Final = 1.0


def serve(config: uvicorn.Config, *, drain_seconds: float) -> None:
    """Serves until SIGINT or SIGTERM, by `config.workers` processes on one port.

    Raises:
        SystemExit: the service cannot start, or was told to end by a signal.
    """
    if config.workers > 1:
        _supervise(config, drain_seconds)
    else:
        run(Server(config, drain_seconds=drain_seconds))


def _work(config: uvicorn.Config, drain_seconds: float, listener: socket.socket, has_started: Any) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - this is run by `_supervise`, in a process of its own
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    config.configure_logging()
    server = Server(config, drain_seconds=drain_seconds, on_started=lambda: setattr(has_started, "value", True))
    run(server, [listener])


def _follow(parent: BaseProcess) -> None:
    """Ends this process when the one that started it does, however that ended."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _supervise(config: uvicorn.Config, drain_seconds: float) -> None:
    """Keeps the workers running; they accept from one socket, so that a connection is nobody's until one takes it."""
    listener = config.bind_socket()
    spawn = multiprocessing.get_context("spawn")
    has_started = spawn.RawValue("b", False)

    def start(index: int) -> BaseProcess:
        worker = spawn.Process(
            name=f"worker-{index}", target=_work, args=(config, drain_seconds, listener, has_started)
        )
        worker.start()
        return worker

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit())
    try:
        workers = [start(index) for index in range(config.workers)]
        while True:
            connection.wait([worker.sentinel for worker in workers])
            for index, worker in enumerate(workers):
                if worker.is_alive():
                    continue
                if not has_started.value:
                    sys.exit(STARTUP_FAILURE)
                logger.warning("worker_replaced", pid=worker.pid, exit_code=worker.exitcode)
                forget_gauges(worker.name)
                # What it lacked, a database perhaps, the next one may lack too.
                time.sleep(RESTART_SECONDS)
                workers[index] = start(index)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        listener.close()
        # A signal may have come before all of them were in the list.
        _end(spawn.active_children(), drain_seconds + SHUTDOWN_SECONDS + LEAVE_SECONDS)


def _end(workers: Sequence[BaseProcess], grace_seconds: float) -> None:
    deadline = time.monotonic() + grace_seconds
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
        worker.kill()
