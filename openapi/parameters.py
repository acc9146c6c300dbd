"""Compiles parameter objects to readers of path, query and header values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from jsonschema_rs import Draft4Validator

from openapi.errors import NUL, InvalidRequest, UnsupportedConstruct
from openapi.schemas import compile_schema, describe_errors

ABSENT: Any = object()
"""Marks a parameter that was not sent and has no default. The handler's own default applies."""

QUERY_FIELDS_LIMIT = 100

INTEGER = re.compile(r"[+-]?[0-9]{1,400}")
NUMBER = re.compile(r"[+-]?([0-9]{1,400}(\.[0-9]{0,400})?|\.[0-9]{1,400})([eE][+-]?[0-9]{1,3})?")

STYLES = {"path": "simple", "query": "form", "header": "simple"}


def _integer(text: str) -> int:
    if not INTEGER.fullmatch(text):
        raise ValueError("the value is not an integer")
    return int(text)


def _number(text: str) -> float:
    if not NUMBER.fullmatch(text):
        raise ValueError("the value is not a number")
    return float(text)


def _boolean(text: str) -> bool:
    match text.lower():
        case "true":
            return True
        case "false":
            return False
    raise ValueError("the value is neither true nor false")


CASTS: dict[str, Callable[[str], Any]] = {"string": str, "integer": _integer, "number": _number, "boolean": _boolean}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One compiled parameter of an operation."""

    name: str
    argument: str
    required: bool
    default: Any
    cast: Callable[[str], Any] | None
    validator: Draft4Validator

    @classmethod
    def compile(cls, parameter: Mapping[str, Any], pointer: str) -> Parameter:
        """Compiles a parameter object.

        Raises:
            UnsupportedConstruct: the parameter's place, style or type is not implemented.
        """
        place = parameter["in"]
        if place not in STYLES:
            raise UnsupportedConstruct(f"{pointer}/in", f"a parameter in {place!r}")
        if parameter.get("style", STYLES[place]) != STYLES[place]:
            raise UnsupportedConstruct(f"{pointer}/style", f"the style {parameter['style']!r}")
        for keyword in ("content", "allowReserved", "allowEmptyValue"):
            if parameter.get(keyword):
                raise UnsupportedConstruct(f"{pointer}/{keyword}", f"{keyword!r} of a parameter")
        schema = parameter.get("schema", {})
        if schema.get("type") not in CASTS:
            raise UnsupportedConstruct(f"{pointer}/schema/type", f"a parameter of the type {schema.get('type')!r}")
        if schema.get("nullable"):
            raise UnsupportedConstruct(f"{pointer}/schema/nullable", "a nullable parameter")
        name = parameter["name"]
        cast = CASTS[schema["type"]]
        default = schema.get("default", ABSENT)
        if default is not ABSENT and schema["type"] == "number":
            default = float(default)
        return cls(
            name=name.lower() if place == "header" else name,
            argument=name.lower().replace("-", "_") if place == "header" else name,
            required=parameter.get("required", False),
            default=default,
            cast=None if cast is str else cast,
            validator=compile_schema(schema, f"{pointer}/schema"),
        )

    def read(self, text: str | None) -> Any:
        """Returns the value that `text` stands for, the default, or `ABSENT`. `text` is None if nothing was sent.

        Raises:
            InvalidRequest: the value is missing, has another type, or does not match the schema (422).
        """
        if text is None:
            if self.required:
                raise InvalidRequest.parameter(self.name, "the parameter is required")
            return self.default
        if NUL in text:
            raise InvalidRequest.parameter(self.name, "the value contains U+0000")
        try:
            value = self.cast(text) if self.cast else text
        except ValueError as error:
            raise InvalidRequest.parameter(self.name, str(error)) from None
        try:
            errors = [] if self.validator.is_valid(value) else describe_errors(self.validator, value)
        except UnicodeEncodeError:
            raise InvalidRequest.parameter(self.name, "the value is not UTF-8") from None
        if errors:
            raise InvalidRequest.parameter(self.name, errors[0][1])
        return value


def read_query(query: bytes) -> dict[str, str]:
    """Returns the query's parameters by name. An empty value counts as sent.

    Raises:
        InvalidRequest: the query is not UTF-8, repeats a parameter, or has more than 100 parameters (422).
    """
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=QUERY_FIELDS_LIMIT
        )
    except ValueError:
        raise InvalidRequest.parameter("", "the query is not UTF-8, or has too many parameters") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in fields if names.count(name) > 1)
        raise InvalidRequest.parameter(repeated, "the parameter is given more than once")
    return fields
