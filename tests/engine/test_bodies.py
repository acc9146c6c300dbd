"""A body is read up to its limit, and refused where its media type or its content is not as described."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from connexion.exceptions import UnsupportedMediaTypeProblem

from openapi import bodies
from openapi.bodies import LARGE_BYTES, RequestBody
from openapi.contract import BODY_LIMIT_BYTES
from openapi.errors import ContentTooLarge, InvalidRequest
from support.contracts import ECHOED, JSON, STRING, Service, contract, echoing, json_of, operation


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
        ("application/json; x=" + 1_000 * "y", 200),
        ("application/json; x=" + 1_024 * "y", 415),
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


@pytest.mark.parametrize(("size", "turns"), [(LARGE_BYTES, 8), (LARGE_BYTES - 1, 1)], ids=["large", "small"])
def test_large_bodies_are_decoded_one_in_a_turn_of_the_event_loop(
    size: int, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = RequestBody({"content": json_of(STRING)}, "", BODY_LIMIT_BYTES)
    decoded_in_turn: list[int] = []
    turn = 0

    def decode(_body: bytes) -> str:
        decoded_in_turn.append(turn)
        return ""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * size}

    async def main() -> None:
        nonlocal turn
        reading = [asyncio.ensure_future(reader.read({b"content-type": JSON.encode()}, receive)) for _ in range(8)]
        while not all(each.done() for each in reading):
            await asyncio.sleep(0)
            turn += 1

    monkeypatch.setattr(bodies, "decode_json", decode)
    asyncio.run(main())

    assert len(decoded_in_turn) == 8
    assert len(set(decoded_in_turn)) == turns
