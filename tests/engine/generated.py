"""Contracts, and inputs derived from their schemas, about half of which are then spoilt."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st

from engine.oracle import Case, Place, Schema

INPUTS_PER_CONTRACT = 8


NOT_BLANK = r"^\s*\S[\s\S]*$"

PATTERNS = {
    NOT_BLANK: (" a", "\t\n", "\ufeff", "\x85", "\x1c", "\u200b", "\u180e", "\u3000"),
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
