"""The processes that serve: one, or several that accept from the same sockets."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Final

import structlog
import uvicorn
from uvicorn.config import STARTUP_FAILURE

from app.http.server import SHUTDOWN_SECONDS, Server, run
from app.observe.metrics import forget_gauges

logger = structlog.get_logger()

LEAVE_SECONDS: Final = 2
"""How long a worker may take to end after SHUTDOWN_SECONDS."""

RESTART_SECONDS: Final = 1.0


def serve(config: uvicorn.Config, listeners: list[socket.socket], *, drain_seconds: float) -> None:
    """Serves on bound sockets until SIGINT or SIGTERM, by `config.workers` processes.

    Raises:
        SystemExit: the service cannot start, or was told to end by a signal.
    """
    if config.workers > 1:
        _supervise(config, listeners, drain_seconds)
    else:
        run(Server(config, drain_seconds=drain_seconds), listeners)


def _work(config: uvicorn.Config, listeners: list[socket.socket], drain_seconds: float, sender: Connection) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - this is run by `_supervise`, in a process of its own
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    config.configure_logging()
    server = Server(config, drain_seconds=drain_seconds, on_started=partial(sender.send_bytes, b"started"))
    run(server, listeners)


def _follow(parent: BaseProcess) -> None:
    """Ends this process when the one that started it does, however that ended."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _supervise(config: uvicorn.Config, listeners: list[socket.socket], drain_seconds: float) -> None:
    """Keeps the workers running; they share the sockets, so that a connection is nobody's until one accepts it."""
    spawn = multiprocessing.get_context("spawn")
    # A pipe, where multiprocessing's shared values would need a file in /dev/shm.
    receiver, sender = spawn.Pipe(duplex=False)
    has_started = False

    def start(index: int) -> BaseProcess:
        worker = spawn.Process(name=f"worker-{index}", target=_work, args=(config, listeners, drain_seconds, sender))
        worker.start()
        return worker

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit())
    try:
        workers = [start(index) for index in range(config.workers)]
        while True:
            if receiver in connection.wait([receiver, *(worker.sentinel for worker in workers)]):
                receiver.recv_bytes()
                has_started = True
            for index, worker in enumerate(workers):
                if worker.is_alive():
                    continue
                if not has_started:
                    sys.exit(STARTUP_FAILURE)
                logger.warning("worker_replaced", pid=worker.pid, exit_code=worker.exitcode)
                forget_gauges(worker.name)
                # What it lacked, a database perhaps, the next one may lack too.
                time.sleep(RESTART_SECONDS)
                workers[index] = start(index)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        for listener in listeners:
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
