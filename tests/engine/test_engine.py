"""The engine refuses at start what it does not implement, and routes, reads and checks as the contract says."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from inspect import Parameter as Argument
from inspect import Signature
from types import ModuleType
from typing import Any

import pytest
from connexion.exceptions import (
    NonConformingResponse,
    NonConformingResponseBody,
    NonConformingResponseHeaders,
    OAuthProblem,
    UnsupportedMediaTypeProblem,
)
from connexion.lifecycle import ConnexionResponse
from connexion.middleware import ConnexionMiddleware
from connexion.middleware.lifespan import LifespanMiddleware
from starlette.exceptions import HTTPException

from openapi.contract import BODY_LIMIT_BYTES, ContractMiddleware
from openapi.errors import ContentTooLarge, InvalidRequest, UnsupportedConstruct
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
    """The result of a coroutine that never has to wait."""
    try:
        coroutine.send(None)
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
    errors: list[Exception] = field(default_factory=list)
    received: int = 0

    def __post_init__(self) -> None:
        middlewares: list[Any] = [
            partial(RoutingMiddleware, on_error=self.on_error),
            partial(ContractMiddleware, on_error=self.on_error, state_names=tuple(self.state)),
            LifespanMiddleware,
        ]
        self.app = ConnexionMiddleware(
            _elsewhere, middlewares=middlewares, resolver=lambda name: self.handlers.get(name, handle)
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


async def _elsewhere(scope: Any, _receive: Any, send: Any) -> None:
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


# What stops the start.


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


PARAMETER = "/paths/~1things/get/parameters/0"
BODY = "/paths/~1things/post/requestBody"
BODY_SCHEMA = f"{BODY}/content/application~1json/schema"
GET = "/paths/~1things/get"
POST = "/paths/~1things/post"
OAUTH2 = {
    "type": "oauth2",
    "flows": {"clientCredentials": {"tokenUrl": "https://example.org", "scopes": {"r": "read"}}},
}

UNSUPPORTED: list[tuple[str, Contract, str]] = [
    # parameters
    ("cookie", with_parameter(**{"in": "cookie"}), f"{PARAMETER}/in"),
    ("spaceDelimited", with_parameter(style="spaceDelimited"), f"{PARAMETER}/style"),
    ("pipeDelimited", with_parameter(style="pipeDelimited"), f"{PARAMETER}/style"),
    ("deepObject", with_parameter(style="deepObject"), f"{PARAMETER}/style"),
    ("allowReserved", with_parameter(allowReserved=True), f"{PARAMETER}/allowReserved"),
    ("allowEmptyValue", with_parameter(allowEmptyValue=True), f"{PARAMETER}/allowEmptyValue"),
    ("content of a parameter", with_parameter(schema=None, content=json_of({})), f"{PARAMETER}/content"),
    ("array", with_parameter(schema={"type": "array", "items": STRING}), f"{PARAMETER}/schema/type"),
    (
        "array, not exploded",
        with_parameter(explode=False, schema={"type": "array", "items": STRING}),
        f"{PARAMETER}/schema/type",
    ),
    ("object", with_parameter(schema={"type": "object"}), f"{PARAMETER}/schema/type"),
    ("no type", with_parameter(schema={"enum": ["a"]}), f"{PARAMETER}/schema/type"),
    ("type in allOf", with_parameter(schema={"allOf": [STRING]}), f"{PARAMETER}/schema/type"),
    ("nullable parameter", with_parameter(schema=STRING | {"nullable": True}), f"{PARAMETER}/schema/nullable"),
    ("format path", with_parameter(schema=STRING | {"format": "path"}), f"{PARAMETER}/schema/format"),
    ("parameter twice", with_parameters(query("q"), query("q", maxLength=1)), f"{POST}/parameters/1/name"),
    (
        "parameter of the path item overridden",
        with_parameters(query("q"), shared=[query("q", maxLength=1)]),
        "/paths/~1things/parameters/0/name",
    ),
    (
        "parameter of the path item",
        with_parameters(query("q"), shared=[query("r", format="iban")]),
        "/paths/~1things/parameters/0/schema/format",
    ),
    ("header twice", with_parameters(header("X-A"), header("x-a")), f"{POST}/parameters/1/name"),
    ("header and query of one name", with_parameters(query("x_a"), header("X-A")), f"{POST}/parameters/1/name"),
    (
        "parameter named body",
        with_parameters(query("body"), requestBody={"content": json_of({})}),
        f"{POST}/parameters/0/name",
    ),
    (
        "path parameter undeclared",
        contract({"/things/{thing_id}": {"get": operation()}}),
        "/paths/~1things~1{thing_id}/get/parameters",
    ),
    ("path parameter without a place", with_parameters(ID), f"{POST}/parameters"),
    (
        "path parameter twice in the path",
        contract({"/{thing_id}/{thing_id}": {"get": operation(parameters=[ID])}}),
        "/paths/~1{thing_id}~1{thing_id}/get/parameters",
    ),
    # schemas
    ("unknown format", with_schema(type="string", format="iban"), f"{BODY_SCHEMA}/format"),
    ("byte", with_schema(type="string", format="byte"), f"{BODY_SCHEMA}/format"),
    ("binary", with_schema(type="string", format="binary"), f"{BODY_SCHEMA}/format"),
    ("discriminator", with_schema(discriminator={"propertyName": "a"}), f"{BODY_SCHEMA}/discriminator"),
    ("xml", with_schema(xml={"name": "a"}), f"{BODY_SCHEMA}/xml"),
    (
        "readOnly",
        with_schema(properties={"a/b": STRING | {"readOnly": True}}),
        f"{BODY_SCHEMA}/properties/a~1b/readOnly",
    ),
    ("writeOnly", with_schema(anyOf=[{}, STRING | {"writeOnly": True}]), f"{BODY_SCHEMA}/anyOf/1/writeOnly"),
    ("in not", with_schema(**{"not": {"format": "iban"}}), f"{BODY_SCHEMA}/not/format"),
    ("in items", with_schema(type="array", items={"format": "iban"}), f"{BODY_SCHEMA}/items/format"),
    (
        "in additionalProperties",
        with_schema(additionalProperties={"format": "iban"}),
        f"{BODY_SCHEMA}/additionalProperties/format",
    ),
    ("x-nullable", with_schema(type="string", **{"x-nullable": True}), f"{BODY_SCHEMA}/x-nullable"),
    (
        "x-writeOnly",
        with_response(content=json_of(STRING | {"x-writeOnly": True})),
        f"{GET}/responses/200/content/application~1json/schema/x-writeOnly",
    ),
    ("nullable without a type", with_schema(nullable=True, enum=["a"]), f"{BODY_SCHEMA}/nullable"),
    ("pattern that is none", with_schema(type="string", pattern="("), f"{BODY_SCHEMA}/pattern"),
    (
        "schema that contains itself",
        with_schema(
            {"Node": {"type": "object", "properties": {"next": {"$ref": "#/components/schemas/Node"}}}},
            **{"$ref": "#/components/schemas/Node"},
        ),
        BODY_SCHEMA,
    ),
    # bodies
    ("form", with_body("application/x-www-form-urlencoded"), f"{BODY}/content/application~1x-www-form-urlencoded"),
    ("multipart", with_body("multipart/form-data"), f"{BODY}/content/multipart~1form-data"),
    ("text", with_body("text/plain"), f"{BODY}/content/text~1plain"),
    ("any media type", with_body("*/*"), f"{BODY}/content/*~1*"),
    ("any JSON", with_body("application/*+json"), f"{BODY}/content/application~1*+json"),
    ("media type with a parameter", with_body("application/json; v=1"), f"{BODY}/content/application~1json; v=1"),
    (
        "encoding",
        with_body(encoding={"a": {"contentType": "text/csv"}}),
        f"{BODY}/content/application~1json/encoding",
    ),
    ("x-body-name", with_body(beside={"x-body-name": "thing"}), f"{BODY}/x-body-name"),
    ("default body", with_schema(type="object", default={}), f"{BODY_SCHEMA}/default"),
    # responses
    ("text answered", with_response(content={"text/plain": {}}), f"{GET}/responses/200/content/text~1plain"),
    ("any answered", with_response(content={"*/*": {}}), f"{GET}/responses/200/content/*~1*"),
    ("range of statuses", with_response("4XX"), f"{GET}/responses/4XX"),
    ("content of a 204", with_response("204", content=json_of({})), f"{GET}/responses/204/content"),
    ("content of a 304", with_response("304", content=json_of({})), f"{GET}/responses/304/content"),
    ("header with content", with_header(content=json_of({})), f"{GET}/responses/200/headers/X~1Y/content"),
    (
        "header with an array",
        with_header(schema={"type": "array", "items": STRING}),
        f"{GET}/responses/200/headers/X~1Y/schema/type",
    ),
    ("header without a type", with_header(schema={}), f"{GET}/responses/200/headers/X~1Y/schema/type"),
    (
        "nullable header",
        with_header(schema=STRING | {"nullable": True}),
        f"{GET}/responses/200/headers/X~1Y/schema/nullable",
    ),
    # operations and paths
    (
        "callbacks",
        contract({"/things": {"get": operation(callbacks={"done": {"{$request.body#/u}": {"post": operation()}}})}}),
        f"{GET}/callbacks",
    ),
    (
        "servers of an operation",
        contract({"/things": {"get": operation(servers=[{"url": "/v2"}])}}),
        f"{GET}/servers",
    ),
    (
        "servers of a path",
        contract({"/things": {"servers": [{"url": "/v2"}], "get": operation()}}),
        "/paths/~1things/servers",
    ),
    (
        "path that hides another",
        contract(
            {
                "/{a}": {"get": operation(parameters=[ID | {"name": "a"}])},
                "/{b}": {"get": operation("other", parameters=[ID | {"name": "b"}])},
            }
        ),
        "/paths/~1{b}",
    ),
    # security
    ("either of two schemes", with_security([{"a": []}, {"b": []}], b=BEARER), f"{GET}/security"),
    ("both of two schemes", with_security([{"a": [], "b": []}], b=BEARER), f"{GET}/security"),
    ("optional security", with_security([{"a": []}, {}]), f"{GET}/security"),
    ("optional security first", with_security([{}, {"a": []}]), f"{GET}/security"),
    ("empty requirement", with_security([{}]), f"{GET}/security"),
    ("scopes", with_security([{"a": ["read"]}]), f"{GET}/security/0/a"),
    ("undeclared scheme", with_security([{"c": []}]), f"{GET}/security/0/c"),
    (
        "apiKey",
        with_security([{"a": []}], a={"type": "apiKey", "in": "header", "name": "X-Key"}),
        "/components/securitySchemes/a",
    ),
    ("basic", with_security([{"a": []}], a={"type": "http", "scheme": "basic"}), "/components/securitySchemes/a"),
    ("oauth2", with_security([{"a": ["r"]}], a=OAUTH2), "/components/securitySchemes/a"),
    (
        "openIdConnect",
        with_security([{"a": []}], a={"type": "openIdConnect", "openIdConnectUrl": "https://example.org"}),
        "/components/securitySchemes/a",
    ),
    (
        "bearer without a function",
        with_security([{"a": []}], a={"type": "http", "scheme": "bearer"}),
        "/components/securitySchemes/a",
    ),
]


@pytest.fixture(autouse=True)
def bearer_functions(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that contracts of this file name for their tokens."""

    async def user_of(token: str, _request: Any) -> str | None:
        return {"good": "ada"}.get(token)

    def user_at_once(token: str, _request: Any) -> str:
        return token

    module = ModuleType("bearer_functions")
    module.user_of = user_of  # type: ignore[attr-defined]
    module.user_at_once = user_at_once  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.mark.parametrize(
    ("unsupported", "pointer"), [row[1:] for row in UNSUPPORTED], ids=[row[0] for row in UNSUPPORTED]
)
def test_what_is_not_implemented_stops_the_start(unsupported: Contract, pointer: str) -> None:
    """The start fails, and says where."""
    with pytest.raises(UnsupportedConstruct) as stopped:
        Service(unsupported)

    assert stopped.value.pointer == pointer


