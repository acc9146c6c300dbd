"""Which operation a request asks for: Connexion's routing station, with a matcher of our own.

Connexion's matcher separates segments at an encoded slash (`%2F`), and its `Allow` lists the methods of one route only.
This one keeps `%2F` inside its segment, and lists all of the path's methods. It leaves in the scope what Connexion's
leaves: the operation's id in `scope["extensions"]["connexion_routing"]`, the path's values in `scope["path_params"]`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import connexion.middleware.routing
from connexion.lifecycle import ConnexionResponse
from connexion.middleware.abstract import ROUTING_CONTEXT, AbstractRoutingAPI
from connexion.operations.abstract import AbstractOperation
from connexion.spec import Specification
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from openapi.errors import OnError, UnsupportedConstruct, pointer_token
from openapi.responses import encode_headers, send_response

UNENCODED = "!$&'()*+,;=:@{}"
"""What may stand in a path segment as it is (RFC 3986, section 3.3), and the braces of a template."""


PATH_LIMIT_BYTES = 8192
"""A longer path matches nothing (404), since reading its percent-encoding would take milliseconds."""


class Path:
    """One path of the contract: its pattern, its parameters' names, its operations' ids by method."""

    def __init__(self, template: str) -> None:
        # Paths are matched as they were sent: a percent-encoded slash is part of a segment and separates none.
        self.pattern = re.compile(re.sub(r"\\\{[^/]+?\\\}", "([^/]+)", re.escape(_normal(template))))
        self.names = re.findall(r"\{([^/]+?)\}", template)
        self.depth = template.count("/")
        self.operation_ids: dict[str, str] = {}
        self.patch_media_types: list[str] = []

    def add(self, operation: AbstractOperation) -> None:
        """Adds an operation; the one for GET answers HEAD too (RFC 9110, section 9.3.2)."""
        method = operation.method.upper()
        self.operation_ids[method] = operation.operation_id
        if method == "GET":
            self.operation_ids.setdefault("HEAD", operation.operation_id)
        if method == "PATCH" and operation.request_body:
            self.patch_media_types = list(operation.request_body["content"])

    @property
    def allow(self) -> str:
        """The methods that the path has, as an `Allow` header lists them."""
        return ", ".join(sorted(self.operation_ids.keys() | {"OPTIONS"}))

    def options(self) -> ConnexionResponse:
        """Tells anybody which methods the path has (RFC 9110, section 9.3.7), and what PATCH takes (RFC 5789)."""
        accept_patch = {"Accept-Patch": ", ".join(self.patch_media_types)} if self.patch_media_types else {}
        return ConnexionResponse(204, headers={"Allow": self.allow} | accept_patch)


class Paths(AbstractRoutingAPI[AbstractOperation]):
    """The contract's paths, as Connexion walks them; each is there once for each of the prefixes."""

    def __init__(self, specification: Specification, *, prefixes: Collection[str], **options: Any) -> None:
        self.prefixes = prefixes
        self.by_pattern: dict[str, Path] = {}
        super().__init__(specification, **options)
        self.by_depth: defaultdict[int, list[Path]] = defaultdict(list)
        # Concrete paths are matched before templated ones (OpenAPI 3.0.3, "Paths Object").
        for path in sorted(self.by_pattern.values(), key=lambda path: len(path.names)):
            self.by_depth[path.depth].append(path)

    def make_operation(self, operation: AbstractOperation) -> AbstractOperation:
        return operation

    @staticmethod
    def _framework_path_and_name(operation: AbstractOperation, path: str) -> tuple[str, str]:
        return path, operation.operation_id

    def _add_operation_internal(
        self, method: str, path: str, operation: AbstractOperation, name: str | None = None
    ) -> None:
        del method, name
        for prefix in self.prefixes:
            new = Path(prefix + self.base_path + path)
            known = self.by_pattern.setdefault(new.pattern.pattern, new)
            if known.names != new.names:
                raise UnsupportedConstruct(f"/paths{pointer_token(path)}", "a path that another one hides")
            known.add(operation)

    def match(self, path: str) -> tuple[Path, dict[str, str]] | None:
        """The contract's path for one that was sent, and its parameters' values, decoded; None where there is none."""
        candidates = self.by_depth.get(path.count("/"), ())
        if len(path) > PATH_LIMIT_BYTES or not candidates:
            return None
        if is_encoded := "%" in path:
            path = _normal(path)
        for known in candidates:
            if found := known.pattern.fullmatch(path):
                values = map(decode_segment, found.groups()) if is_encoded else found.groups()
                return known, dict(zip(known.names, values, strict=True))
        return None


class RoutingMiddleware(connexion.middleware.routing.RoutingMiddleware):
    """Finds the operation of each request, and hands the request on.

    It answers by itself what concerns no operation: a method that the path lacks (405), and OPTIONS (204). A path that
    the contract does not have is handed on without an operation's id.
    """

    def __init__(self, app: ASGIApp, *, on_error: OnError, root_path: str = "") -> None:
        """Paths may begin with `root_path` or not."""
        super().__init__(app)
        self.on_error = on_error
        self.prefixes = dict.fromkeys(("", root_path))
        self.paths: Paths | None = None

    def add_api(self, specification: Specification, *args: Any, **options: Any) -> None:
        """Compiles the contract's paths.

        Raises:
            TypeError: there is a contract already, which a second one would hide.
            UnsupportedConstruct: two paths cannot be told apart.
        """
        if self.paths:
            raise TypeError("There is one contract; a second one would hide it.")
        self.paths = Paths(specification, *args, prefixes=self.prefixes, **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Leaves the operation's id and the path's values in the scope."""
        if scope["type"] != "http" or self.paths is None:
            await self.app(scope, receive, send)
            return
        operation_id = None
        if matched := self.paths.match(scope["raw_path"].decode("ascii")):
            path, scope["path_params"] = matched
            operation_id = path.operation_ids.get(scope["method"])
            if operation_id is None:
                await self._answer(path, scope, send)
                return
        elif scope["method"] == "OPTIONS" and scope["raw_path"] == b"*":
            # The service as a whole is there (RFC 9110, section 9.3.7).
            await send_response(ConnexionResponse(204), [], "OPTIONS", send)
            return
        scope.setdefault("extensions", {})[ROUTING_CONTEXT] = {
            "api_base_path": self.paths.base_path,
            "operation_id": operation_id,
        }
        await self.app(scope, receive, send)

    async def _answer(self, path: Path, scope: Scope, send: Send) -> None:
        if scope["method"] == "OPTIONS":
            response = path.options()
        else:
            error = HTTPException(405, "The path does not have this method.", {"Allow": path.allow})
            response = self.on_error(scope, error)
        await send_response(response, encode_headers(response), scope["method"], send)


def decode_segment(segment: str) -> str:
    """A path segment without its percent-encoding (RFC 3986, section 2.1); what is not UTF-8 becomes no valid text."""
    return unquote_to_bytes(segment).decode("utf-8", "surrogateescape") if "%" in segment else segment


def _normal(path: str) -> str:
    """A path in which only what needs it is percent-encoded, always alike (RFC 3986, section 6.2.2); braces stay."""
    return "/".join(quote(unquote_to_bytes(segment), safe=UNENCODED) for segment in path.split("/"))
