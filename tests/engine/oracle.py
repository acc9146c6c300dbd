"""The engine beside Connexion's own validators: what each makes of one request or response."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote

from connexion.decorators.parameter import get_arguments
from connexion.exceptions import ProblemException
from connexion.frameworks.starlette import starlettify_path
from connexion.lifecycle import ConnexionRequest, ConnexionResponse
from connexion.middleware.request_validation import RequestValidationOperation
from connexion.middleware.response_validation import ResponseValidationOperation
from connexion.middleware.routing import RoutingMiddleware
from connexion.operations import OpenAPIOperation
from connexion.resolver import Resolver
from connexion.uri_parsing import OpenAPIURIParser
from starlette.routing import compile_path

from openapi.contract import BODY_LIMIT_BYTES
from openapi.operations import Operation
from openapi.routing import decode_segment
from support.contracts import JSON, run

Place = Literal["query", "path", "header", "body", "response"]
Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """A contract with one schema in one place, and what a client, or for a response the handler, sends to it.

    `sent` is the raw query, the raw path segment, the fields of one header, or the body; empty where nothing is sent.
    `header` is a response's header beside the body.
    """

    place: Place
    schema: Schema
    sent: tuple[bytes, ...] = ()
    required: bool = False
    content_type: bytes | None = b"application/json"
    status: int = 200
    header: str | None = "yes"

    @property
    def text(self) -> str:
        """The parameter's text, as far as there is one."""
        match self.place, self.sent:
            case "query", (query,):
                return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True)).get("p", "")
            case "path", (segment,):
                return unquote(segment.decode())
            case "header", (field, *_):
                return field.decode("latin-1")
        return ""

    @property
    def value(self) -> Any:
        """What is validated: the body's value, Python's idea of it, or the parameter's text."""
        if self.place not in ("body", "response"):
            return self.text
        try:
            return json.loads(b"".join(self.sent))
        except (ValueError, RecursionError):
            return None


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the handler gets, told apart by type as well: 1 is neither 1.0 nor True."""

    arguments: str

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Accepted:
        return cls(repr(sorted(arguments.items())))


REFUSED = None
Outcome = Accepted | None


def operation_object(case: Case) -> dict[str, Any]:
    """The contract's operation for a case."""
    responses: dict[str, Any] = {"204": {"description": "Done"}}
    match case.place:
        case "body":
            content = {JSON: {"schema": case.schema}}
            return {"requestBody": {"required": case.required, "content": content}, "responses": responses}
        case "response":
            header = {"required": case.required, "schema": {"type": "string", "maxLength": 3}}
            answer = {
                "description": "Answer",
                "headers": {"X-Answer": header},
                "content": {JSON: {"schema": case.schema}},
            }
            problem = {
                "description": "Problem",
                "content": {"application/problem+json": {"schema": {"type": "object"}}},
            }
            return {"responses": {"200": answer, "400": problem} | responses}
        case place:
            required = case.required or place == "path"
            parameter = {"name": "p", "in": place, "required": required, "schema": case.schema}
            return {"parameters": [parameter], "responses": responses}


def connexion_operation(case: Case, handler: Callable[..., Any]) -> OpenAPIOperation:
    path = "/{p}" if case.place == "path" else "/"
    operation = json.loads(json.dumps(operation_object(case))) | {"operationId": "handle"}
    return OpenAPIOperation("post", path, operation, Resolver(lambda _: handler), uri_parser_class=OpenAPIURIParser)


