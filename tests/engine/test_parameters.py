"""Parameters of path, query and headers are read with their types, and refused where they are not as described."""

from __future__ import annotations

import json

import pytest

from support.contracts import ECHOED, ID, STRING, Service, contract, echoing, header, operation, with_parameter


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
