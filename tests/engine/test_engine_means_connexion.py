"""The engine accepts and refuses what Connexion's own validators do, and hands the handler the same values.

Connexion is the oracle: its request and response validation, with its JSON and parameter validators, its URI parser and
its way from a request to a handler's arguments, run unchanged, strictly. Contracts are generated, and requests and
responses from them, about half of them valid. What the two do differently stands in `DIFFERENCES`, each with its
reason; anything else fails.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, unquote, unquote_to_bytes

import pytest
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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.routing import compile_path

from openapi.contract import BODY_LIMIT_BYTES
from openapi.operations import Operation
from openapi.routing import decode_segment

Place = Literal["query", "path", "header", "body", "response"]
Schema = dict[str, Any]

CONTRACTS: dict[Place, int] = {"query": 800, "path": 400, "header": 200, "body": 1100, "response": 600}
"""How many contracts are generated with a schema in each place."""

INPUTS_PER_CONTRACT = 8

JSON = "application/json"


# What is sent, and what becomes of it.


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


def run(coroutine: Any) -> Any:
    """The result of a coroutine that never has to wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the coroutine waits")


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


# Contracts and inputs. Inputs are derived from the schema, then spoilt.

PATTERNS = {
    "^[a-c]+$": ("a", "abc", "cab"),
    "^[0-9]{1,3}$": ("0", "42", "999"),
    "[xyz]": ("x", "axb", "zz"),
    "^(a|bc)*$": ("", "abc", "aa"),
    "^[^a]$": ("b", "\u20ac", "\U0001f600"),
    "^[A-Z][a-z]*$": ("A", "Abc", "Zebra"),
    "b$": ("b", "ab", "bb"),
    "^a.c": ("abc", "a\u20acc", "a\u2028c"),
}

FORMATS = {
    "uuid": (
        "0190f3a4-7b1c-7def-8123-456789abcdef", "00000000-0000-0000-0000-00000000000",
        "0190f3a47b1c7def8123456789abcdef",
    ),
    "date": ("2026-02-28", "2026-13-01", "20260228"),
    "date-time": (
        "2026-02-28T12:00:00Z", "2026-02-30T12:00:00Z", "2026-02-28T12:00:00.5+01:00", "2026-02-28",
        "2016-12-31T23:59:60Z",
    ),
    "email": ("ada@example.org", "ada", "ada@"),
    "hostname": ("example.org", "-a", "a_b"),
    "ipv4": ("127.0.0.1", "127.0.0.256", "127.1"),
    "ipv6": ("::1", "1::2::3", "127.0.0.1"),
    "uri": ("https://example.org/a", "a b", "example.org"),
    "password": ("secret",),
    "uri-reference": ("/a", "a b"),
}  # fmt: skip

TEXTS = (
    "", "a", "ab", "abc", "b\n", "a\n", "x y", "A", "0", "1", "true", "null", "None", "\u00e9", "\u20ac",
    "\U0001f600", "a\u0301", "\x00", "\x1c", "a/b", "a%b", "a+b", "a,b",
)  # fmt: skip
INTEGERS = (
    0,
    1,
    -1,
    2,
    3,
    5,
    10,
    2**31 - 1,
    2**31,
    -(2**31) - 1,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63) - 1,
    10**30,
)
NUMBERS = (0.5, 0.1, 0.3, 1.0, -1.5, 4.35, 2.0, 1e16, 1e-7, 1e300, 0.01, -0.0)
MULTIPLES = (1, 2, 3, 7, 0.5, 0.25)
BINARY_UNFRIENDLY_MULTIPLES = (0.1, 0.01)
NAMES = ("a", "b", "c", "d", "a/b", "~")

# What clients write where numbers and booleans belong: Python's int() and float() take more of it than JSON does.
ODD_SCALARS = (
    "", " 1", "1 ", "1_0", "+1", "01", "1.0", "1.", ".5", "1e2", "1E-2", "-0", "--1", "0x1", "\u0661", "nan", "inf",
    "-Infinity", "1e400", "1\n", "True", "FALSE", "TRUE", "yes", "on", "null", "None", "1,2", "9" * 30,
)  # fmt: skip

ODD_QUERIES = (
    b"p", b"p=", b"&&", b"p=%FF", b"p=%C3%28", b"p=\xe9", b"q=1", b"P=a", b"p[]=a", b"p[a]=a", b"p=a;q=b", b"p=1&p=2",
    b"p=a&p=a", b"p=a&q=1", b"=a", b"p=a&", b"%70=a", b"p==", b"p=a=b", b"p=%zz", b"p=a" + b"&q=1" * 100,
)  # fmt: skip

