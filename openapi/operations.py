"""One operation of the contract, compiled: security, admission, Accept, parameters, body, handler, response."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, cast

from connexion.exceptions import NonConformingResponse, OAuthProblem
from connexion.lifecycle import ConnexionResponse
from connexion.operations.abstract import AbstractOperation
from connexion.utils import get_function_from_name
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import Receive, Scope, Send

from openapi.bodies import RequestBody, refuse_body
from openapi.errors import InvalidRequest, NotAcceptable, OnError, UnsupportedConstruct, pointer_token
from openapi.negotiation import accepts
from openapi.parameters import ABSENT, Parameter, read_query
from openapi.responses import COMPRESSED_BYTES, RawHeader, Response, compress, encode_headers, send_response

CONDITIONS = {
    b"if-match": None,
    b"if-none-match": None,
    b"if-modified-since": b"if-none-match",
    b"if-unmodified-since": b"if-match",
}
"""Headers that make a request conditional (RFC 9110, section 13.1). A date has the header that overrides it."""

NO_VALUES = frozenset({b"", b"null", b"undefined"})
"""What clients send in a header when their programs have no value for it. Nobody means it as a key or an entity tag."""

Authenticate = Callable[[str, HTTPConnection], Coroutine[Any, Any, Any]]


Encoded = tuple[ConnexionResponse, list[RawHeader]]
"""An answer, and its headers as they are sent."""


class Admission(Protocol):
    """Decides whether there is room for a user's request; the lifespan's state may have one, named `admission`."""

    def enter(self, user: Any) -> None:
        """Counts the request, or raises what becomes its answer."""

    def leave(self, user: Any) -> None:
        """Counts it no more; it has its answer."""


class Operation:
    """One operation of the contract: it reads a request, calls the handler, and checks the answer.

    The handler names the arguments that it wants: parameters of the contract (a header's name in lower case, with
    underscores), `body`, `user` (what the contract's `x-bearerInfoFunc` returned), and members of the lifespan's state.
    """

    def __init__(
        self,
        operation: AbstractOperation,
        *,
        on_error: OnError,
        state_names: Collection[str],
        body_limit_bytes: int,
        outer_headers: Collection[str] = (),
        path_item: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Compiles the operation. Its answers get their `outer_headers`, in lower case, from a station outside.

        Raises:
            UnsupportedConstruct: the contract wants something of it that the engine does not implement.
            TypeError: the handler, or the function for tokens, cannot be called with what contract and state have.
        """
        specification: Mapping[str, Any] = operation._operation  # noqa: SLF001 - there is no public name for it
        pointer = f"/paths{pointer_token(operation.path)}/{operation.method}"
        self.operation_id: str = specification["operationId"]
        self.on_error = on_error
        self.handler = operation.function
        # Whoever is not let in is told so one in a turn of the event loop, so that the others have their turns too.
        self._refusal_turn = asyncio.Lock()
        self.authenticate = _authenticate(operation, pointer)
        for at, parent in ((pointer, specification), (pointer.rpartition("/")[0], path_item)):
            for keyword in {"callbacks", "servers"} & parent.keys():
                raise UnsupportedConstruct(f"{at}/{keyword}", f"{keyword!r}")
        arguments = {"body"} if operation.request_body else set()
        arguments |= {"user"} if self.authenticate else set()
        places: dict[str, list[Parameter]] = {"path": [], "query": [], "header": []}
        for at, parameter in _located(operation, pointer, path_item):
            compiled = Parameter.compile(parameter, at)
            if compiled.argument in arguments.union(state_names):
                raise UnsupportedConstruct(f"{at}/name", f"a second meaning of the argument {compiled.argument!r}")
            arguments.add(compiled.argument)
            places[parameter["in"]].append(compiled)
        template = re.findall(r"\{([^/]+?)\}", operation.path)
        if sorted(template) != sorted(parameter.name for parameter in places["path"]):
            raise UnsupportedConstruct(f"{pointer}/parameters", "a path whose parameters are not those of its template")
        self.path_parameters = places["path"]
        self.query_parameters = places["query"]
        self.query_names = {parameter.name for parameter in places["query"]}
        self.refused_conditions = CONDITIONS.keys() - {parameter.name.encode() for parameter in places["header"]}
        self.header_parameters = [(parameter.name.encode(), parameter) for parameter in places["header"]]
        self.body = (
            RequestBody(operation.request_body, f"{pointer}/requestBody", body_limit_bytes)
            if operation.request_body
            else None
        )
        if self.body and operation.method == "patch":
            self.body.refusal_headers = {"Accept-Patch": self.body.expected}
        # A body means nothing with GET and DELETE (RFC 9110, section 9.3). Elsewhere, ignoring a body could contradict
        # what the client meant, so it is refused.
        self.refuses_body = self.body is None and operation.method not in {"get", "head", "delete"}
        self.responses = dict(_responses(specification["responses"], f"{pointer}/responses", outer_headers))
        # Where no answer has content, there is nothing to accept. A problem is told in its own media type to anybody.
        self.media_types = tuple(
            dict.fromkeys(
                media_type
                for status, response in self.responses.items()
                if status < "400"
                for media_type in response.validators
            )
        )
        self.usual_accepts = frozenset([b"", b"*/*", *(media_type.encode() for media_type in self.media_types)])
        self.wanted = self._wanted(arguments.union(state_names))
        self.wanted_state = tuple(self.wanted - arguments)

    def _wanted(self, known: Collection[str]) -> frozenset[str]:
        """The arguments that the handler takes.

        Raises:
            TypeError: it is no coroutine function, or it cannot be called with what is known.
        """
        if not inspect.iscoroutinefunction(self.handler):
            raise TypeError(f"{self.operation_id} is not a coroutine function")
        wanted = inspect.signature(self.handler).parameters
        if unknown := wanted.keys() - known:
            raise TypeError(f"{self.operation_id} takes {sorted(unknown)}: neither the contract nor the state has it")
        for name in wanted.keys() & self._optional_arguments():
            if wanted[name].default is inspect.Parameter.empty:
                raise TypeError(f"{self.operation_id} needs {name!r}, which the contract does not require")
        return frozenset(wanted)

    def _optional_arguments(self) -> set[str]:
        read = [*self.query_parameters, *(parameter for _, parameter in self.header_parameters)]
        optional = {each.argument for each in read if not each.required and each.default is ABSENT}
        return optional | {"body"} if self.body and not self.body.required else optional

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, whatever happens, unless its client has left.

        It leaves the contract's `operationId` in `scope["state"]["operation_id"]`, for the log.
        """
        scope["state"]["operation_id"] = self.operation_id
        try:
            response, headers = await self.answer(scope, receive)
        except ClientDisconnect:
            return
        except Exception as error:  # noqa: BLE001 - whatever happens, the request gets an answer
            response, headers = self._failed(scope, error)
        await send_response(response, headers, scope["method"], send)

    async def answer(self, scope: Scope, receive: Receive) -> Encoded:
        """Calls the handler, and checks and encodes its answer. Until the user is known, only path and token are read.

        Raises:
            NonConformingResponse: the answer is not as described (500).
            OAuthProblem: there is no bearer token (401).
            NotAcceptable: the client accepts no media type of ours (406).
            UnsupportedMediaTypeProblem, ContentTooLarge, InvalidRequest: see `RequestBody.read` and `Parameter.read`.
            Exception: whatever the admission, the handler and the contract's `x-bearerInfoFunc` raise.
        """
        headers = _joined(scope["headers"])
        if not self.authenticate:
            return await self._answer(scope, receive, headers, None)
        admission: Admission | None = scope["state"].get("admission")
        try:
            user = await self.authenticate(_bearer_token(headers), HTTPConnection(scope))
            if user is None:
                raise OAuthProblem(detail="The token is not valid.")
            if admission:
                admission.enter(user)
        except Exception:
            async with self._refusal_turn:
                await asyncio.sleep(0)
            raise
        try:
            return await self._answer(scope, receive, headers, user)
        finally:
            if admission:
                admission.leave(user)

    async def _answer(self, scope: Scope, receive: Receive, headers: Mapping[bytes, bytes], user: Any) -> Encoded:
        arguments: dict[str, Any] = {"user": user} if "user" in self.wanted else {}
        accept = headers.get(b"accept", b"")
        if accept not in self.usual_accepts and self.media_types and not accepts(accept, self.media_types):
            raise NotAcceptable(self.media_types)
        self._read_parameters(arguments, scope["query_string"], headers, scope["path_params"])
        if self.body:
            body = await self.body.read(headers, receive)
            if body is not ABSENT:
                arguments["body"] = body
        elif self.refuses_body:
            await refuse_body(headers, receive)
        for name in self.wanted_state:
            arguments[name] = scope["state"][name]
        response: ConnexionResponse = await self.handler(**arguments)
        encoded = self.check(response)
        # The request counts until this is done: bodies that wait for a thread are as few as requests in flight.
        if len(response.body or b"") >= COMPRESSED_BYTES and self._may_compress(response.status_code):
            await compress(response, encoded, scope)
        return response, encoded

    def check(self, response: ConnexionResponse) -> list[RawHeader]:
        """Checks an answer, a problem's too, against the contract, and encodes its headers.

        Raises:
            NonConformingResponse: it is not as described (500).
        """
        declared = self.responses.get(str(response.status_code)) or self.responses.get("default")
        if declared is None:
            raise NonConformingResponse(f"status {response.status_code} is not declared")
        return declared.check(response)

    def _failed(self, scope: Scope, error: Exception) -> Encoded:
        response = self.on_error(scope, error)
        try:
            return response, self.check(response)
        except Exception as violation:  # noqa: BLE001 - the answer to an error must not break the contract either
            response = self.on_error(scope, violation)
            return response, encode_headers(response)

    def _may_compress(self, status: int) -> bool:
        """Whether answers of this status may be sent in a content coding: the contract declares `Content-Encoding`."""
        declared = self.responses.get(str(status))
        return declared is not None and any(name == b"content-encoding" for _, name, _ in declared.headers)

    def _read_parameters(
        self, arguments: dict[str, Any], query: bytes, headers: Mapping[bytes, bytes], path_values: Mapping[str, str]
    ) -> None:
        wanted = self.wanted
        for parameter in self.path_parameters:
            value = parameter.read(path_values[parameter.name])
            if parameter.argument in wanted:
                arguments[parameter.argument] = value
        fields: dict[str, str] = {}
        if query:
            fields = read_query(query)
            if unknown := fields.keys() - self.query_names:
                raise InvalidRequest.parameter(min(unknown), "there is no such parameter")
        for parameter in self.query_parameters:
            value = parameter.read(fields.get(parameter.name))
            if value is not ABSENT and parameter.argument in wanted:
                arguments[parameter.argument] = value
        self._read_headers(arguments, headers)

    def _read_headers(self, arguments: dict[str, Any], headers: Mapping[bytes, bytes]) -> None:
        if not self.refused_conditions.isdisjoint(headers):
            self._refuse_conditions(headers)
        for name, parameter in self.header_parameters:
            field = headers.get(name)
            if field in NO_VALUES:
                raise InvalidRequest.parameter(parameter.name, "a client that means no value leaves the header out")
            value = parameter.read(None if field is None else field.decode("latin-1"))
            if value is not ABSENT and parameter.argument in self.wanted:
                arguments[parameter.argument] = value

    def _refuse_conditions(self, headers: Mapping[bytes, bytes]) -> None:
        """Refuses conditions that the operation does not evaluate (RFC 9110, section 13.2).

        A date is ignored beside the entity tag that takes its place (sections 13.1.3 and 13.1.4).
        """
        for name in sorted(self.refused_conditions & headers.keys()):
            stronger = CONDITIONS[name]
            if stronger not in headers or stronger in self.refused_conditions:
                raise InvalidRequest.parameter(name.decode(), "the operation does not evaluate this condition")


def _responses(
    responses: Mapping[str, Any], pointer: str, outer_headers: Collection[str]
) -> Iterator[tuple[str, Response]]:
    for status, response in responses.items():
        at = f"{pointer}/{status}"
        if status.startswith("x-"):
            continue
        if not status.isdigit() and status != "default":
            raise UnsupportedConstruct(at, "a range of statuses")
        if status in ("204", "304") and response.get("content"):
            raise UnsupportedConstruct(f"{at}/content", "content where HTTP has none")
        yield status, Response(response, at, outer_headers)


def _joined(fields: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers by name; fields of one name are one list (RFC 9110, section 5.2). Two joined tokens are none."""
    headers = dict(fields)
    if len(headers) < len(fields):
        lists: dict[bytes, list[bytes]] = {}
        for name, value in fields:
            lists.setdefault(name, []).append(value)
        headers = {name: b", ".join(values) for name, values in lists.items()}
    return headers


def _bearer_token(headers: Mapping[bytes, bytes]) -> str:
    """The token of an `Authorization: Bearer` header (RFC 6750, section 2.1); the scheme's case does not matter."""
    scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if scheme.lower() != "bearer":
        raise OAuthProblem(detail="There is no bearer token.")
    return token.strip(" ")


def _authenticate(operation: AbstractOperation, pointer: str) -> Authenticate | None:
    if not operation.security:
        return None
    if len(operation.security) > 1 or len(operation.security[0]) != 1:
        raise UnsupportedConstruct(f"{pointer}/security", "more or fewer than one security scheme")
    ((name, scopes),) = operation.security[0].items()
    at = f"/components/securitySchemes{pointer_token(name)}"
    scheme = operation.security_schemes.get(name)
    if scheme is None:
        raise UnsupportedConstruct(f"{pointer}/security/0{pointer_token(name)}", "an undeclared security scheme")
    if scheme["type"] != "http" or scheme["scheme"].lower() != "bearer":
        raise UnsupportedConstruct(at, "a security scheme that is not HTTP bearer")
    if "x-bearerInfoFunc" not in scheme:
        raise UnsupportedConstruct(at, "a bearer scheme without x-bearerInfoFunc")
    if scopes:
        raise UnsupportedConstruct(f"{pointer}/security/0{pointer_token(name)}", "scopes of a scheme that has none")
    function = get_function_from_name(scheme["x-bearerInfoFunc"])
    if not inspect.iscoroutinefunction(function):
        raise TypeError(f"{scheme['x-bearerInfoFunc']} is not a coroutine function")
    return cast("Authenticate", function)


def _located(
    operation: AbstractOperation, pointer: str, path_item: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The operation's parameters and their path item's, which Connexion appends, each once, with where it stands."""
    shared = path_item.get("parameters", ())
    own = [parameter for parameter in operation.parameters if not any(parameter is other for other in shared)]
    for at, parameters in ((pointer, own), (pointer.rpartition("/")[0], shared)):
        for index, parameter in enumerate(parameters):
            yield f"{at}/parameters/{index}", parameter