@pytest.mark.parametrize(
    "harmless",
    [
        pytest.param(with_parameter(explode=True), id="explode of a scalar"),
        pytest.param(with_parameter(explode=False), id="explode off of a scalar"),
        pytest.param(with_parameter(style="form"), id="default style"),
        pytest.param(with_parameter(allowReserved=False), id="allowReserved off"),
        pytest.param(with_parameter(**{"x-internal": True}), id="extension of a parameter"),
        pytest.param(with_schema(type="string", **{"x-internal": True}), id="extension of a schema"),
        pytest.param(with_schema(type="object", properties={"a": STRING | {"default": "x"}}), id="default of a member"),
        pytest.param(with_schema(type="string", deprecated=True, externalDocs={"url": "/"}), id="annotations"),
        pytest.param(with_header(style="simple", explode=True, schema=STRING), id="style of a header"),
        pytest.param(with_response(links={"self": {"operationId": "handle"}}), id="links"),
        pytest.param(
            contract({"/things": {"get": operation(responses=DONE | {"x-internal": {}})}}), id="extension of responses"
        ),
        pytest.param(with_security([]), id="no security"),
        pytest.param(
            with_parameters(query("r"), shared=[query("q")]) | {"tags": [{"name": "things"}]}, id="shared parameters"
        ),
    ],
)
def test_what_changes_nothing_does_not_stop_the_start(harmless: Contract) -> None:
    assert Service(harmless).request("DELETE", "/things").status == 405


