"""Spans for OpenTelemetry, where `taskpact[otel]` is installed and the environment names a collector.

Sampling, batches, and where they go are OpenTelemetry's own settings (`OTEL_...`). A span tells operation, route and
status, and each statement's name and text: no user, no value, and no path, which would name them. The log has the user
under the same trace.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from random import getrandbits
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode, Tracer, use_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from db.statements import Statement
from db.wire.connection import Row, Values
from db.wire.pool import Pool

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

TRACE_CONTEXT = TraceContextTextMapPropagator()

LOW_BITS: Final = TraceIdRatioBased.TRACE_ID_LIMIT


class DrawnIds(RandomIdGenerator):
    """Gives a trace the id that was drawn for it."""

    drawn = 0

    def generate_trace_id(self) -> int:
        return self.drawn


class Sample:
    """Which requests are certainly not among the sample; OpenTelemetry decides about the others.

    Its sampler says the same, but to ask it takes a context, a span and a result: ten microseconds for each request.
    """

    def __init__(self, sampler: Sampler, ids: DrawnIds) -> None:
        root = getattr(sampler, "_root", sampler)
        self._ids = ids
        self._follows_callers = isinstance(sampler, ParentBased)
        self._bound = 0 if root is ALWAYS_OFF else root.bound if isinstance(root, TraceIdRatioBased) else LOW_BITS + 1

    def leaves_out(self, traceparent: str | None) -> bool:
        """Whether the request has no span; where it has no caller's trace, draws the id of one."""
        if traceparent:
            # The last bit tells whether the caller's span is sampled (W3C Trace Context, section 3.2.2.5).
            return self._follows_callers and traceparent[-1] in "02468ace"
        self._ids.drawn = getrandbits(128)
        return self._ids.drawn & LOW_BITS >= self._bound


class Tracing:
    """One worker's spans, and where they go."""

    def __init__(self, routes: Mapping[str, str], exporter: SpanExporter | None = None) -> None:
        """`routes` tells the contract's path of each operation; spans go to the environment's collector."""
        self.routes = routes
        # The environment's name for the service goes before ours.
        resource = Resource.create({"service.name": "taskpact"}).merge(OTELResourceDetector().detect())
        ids = DrawnIds()
        self._provider = TracerProvider(resource=resource, id_generator=ids, shutdown_on_exit=False)
        self.sample = Sample(self._provider.sampler, ids)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self.tracer: Tracer = self._provider.get_tracer("taskpact")

    def requests(self, app: ASGIApp) -> ASGIApp:
        """The application, with a span for each request."""
        return TracedRequests(app, self)

    def pool(self, pool: Pool) -> TracedPool:
        """The pool, for requests that have a span."""
        return TracedPool(pool, self.tracer)

    def close(self) -> None:
        """Sends what was not sent yet; this may take until the exporter's time-out."""
        self._provider.shutdown()


class TracedRequests:
    """Gives each request a span, in its caller's trace if it has one; the log tells which."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self.app = app
        self.tracing = tracing

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        is_left_out = scope["type"] != "http" or self.tracing.sample.leaves_out(scope["state"]["traceparent"])
        # Without a coroutine of its own, most requests pass at no cost.
        return (self.app if is_left_out else self._answer)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope["state"]
        given = state["traceparent"]
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        span = self.tracing.tracer.start_span(
            method,
            context=TRACE_CONTEXT.extract({"traceparent": given}, Context()) if given else Context(),
            kind=SpanKind.SERVER,
        )
        if not span.is_recording():
            await self.app(scope, receive, send)
            return
        context = span.get_span_context()
        state["traceparent"] = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                span.set_attribute("http.response.status_code", message["status"])
                if message["status"] >= 500:  # noqa: PLR2004 - these are faults of the server (RFC 9110, 15.6)
                    span.set_status(StatusCode.ERROR)
            await send(message)

        if "traced_tasks" in state:
            # Others go to the pool without anything in between.
            state["tasks"] = state["traced_tasks"]
        with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                await self.app(scope, receive, tell)
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
    """Gives each statement that it hands to the pool a span."""

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
        # An exception's message may quote what a user sent: only its kind is told.
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
