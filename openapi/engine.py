"""The engine: an ASGI middleware that routes a request to its operation and sends the operation's answer."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from connexion.lifecycle import ConnexionResponse
from connexion.middleware.abstract import AbstractRoutingAPI, SpecMiddleware
from connexion.operations.abstract import AbstractOperation
from connexion.spec import Specification
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from openapi.errors import UnsupportedConstruct, pointer_token
from openapi.negotiation import prefers_gzip
from openapi.operations import Operation, decode_segment
from openapi.responses import RawHeader

BODY_LIMIT_BYTES = 65_536

COMPRESSED_BYTES = 14_600
"""What a new connection carries at once (RFC 6928): a smaller answer would arrive no sooner for being compressed."""

GZIP_LEVEL = 1
"""31 KB of tasks take 0.2 ms and become 10 KB; the usual level takes twice as long to make it 9 KB."""

UNENCODED = "!$&'()*+,;=:@{}"
"""What may stand in a path segment as it is (RFC 3986, section 3.3), and the braces of a template."""

OnError = Callable[[Scope, Exception], ConnexionResponse]
"""Makes the answer to a request that failed."""


class Route:
    """One path of the contract: its pattern, its parameters' names, its operations by method."""

    def __init__(self, path: str) -> None:
        # Paths are matched as they were sent: a percent-encoded slash is part of a segment and separates none.
        self.pattern = re.compile(re.sub(r"\\\{[^/]+?\\\}", "([^/]+)", re.escape(_normal(path))))
        self.names = re.findall(r"\{([^/]+?)\}", path)
        self.operations: dict[str, Operation | Options] = {}

    def methods(self) -> str:
        """The methods that the path has, as an `Allow` header lists them."""
        return ", ".join(
            sorted(self.operations.keys() | {"OPTIONS"} | ({"HEAD"} if "GET" in self.operations else set()))
        )

    def operation(self, method: str) -> Operation | Options:
        """The path's operation for the method; HEAD is GET without the body (RFC 9110, section 9.3.2).

        Raises:
            HTTPException: the path lacks the method (405, with `Allow`).
        """
        operation = self.operations.get(method) or (self.operations.get("GET") if method == "HEAD" else None)
        if operation is None:
            raise HTTPException(405, "The path does not have this method.", {"Allow": self.methods()})
        return operation


class Options:
    """Tells anybody which methods a path has (RFC 9110, section 9.3.7). It is no operation of the contract."""

    operation_id = None

    def __init__(self, route: Route) -> None:
        self.headers = {"Allow": route.methods()}
        patch = route.operations.get("PATCH")
        if isinstance(patch, Operation) and patch.body:
            # RFC 5789, section 3.1.
            self.headers["Accept-Patch"] = patch.body.expected

    async def __call__(self, _scope: Scope, _receive: Receive, _path_values: Mapping[str, str]) -> ConnexionResponse:
        return ConnexionResponse(204, headers=self.headers)

    def check(self, response: ConnexionResponse) -> list[RawHeader]:
        return encode_headers(response)


class Routes(AbstractRoutingAPI[Operation]):
    """The contract's paths. Connexion walks them and resolves the handlers; each operation is compiled once, here.

    Connexion's own router copies the scope twice and hands a request through two Starlette routers; this does neither.
    """

    def __init__(
        self, specification: Specification, *, state_names: Collection[str], body_limit_bytes: int, **options: Any
    ) -> None:
        self.state_names = state_names
        self.body_limit_bytes = body_limit_bytes
        self.routes: dict[str, Route] = {}
        super().__init__(specification, **options)
        for route in self.routes.values():
            route.operations.setdefault("OPTIONS", Options(route))
        # Concrete paths are matched before templated ones (OpenAPI 3.0.3, "Paths Object").
        self.ordered = sorted(self.routes.values(), key=lambda route: len(route.names))

    def make_operation(self, operation: AbstractOperation) -> Operation:
        return Operation(
            operation,
            state_names=self.state_names,
            body_limit_bytes=self.body_limit_bytes,
            path_item=self.specification["paths"][operation.path],
        )

    @staticmethod
    def _framework_path_and_name(operation: AbstractOperation, path: str) -> tuple[str, str]:
        return path, operation.operation_id

    def _add_operation_internal(self, method: str, path: str, operation: Operation, name: str | None = None) -> None:
        del name
        route = Route(self.base_path + path)
        if self.routes.setdefault(route.pattern.pattern, route).names != route.names:
            raise UnsupportedConstruct(f"/paths{pointer_token(path)}", "a path that another one hides")
        self.routes[route.pattern.pattern].operations[method.upper()] = operation

    def match(self, path: str) -> tuple[Route, dict[str, str]] | None:
        """The route of a path as it was sent, and its parameters' values, decoded; None where there is no such path."""
        if "%" in path:
            path = _normal(path)
        for route in self.ordered:
            if found := route.pattern.fullmatch(path):
                return route, dict(zip(route.names, map(decode_segment, found.groups()), strict=True))
        return None


