"""A construct of OpenAPI that the engine does not implement stops the start, which says where it is."""

from __future__ import annotations

from functools import partial

import pytest
from connexion.middleware import ConnexionMiddleware

from openapi.errors import UnsupportedConstruct
from openapi.routing import RoutingMiddleware
from support.contracts import (
    BEARER,
    DONE,
    ID,
    STRING,
    Contract,
    Service,
    contract,
    elsewhere,
    handle,
    header,
    json_of,
    operation,
    query,
    run,
    with_body,
    with_header,
    with_parameter,
    with_parameters,
    with_response,
    with_schema,
    with_security,
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
        elsewhere, middlewares=[partial(RoutingMiddleware, on_error=service.on_error)], resolver=lambda _: handle
    )
    app.add_api(contract({"/a": {"get": operation()}}))
    app.add_api(contract({"/b": {"get": operation()}}, servers=[{"url": "/v2"}]))

    with pytest.raises(TypeError, match="second"):
        run(app({"type": "lifespan"}, None, None))
