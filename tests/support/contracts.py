"""Small contracts, and the engine with their handlers, called without a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from inspect import Parameter as Argument
from inspect import Signature
from typing import Any

from connexion.lifecycle import ConnexionResponse
from connexion.middleware import ConnexionMiddleware
from connexion.middleware.lifespan import LifespanMiddleware

from openapi.contract import ContractMiddleware
from openapi.routing import RoutingMiddleware

JSON = "application/json"
PROBLEM = "application/problem+json"

Contract = dict[str, Any]
Handler = Callable[..., Any]

STRING = {"type": "string"}
ID = {"name": "thing_id", "in": "path", "required": True, "schema": STRING}
PROBLEMS = {
    "default": {
        "description": "Problem",
        "headers": {"Allow": {"schema": STRING}},
        "content": {PROBLEM: {"schema": {"type": "object"}}},
    }
}
DONE = {"204": {"description": "Done"}, **PROBLEMS}


def contract(paths: dict[str, Any], **members: Any) -> Contract:
    return {"openapi": "3.0.3", "info": {"title": "Things", "version": "1"}, "paths": paths} | members


def operation(name: str = "handle", *, responses: Any = DONE, **members: Any) -> dict[str, Any]:
    return {"operationId": name, "responses": responses} | members


def json_of(schema: Any) -> dict[str, Any]:
    return {JSON: {"schema": schema}}


async def handle() -> ConnexionResponse:
    return ConnexionResponse(204)


def run(coroutine: Any) -> Any:
    """The result of a coroutine that never has to wait, except for its next turn."""
    try:
        while coroutine.send(None) is None:
            pass
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the coroutine waits")


@dataclass
class Answer:
    """What was sent."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        return dict(self.headers).get(name)


@dataclass
class Service:
    """A contract with its handlers, put together as `app.application` does it, called without a server."""

    contract: Contract
    handlers: dict[str, Handler] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    root_path: str = ""
    errors: list[Exception] = field(default_factory=list)
    received: int = 0

    def __post_init__(self) -> None:
        middlewares: list[Any] = [
            partial(RoutingMiddleware, on_error=self.on_error, root_path=self.root_path),
            partial(ContractMiddleware, on_error=self.on_error, state_names=tuple(self.state)),
            LifespanMiddleware,
        ]
        self.app = ConnexionMiddleware(
            elsewhere, middlewares=middlewares, resolver=lambda name: self.handlers.get(name, handle)
        )
        self.app.add_api(self.contract)
        run(self.app({"type": "lifespan"}, None, None))

    def on_error(self, _scope: Any, error: Exception) -> ConnexionResponse:
        self.errors.append(error)
        status = getattr(error, "status_code", 500)
        headers = dict(getattr(error, "headers", None) or {})
        return ConnexionResponse(status, content_type=PROBLEM, body=b"{}", headers=headers)

    def request(
        self,
        method: str,
        target: str,
        *,
        body: Iterable[bytes] = (b"",),
        headers: Iterable[tuple[str, str]] = (),
    ) -> Answer:
        """Sends a request; without a Content-Length header a body of several pieces is a chunked one."""
        path, _, query = target.partition("?")
        pieces = list(body)
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            self.received += 1
            piece = pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
            "state": dict(self.state),
        }
        run(self.app(scope, receive, send))
        start, content = sent
        return Answer(start["status"], start["headers"], content["body"])


async def elsewhere(scope: Any, _receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"elsewhere"})


def answering(response: Callable[[], ConnexionResponse]) -> dict[str, Handler]:
    async def handler() -> ConnexionResponse:
        return response()

    return {"handle": handler}


def echoing(*names: str) -> dict[str, Handler]:
    """A handler that answers with the arguments that it got, of these names."""

    async def handler(**arguments: Any) -> ConnexionResponse:
        body = json.dumps({name: arguments.get(name) for name in names}).encode()
        return ConnexionResponse(200, content_type=JSON, body=body)

    parameters = [Argument(name, Argument.KEYWORD_ONLY, default=None) for name in names]
    handler.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return {"handle": handler}


ECHOED = {"200": {"description": "Arguments", "content": json_of({"type": "object"})}, **PROBLEMS}


def with_parameter(**members: Any) -> Contract:
    parameter = {"name": "q", "in": "query", "schema": STRING} | members
    parameter = {name: value for name, value in parameter.items() if value is not None}
    return contract({"/things": {"get": operation(parameters=[parameter])}})


def with_parameters(*parameters: dict[str, Any], shared: Any = (), **members: Any) -> Contract:
    return contract(
        {"/things": {"parameters": list(shared), "post": operation(parameters=list(parameters), **members)}}
    )


def query(name: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": STRING | schema}


def header(name: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "header", "schema": STRING | schema}


def with_body(media_type: str = JSON, *, beside: Any = None, **content: Any) -> Contract:
    body = {"content": {media_type: {"schema": {}} | content}} | (beside or {})
    return contract({"/things": {"post": operation(requestBody=body)}})


def with_schema(components: Any = None, **schema: Any) -> Contract:
    return with_body(schema=schema) | {"components": {"schemas": components or {}}}


def with_response(status: str = "200", **members: Any) -> Contract:
    return contract({"/things": {"get": operation(responses={status: {"description": "Thing"} | members} | PROBLEMS)}})


def with_header(**members: Any) -> Contract:
    return with_response(headers={"X/Y": members})


BEARER = {"type": "http", "scheme": "bearer", "x-bearerInfoFunc": "bearer_functions.user_of"}


def with_security(requirements: Any, **schemes: Any) -> Contract:
    return contract(
        {"/things": {"get": operation(security=requirements)}}, components={"securitySchemes": {"a": BEARER} | schemes}
    )