def test_a_second_contract_stops_the_start() -> None:
    """It would hide the first."""
    service = Service(with_response())
    app = ConnexionMiddleware(
        _elsewhere, middlewares=[partial(RoutingMiddleware, on_error=service.on_error)], resolver=lambda _: handle
    )
    app.add_api(contract({"/a": {"get": operation()}}))
    app.add_api(contract({"/b": {"get": operation()}}, servers=[{"url": "/v2"}]))

    with pytest.raises(TypeError, match="second"):
        run(app({"type": "lifespan"}, None, None))


# Handlers.


async def _wants(argument: Any) -> ConnexionResponse:
    raise NotImplementedError(argument)


def _at_once() -> ConnexionResponse:
    raise NotImplementedError


async def _wants_query(q: str) -> ConnexionResponse:
    raise NotImplementedError(q)


async def _wants_body(body: Any) -> ConnexionResponse:
    raise NotImplementedError(body)


async def _wants_user(user: str) -> ConnexionResponse:
    raise NotImplementedError(user)


async def _wants_anything(**arguments: Any) -> ConnexionResponse:
    raise NotImplementedError(arguments)


@pytest.mark.parametrize(
    ("described", "handler", "message"),
    [
        pytest.param(with_parameter(), _wants, "argument", id="unknown argument"),
        pytest.param(with_parameter(), _wants_user, "user", id="user without security"),
        pytest.param(with_parameter(), _wants_body, "body", id="body without one"),
        pytest.param(with_parameter(), _wants_anything, "arguments", id="any arguments"),
        pytest.param(with_parameter(), _at_once, "coroutine", id="not a coroutine function"),
        pytest.param(with_parameter(), _wants_query, "'q'", id="optional parameter without a default"),
        pytest.param(with_body(), _wants_body, "'body'", id="optional body without a default"),
    ],
)
def test_a_handler_that_cannot_be_called_stops_the_start(described: Contract, handler: Handler, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Service(described, {"handle": handler})


def test_a_token_function_that_is_no_coroutine_function_stops_the_start() -> None:
    scheme = BEARER | {"x-bearerInfoFunc": "bearer_functions.user_at_once"}

    with pytest.raises(TypeError, match="coroutine"):
        Service(with_security([{"a": []}], a=scheme))


@pytest.mark.parametrize("described", [with_parameter(required=True), with_parameter(schema=STRING | {"default": "a"})])
def test_an_argument_that_is_always_there_needs_no_default(described: Contract) -> None:
    assert Service(described, {"handle": _wants_query}).request("DELETE", "/things").status == 405


def test_a_handler_gets_what_it_names_of_the_state() -> None:
    described = contract({"/things": {"get": operation(responses=ECHOED)}})
    service = Service(described, echoing("things"), {"things": ["a"], "others": []})

    assert service.request("GET", "/things").body == b'{"things": ["a"]}'


def test_a_parameter_cannot_take_the_place_of_the_state() -> None:
    with pytest.raises(UnsupportedConstruct):
        Service(with_parameter(name="things"), {}, {"things": []})


def test_a_parameter_cannot_take_the_place_of_the_user() -> None:
    described = with_security([{"a": []}])
    described["paths"]["/things"]["get"]["parameters"] = [query("user")]

    with pytest.raises(UnsupportedConstruct):
        Service(described)


# Security.


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param([("Authorization", "Bearer good")], 204, id="good"),
        pytest.param([("Authorization", "bEARER good")], 204, id="scheme in other case"),
        pytest.param([("Authorization", "Bearer bad")], 401, id="nobody's"),
        pytest.param([], 401, id="absent"),
        pytest.param([("Authorization", "good")], 401, id="no scheme"),
        pytest.param([("Authorization", "Basic good")], 401, id="another scheme"),
        pytest.param([("Authorization", "Bearer good"), ("Authorization", "Bearer good")], 401, id="twice"),
    ],
)
def test_only_a_token_of_somebody_opens(headers: list[tuple[str, str]], status: int) -> None:
    """A function that finds nobody refuses, as it does in Connexion."""
    service = Service(with_security([{"a": []}]))

    assert service.request("GET", "/things", headers=headers).status == status
    assert [type(error) for error in service.errors] == [OAuthProblem] * (status == 401)


