"""The least that uvicorn can do: fixed bytes of a read's size, whatever is asked."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

BODY = b"x" * 330


async def app(scope: Scope, _receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": BODY})