ODD_TEXTS_OF_JSON = (
    b"", b" ", b"{", b"null", b"NaN", b"[NaN]", b"Infinity", b"-Infinity", b"1e400", b"[1e400]", b"1e-400", b"01",
    b"+1", b"-0", b"1.", b'"\\ud800"', b'["\\udc00"]', b'"\\ud83d\\ude00"', b'"\xff"', b'"\xe9"', b"\xef\xbb\xbf1",
    b"{'a':1}", b'{"a":1,"a":"x"}', b"[1,]", b"1 2", b"/**/1", b'"\t"', b'"\\u0000"', b"true", b"True", b"\x00",
    b"[" * 100 + b"]" * 100, b"[" * 300 + b"]" * 300, b"[" * 100_000,
)  # fmt: skip

CONTENT_TYPES = (
    None, b"application/json; charset=utf-8", b"application/json;charset=UTF-8", b'application/json;charset="utf-8"',
    b"application/json;charset=latin-1", b"application/json; charset=latin-1", b"Application/JSON",
    b"application/json ;charset=utf-8", b"application/problem+json", b"text/plain", b"", b"application/json;v=1",
)  # fmt: skip


class Choices:
    """Draws from Hypothesis, in the few ways that are needed here, cheaply."""

    def __init__(self, draw: Callable[..., Any]) -> None:
        self.draw = draw

    def integer(self, low: int, high: int) -> int:
        drawn: int = self.draw(_integers(low, high))
        return drawn

    def chance(self, percent: int) -> bool:
        """True that often; shrinks towards False."""
        return self.integer(1, 100) > 100 - percent

    def one_of(self, options: Any) -> Any:
        return options[self.integer(0, len(options) - 1)]

    def some_of(self, options: Any) -> list[Any]:
        return [option for option in options if self.chance(50)]


_integers = cache(st.integers)


def any_schema(choices: Choices, depth: int, *, parameter: bool = False) -> Schema:
    """A schema object: for a parameter a scalar's, with a type."""
    kinds = ["string", "integer", "number", "boolean", "string", "integer"]
    if not parameter:
        kinds += ["untyped", "object", "object", "array", "array"] if depth else ["untyped"]
    kind = choices.one_of(kinds)
    schema = SCHEMAS[kind](choices, depth)
    if kind != "untyped":
        schema = {"type": kind} | schema
        if not parameter and choices.chance(15):
            schema["nullable"] = True
    # The engine makes members of allOf from formats, so that the two meet often enough.
    if depth and choices.chance(50 if "format" in schema else 20):
        keyword = choices.one_of(("allOf", "allOf", "anyOf", "oneOf", "not"))
        # Members of the same type, or else hardly a value is valid.
        members = [
            ({"type": kind} if kind != "untyped" and choices.chance(70) else {}) | SCHEMAS[kind](choices, 0)
            for _ in range(1 if keyword == "not" else choices.integer(1, 2))
        ]
        schema[keyword] = members[0] if keyword == "not" else members
    return schema


def string_schema(choices: Choices, _depth: int) -> Schema:
    match choices.integer(0, 5):
        case 0:
            return {"enum": choices.some_of(TEXTS) or ["a"]}
        case 1:
            return {"pattern": choices.one_of(tuple(PATTERNS))}
        case 2:
            return {"format": choices.one_of(tuple(FORMATS))}
        case 3:
            low = choices.integer(0, 2)
            return {"minLength": low, "maxLength": low + choices.integer(0, 3)}
        case 4:
            return {"pattern": choices.one_of(tuple(PATTERNS)), "maxLength": choices.integer(1, 5)}
    return {}


def bounds(choices: Choices, numbers: tuple[Any, ...]) -> Schema:
    schema: Schema = {}
    low, high = sorted((choices.one_of(numbers), choices.one_of(numbers)))
    if choices.chance(60):
        schema["minimum"] = low
        if choices.chance(60):
            schema["exclusiveMinimum"] = choices.chance(70)
    if choices.chance(60):
        schema["maximum"] = high
        if choices.chance(60):
            schema["exclusiveMaximum"] = choices.chance(70)
    return schema