def test_nothing_is_read_before_the_sender_is_known() -> None:
    described = with_security([{"a": []}])
    described["paths"]["/things"]["get"]["parameters"] = [query("q") | {"required": True}]

    assert Service(described).request("GET", "/things?unknown=1").status == 401


# Routing.


THING = operation("get_thing", responses=ECHOED, parameters=[ID])
ROUTED = contract(
    {
        "/things": {"get": operation("list_things"), "post": operation("create_thing")},
        "/things/{thing_id}": {"get": THING, "delete": operation("delete_thing", parameters=[ID])},
        "/things/mine": {"put": operation("replace_mine"), "get": operation("get_mine")},
        "/things/{thing_id}/parts.json": {"get": operation("list_parts", parameters=[ID])},
        "/d\u00e9j\u00e0 vu": {"get": operation("again")},
    }
)


@pytest.fixture(scope="module")
def routed() -> Service:
    return Service(ROUTED, {"get_thing": echoing("thing_id")["handle"]})


@pytest.mark.parametrize(
    ("path", "thing_id"),
    [
        pytest.param("/things/a", "a", id="plain"),
        pytest.param("/things/a%2Fb", "a/b", id="slash encoded"),
        pytest.param("/things/a%2fb", "a/b", id="slash encoded in lower case"),
        pytest.param("/things/%2E%2E", "..", id="dot segment encoded"),
        pytest.param("/things/..", "..", id="dot segment"),
        pytest.param("/things/%E2%82%AC", "\u20ac", id="not ASCII"),
        pytest.param("/things/a%20b", "a b", id="space"),
        pytest.param("/things/a+b", "a+b", id="plus"),
        pytest.param("/things/%252F", "%2F", id="percent encoded"),
        pytest.param("/things/%7Bthing_id%7D", "{thing_id}", id="braces"),
        pytest.param("/things/MINE", "MINE", id="other case than a concrete path"),
        pytest.param("/%74hings/a", "a", id="letter of the path encoded"),
        pytest.param("/things/%zz", "%zz", id="percent that encodes nothing"),
    ],
)
def test_a_segment_is_decoded_after_it_is_matched(routed: Service, path: str, thing_id: str) -> None:
    answer = routed.request("GET", path)

    assert (answer.status, json.loads(answer.body)) == (200, {"thing_id": thing_id})


