"""An answer leaves only as the contract describes it."""

from __future__ import annotations

import asyncio
import gzip
import threading
import zlib
from collections.abc import Callable

import pytest
from connexion.exceptions import NonConformingResponse, NonConformingResponseBody, NonConformingResponseHeaders
from connexion.lifecycle import ConnexionResponse

from openapi.errors import InvalidRequest
from openapi.responses import THREAD_BYTES, RawHeader, compress
from support.contracts import (
    DONE,
    JSON,
    PROBLEM,
    PROBLEMS,
    STRING,
    Service,
    answering,
    contract,
    json_of,
    operation,
    query,
    with_response,
)

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


@pytest.mark.parametrize(("value", "is_described"), [("a", True), ("b", False), ("long", False)])
def test_a_listed_value_of_a_header_must_be_as_described_too(value: str, is_described: bool) -> None:
    described = with_response("204", headers={"X-A": {"schema": STRING | {"enum": ["a", "long"], "maxLength": 3}}})
    service = Service(described, answering(lambda: ConnexionResponse(204, headers={"X-A": value})))

    answer = service.request("GET", "/things")

    assert answer.header(b"x-a") == (b"a" if is_described else None)
    assert [type(error) for error in service.errors] == ([] if is_described else [NonConformingResponseHeaders])


@pytest.mark.requirement("SR-14")
def test_a_very_large_answer_is_compressed_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    loop_goes_on = threading.Event()
    text = b" " * THREAD_BYTES

    def compress_late(body: bytes, *_: int, **__: int) -> bytes:
        assert loop_goes_on.wait(5)
        return zlib.compress(body, wbits=31)

    async def main() -> None:
        response = ConnexionResponse(200, body=text)
        headers: list[RawHeader] = []
        compressing = asyncio.ensure_future(compress(response, headers, {"headers": [(b"accept-encoding", b"gzip")]}))
        await asyncio.sleep(0)
        loop_goes_on.set()
        await compressing

        assert gzip.decompress(response.body) == text
        assert headers == [(b"content-encoding", b"gzip")]

    monkeypatch.setattr(gzip, "compress", compress_late)
    asyncio.run(main())
