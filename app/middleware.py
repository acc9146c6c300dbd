"""What happens to every request, whatever it asks for."""

from __future__ import annotations

import time

import structlog
import uuid_utils
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = structlog.get_logger()


class RequestLog:
    """Gives each request an id and, when it is answered, a line in the log."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = str(uuid_utils.uuid4())
        status = None
        started = time.perf_counter()

        async def observe(message: Message) -> None:
            nonlocal status
            if status is None:
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, observe)
        finally:
            logger.info(
                "request",
                request_id=state["request_id"],
                method=scope["method"],
                operation=state.get("operation_id"),
                status=status,
                milliseconds=round((time.perf_counter() - started) * 1000, 2),
                user_id=state.get("user_id"),
            )