class Pair:
    """One contract, ready in the engine and in Connexion."""

    def __init__(self, case: Case) -> None:
        self.got: dict[str, Any] = {}
        self.response = ConnexionResponse(204)
        self.operation = connexion_operation(case, self._handler(case))
        self.engine = Operation(
            connexion_operation(case, self._handler(case)),
            on_error=_unexpected,
            state_names=(),
            body_limit_bytes=BODY_LIMIT_BYTES,
        )
        RoutingMiddleware(_discard)  # It registers Connexion's own convertors of numbers in paths.
        path = starlettify_path(self.operation.path, self.operation.get_path_parameter_types())
        self.path, _, self.convertors = compile_path(path)
        self.requests = RequestValidationOperation(self._call, operation=self.operation, strict_validation=True)
        self.responses = ResponseValidationOperation(self._answer, operation=self.operation)

    def _handler(self, case: Case) -> Callable[..., Any]:
        async def handler(**arguments: Any) -> ConnexionResponse:
            self.got = arguments
            return self.response

        names = {"body": ("body",), "response": ()}.get(case.place, ("p",))
        parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in names]
        handler.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return handler

    async def _call(self, scope: Any, receive: Any, _send: Any) -> None:
        uri_parser = OpenAPIURIParser(self.operation.parameters, self.operation.body_definition())
        request = ConnexionRequest(scope, receive, uri_parser=uri_parser)
        self.got = get_arguments(
            self.operation,
            path_params=request.path_params,
            query_params=request.query_params,
            body=await request.get_body(),
            files={},
            arguments=["p", "body"],
            has_kwargs=False,
            sanitize=str,
            content_type=request.mimetype,
        )

    async def _answer(self, _scope: Any, _receive: Any, send: Any) -> None:
        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in self.response.headers.items()]
        await send({"type": "http.response.start", "status": self.response.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.response.body})

    def _scope(self, case: Case) -> dict[str, Any]:
        headers: list[tuple[bytes, bytes]] = []
        if case.place == "header":
            headers += [(b"p", field) for field in case.sent]
        if case.place == "body":
            headers.append((b"content-length", str(len(b"".join(case.sent))).encode()))
            headers += [(b"content-type", case.content_type)] if case.content_type is not None else []
        return {
            "type": "http",
            "method": "POST",
            "headers": headers,
            "query_string": case.sent[0] if case.place == "query" and case.sent else b"",
            "state": {},
        }

    def _messages(self, case: Case) -> Callable[[], Any]:
        body = b"".join(case.sent) if case.place == "body" else b""

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        return receive

    def _answer_of(self, case: Case) -> ConnexionResponse:
        content_type = case.content_type.decode() if case.content_type is not None else None
        headers = {} if case.header is None else {"X-Answer": case.header}
        return ConnexionResponse(case.status, content_type=content_type, body=b"".join(case.sent), headers=headers)

    def by_engine(self, case: Case) -> Outcome:
        """What the engine makes of the case; anything but an answer or a problem is an error of the test."""
        self.response = ConnexionResponse(204)
        try:
            if case.place == "response":
                self.engine.check(self._answer_of(case))
                return Accepted.of({})
            self.got = {}
            path_values = {"p": decode_segment(case.sent[0].decode())} if case.place == "path" else {}
            run(self.engine.answer(self._scope(case) | {"path_params": path_values}, self._messages(case)))
        except ProblemException:
            return REFUSED
        return Accepted.of(self.got)

    def by_connexion(self, case: Case) -> Outcome:
        """What Connexion makes of the case; whatever it raises is a refusal, although some of it is a 500."""
        scope = self._scope(case)
        try:
            if case.place == "response":
                self.response = self._answer_of(case)
                run(self.responses(scope, self._messages(case), _discard))
                return Accepted.of({})
            found = self.path.match("/" + (unquote(case.sent[0].decode()) if case.place == "path" else ""))
            if found is None:
                return REFUSED
            scope["path_params"] = {
                name: self.convertors[name].convert(text) for name, text in found.groupdict().items()
            }
            self.got = {}
            run(self.requests(scope, self._messages(case), _discard))
        except Exception:  # noqa: BLE001 - the oracle's failures are refusals
            return REFUSED
        return Accepted.of({} if case.place == "header" else self.got)


async def _discard(_message: Any) -> None:
    return None


def _unexpected(_scope: Any, error: Exception) -> ConnexionResponse:
    raise error


@lru_cache(maxsize=64)
def _pair(place: Place, schema: str, required: bool) -> Pair:
    return Pair(Case(place, json.loads(schema), required=required))


def outcomes(case: Case) -> tuple[Outcome, Outcome]:
    """What the engine and what Connexion make of a case."""
    pair = _pair(case.place, json.dumps(case.schema), case.required)
    by_engine, by_connexion = pair.by_engine(case), pair.by_connexion(case)
    if case.place == "header" and by_engine is not REFUSED:
        by_engine = Accepted.of({})  # Connexion hands no header to a handler.
    return by_engine, by_connexion
