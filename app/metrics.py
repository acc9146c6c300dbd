"""What the service tells Prometheus, for all of its workers together, on a port of its own.

prometheus-client is imported only where metrics are wanted. Each worker counts into files of its own (its
"multiprocess mode"), which the process that started the workers adds up when it is asked.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from app.logs import RequestLine
from db.pool import Pool
from handlers.tokens import Verifier

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Histogram
    from prometheus_client.metrics_core import Metric

BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

LOOK_SECONDS = 1.0
"""How often pool and token cache are looked at: a request costs nothing more for them."""


class Metrics:
    """What one worker counts."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        from prometheus_client import Counter, Gauge, Histogram  # noqa: PLC0415

        def gauge(name: str, help_: str) -> Gauge:
            return Gauge(name, help_, registry=registry, multiprocess_mode="livesum")

        self._duration = Histogram(
            "taskpact_request_duration_seconds",
            "Requests that are over, by operation of the contract, or 'none', and status",
            ["operation", "status"],
            buckets=BUCKETS_SECONDS,
            registry=registry,
        )
        self._durations: dict[tuple[str | None, int | None], Histogram] = {}
        self._workers = gauge("taskpact_workers", "Processes that serve")
        self._limit = gauge("taskpact_database_connections_limit", "Connections that the pools may have")
        self._open = gauge("taskpact_database_connections", "Connections that the pools have")
        self._idle = gauge("taskpact_database_connections_idle", "Connections that nobody uses")
        self._waiting = gauge("taskpact_database_requests_waiting", "Requests that wait for a connection")
        self._remembered = gauge("taskpact_token_cache_size", "Verified tokens that are remembered")
        self._errors = Counter(
            "taskpact_database_errors",
            "Statements that failed, by SQLSTATE class, or 'connection' or 'timeout'",
            ["sqlstate_class"],
            registry=registry,
        )
        self._hits = Counter("taskpact_token_cache_hits", "Tokens that were remembered", registry=registry)
        self._misses = Counter("taskpact_token_cache_misses", "Tokens that were verified", registry=registry)
        self._seen: dict[Counter, int] = {}

    def observe(self, line: RequestLine) -> None:
        """Counts a request that is over."""
        # Resolving labels costs as much again as counting.
        key = line.operation, line.status
        duration = self._durations.get(key)
        if duration is None:
            duration = self._durations[key] = self._duration.labels(line.operation or "none", line.status or "none")
        duration.observe(line.milliseconds / 1000)

    def look(self, pool: Pool, verifier: Verifier) -> None:
        """Takes over what pool and verifier know of themselves."""
        self._workers.set(1)
        self._limit.set(pool.limit)
        self._open.set(pool.open)
        self._idle.set(pool.idle)
        self._waiting.set(pool.waiting)
        self._remembered.set(verifier.remembered)
        self._follow(self._hits, verifier.hits)
        self._follow(self._misses, verifier.misses)
        for sqlstate_class, count in pool.errors.items():
            self._follow(self._errors.labels(sqlstate_class), count)

    def _follow(self, counter: Counter, count: int) -> None:
        counter.inc(count - self._seen.get(counter, 0))
        self._seen[counter] = count

    @asynccontextmanager
    async def looking(self, pool: Pool, verifier: Verifier) -> AsyncIterator[None]:
        """Looks at them from time to time, and when they are done with."""

        async def look() -> None:
            while True:
                self.look(pool, verifier)
                await asyncio.sleep(LOOK_SECONDS)

        task = asyncio.create_task(look())
        try:
            yield
        finally:
            task.cancel()
            self.look(pool, verifier)


@contextmanager
def metrics_server(host: str, port: int) -> Iterator[None]:
    """Serves the metrics of this process and of those that it starts.

    Raises:
        OSError: it cannot listen there.
    """
    with TemporaryDirectory(prefix="taskpact-metrics-") as folder:
        # The library looks for it when it is imported, here and in the workers.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        from prometheus_client import CollectorRegistry, start_http_server  # noqa: PLC0415

        registry = CollectorRegistry()
        registry.register(_LivingWorkers(Path(folder)))
        server, thread = start_http_server(port, host, registry)
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _LivingWorkers:
    """Adds up what the workers counted; what a dead one counted stays, what it had is gone."""

    def __init__(self, folder: Path) -> None:
        from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415

        self._folder = folder
        self._collector = MultiProcessCollector(None, str(folder))

    def collect(self) -> Iterator[Metric]:
        for path in self._folder.glob("gauge_live*.db"):
            try:
                os.kill(int(path.stem.rpartition("_")[2]), 0)
            except ProcessLookupError:
                path.unlink()
        yield from self._collector.collect()
