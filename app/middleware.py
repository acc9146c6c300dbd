"""What happens to every request, whatever it asks for."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import uuid_utils
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.logs import RequestLine

REQUEST_ID = re.compile(rb"[0-9A-Za-z._~:/+=-]{1,128}")
"""Ids that callers may give: what proxies make, and nothing that would not be safe in a header, a URI or a log."""

TRACEPARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""The trace that a request belongs to (W3C Trace Context, section 3.2)."""


class RequestLog:
    """Gives each request an id, its caller's or a new one, tells it with the answer, and logs who was answered what."""

    def __init__(self, app: ASGIApp, *observers: Callable[[RequestLine], None]) -> None:
        """Whoever observes is told of every request when it is over."""
        self.app = app
        self.observers = observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        request_id = traceparent = None
        for name, value in scope["headers"]:
            if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
                request_id = value.decode()
            elif name == b"traceparent" and TRACEPARENT.fullmatch(value):
                traceparent = value.decode()
        state["request_id"] = request_id = request_id or str(uuid_utils.uuid4())
        state["traceparent"] = traceparent
        status = None
        started = time.perf_counter()

        async def tell(message: Message) -> None:
            nonlocal status
            if status is None:
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, tell)
        finally:
            line = RequestLine(
                request_id=request_id,
                method=scope["method"],
                operation=state.get("operation_id"),
                status=status,
                milliseconds=round((time.perf_counter() - started) * 1000, 2),
                user_id=state.get("user_id"),
                traceparent=state["traceparent"],
            )
            for observe in self.observers:
                observe(line)
