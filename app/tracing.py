"""Spans for OpenTelemetry, where `taskpact[otel]` is installed and the environment names a collector.

Sampling, batches, and where they go are OpenTelemetry's own settings (`OTEL_...`). A span tells operation, route and
status, and each statement's name and text: no user, no value, and no path, which would name them. The log has the user
under the same trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, StatusCode, Tracer, get_current_span, use_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from db.connection import Row, Values
from db.pool import Pool
from db.statements import Statement

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

TRACE_CONTEXT = TraceContextTextMapPropagator()


class Tracing:
    """One worker's spans, and where they go."""

    def __init__(self, routes: Mapping[str, str], exporter: SpanExporter | None = None) -> None:
        """`routes` tells the contract's path of each operation; spans go to the environment's collector."""
        self.routes = routes
        # The environment's name for the service goes before ours.
        resource = Resource.create({"service.name": "taskpact"}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self.tracer: Tracer = self._provider.get_tracer("taskpact")

    def requests(self, app: ASGIApp) -> ASGIApp:
        """The application, with a span for each request."""
        return TracedRequests(app, self)

    def pool(self, conninfo: str, **options: Any) -> Pool:
        """A pool whose statements have spans."""
        return TracedPool(self.tracer, conninfo, **options)

    def close(self) -> None:
        """Sends what was not sent yet; this may take until the exporter's time-out."""
        self._provider.shutdown()


class TracedRequests:
    """Gives each request a span, in its caller's trace if it has one; the log tells which."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self.app = app
        self.tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope["state"]
        given = state["traceparent"]
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        span = self.tracing.tracer.start_span(
            method,
            context=TRACE_CONTEXT.extract({"traceparent": given}, Context()) if given else Context(),
            kind=SpanKind.SERVER,
        )
        if not span.is_recording():
            # It is not among the sample: nothing more is done for it.
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

        with use_span(span, end_on_exit=True, record_exception=False):
            try:
                await self.app(scope, receive, tell)
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


class TracedPool(Pool):
    """A pool that gives each statement of a request that has a span another one."""

    def __init__(self, tracer: Tracer, conninfo: str, **options: Any) -> None:
        super().__init__(conninfo, **options)
        self._tracer = tracer

    async def run(self, user_id: str, statement: Statement, values: Values, **options: Any) -> list[Row]:
        if not get_current_span().is_recording():
            return await super().run(user_id, statement, values, **options)
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
                return await super().run(user_id, statement, values, **options)
            except Exception as error:
                span.set_status(StatusCode.ERROR)
                span.set_attribute("error.type", type(error).__qualname__)
                if sqlstate := getattr(error.__cause__ or error, "sqlstate", None):
                    span.set_attribute("db.response.status_code", sqlstate)
                raise