def integer_schema(choices: Choices, _depth: int) -> Schema:
    match choices.integer(0, 4):
        case 0:
            return {"enum": choices.some_of(INTEGERS) or [1]}
        case 1:
            return {"multipleOf": choices.one_of(MULTIPLES)}
        case 2:
            return {"format": choices.one_of(("int32", "int64"))}
        case 3:
            return bounds(choices, INTEGERS if choices.chance(30) else INTEGERS[:7])
    return {}


def number_schema(choices: Choices, _depth: int) -> Schema:
    match choices.integer(0, 4):
        case 0:
            return {"enum": choices.some_of(NUMBERS + INTEGERS) or [0.5]}
        case 1:
            return {"multipleOf": choices.one_of(MULTIPLES + BINARY_UNFRIENDLY_MULTIPLES)}
        case 2:
            return {"format": choices.one_of(("float", "double"))}
        case 3:
            return bounds(choices, NUMBERS + INTEGERS if choices.chance(30) else INTEGERS[:7])
    return {}


def boolean_schema(choices: Choices, _depth: int) -> Schema:
    return {"enum": [choices.chance(50)]} if choices.chance(30) else {}


def untyped_schema(choices: Choices, _depth: int) -> Schema:
    return {"enum": [any_json(choices, 1) for _ in range(3)]} if choices.chance(60) else {}


def object_schema(choices: Choices, depth: int) -> Schema:
    schema: Schema = {"properties": {name: any_schema(choices, depth - 1) for name in choices.some_of(NAMES[:4])}}
    if choices.chance(50):
        schema["required"] = choices.some_of(NAMES) or ["a"]
    if choices.chance(60):
        schema["additionalProperties"] = any_schema(choices, 0) if choices.chance(40) else choices.chance(30)
    if choices.chance(20):
        schema["minProperties"] = choices.integer(0, 2)
    if choices.chance(20):
        schema["maxProperties"] = choices.integer(1, 4)
    return schema


def array_schema(choices: Choices, depth: int) -> Schema:
    schema: Schema = {"items": any_schema(choices, depth - 1)}
    if choices.chance(40):
        schema["minItems"] = choices.integer(0, 2)
    if choices.chance(40):
        schema["maxItems"] = choices.integer(2, 4)
    if choices.chance(30):
        schema["uniqueItems"] = True
    return schema


SCHEMAS: dict[str, Callable[[Choices, int], Schema]] = {
    "string": string_schema,
    "integer": integer_schema,
    "number": number_schema,
    "boolean": boolean_schema,
    "untyped": untyped_schema,
    "object": object_schema,
    "array": array_schema,
}


def any_json(choices: Choices, depth: int) -> Any:  # noqa: PLR0911 - one for each kind of value
    """Any JSON value."""
    match choices.integer(0, 7 if depth else 5):
        case 0:
            return None
        case 1:
            return choices.chance(50)
        case 2:
            return choices.one_of(INTEGERS)
        case 3:
            return choices.one_of(NUMBERS)
        case 4 | 5:
            return choices.one_of(TEXTS)
        case 6:
            return [any_json(choices, depth - 1) for _ in range(choices.integer(0, 3))]
    return {name: any_json(choices, depth - 1) for name in choices.some_of(NAMES)}


def value_for(choices: Choices, schema: Schema) -> Any:  # noqa: PLR0911 - one for each kind of value
    """A value that is rather as the schema says."""
    for keyword in ("allOf", "anyOf", "oneOf"):
        if schema.get(keyword) and choices.chance(60):
            return value_for(choices, schema | {keyword: None} | choices.one_of(schema[keyword]))
    if schema.get("nullable") and choices.chance(15):
        return None
    if "enum" in schema:
        return choices.one_of(schema["enum"])
    match schema.get("type"):
        case "string":
            return string_for(choices, schema)
        case "integer" | "number" as kind:
            return number_for(choices, schema, INTEGERS if kind == "integer" else NUMBERS + INTEGERS)
        case "boolean":
            return choices.chance(50)
        case "array":
            low = schema.get("minItems", 0)
            return [value_for(choices, schema["items"]) for _ in range(choices.integer(low, max(low, 3)))]
        case "object":
            properties, additional = schema.get("properties", {}), schema.get("additionalProperties", {})
            names = [name for name in NAMES if name in schema.get("required", ()) or name in properties]
            names = [name for name in names if name in schema.get("required", ()) or choices.chance(60)]
            others = {} if isinstance(additional, bool) else additional
            return {name: value_for(choices, properties.get(name, others)) for name in names}
    return any_json(choices, 1)