def _normal(path: str) -> str:
    """A path in which only what needs it is percent-encoded, always alike (RFC 3986, section 6.2.2); braces stay."""
    return "/".join(quote(unquote_to_bytes(segment), safe=UNENCODED) for segment in path.split("/"))


class ContractMiddleware(SpecMiddleware):
    """Answers what the contract describes; passes every other path on to the next application.

    Use it in the list of middlewares of a `connexion.ConnexionMiddleware`, which loads the contract and adds it here.
    """

    routes: Routes

    def __init__(
        self,
        app: ASGIApp,
        *,
        on_error: OnError,
        state_names: Collection[str] = (),
        body_limit_bytes: int = BODY_LIMIT_BYTES,
    ) -> None:
        self.app = app
        self.on_error = on_error
        self.compile = partial(Routes, state_names=state_names, body_limit_bytes=body_limit_bytes)

    def add_api(self, specification: Specification, **options: Any) -> None:
        """Compiles the contract.

        Raises:
            UnsupportedConstruct: it says something that the engine does not implement.
        """
        if hasattr(self, "routes"):
            raise TypeError("There is one contract; a second one would hide it.")
        self.routes = self.compile(specification, **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        matched = self.routes.match(scope["raw_path"].decode("ascii")) if scope["type"] == "http" else None
        if matched is None:
            await self.app(scope, receive, send)
            return
        route, path_values = matched
        operation = None
        try:
            operation = route.operation(scope["method"])
            scope["state"]["operation_id"] = operation.operation_id
            response = await operation(scope, receive, path_values)
            headers = operation.check(response)
        except ClientDisconnect:
            return  # There is nobody to answer.
        except Exception as error:  # noqa: BLE001 - whatever happens, the request gets an answer
            response, headers = self._failed(scope, operation, error)
        if len(response.body or b"") >= COMPRESSED_BYTES and isinstance(operation, Operation):
            _compress(response, headers, operation, scope)
        await send_response(response, headers, scope["method"], send)

    def _failed(
        self, scope: Scope, operation: Operation | Options | None, error: Exception
    ) -> tuple[ConnexionResponse, list[RawHeader]]:
        response = self.on_error(scope, error)
        if operation is None:
            # That a method is missing is the path's answer, and no operation's.
            return response, encode_headers(response)
        try:
            return response, operation.check(response)
        except Exception as violation:  # noqa: BLE001 - the answer to an error must not break the contract either
            response = self.on_error(scope, violation)
            return response, encode_headers(response)


def _compress(response: ConnexionResponse, headers: list[RawHeader], operation: Operation, scope: Scope) -> None:
    """Compresses the body of a large answer, if the contract says that it may be and the client prefers that."""
    if operation.may_compress(response.status_code) and prefers_gzip(
        b",".join(value for name, value in scope["headers"] if name == b"accept-encoding")
    ):
        response.body = gzip.compress(response.body, GZIP_LEVEL, mtime=0)
        headers.append((b"content-encoding", b"gzip"))


def encode_headers(response: ConnexionResponse) -> list[RawHeader]:
    """The headers of an answer that no operation describes."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers.items()]


async def send_response(response: ConnexionResponse, headers: list[RawHeader], method: str, send: Send) -> None:
    """Sends an answer, to HEAD without its body."""
    body = response.body or b""
    if response.status_code not in (204, 304):
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})