@pytest.mark.parametrize(
    "path",
    [
        "/", "", "/Things", "/things/", "/things//", "//things", "/things/a/", "/things/a/b", "/things/a/../b",
        "/./things", "/things%2Fa", "/things/a/partsXjson", "/things\n", "/things%0A", "*",
    ],
)  # fmt: skip
def test_other_paths_are_left_to_the_next_application(routed: Service, path: str) -> None:
    """Trailing and double slashes and dot segments are not tidied."""
    assert routed.request("GET", path).body == b"elsewhere"


@pytest.mark.parametrize("path", ["/d%C3%A9j%C3%A0%20vu", "/d%c3%a9j%c3%a0%20%76u"])
def test_a_path_of_the_contract_may_need_encoding(routed: Service, path: str) -> None:
    assert routed.request("GET", path).status == 204


def test_a_segment_that_is_not_utf_8_is_invalid(routed: Service) -> None:
    routed.errors.clear()

    assert routed.request("GET", "/things/%FF").status == 422
    assert routed.errors[0].ext == {"errors": [{"parameter": "thing_id", "detail": "the value is not UTF-8"}]}


@pytest.mark.parametrize("path", ["/things/mine", "/things/%6Dine"])
def test_a_concrete_path_comes_before_a_templated_one(routed: Service, path: str) -> None:
    assert routed.request("GET", path).status == 204
    assert routed.request("DELETE", path).header(b"allow") == b"GET, HEAD, OPTIONS, PUT"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/things", b"GET, HEAD, OPTIONS, POST"),
        ("get", "/things", b"GET, HEAD, OPTIONS, POST"),
        ("POST", "/things/a", b"DELETE, GET, HEAD, OPTIONS"),
        ("BREW", "/things/mine", b"GET, HEAD, OPTIONS, PUT"),
    ],
)
def test_405_names_every_method_that_there_is(routed: Service, method: str, path: str, allow: bytes) -> None:
    answer = routed.request(method, path)

    assert (answer.status, answer.header(b"allow")) == (405, allow)
    assert isinstance(routed.errors[-1], HTTPException)


@pytest.mark.parametrize(("value", "is_described"), [("a", True), ("b", False), ("long", False)])
def test_a_listed_value_of_a_header_must_be_as_described_too(value: str, is_described: bool) -> None:
    described = with_response("204", headers={"X-A": {"schema": STRING | {"enum": ["a", "long"], "maxLength": 3}}})
    service = Service(described, answering(lambda: ConnexionResponse(204, headers={"X-A": value})))

    answer = service.request("GET", "/things")

    assert answer.header(b"x-a") == (b"a" if is_described else None)
    assert [type(error) for error in service.errors] == ([] if is_described else [NonConformingResponseHeaders])


@pytest.mark.parametrize(
    ("path", "allow"),
    [("/things", b"GET, HEAD, OPTIONS, POST"), ("/things/a", b"DELETE, GET, HEAD, OPTIONS")],
)
def test_options_tells_the_methods_without_a_body(routed: Service, path: str, allow: bytes) -> None:
    answer = routed.request("OPTIONS", path)

    assert (answer.status, answer.headers, answer.body) == (204, [(b"allow", allow)], b"")


def test_options_tells_which_patches_there_are() -> None:
    content = json_of({}) | {"application/merge-patch+json": {"schema": {}}}
    service = Service(contract({"/things": {"patch": operation(requestBody={"content": content})}}))

    answer = service.request("OPTIONS", "/things")

    assert answer.header(b"accept-patch") == b"application/json, application/merge-patch+json"


