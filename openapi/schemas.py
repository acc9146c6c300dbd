"""Compiles OpenAPI 3.0 schema objects to validators.

OpenAPI 3.0's dialect is JSON Schema draft 4 with `nullable` and some other keywords of its own. At start, each schema
is translated to draft 4 and compiled by jsonschema-rs. A keyword or format outside the tables below stops the start, so
that no part of the contract goes unchecked.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from jsonschema_rs import Draft4Validator, ValidationError, ValidationErrorKind

from openapi.errors import TEXT_LIMIT_CHARACTERS, UnsupportedConstruct, pointer_token

Schema = dict[str, Any]

ERRORS_LIMIT = 20

ANNOTATIONS = frozenset({"title", "description", "example", "default", "deprecated", "externalDocs"})

ASSERTIONS = frozenset({
    "type", "enum", "required",
    "minLength", "maxLength", "pattern",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
    "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties",
})  # fmt: skip

HEEDED_EXTENSIONS = frozenset({"x-nullable", "x-writeOnly"})
"""Swagger 2's `nullable` and `writeOnly`. Connexion obeys them in OpenAPI 3 too, so they cannot be ignored here."""

INTEGER_RANGES = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}

UUID_PATTERN = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
"""RFC 9562, section 4. It is a pattern, because draft 4 has no UUID format."""

DATE_PATTERN = "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$"
"""RFC 3339's full-date. It is a pattern for the same reason, and does not check the length of a month."""

PATTERN_FORMATS = {"uuid": UUID_PATTERN, "date": DATE_PATTERN}

ASSERTED_FORMATS = frozenset({"date-time", "email", "hostname", "ipv4", "ipv6", "uri"})

UNASSERTED_FORMATS = frozenset({"float", "double", "password", "uri-reference"})
"""Formats that refuse nothing: number widths, a hint to hide input, and a reference, which nearly any string is."""


def compile_schema(schema: Schema, pointer: str) -> Draft4Validator:
    """Compiles the schema object at `pointer` of the contract with resolved references. Formats are asserted.

    Raises:
        UnsupportedConstruct: a keyword, type or format is not implemented, or the schema contains itself.
    """
    try:
        return Draft4Validator(to_json_schema(schema, pointer), validate_formats=True, mask="the value")
    except RecursionError:
        raise UnsupportedConstruct(pointer, "a schema that contains itself") from None
    except ValidationError as error:
        at = "".join(map(pointer_token, error.instance_path))
        raise UnsupportedConstruct(pointer + at, "this schema") from error


def describe_errors(validator: Draft4Validator, value: Any) -> list[tuple[str, str]]:
    """Returns the first errors of a value, at most 20, as JSON Pointers (RFC 6901) and sentences.

    The sentences do not repeat the value.

    Raises:
        ValueError: the value is nested too deep to describe its errors.
    """
    return [
        ("".join(map(pointer_token, error.instance_path)), _sentence(error))
        for error in islice(validator.iter_errors(value), ERRORS_LIMIT)
    ]


def _sentence(error: ValidationError) -> str:
    if isinstance(error.kind, ValidationErrorKind.Pattern):
        for name, pattern in PATTERN_FORMATS.items():
            if error.kind.pattern == pattern:
                return f'the value is not a "{name}"'
        return "the value does not match the pattern that the contract gives"
    return error.message[:TEXT_LIMIT_CHARACTERS]


def to_json_schema(schema: Schema, pointer: str) -> Schema:  # noqa: C901 - one arm for each kind of keyword
    """Translates an OpenAPI 3.0 schema object to JSON Schema draft 4 with the same meaning.

    Raises:
        UnsupportedConstruct: a keyword, type or format is not implemented.
    """
    translated: Schema = {}
    extra: list[Schema] = []
    for keyword, value in schema.items():
        at = pointer + pointer_token(keyword)
        match keyword:
            case "properties":
                translated[keyword] = {
                    name: to_json_schema(member, at + pointer_token(name)) for name, member in value.items()
                }
            case "items" | "not":
                translated[keyword] = to_json_schema(value, at)
            case "additionalProperties":
                translated[keyword] = value if isinstance(value, bool) else to_json_schema(value, at)
            case "allOf" | "anyOf" | "oneOf":
                translated[keyword] = [to_json_schema(member, f"{at}/{i}") for i, member in enumerate(value)]
            case "format":
                extra += _format(value, at)
            case "nullable":
                if value and "type" not in schema:
                    raise UnsupportedConstruct(at, "'nullable' without a type beside it")
            case _ if keyword in ASSERTIONS:
                translated[keyword] = value
            case _ if keyword in HEEDED_EXTENSIONS or (keyword not in ANNOTATIONS and not keyword.startswith("x-")):
                raise UnsupportedConstruct(at, f"the keyword {keyword!r}")
    if schema.get("nullable", False):
        _admit_null(translated)
    if extra:
        translated["allOf"] = [*translated.get("allOf", ()), *extra]
    return translated


def _format(name: str, at: str) -> list[Schema]:
    if name in INTEGER_RANGES:
        minimum, maximum = INTEGER_RANGES[name]
        return [{"minimum": minimum, "maximum": maximum}]
    if name in PATTERN_FORMATS:
        return [{"pattern": PATTERN_FORMATS[name]}]
    if name in ASSERTED_FORMATS:
        return [{"format": name}]
    if name in UNASSERTED_FORMATS:
        return []
    raise UnsupportedConstruct(at, f"the format {name!r}")


def _admit_null(translated: Schema) -> None:
    """Adds null to the type and the enumeration beside `nullable`, and to nothing else (OpenAPI 3.0.3)."""
    if "type" in translated:
        translated["type"] = [translated["type"], "null"]
    if "enum" in translated:
        translated["enum"] = [*translated["enum"], None]
