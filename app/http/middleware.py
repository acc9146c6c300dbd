"""What happens to every request, whatever it asks for."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

import uuid_utils
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.observe.logs import RequestLine

REQUEST_ID = re.compile(rb"[0-9A-Za-z._~:/+=-]{1,128}")
"""Ids that callers may give: what proxies make, and nothing that would not be safe in a header, a URI or a log."""

TRACEPARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""The trace that a request belongs to (W3C Trace Context, section 3.2)."""

RawHeaders = list[tuple[bytes, bytes]]

NOTHING = "default-src 'none'; frame-ancestors 'none'"
"""The Content-Security-Policy of what is no page: should a browser show it as one, it may do nothing."""


def security_headers(policy: str = NOTHING, hsts_seconds: int = 0) -> RawHeaders:
    """What tells browsers not to guess, not to tell, and what a page may do; with seconds, to come by HTTPS alone."""
    headers = [
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"content-security-policy", policy.encode()),
    ]
    if hsts_seconds:
        headers.append((b"strict-transport-security", b"max-age=%d" % hsts_seconds))
    return headers


class Cors(CORSMiddleware):
    """Starlette's middleware, except that a preflight request which is refused gets 200 without the permissions.

    Browsers look only at the permissions. Starlette answers 400 in plain text, which is not a problem document, and
    has no setting for it.
    """

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        response.status_code = 200
        return response


class RequestLog:
    """Gives each request an id, its caller's or a new one, tells it with the answer, and logs who was answered what.

    Each answer has the security headers, those of pages with policies of their own.
    """

    def __init__(
        self,
        app: ASGIApp,
        *observers: Callable[[RequestLine], None],
        hsts_seconds: int = 0,
        policies: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Whoever observes is told of every request when it is over; `policies` are those of pages, by their paths."""
        self.app = app
        self.observers = observers
        self.headers = security_headers(NOTHING, hsts_seconds)
        self.page_headers = {path: security_headers(policy, hsts_seconds) for path, policy in policies.items()}

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
                security = self.page_headers.get(scope["path"], self.headers)
                message["headers"] = [*message.get("headers", ()), *security, (b"x-request-id", request_id.encode())]
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
