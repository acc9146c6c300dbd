"""With a collector, each request and each statement is a span of its caller's trace, and tells nothing of users."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
import pytest
from opentelemetry.context import Context
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision
from starlette.types import Message, Receive, Scope, Send

from app.observe.tracing import TRACE_CONTEXT, Tracing
from db.schema.migrate import migrate
from support.database import new_database
from support.people import SECRET, make_token
from support.service import free_port, running_process

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER_ID = "00f067aa0ba902b7"


@dataclass
class Span:
    """What the collector was told of a span."""

    name: str
    kind: int
    trace_id: str
    id: str
    parent_id: str
    status: int
    attributes: dict[str, object]


@dataclass
class Collector:
    """What arrived, and as what service."""

    url: str
    spans: list[Span] = field(default_factory=list)
    services: set[str] = field(default_factory=set)
    raw: bytes = b""

    def take(self, body: bytes) -> None:
        self.raw += body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            told = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
            self.services.add(told["service.name"])
            for scope in resource.scope_spans:
                for span in scope.spans:
                    attributes = {pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes}
                    ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                    self.spans.append(Span(span.name, span.kind, *ids, span.status.code, attributes))


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A stub of a collector on loopback, OTLP over HTTP."""

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response_only(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Take) as server:
        taken = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield taken
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def serving(tmp_path: Path, database_url: str, **variables: str) -> Iterator[str]:
    with running_process(database_url, tmp_path / "log", LOG_FORMAT="json", **variables) as url:
        yield url


def test_requests_and_statements_are_spans_of_the_callers_trace(
    tmp_path: Path, database_url: str, collector: Collector
) -> None:
    user = f"user-{uuid4().hex}"
    headers = {
        "Authorization": f"Bearer {make_token(user)}",
        "traceparent": f"00-{TRACE_ID}-{CALLER_ID}-01",
        "X-Request-Id": "a-7",
    }
    with serving(tmp_path, database_url, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, ROOT_PATH="/todo") as url:
        made = httpx.post(f"{url}/api/{user}/tasks", json={"title": "a-title-of-theirs"}, headers=headers)
        page = httpx.get(f"{url}/nowhere")
    log = (tmp_path / "log").read_text()

    assert (made.status_code, page.status_code) == (201, 404)
    request, statement = sorted((span for span in collector.spans if span.trace_id == TRACE_ID), key=lambda s: s.kind)
    assert (request.name, request.kind, request.parent_id, request.status) == ("create_task", 2, CALLER_ID, 0)
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/todo/api/{user_id}/tasks",
        "http.response.status_code": 201,
        "url.scheme": "http",
        "taskpact.request_id": "a-7",
    }
    assert (statement.name[:6], statement.kind, statement.parent_id) == ("create", 3, request.id)
    assert statement.attributes["db.system.name"] == "postgresql"
    assert "$1" in str(statement.attributes["db.query.text"])
    assert f"00-{TRACE_ID}-{request.id}-01" in log
    (nowhere,) = [span for span in collector.spans if span.attributes.get("http.response.status_code") == 404]
    assert (nowhere.name, nowhere.parent_id) == ("GET", "")
    assert nowhere.trace_id in log
    assert collector.services == {"taskpact"}
    for secret in (user, "a-title-of-theirs", SECRET, make_token(user)):
        assert secret.encode() not in collector.raw


def test_a_pipelined_request_is_not_in_the_trace_of_the_one_before(
    tmp_path: Path, database_url: str, collector: Collector
) -> None:
    user = f"user-{uuid4().hex}"
    sampled = {f"00-{TRACE_ID}-{CALLER_ID}-01": 1, f"00-{'1' * 32}-{CALLER_ID}-00": 0}
    requests = [
        f"GET /api/{user}/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {make_token(user)}\r\n"
        f"traceparent: {traceparent}\r\nConnection: {'keep-alive' if number else 'close'}\r\n\r\n"
        for traceparent, number in sampled.items()
    ]
    with (
        serving(tmp_path, database_url, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url) as url,
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as client,
    ):
        client.sendall("".join(requests).encode())
        answers = b"".join(iter(lambda: client.recv(65_536), b""))

    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert sorted(span.name[:4] for span in collector.spans if span.name.startswith("list")) == ["list", "list"]


def test_failures_are_told_by_their_kind(tmp_path: Path, cluster_url: str, collector: Collector) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "tasks-of-ours"}
    with new_database(cluster_url) as database_url:
        migrate(database_url)
        with serving(tmp_path, database_url, **variables) as url:
            with psycopg.connect(database_url) as connection:
                connection.execute("alter table tasks rename to elsewhere")
            headers = {"Authorization": f"Bearer {make_token('alice')}"}
            assert httpx.get(f"{url}/api/alice/tasks", headers=headers).status_code == 500

    by_kind = {span.kind: span for span in collector.spans if span.name.startswith("list")}
    assert (by_kind[2].name, by_kind[2].status) == ("list_tasks", 2)
    assert by_kind[3].status == 2
    assert by_kind[3].attributes["error.type"] == "UndefinedTable"
    assert by_kind[3].attributes["db.response.status_code"] == "42P01"
    assert collector.services == {"tasks-of-ours"}


