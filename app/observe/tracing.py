"""Spans for OpenTelemetry, if `taskpact[otel]` is installed and the environment names a collector.

Sampling, batches and where they go are OpenTelemetry's own settings (`OTEL_...`). A span tells operation, route and
status, and each statement's name and text. It tells no user and no value, and no path, since a path names its user.
The log has the user under the same trace.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, get_current_span, use_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from db.statements import Statement
from db.wire.connection import Row, Values
from db.wire.pool import Pool

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

TRACE_CONTEXT = TraceContextTextMapPropagator()

NO_PARENT = Context()


class TraceIds(RandomIdGenerator):
    """Random ids; a new trace gets the one that was drawn for it."""

    def __init__(self) -> None:
        self.draw()

    def draw(self) -> int:
        """Draws the next trace's id, so that the sampler can be asked about it before there is a span."""
        self._trace_id = super().generate_trace_id()
        return self._trace_id

    def generate_trace_id(self) -> int:
        return self._trace_id


class Tracing:
    """One worker's spans, and where they go."""

    def __init__(self, routes: Mapping[str, str], exporter: SpanExporter | None = None) -> None:
        """`routes` has the contract's path of each operation; spans go to the environment's collector."""
        self.routes = routes
        # The environment's name for the service goes before ours.
        resource = Resource.create({"service.name": "taskpact"}).merge(OTELResourceDetector().detect())
        self._ids = TraceIds()
        self._provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self.tracer: Tracer = self._provider.get_tracer("taskpact")

    def requests(self, app: ASGIApp) -> ASGIApp:
        """The application, with a span for each sampled request."""
        return TracedRequests(app, self)

    def pool(self, pool: Pool) -> TracedPool:
        """The pool, for requests that have a span."""
        return TracedPool(pool, self.tracer)

    def start_span(self, method: str, traceparent: str | None) -> Span | None:
        """A request's span, in its caller's trace if it has one, or None if the sampler leaves the request out.

        The sampler is asked directly first: a span that is not sampled costs three times as much as the answer.
        """
        parent = TRACE_CONTEXT.extract({"traceparent": traceparent}, NO_PARENT) if traceparent else NO_PARENT
        trace_id = get_current_span(parent).get_span_context().trace_id if traceparent else self._ids.draw()
        if self._provider.sampler.should_sample(parent, trace_id, method, SpanKind.SERVER).decision is Decision.DROP:
            return None
        return self.tracer.start_span(method, parent, SpanKind.SERVER)

    def close(self) -> None:
        """Sends what was not sent yet; this may take until the exporter's time-out."""
        self._provider.shutdown()


class TracedRequests:
    """Gives each sampled request a span, and tells the log its trace. The others pass through."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self.app = app
        self.tracing = tracing

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # This is no coroutine function, so that a request without a span costs none.
        if scope["type"] != "http":
            return self.app(scope, receive, send)
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        span = self.tracing.start_span(method, scope["state"]["traceparent"])
        return self._answer(span, method, scope, receive, send) if span else self.app(scope, receive, send)

    async def _answer(self, span: Span, method: str, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope["state"]
        context = span.get_span_context()
        state["traceparent"] = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

        async def send_and_record(message: Message) -> None:
            if message["type"] == "http.response.start":
                span.set_attribute("http.response.status_code", message["status"])
                if message["status"] >= 500:  # noqa: PLR2004 - the server's own faults (RFC 9110, section 15.6)
                    span.set_status(StatusCode.ERROR)
            await send(message)

        if "traced_tasks" in state:
            # Requests without a span use the pool itself.
            state["tasks"] = state["traced_tasks"]
        with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                await self.app(scope, receive, send_and_record)
            except Exception:
                span.set_status(StatusCode.ERROR)
                raise
            finally:
                attributes = {
                    "http.request.method": method,
                    "url.scheme": scope["scheme"],
                    "taskpact.request_id": state["request_id"],
                }
                operation = state.get("operation_id")
                if operation:
                    span.update_name(operation)
                    attributes["http.route"] = self.tracing.routes[operation]
                span.set_attributes(attributes)


class TracedPool:
    """The pool, with a span for each statement."""

    def __init__(self, pool: Pool, tracer: Tracer) -> None:
        self._pool = pool
        self._tracer = tracer

    async def run(self, user_id: str, statement: Statement, values: Values, **options: bool) -> list[Row]:
        name = statement.name.decode()
        attributes = {
            "db.system.name": "postgresql",
            "db.operation.name": name,
            "db.query.text": statement.sql.decode(),
        }
        # An exception's message may quote what a user sent, so the span has only its kind.
        with self._tracer.start_as_current_span(
            name, kind=SpanKind.CLIENT, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                return await self._pool.run(user_id, statement, values, **options)
            except Exception as error:
                span.set_status(StatusCode.ERROR)
                span.set_attribute("error.type", type(error).__qualname__)
                if sqlstate := getattr(error.__cause__ or error, "sqlstate", None):
                    span.set_attribute("db.response.status_code", sqlstate)
                raise
