"""What the engine and Connexion do differently, each with its reason and an example."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote_to_bytes

from engine.generated import BINARY_UNFRIENDLY_MULTIPLES, NOT_BLANK
from engine.oracle import REFUSED, Accepted, Case, outcomes


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
        "U+0000",
        "engine",
        "No string of a request may contain it, whatever its schema says: PostgreSQL stores none.",
        lambda case: (
            case.place != "response" and any(isinstance(part, str) and "\0" in part for part in parts(case.value))
        ),
        Case("query", {"type": "string"}, (b"p=%00",)),
    ),
    Difference(
        "white space",
        "either",
        "`\\s` is what ECMA-262 says: with U+FEFF, and without U+0085 and U+001C to U+001F, which Python has.",
        lambda case: (
            mentions(case, "pattern", NOT_BLANK)
            and any(isinstance(part, str) and re.search("[\x1c-\x1f\x85\ufeff]", part) for part in parts(case.value))
            and agreed(without(case, "pattern", NOT_BLANK))
        ),
        Case("body", {"type": "string", "pattern": NOT_BLANK}, (b'"\\ufeff"',)),
    ),
    Difference(
        "headers without a value",
        "engine",
        "An empty header and the words `null` and `undefined` are what programs send that have no value for it.",
        lambda case: case.place == "header" and case.text in ("", "null", "undefined"),
        Case("header", {"type": "string"}, (b"undefined",)),
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