def test_options_of_the_contract_go_before_ours() -> None:
    service = Service(contract({"/things": {"get": operation("get"), "options": operation()}}))

    answer = service.request("OPTIONS", "/things")

    assert (answer.status, answer.header(b"allow")) == (204, None)


def test_head_is_get_without_the_body(routed: Service) -> None:
    got, head = routed.request("GET", "/things/a"), routed.request("HEAD", "/things/a")

    assert (head.status, head.headers, head.body) == (got.status, got.headers, b"")
    assert head.header(b"content-length") == b"%d" % len(got.body)


def test_head_of_its_own_is_used() -> None:
    calls: list[str] = []

    async def peek() -> ConnexionResponse:
        calls.append("peek")
        return ConnexionResponse(204)

    service = Service(contract({"/things": {"get": operation(), "head": operation("peek")}}), {"peek": peek})

    assert service.request("HEAD", "/things").status == 204
    assert calls == ["peek"]


@pytest.mark.parametrize("url", ["/v1", "/v1/", "https://example.org/v1", "/{version}"])
def test_paths_begin_with_the_path_of_the_server(url: str) -> None:
    server = {"url": url} | ({"variables": {"version": {"default": "v1"}}} if "{" in url else {})
    service = Service(contract({"/things": {"get": operation()}}, servers=[server]))

    assert service.request("GET", "/v1/things").status == 204
    assert service.request("GET", "/things").body == b"elsewhere"


# Parameters.


def test_parameters_come_from_path_query_and_headers_with_their_types() -> None:
    parameters = [
        ID,
        {"name": "limit", "in": "query", "schema": {"type": "integer", "default": 20}},
        {"name": "ratio", "in": "query", "schema": {"type": "number", "default": 1}},
        {"name": "done", "in": "query", "schema": {"type": "boolean"}},
        header("If-Match"),
    ]
    described = contract({"/things/{thing_id}": {"get": operation(responses=ECHOED, parameters=parameters)}})
    service = Service(described, echoing("thing_id", "limit", "ratio", "done", "if_match"))

    given = service.request("GET", "/things/7?limit=5&ratio=2&done=TRUE", headers=[("IF-MATCH", '"1"')])
    absent = service.request("GET", "/things/7")

    assert given.body == b'{"thing_id": "7", "limit": 5, "ratio": 2.0, "done": true, "if_match": "\\"1\\""}'
    assert absent.body == b'{"thing_id": "7", "limit": 20, "ratio": 1.0, "done": null, "if_match": null}'


def test_fields_of_one_header_are_joined() -> None:
    """They are one list (RFC 9110, section 5.2)."""
    described = contract({"/things": {"get": operation(responses=ECHOED, parameters=[header("If-Match")])}})
    service = Service(described, echoing("if_match"))

    answer = service.request("GET", "/things", headers=[("If-Match", '"1"'), ("If-Match", '"2"')])

    assert json.loads(answer.body) == {"if_match": '"1", "2"'}


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("/things?q=a&q=a", "q"),
        ("/things?q=a&r=1", "r"),
        ("/things?Q=a&q=a", "Q"),
        ("/things", "q"),
        ("/things?q=aaaa", "q"),
        ("/things?q=%FF", ""),
        ("/things?q=a" + "&q=a" * 100, ""),
    ],
    ids=["repeated", "unknown", "of another case", "missing", "too long", "not UTF-8", "too many"],
)
def test_a_query_that_is_not_as_described_is_invalid(target: str, name: str) -> None:
    service = Service(with_parameter(required=True, schema=STRING | {"maxLength": 3}))

    assert service.request("GET", target).status == 422
    assert [error["parameter"] for error in service.errors[0].ext["errors"]] == [name]


# Bodies.


def body_service(schema: Any, *, required: bool = False) -> Service:
    body = {"required": required, "content": json_of(schema)}
    return Service(contract({"/things": {"post": operation(responses=ECHOED, requestBody=body)}}), echoing("body"))


AS_JSON = ("Content-Type", JSON)


def length_of(body: bytes) -> tuple[str, str]:
    return ("Content-Length", str(len(body)))


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([], id="nothing"),
        pytest.param([AS_JSON], id="media type"),
        pytest.param([("Content-Length", "0")], id="length 0"),
        pytest.param([AS_JSON, ("Content-Length", "0")], id="media type and length 0"),
        pytest.param([AS_JSON, ("Transfer-Encoding", "chunked")], id="chunked, of no chunks"),
    ],
)
def test_an_optional_body_may_be_absent(headers: list[tuple[str, str]]) -> None:
    assert body_service(STRING).request("POST", "/things", headers=headers).body == b'{"body": null}'


