"""What happens to every request: an id, security headers, CORS, and a line in the log."""

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
"""Request ids that clients may choose: those that proxies make, all safe in a header, a URI and a log."""

TRACEPARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""The trace that a request belongs to (W3C Trace Context, section 3.2)."""

RawHeaders = list[tuple[bytes, bytes]]

NOTHING = "default-src 'none'; frame-ancestors 'none'"
"""The Content-Security-Policy of every answer that is not a page: if a browser shows it as one, it may do nothing."""


def security_headers(policy: str = NOTHING, hsts_seconds: int = 0) -> RawHeaders:
    """Headers against guessed content types, leaking referrers and foreign scripts; with seconds, HTTPS alone."""
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
    """Gives each request an id, sends it back in `X-Request-Id`, and passes a line about the request to the observers.

    The id is the client's own, if it sent a good one, or a new UUID. Each answer gets the security headers.
    """

    def __init__(
        self,
        app: ASGIApp,
        *observers: Callable[[RequestLine], None],
        hsts_seconds: int = 0,
        policies: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`observers` are called after each answer; `policies` are the Content-Security-Policies of pages, by path."""
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
                milliseconds=int((time.perf_counter() - started) * 100_000) / 100,
                user_id=state.get("user_id"),
                # Tracing may have put its own there.
                traceparent=state["traceparent"],
            )
            for observe in self.observers:
                observe(line)
