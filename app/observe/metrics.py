"""Metrics for Prometheus: `prometheus_client` in its multi-process mode.

Each worker counts in files that are mapped into its memory. The process that started the workers adds the files up
when Prometheus asks, and answers on a port of its own.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from socketserver import BaseServer, ThreadingMixIn
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from app.http.listeners import CannotListen, bound
from app.observe.logs import RequestLine, stream
from app.settings import SettingsError

if TYPE_CHECKING:
    # The process that serves the metrics does without Connexion, which these import.
    from app.http.admission import Admission
    from db.wire.pool import Pool
    from handlers.auth.tokens import Verifier

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that tells `prometheus_client` where the files are. It is read when the library is imported."""

MEMORY = Path("/dev/shm")  # noqa: S108 - the folder in it is private

UPDATE_SECONDS = 1.0

SCRAPES_LIMIT = 16
"""How many connections the port answers at once."""

SCRAPE_SECONDS = 5.0
"""How long a connection may take, however slowly it sends or reads."""

BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

GAUGES = {
    "taskpact_workers": "Processes that serve",
    "taskpact_database_connections_limit": "Connections that the pools may have",
    "taskpact_database_connections": "Connections that the pools have",
    "taskpact_database_connections_idle": "Connections that nobody uses",
    "taskpact_database_requests_waiting": "Requests that wait for a connection",
    "taskpact_token_cache_size": "Verified tokens in the caches",
}

COUNTERS = {
    "taskpact_requests_refused": "Requests refused: too many waited (503), or were of one user (429)",
    "taskpact_token_cache_hits": "Requests whose token was in the cache",
    "taskpact_token_cache_misses": "Requests whose token was verified",
    "taskpact_log_lines_dropped": "Lines of the log that could not be written",
}


class Metrics:
    """What one worker counts.

    Its files are named for the worker, not for the process: a worker that replaces another one goes on with its files.
    So nothing that was counted is lost, and the folder does not grow.
    """

    def __init__(self) -> None:
        from prometheus_client import Counter, Gauge, Histogram, values  # noqa: PLC0415 - only with METRICS_PORT

        worker = multiprocessing.current_process().name
        values.ValueClass = values.MultiProcessValue(lambda: worker)
        self._requests = Histogram(
            "taskpact_request_duration_seconds",
            "Answered requests, by operation of the contract, or 'none', and status",
            ("operation", "status"),
            buckets=BUCKETS_SECONDS,
            registry=None,
        )
        self._errors = Counter(
            "taskpact_database_errors",
            "Statements that failed, by SQLSTATE class, or 'connection', 'timeout' or 'refused'",
            ("sqlstate_class",),
            registry=None,
        )
        self._counters = [Counter(name, help_, registry=None) for name, help_ in COUNTERS.items()]
        self._gauges = [
            Gauge(name, help_, multiprocess_mode="livesum", registry=None) for name, help_ in GAUGES.items()
        ]
        self._durations: dict[tuple[str | None, int | None], Histogram] = {}
        self._totals: dict[Counter, int] = {}

    def observe(self, line: RequestLine) -> None:
        """Counts a request that is over."""
        key = line.operation, line.status
        durations = self._durations.get(key)
        if durations is None:
            # The library takes as long to find the labels as to count.
            durations = self._durations[key] = self._requests.labels(line.operation or "none", line.status or "none")
        durations.observe(line.milliseconds / 1000)

    @asynccontextmanager
    async def following(self, pool: Pool, verifier: Verifier, admission: Admission) -> AsyncIterator[None]:
        """Takes over what these three count themselves, once a second and in the end."""

        async def follow() -> None:
            while True:
                self._update(pool, verifier, admission)
                await asyncio.sleep(UPDATE_SECONDS)

        task = asyncio.create_task(follow())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            self._update(pool, verifier, admission)

    def _update(self, pool: Pool, verifier: Verifier, admission: Admission) -> None:
        gauges = (1, pool.limit, pool.open, pool.idle, pool.waiting, verifier.remembered)
        for gauge, value in zip(self._gauges, gauges, strict=True):
            gauge.set(value)
        counters = (admission.refused, verifier.hits, verifier.misses, stream().dropped)
        totals = dict(zip(self._counters, counters, strict=True))
        totals |= {self._errors.labels(sqlstate_class): count for sqlstate_class, count in pool.errors.items()}
        for counter, total in totals.items():
            counter.inc(total - self._totals.get(counter, 0))
        self._totals = totals


def new_metrics() -> Metrics | None:
    """This worker's metrics, or None if nobody serves them."""
    return Metrics() if os.environ.get(FOLDER) else None


def forget_gauges(worker: str) -> None:
    """Takes the gauges of a dead worker out of the sums; what it counted stays."""
    if folder := os.environ.get(FOLDER):
        from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415 - as above

        mark_process_dead(worker, folder)


class QuietHandler(WSGIRequestHandler):
    """Answers a scrape, without a line in the log."""

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class BoundedServer(ThreadingMixIn, WSGIServer):
    """Gives each scrape a thread, so many at once; more connections are closed at once."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, app: Any, slots: threading.BoundedSemaphore) -> None:
        # The classes between would bind a socket of their own.
        address = listener.getsockname()
        BaseServer.__init__(self, address, QuietHandler)
        self.socket = listener
        self.server_name, self.server_port = address[:2]
        self.setup_environ()
        self.set_app(app)
        self._slots = slots
        self.server_activate()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begins to answer if there is a thread to be had."""
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers within `SCRAPE_SECONDS`, and gives the thread's place to another."""
        cut_off = threading.Timer(SCRAPE_SECONDS, _cut_off, (request,))
        cut_off.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            cut_off.cancel()
            self._slots.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing: the client has left."""


def _cut_off(connection: socket.socket) -> None:
    """Ends both directions, which wakes the thread that reads or writes; closing would not."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def metrics_server(host: str, port: int) -> Iterator[None]:
    """Serves the metrics of this process and of the workers that it starts.

    The files are in memory, if the system has a folder for that: on a full disk, the first write to a mapped file
    would end the process that counts (SIGBUS).

    Raises:
        CannotListen: the port is taken, or the host is unknown or another machine's.
        SettingsError: there is no folder for the files.
    """
    in_memory = MEMORY if os.access(MEMORY, os.W_OK) else None
    with bound(host, port) as listeners, ExitStack() as stack:
        try:
            folder = stack.enter_context(TemporaryDirectory(prefix="taskpact-metrics-", dir=in_memory))
            stack.callback(os.environ.pop, FOLDER, None)
            os.environ[FOLDER] = folder
            app = _metrics_app(folder)
        except OSError as error:
            needs = f"a folder with room that can be written, {MEMORY} or TMPDIR"
            raise SettingsError(f"METRICS_PORT needs {needs}: {error}") from None
        slots = threading.BoundedSemaphore(SCRAPES_LIMIT)
        try:
            servers = [BoundedServer(listener, app, slots) for listener in listeners]
        except OSError as error:
            raise CannotListen(f"cannot listen on {host}, port {port}: {error.strerror}") from None
        for server in servers:
            threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
            stack.callback(server.shutdown)
        yield


def _metrics_app(folder: str) -> Callable[..., Any]:
    from prometheus_client import CollectorRegistry, make_wsgi_app  # noqa: PLC0415 - as above
    from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415

    # Each gauge is there from the beginning, and is 0 when no worker lives.
    Metrics()
    registry = CollectorRegistry()
    MultiProcessCollector(registry, folder)
    return make_wsgi_app(registry)