def string_for(choices: Choices, schema: Schema) -> str:
    if "format" in schema:
        text: str = FORMATS[schema["format"]][0] if choices.chance(60) else choices.one_of(FORMATS[schema["format"]])
    elif "pattern" in schema:
        text = choices.one_of(PATTERNS[schema["pattern"]])
    elif "minLength" in schema:
        length = choices.integer(schema["minLength"], schema["maxLength"])
        text = "".join(choices.one_of("ab0\u00e9\U0001f600") for _ in range(length))
    else:
        text = choices.one_of(TEXTS)
    return text


def number_for(choices: Choices, schema: Schema, numbers: tuple[Any, ...]) -> Any:
    if "multipleOf" in schema:
        product = schema["multipleOf"] * choices.integer(-5, 50)
        return int(product) if schema["type"] == "integer" else product
    limits = [schema[keyword] for keyword in ("minimum", "maximum") if keyword in schema]
    if limits and choices.chance(50):
        return choices.one_of(limits)
    fitting = [number for number in numbers if schema.get("minimum", number) <= number <= schema.get("maximum", number)]
    return choices.one_of(fitting or numbers)


def spoilt(choices: Choices, value: Any) -> Any:  # noqa: PLR0911 - one for each kind of value
    """The value with one thing changed."""
    match value:
        case [_, *_] if choices.chance(70):
            index = choices.integer(0, len(value) - 1)
            changed = [spoilt(choices, value[index])] if choices.chance(60) else [value[index]] * choices.integer(0, 2)
            return value[:index] + changed + value[index + 1 :]
        case {} if value and choices.chance(70):
            name = choices.one_of(tuple(value))
            others = {key: member for key, member in value.items() if key != name}
            match choices.integer(0, 2):
                case 0:
                    return others
                case 1:
                    return others | {name: spoilt(choices, value[name])}
            return value | {choices.one_of(NAMES): any_json(choices, 0)}
        case bool():
            return any_json(choices, 0)
        case int() | float() if choices.chance(70):
            return choices.one_of((value + 1, value - 1, -value, float(value), value + 0.5, str(value)))
        case str() if choices.chance(70):
            return choices.one_of((value + "a", value + "\n", value[1:], " " + value, value.swapcase()))
    return any_json(choices, 1)


def scalar_text(choices: Choices, value: Any) -> str:
    if isinstance(value, bool):
        return choices.one_of(("true", "True") if value else ("false", "FALSE"))
    return value if isinstance(value, str) else json.dumps(value)


def parameter_case(choices: Choices, place: Place, schema: Schema, required: bool) -> Case:
    case = Case(place, schema, required=required)
    if place != "path" and choices.chance(8):
        return case
    value = value_for(choices, schema)
    if choices.chance(25):
        value = spoilt(choices, value)
    text = choices.one_of(ODD_SCALARS) if choices.chance(15) else scalar_text(choices, value)
    encoded = text.encode("utf-8", "surrogatepass")
    match place:
        case "query":
            if choices.chance(10):
                return replace(case, sent=(choices.one_of(ODD_QUERIES),))
            return replace(case, sent=(b"p=" + quote(encoded, safe="+" if choices.chance(10) else "").encode(),))
        case "path":
            return replace(case, sent=(quote(encoded, safe="").encode() or b"a",))
    # A header is of one line, and servers strip the space around it.
    field = re.sub(rb"[\x00-\x08\x0a-\x1f\x7f]", b"", text.encode("latin-1", "ignore")).strip(b" \t")
    return replace(case, sent=(field, field) if choices.chance(3) else (field,))


def json_case(choices: Choices, place: Place, schema: Schema, required: bool) -> Case:
    case = Case(place, schema, required=required)
    value = value_for(choices, schema)
    if choices.chance(40):
        value = spoilt(choices, value)
    body = json.dumps(value, ensure_ascii=choices.chance(50)).encode("utf-8", "surrogatepass")
    if choices.chance(8):
        body = choices.one_of(ODD_TEXTS_OF_JSON)
    case = replace(case, sent=(body,))
    if choices.chance(6):
        case = replace(case, content_type=choices.one_of(CONTENT_TYPES))
    if place == "response" and choices.chance(5):
        case = replace(case, status=choices.one_of((201, 204, 400, 404)))
    if place == "response" and choices.chance(8):
        case = replace(case, header=choices.one_of((None, "longer")))
    return case