@pytest.mark.parametrize(
    ("headers", "status", "error"),
    [
        pytest.param([], 415, UnsupportedMediaTypeProblem, id="no media type"),
        pytest.param([AS_JSON], 422, InvalidRequest, id="no length"),
        pytest.param([AS_JSON, ("Content-Length", "0")], 422, InvalidRequest, id="length 0"),
    ],
)
def test_a_required_body_may_not_be_absent(headers: list[tuple[str, str]], status: int, error: type[Exception]) -> None:
    service = body_service(STRING, required=True)

    assert service.request("POST", "/things", headers=headers).status == status
    assert [type(raised) for raised in service.errors] == [error]


@pytest.mark.parametrize("required", [True, False], ids=["required", "optional"])
def test_a_chunked_body_is_put_together(required: bool) -> None:
    pieces = [b'"ol', b"", b"\xc3", b'\xa9"']

    answer = body_service(STRING, required=required).request(
        "POST", "/things", body=pieces, headers=[AS_JSON, ("Transfer-Encoding", "chunked")]
    )

    assert json.loads(answer.body) == {"body": "ol\u00e9"}


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("Application/JSON", 200),
        ("application/json;charset=utf-8", 200),
        ('application/json ; charset="UTF-8"', 200),
        ("application/json; charset=utf-8;", 200),
        ("application/json; charset=UTF-8; profile=x", 200),
        ('application/json; x="; charset=latin-1"', 200),
        ("application/json; charset=latin-1", 415),
        ("application/json; v=1; charset=latin-1", 415),
        ("text/plain", 415),
        ("application/problem+json", 415),
        ("application/*", 415),
        ("", 415),
    ],
)
def test_a_body_has_the_media_type_of_the_contract(content_type: str, status: int) -> None:
    answer = body_service(STRING).request("POST", "/things", body=[b'"a"'], headers=[("Content-Type", content_type)])

    assert answer.status == status


@pytest.mark.parametrize(
    "body",
    [b"{", b"a", b'"\xff"', b"NaN", b"1e400", b'"\\ud800"', b"[" * 100_000, b"\x00", b'"a" "b"', b"null", b"1"],
    ids=["cut", "bare", "not UTF-8", "NaN", "too large", "lone surrogate", "too deep", "NUL", "two", "null", "number"],
)
def test_a_body_that_is_not_as_described_is_invalid(body: bytes) -> None:
    service = body_service(STRING)
    # A body whose size is under the limit: the deep one is of 100,000 bytes.
    body = body[:BODY_LIMIT_BYTES]

    answer = service.request("POST", "/things", body=[body], headers=[AS_JSON, length_of(body)])

    assert answer.status == 422
    assert [error["pointer"] for error in service.errors[0].ext["errors"]] == [""]


def test_what_is_wrong_with_a_body_is_pointed_at() -> None:
    service = body_service({"type": "object", "properties": {"a/b": {"type": "array", "items": {"type": "integer"}}}})

    service.request("POST", "/things", body=[b'{"a/b":[1,"x","y"]}'], headers=[AS_JSON])

    assert [error["pointer"] for error in service.errors[0].ext["errors"]] == ["/a~1b/1", "/a~1b/2"]


@pytest.mark.parametrize("declared", [True, False], ids=["with a length", "chunked"])
@pytest.mark.parametrize(("size", "status"), [(65_535, 200), (65_536, 200), (65_537, 413)])
def test_a_body_may_be_of_64_kibibytes_and_not_a_byte_more(size: int, status: int, declared: bool) -> None:
    body = b'"%s"' % (b"a" * (size - 2))
    framing = length_of(body) if declared else ("Transfer-Encoding", "chunked")

    service = body_service(STRING)
    answer = service.request("POST", "/things", body=[body[:9], body[9:]], headers=[AS_JSON, framing])

    assert answer.status == status
    assert [type(error) for error in service.errors] == [ContentTooLarge] * (status == 413)


def test_a_body_that_says_that_it_is_too_large_is_not_read() -> None:
    service = body_service(STRING)

    answer = service.request("POST", "/things", headers=[AS_JSON, ("Content-Length", "65537")])

    assert (answer.status, service.received) == (413, 0)


def test_a_body_that_is_larger_than_it_says_is_read_no_further_than_the_limit() -> None:
    service = body_service(STRING)
    pieces = [b'"', *[b"a" * 32_768] * 10]

    answer = service.request("POST", "/things", body=pieces, headers=[AS_JSON, ("Content-Length", "3")])

    assert (answer.status, service.received) == (413, 3)


# Responses.


ANSWERS = {
    "200": {
        "description": "A thing",
        "headers": {
            "ETag": {"required": True, "schema": STRING | {"pattern": '^".*"$'}},
            "X-Count": {"schema": {"type": "integer"}},
            "Content-Type": {"schema": {"type": "string", "enum": ["has/no meaning"]}},
        },
        "content": json_of({"type": "object", "properties": {"a": {"type": "integer"}}}),
    },
    "204": {"description": "Nothing"},
}
GOOD = {"ETag": '"1"'}


