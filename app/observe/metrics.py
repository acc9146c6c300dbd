"""What the service tells Prometheus, for all of its workers together, on a port of its own.

A worker counts in plain numbers, 0.3 us for a request, and writes them to a file of its own once a second. The process
that started the workers adds the files up when it is asked.
"""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec

from app.http.admission import Admission
from app.observe.logs import RequestLine
from db.wire.pool import Pool
from handlers.auth.tokens import Verifier

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

FOLDER = "TASKPACT_METRICS_FOLDER"
"""The variable by which workers learn where to write."""

WRITE_SECONDS = 1.0

BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

GAUGES = {
    "taskpact_workers": "Processes that serve",
    "taskpact_database_connections_limit": "Connections that the pools may have",
    "taskpact_database_connections": "Connections that the pools have",
    "taskpact_database_connections_idle": "Connections that nobody uses",
    "taskpact_database_requests_waiting": "Requests that wait for a connection",
    "taskpact_token_cache_size": "Verified tokens that are remembered",
}

COUNTERS = {
    "taskpact_requests_refused": "Requests that were refused since too many waited for a connection",
    "taskpact_token_cache_hits": "Tokens that were remembered",
    "taskpact_token_cache_misses": "Tokens that were verified",
}


class Durations(msgspec.Struct):
    """How long the requests of one operation took that ended with one status."""

    operation: str
    status: str
    counts: list[int]
    seconds: float = 0.0


class Snapshot(msgspec.Struct):
    """What a worker has, and what it counted since it started."""

    durations: list[Durations]
    errors: dict[str, int]
    counters: dict[str, int]
    gauges: dict[str, int]


class Metrics:
    """What one worker counts."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{os.getpid()}.json"
        self._durations: dict[tuple[str | None, int | None], Durations] = {}

    def observe(self, line: RequestLine) -> None:
        """Counts a request that is over."""
        key = line.operation, line.status
        durations = self._durations.get(key)
        if durations is None:
            counts = [0] * (len(BUCKETS_SECONDS) + 1)
            durations = Durations(line.operation or "none", str(line.status or "none"), counts)
            self._durations[key] = durations
        seconds = line.milliseconds / 1000
        durations.counts[bisect_left(BUCKETS_SECONDS, seconds)] += 1
        durations.seconds += seconds

    @asynccontextmanager
    async def writing(self, pool: Pool, verifier: Verifier, admission: Admission) -> AsyncIterator[None]:
        """Writes from time to time, and in the end."""

        async def write() -> None:
            while True:
                # A file system may keep whoever writes waiting; no request shall wait with it.
                await asyncio.to_thread(self._write, self._snapshot(pool, verifier, admission))
                await asyncio.sleep(WRITE_SECONDS)

        task = asyncio.create_task(write())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            self._write(self._snapshot(pool, verifier, admission))

    def _snapshot(self, pool: Pool, verifier: Verifier, admission: Admission) -> bytes:
        gauges = (1, pool.limit, pool.open, pool.idle, pool.waiting, verifier.remembered)
        counters = (admission.refused, verifier.hits, verifier.misses)
        snapshot = Snapshot(
            durations=list(self._durations.values()),
            errors=pool.errors,
            counters=dict(zip(COUNTERS, counters, strict=True)),
            gauges=dict(zip(GAUGES, gauges, strict=True)),
        )
        return msgspec.json.encode(snapshot)

    def _write(self, snapshot: bytes) -> None:
        # Whoever reads finds the old file or the new one, whole.
        new = self._path.with_suffix(".new")
        new.write_bytes(snapshot)
        new.replace(self._path)


def new_metrics() -> Metrics | None:
    """This worker's metrics, where somebody serves them."""
    folder = os.environ.get(FOLDER)
    return Metrics(Path(folder)) if folder else None


@contextmanager
def metrics_server(host: str, port: int) -> Iterator[None]:
    """Serves the metrics of this process and of those that it starts.

    Raises:
        OSError: it cannot listen there.
    """
    from prometheus_client import CollectorRegistry, start_http_server  # noqa: PLC0415 - only where it is wanted

    with TemporaryDirectory(prefix="taskpact-metrics-") as folder:
        os.environ[FOLDER] = folder
        registry = CollectorRegistry()
        registry.register(_Workers(Path(folder)))
        server, thread = start_http_server(port, host, registry)
        try:
            yield
        finally:
            del os.environ[FOLDER]
            server.shutdown()
            server.server_close()
            thread.join()


class _Workers:
    """All workers together: what a dead one counted stays, what it had is gone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import (  # noqa: PLC0415 - as above
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        durations: dict[tuple[str, str], Durations] = {}
        errors, counters, gauges = Counter[str](), Counter[str](), Counter[str]()
        for path in self._folder.glob("*.json"):
            snapshot = msgspec.json.decode(path.read_bytes(), type=Snapshot)
            errors.update(snapshot.errors)
            counters.update(snapshot.counters)
            if _is_alive(int(path.stem)):
                gauges.update(snapshot.gauges)
            for each in snapshot.durations:
                known = durations.setdefault((each.operation, each.status), each)
                if known is not each:
                    known.counts = [sum(pair) for pair in zip(known.counts, each.counts, strict=True)]
                    known.seconds += each.seconds
        requests = HistogramMetricFamily(
            "taskpact_request_duration_seconds",
            "Requests that are over, by operation of the contract, or 'none', and status",
            labels=["operation", "status"],
        )
        bounds = [*map(str, BUCKETS_SECONDS), "+Inf"]
        for labels, known in durations.items():
            requests.add_metric(labels, list(zip(bounds, accumulate(known.counts), strict=True)), known.seconds)
        yield requests
        failures = CounterMetricFamily(
            "taskpact_database_errors",
            "Statements that failed, by SQLSTATE class, or 'connection' or 'timeout'",
            labels=["sqlstate_class"],
        )
        for sqlstate_class, count in errors.items():
            failures.add_metric([sqlstate_class], count)
        yield failures
        for name, help_ in COUNTERS.items():
            yield CounterMetricFamily(name, help_, value=counters[name])
        for name, help_ in GAUGES.items():
            yield GaugeMetricFamily(name, help_, value=gauges[name])


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except (ProcessLookupError, PermissionError):
        # It is gone, and its number may be that of somebody else's process.
        return False
    return True