@st.composite
def contracts(draw: Callable[..., Any], place: Place) -> list[Case]:
    """Several inputs to one contract."""
    choices = Choices(draw)
    is_json = place in ("body", "response")
    schema = any_schema(choices, 2 if is_json else 1, parameter=not is_json)
    required = choices.chance(50)
    if place == "query" and not required and choices.chance(30):
        # A default must itself be as the schema says, or the contract is refused.
        plain = {"type": schema["type"]}
        default = value_for(choices, plain)
        schema = plain | {"default": default or default + 0 if plain["type"] == "number" else default}
    make = json_case if is_json else parameter_case
    return [make(choices, place, schema, required) for _ in range(INPUTS_PER_CONTRACT)]


# What the two do differently.


def parts(value: Any) -> Iterator[Any]:
    """A JSON value and all within it."""
    yield value
    match value:
        case list():
            members = value
        case dict():
            members = [*value, *value.values()]
        case _:
            return
    for member in members:
        yield from parts(member)


def mapped(schema: Any, change: Callable[[str, Any], Any]) -> Any:
    """A schema with each keyword's value changed; a keyword whose value becomes None goes."""
    match schema:
        case dict():
            changed = {key: mapped(change(key, value), change) for key, value in schema.items()}
            return {key: value for key, value in changed.items() if value is not None}
        case list():
            return [mapped(member, change) if isinstance(member, dict) else member for member in schema]
    return schema


def without(case: Case, keyword: str, *values: Any) -> Case:
    """The case under a contract without the keyword, or only without some values of it."""

    def change(key: str, value: Any) -> Any:
        return None if key == keyword and (not values or value in values) else value

    return replace(case, schema=mapped(case.schema, change))


def mentions(case: Case, keyword: str, *values: Any) -> bool:
    return without(case, keyword, *values).schema != case.schema


def kind(case: Case) -> Any:
    return case.schema.get("type")


def query_pairs(case: Case) -> list[tuple[str, str]]:
    return (
        parse_qsl(case.sent[0].decode("latin-1"), keep_blank_values=True) if case.place == "query" and case.sent else []
    )


def is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _with_strict_end(keyword: str, value: Any) -> Any:
    is_lenient = keyword == "pattern" and value.endswith("$") and not value.endswith(STRICT_END)
    return value[:-1] + STRICT_END if is_lenient else value


STRICT_END = r"(?!\n)$"
"""The end of the text to both, and nothing else."""


def ends_text_with_newline(case: Case) -> bool:
    """A newline ends a text, and what `$` means there is all that sets the two apart."""
    if not any(isinstance(part, str) and part.endswith("\n") for part in parts(case.value)):
        return False
    strict = mapped(case.schema, _with_strict_end)
    strict_case = without(replace(case, schema=strict), "format", "date-time")
    return strict_case.schema != case.schema and agreed(strict_case)


def is_number_of_python(case: Case) -> bool:
    """Python's int() or float() takes the text, although there is more to it than digits, sign, point and exponent."""
    if kind(case) not in ("integer", "number") or not case.sent:
        return False
    form = r"[+-]?[0-9]+" if kind(case) == "integer" else r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?"
    try:
        (int if kind(case) == "integer" else float)(case.text)
    except ValueError:
        return False
    return not re.fullmatch(form, case.text, re.ASCII)


def has_large_number(case: Case) -> bool:
    value = case.value
    if isinstance(value, str) and kind(case) in ("integer", "number"):
        value = as_float(value)
    return any(isinstance(part, int | float) and abs(part) > 2**53 for part in parts(value))


def as_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def is_lenient_json(case: Case) -> bool:
    """Python reads the body, and finds what RFC 8259 does not have, or no other reader would take."""
    if case.place not in ("body", "response"):
        return False
    found = [part for part in parts(case.value) if isinstance(part, float) and not -1e309 < part < 1e309]
    return bool(found) or any(
        isinstance(part, str) and re.search("[\ud800-\udfff]", part) for part in parts(case.value)
    )


def media_type(case: Case) -> str:
    return (case.content_type or b"").decode().partition(";")[0]