def thing(
    body: bytes | None = b"{}", *, status: int = 200, content_type: str | None = JSON, **headers: str
) -> ConnexionResponse:
    named = {name.replace("_", "-"): value for name, value in (GOOD | headers).items() if value}
    return ConnexionResponse(status, content_type=content_type, body=body, headers=named)


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(thing, id="plain"),
        pytest.param(lambda: thing(b'{"a":1}', X_Count="3"), id="header as described"),
        pytest.param(lambda: ConnexionResponse(204), id="nothing"),
    ],
)
def test_an_answer_as_described_leaves(response: Callable[[], ConnexionResponse]) -> None:
    service = Service(contract({"/things": {"get": operation(responses=ANSWERS)}}), answering(response))

    answer = service.request("GET", "/things")

    assert (answer.status, service.errors) == (response().status_code, [])
    assert (answer.header(b"content-length") is None) == (answer.status == 204)


@pytest.mark.parametrize(
    ("response", "violation"),
    [
        pytest.param(lambda: thing(status=201), NonConformingResponse, id="status undeclared"),
        pytest.param(lambda: thing(content_type="text/plain"), NonConformingResponseBody, id="media type undeclared"),
        pytest.param(lambda: thing(content_type=None), NonConformingResponseBody, id="media type missing"),
        pytest.param(lambda: thing(b'{"a":"x"}'), NonConformingResponseBody, id="body not as described"),
        pytest.param(lambda: thing(b"{"), NonConformingResponseBody, id="body not JSON"),
        pytest.param(lambda: thing(b"NaN"), NonConformingResponseBody, id="body of no number"),
        pytest.param(lambda: thing(b""), NonConformingResponseBody, id="body empty"),
        pytest.param(lambda: thing(None), NonConformingResponseBody, id="body missing"),
        pytest.param(lambda: thing(b"[" * 300 + b"]" * 300), NonConformingResponseBody, id="body too deep"),
        pytest.param(lambda: thing(ETag=""), NonConformingResponseHeaders, id="required header missing"),
        pytest.param(lambda: thing(ETag="1"), NonConformingResponseHeaders, id="header not as described"),
        pytest.param(lambda: thing(X_Count="x"), NonConformingResponseHeaders, id="header of another type"),
        pytest.param(lambda: thing(X_Undeclared="a"), NonConformingResponseHeaders, id="header undeclared"),
        pytest.param(lambda: thing(**{"x-count": "x"}), NonConformingResponseHeaders, id="header in other case"),
        pytest.param(lambda: ConnexionResponse(204, body=b"{}"), NonConformingResponseBody, id="body of a 204"),
        pytest.param(
            lambda: ConnexionResponse(204, content_type=JSON), NonConformingResponseBody, id="media type of a 204"
        ),
    ],
)
def test_an_answer_that_breaks_the_contract_does_not_leave(
    response: Callable[[], ConnexionResponse], violation: type[Exception]
) -> None:
    """`on_error` gets the violation, and what it answers is sent."""
    described = contract({"/things": {"get": operation(responses=ANSWERS | PROBLEMS)}})
    del described["paths"]["/things"]["get"]["responses"]["default"]
    service = Service(described, answering(response))

    service.request("GET", "/things")

    assert isinstance(service.errors[0], violation)


def test_the_default_response_describes_every_status_that_is_not_declared() -> None:
    described = contract({"/things": {"get": operation(responses=DONE)}})
    teapot = Service(described, answering(lambda: ConnexionResponse(418, content_type=PROBLEM, body=b"{}")))
    broken = Service(described, answering(lambda: ConnexionResponse(418, content_type=PROBLEM, body=b"[]")))

    assert teapot.request("GET", "/things").status == 418
    assert broken.request("GET", "/things").status == 500
    assert [type(error) for error in broken.errors] == [NonConformingResponseBody]


def test_an_error_of_a_handler_is_answered() -> None:
    def fails() -> ConnexionResponse:
        raise LookupError("no such thing")

    service = Service(contract({"/things": {"get": operation()}}), answering(fails))

    assert service.request("GET", "/things").status == 500
    assert [str(error) for error in service.errors] == ["no such thing"]


def test_the_answer_to_an_error_is_checked_as_well() -> None:
    """A problem that the operation does not declare becomes an error of ours."""
    described = contract({"/things": {"get": operation(responses={"204": DONE["204"]}, parameters=[query("q")])}})
    service = Service(described)

    assert service.request("GET", "/things?unknown=1").status == 500
    assert [type(error) for error in service.errors] == [InvalidRequest, NonConformingResponse]