def test_a_collector_that_is_gone_harms_nobody(tmp_path: Path, database_url: str) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    headers = {"Authorization": f"Bearer {make_token('alice')}"}
    with serving(tmp_path, database_url, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as url:
        for _ in range(20):
            assert httpx.get(f"{url}/api/alice/tasks", headers=headers).status_code == 200
        started = time.monotonic()

    assert time.monotonic() - started < 15


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing_as(monkeypatch: pytest.MonkeyPatch, exporter: InMemorySpanExporter) -> Iterator[Callable[..., Tracing]]:
    """Makes tracing with the sampler that the environment names; its spans go to `exporter`."""
    made: list[Tracing] = []

    def make(sampler: str, rate: str = "") -> Tracing:
        for name, value in (("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", rate)):
            monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
        made.append(Tracing({"list_tasks": "/api/{user_id}/tasks"}, exporter))
        return made[-1]

    yield make
    for tracing in made:
        tracing.close()


@pytest.mark.parametrize("traceparent", [None, f"00-{TRACE_ID}-{CALLER_ID}-00", f"00-{TRACE_ID}-{CALLER_ID}-01"])
@pytest.mark.parametrize(
    ("sampler", "rate"),
    [
        ("", ""), ("always_on", ""), ("always_off", ""), ("traceidratio", "0"), ("traceidratio", "1"),
        ("traceidratio", "0.5"), ("parentbased_always_on", ""), ("parentbased_always_off", ""),
        ("parentbased_traceidratio", "0"), ("parentbased_traceidratio", "1"), ("parentbased_traceidratio", "0.5"),
        ("parentbased_traceidratio", "nonsense"),
    ],
)  # fmt: skip
def test_requests_are_sampled_as_opentelemetry_samples_them(
    tracing_as: Callable[..., Tracing], sampler: str, rate: str, traceparent: str | None
) -> None:
    tracing = tracing_as(sampler, rate)
    plain = TracerProvider(shutdown_on_exit=False)
    context = TRACE_CONTEXT.extract({"traceparent": traceparent or ""}, Context())

    spans = [tracing.start_span("GET", traceparent) for _ in range(200)]
    expected = [plain.get_tracer("plain").start_span("GET", context).is_recording() for _ in range(200)]

    if rate == "0.5" and traceparent is None:
        assert 50 < sum(span is not None for span in spans) < 150
    else:
        assert [span is not None for span in spans] == expected
    for span in filter(None, spans):
        ids = span.get_span_context()
        assert span.is_recording()
        assert (ids.trace_id == int(TRACE_ID, 16)) == (traceparent is not None)
        # Whoever samples by the same rate further on decides the same about this trace.
        assert plain.sampler.should_sample(context, ids.trace_id, "GET").decision is Decision.RECORD_AND_SAMPLE


@pytest.mark.parametrize(("sampler", "names"), [("always_off", []), ("always_on", ["list_tasks"])])
def test_a_request_that_is_not_sampled_passes_as_if_there_were_no_tracing(
    tracing_as: Callable[..., Tracing], exporter: InMemorySpanExporter, sampler: str, names: list[str]
) -> None:
    given: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        given.extend([dict(scope["state"]), receive, send])

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError(message)

    tracing = tracing_as(sampler)
    state = {"traceparent": None, "request_id": "a-7", "tasks": 1, "traced_tasks": 2, "operation_id": "list_tasks"}
    scope = {"type": "http", "method": "GET", "scheme": "http", "state": dict(state)}
    asyncio.run(tracing.requests(app)(scope, receive, send))
    tracing.close()

    assert (given == [state, receive, send]) == (names == [])
    assert [span.name for span in exporter.get_finished_spans()] == names


@pytest.mark.parametrize(
    ("variables", "installed", "expected"),
    [
        pytest.param({}, True, "RequestLog ConnexionMiddleware False", id="no-collector"),
        pytest.param({"OTEL_TRACES_EXPORTER": "none"}, True, "RequestLog ConnexionMiddleware False", id="no-exporter"),
        pytest.param({"OTEL_SDK_DISABLED": "true"}, True, "RequestLog ConnexionMiddleware False", id="disabled"),
        pytest.param(
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, True, "RequestLog TracedRequests True", id="on"
        ),
        pytest.param(
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
            False,
            "RequestLog ConnexionMiddleware True",
            id="not-installed",
        ),
    ],
)
def test_the_library_is_imported_only_where_a_collector_is_named(
    variables: dict[str, str], installed: bool, expected: str
) -> None:
    code = (
        "import sys;"
        + ("" if installed else "sys.modules['opentelemetry'] = None;")
        + "from app.application import create_app; from app.settings import read_settings;"
        f"app = create_app(read_settings({{'DATABASE_URL': 'postgresql:///x', 'JWT_SECRET': '{SECRET}'}}));"
        "print(type(app).__name__, type(app.app).__name__, 'opentelemetry' in sys.modules)"
    )
    if "OTEL_EXPORTER_OTLP_ENDPOINT" not in variables and variables:
        variables = variables | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=variables, check=True, timeout=60
    )

    assert done.stdout.splitlines()[-1] == expected
    assert ("tracing_off" in done.stdout + done.stderr) == (not installed)