def sends_body(case: Case) -> bool:
    return case.place == "body" and bool(b"".join(case.sent))


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that the two do differently: who refuses it, why, when, and an example that nothing else explains."""

    name: str
    refuses: Literal["engine", "connexion", "either", "neither"]
    reason: str
    applies: Callable[[Case], bool]
    example: Case

    def explains(self, case: Case) -> bool:
        by_engine, by_connexion = outcomes(case)
        match by_engine, by_connexion:
            case None, Accepted():
                fits = self.refuses in ("engine", "either")
            case Accepted(), None:
                fits = self.refuses in ("connexion", "either")
            case _:
                fits = self.refuses == "neither"
        return fits and self.applies(case)


UNCHECKED_FORMATS = ("uuid", "date", "int32", "int64", "hostname", "uri", "email")

DIFFERENCES = (
    Difference(
        "formats",
        "either",
        "uuid, date, int32, int64, hostname and uri are asserted, and an email is more than an @; in Connexion not.",
        lambda case: (
            mentions(case, "format", *UNCHECKED_FORMATS)
            # A stricter member makes the whole more lenient only through these two.
            and (outcomes(case)[0] is REFUSED or mentions(case, "not") or mentions(case, "oneOf"))
            and agreed(without(case, "format", *UNCHECKED_FORMATS))
        ),
        Case("query", {"type": "string", "format": "uuid"}, (b"p=a",)),
    ),
    Difference(
        "leap seconds",
        "either",
        "RFC 3339 has them, and Python's datetime, by which Connexion checks, has not.",
        lambda case: (
            any(isinstance(part, str) and re.search(r":60([.Zz+-])", part) for part in parts(case.value))
            and mentions(case, "format", "date-time")
            and agreed(without(case, "format", "date-time"))
        ),
        Case("body", {"type": "string", "format": "date-time"}, (b'"2016-12-31T23:59:60Z"',)),
    ),
    Difference(
        "end of text",
        "either",
        "`$` is the end of the text (ECMA-262); in Python, and in its date-time, it also stands before a last newline.",
        ends_text_with_newline,
        Case("body", {"type": "string", "pattern": "^a$"}, (b'"a\\n"',)),
    ),
    Difference(
        "decimal multiples",
        "either",
        "0.3 is a multiple of 0.1: jsonschema-rs reckons in decimals, Python's jsonschema divides binary fractions.",
        lambda case: (
            mentions(case, "multipleOf", *BINARY_UNFRIENDLY_MULTIPLES)
            and agreed(without(case, "multipleOf", *BINARY_UNFRIENDLY_MULTIPLES))
        ),
        Case("body", {"type": "number", "multipleOf": 0.1}, (b"0.3",)),
    ),
    Difference(
        "numbers beyond 2**53",
        "either",
        "A double and the integer that it stands for are not always equal to jsonschema-rs, as they are to Python.",
        has_large_number,
        Case("body", {"enum": [2**64]}, (b"18446744073709551616.0",)),
    ),
    Difference(
        "numbers as Python writes them",
        "engine",
        "A contract's integer is not ' 1_0', nor its number 'nan': only digits, sign, point and exponent are read.",
        is_number_of_python,
        Case("query", {"type": "integer"}, (b"p=1_0",)),
    ),
    Difference(
        "repeated query parameters",
        "engine",
        "Which of two values was meant is nothing to guess; Connexion takes the last.",
        lambda case: len({name for name, _ in query_pairs(case)}) < len(query_pairs(case)),
        Case("query", {"type": "string"}, (b"p=a&p=b",)),
    ),
    Difference(
        "zero beside its default",
        "neither",
        "-0.0 stays what was sent; Connexion hands the default instead of a value that equals it.",
        lambda case: case.place == "query" and as_float(case.text) == 0 == case.schema.get("default"),
        Case("query", {"type": "number", "default": 0}, (b"p=-0.0",)),
    ),
    Difference(
        "queries that are not UTF-8",
        "engine",
        "Connexion replaces what it cannot decode, so that the handler gets what nobody sent.",
        lambda case: case.place == "query" and bool(case.sent) and not is_utf8(unquote_to_bytes(case.sent[0])),
        Case("query", {"type": "string"}, (b"p=%FF",)),
    ),
    Difference(
        "slashes in a path's value",
        "connexion",
        "A percent-encoded slash is part of its segment (RFC 3986, section 2.2); Connexion routes the decoded path.",
        lambda case: case.place == "path" and "/" in case.text,
        Case("path", {"type": "string"}, (b"a%2Fb",)),
    ),
    Difference(
        "exponents in a path's number",
        "connexion",
        "1e2 is a number in a path as it is in a query; Connexion's router does not match it.",
        lambda case: case.place == "path" and kind(case) == "number" and "e" in case.text.lower(),
        Case("path", {"type": "number"}, (b"1e2",)),
    ),
    Difference(
        "headers that are not text",
        "connexion",
        "Connexion validates a header's text as it is, so that no integer, number or boolean ever passes.",
        lambda case: case.place == "header" and kind(case) != "string",
        Case("header", {"type": "integer"}, (b"1",)),
    ),
    Difference(
        "repeated header fields",
        "either",
        "Fields of one name are one list (RFC 9110, section 5.2); Connexion looks at the first.",
        lambda case: case.place == "header" and len(case.sent) > 1,
        Case("header", {"type": "string", "maxLength": 1}, (b"a", b"a")),
    ),
    Difference(
        "lenient JSON",
        "engine",
        "NaN, Infinity, numbers too large for a double and lone surrogates are not JSON to others (RFC 8259).",
        is_lenient_json,
        Case("body", {"type": "number"}, (b"NaN",)),
    ),
    Difference(
        "bodies without a media type",
        "engine",
        "What a body is, is not guessed: 415. Connexion takes the first media type of the contract.",
        lambda case: case.place == "body" and not case.content_type,
        Case("body", {"type": "integer"}, (b"1",), content_type=None),
    ),
    Difference(
        "charsets",
        "engine",
        "JSON is UTF-8 (RFC 8259, section 8.1); Connexion decodes as the media type's parameter says.",
        lambda case: case.place == "body" and b"latin-1" in (case.content_type or b""),
        Case("body", {"type": "integer"}, (b"1",), content_type=b"application/json;charset=latin-1"),
    ),
    Difference(
        "space in a media type",
        "connexion",
        "Space before the semicolon is allowed (RFC 9110, section 5.6.6); Connexion takes it for a part of the name.",
        lambda case: case.place == "body" and media_type(case).endswith(" "),
        Case("body", {"type": "integer"}, (b"1",), content_type=b"application/json ;charset=utf-8"),
    ),
    Difference(
        "capitals in a media type",
        "engine",
        "Connexion accepts a body of the type Application/JSON without validating it; the engine validates it.",
        lambda case: case.place == "body" and media_type(case) == "Application/JSON",
        Case("body", {"type": "integer"}, (b'"a"',), content_type=b"Application/JSON"),
    ),
    Difference(
        "capitals in a media type, decoded",
        "neither",
        "Connexion hands a body of the type Application/JSON to the handler as bytes; the engine decodes it.",
        lambda case: case.place == "body" and media_type(case) == "Application/JSON",
        Case("body", {"type": "integer"}, (b"1",), content_type=b"Application/JSON"),
    ),
    Difference(
        "optional bodies",
        "connexion",
        "A body that the contract does not require may be absent; Connexion answers 400.",
        lambda case: case.place == "body" and not case.required and not sends_body(case),
        Case("body", {"type": "object"}, (b"",)),
    ),
    Difference(
        "absent bodies of a nullable schema",
        "neither",
        "The handler's own default holds for a body that is absent; Connexion hands null.",
        lambda case: case.place == "body" and not case.required and not sends_body(case),
        Case("body", {"type": "object", "nullable": True}, (b"",)),
    ),
    Difference(
        "null where no type is said",
        "connexion",
        "A schema without a type admits null; Connexion wants `nullable`, which means nothing there (OpenAPI 3.0.3).",
        lambda case: case.place == "body" and sends_body(case) and case.value is None and "type" not in case.schema,
        Case("body", {"enum": [None]}, (b"null",)),
    ),
    Difference(
        "bodies of which nothing is said",
        "engine",
        "A body under an empty schema is still to be JSON, and there if it is required; Connexion does not look at it.",
        lambda case: case.place == "body" and not case.schema,
        Case("body", {}, (b"{",)),
    ),
    Difference(
        "null where nothing is said",
        "neither",
        "An empty schema admits null, and null it stays; Connexion makes it an empty object.",
        lambda case: sends_body(case) and case.value is None and not case.schema,
        Case("body", {}, (b"null",)),
    ),
    Difference(
        "null beside other keywords",
        "engine",
        "`nullable` adds null to the type and the enumeration beside it; Connexion then looks at nothing else there.",
        lambda case: case.place == "body" and case.value is None and case.schema.get("nullable", False),
        Case("body", {"type": "object", "nullable": True, "allOf": [{"type": "object"}]}, (b"null",)),
    ),
    Difference(
        "texts that say null",
        "neither",
        "The texts 'null' and 'None' stay what they are; Connexion makes them null where the body may be null.",
        lambda case: (
            sends_body(case) and str(case.value).strip() in ("null", "None") and case.schema.get("nullable", False)
        ),
        Case("body", {"type": "string", "nullable": True}, (b'"None"',)),
    ),
    Difference(
        "answers without content",
        "engine",
        "An answer with a JSON media type has a JSON text; Connexion takes an empty one for null.",
        lambda case: case.place == "response" and not b"".join(case.sent),
        Case("response", {"enum": [None]}, (b"",)),
    ),
    Difference(
        "undeclared statuses",
        "engine",
        "An answer of a status that the contract does not have breaks it; Connexion lets it pass unchecked.",
        lambda case: case.place == "response" and case.status in (201, 404),
        Case("response", {"type": "integer"}, (b"1",), status=404),
    ),
    Difference(
        "content where none is declared",
        "engine",
        "A 204 has no content; Connexion lets any pass that some other answer may have.",
        lambda case: case.place == "response" and case.status == 204,
        Case("response", {"type": "integer"}, (b"1",), status=204, header=None),
    ),
    Difference(
        "undeclared media types",
        "engine",
        "An answer has the media type of its status, to the letter; Connexion takes one of any status, or none.",
        lambda case: (
            case.place == "response"
            and case.content_type != (b"application/problem+json" if case.status == 400 else b"application/json")
        ),
        Case("response", {"type": "integer"}, (b"1",), content_type=b"application/json; charset=utf-8"),
    ),
    Difference(
        "undeclared headers",
        "engine",
        "An answer has no header that its status does not declare, Content-Type aside; Connexion lets any pass.",
        lambda case: case.place == "response" and case.status in (204, 400) and case.header is not None,
        Case("response", {}, (b"{}",), content_type=b"application/problem+json", status=400),
    ),
    Difference(
        "values of answers' headers",
        "engine",
        "A declared header is validated when it is there; Connexion asks only for those that are required.",
        lambda case: case.place == "response" and case.header == "longer",
        Case("response", {"type": "integer"}, (b"1",), header="longer"),
    ),
)


def agreed(case: Case) -> bool:
    """Whether the two agree on a case, or a listed difference says why not."""
    by_engine, by_connexion = outcomes(case)
    return by_engine == by_connexion or any(difference.explains(case) for difference in DIFFERENCES)


# The claims.


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    # Connexion logs each refusal.
    caplog.set_level(logging.CRITICAL, logger="connexion")


@pytest.mark.conformance
@pytest.mark.parametrize(("place", "number"), CONTRACTS.items(), ids=CONTRACTS)
def test_engine_and_connexion_agree(place: Place, number: int, pytestconfig: pytest.Config) -> None:
    """What the engine accepts, Connexion accepts, with the same values for the handler; listed differences aside."""
    tally: Counter[str] = Counter()

    @settings(
        max_examples=number,
        # The same cases in every run, unless a seed is given: hypothesis would not look at it otherwise.
        derandomize=pytestconfig.getoption("--hypothesis-seed") is None,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    @given(cases=contracts(place))
    def agrees(cases: list[Case]) -> None:
        for case in cases:
            by_engine, by_connexion = outcomes(case)
            tally["agreed" if by_engine == by_connexion else "listed"] += 1
            tally["valid" if by_engine is not REFUSED else "invalid"] += 1
            assert agreed(case), f"{case}\nengine: {by_engine}\nConnexion: {by_connexion}"

    agrees()

    print(place, dict(tally))
    assert tally["valid"] + tally["invalid"] >= number * INPUTS_PER_CONTRACT
    assert 1 / 3 < tally["valid"] / (tally["valid"] + tally["invalid"]) < 2 / 3


@pytest.mark.conformance
@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.name)
def test_a_listed_difference_is_still_one(difference: Difference) -> None:
    """Its example is treated differently by the two, and no other row of the table says why."""
    explanations = [other.name for other in DIFFERENCES if other.explains(difference.example)]

    by_engine, by_connexion = outcomes(difference.example)
    assert by_engine != by_connexion
    assert explanations == [difference.name]
