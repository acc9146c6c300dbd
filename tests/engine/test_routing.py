"""A request reaches the operation that its method and path name, and 405 and OPTIONS tell all methods of a path."""

from __future__ import annotations

import json

import pytest
from connexion.lifecycle import ConnexionResponse
from starlette.exceptions import HTTPException

from support.contracts import ECHOED, ID, Service, contract, echoing, json_of, operation

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


@pytest.mark.parametrize("root_path", ["/todo", "/a.b/c"])
@pytest.mark.parametrize(
    ("path", "status"),
    [("/things", 204), ("/things/a%2Fb", 204), ("/thing", 404), ("/todox/things", 404), ("/aXb/c/things", 404)],
)
def test_a_path_may_begin_with_the_root_path_or_not(root_path: str, path: str, status: int) -> None:
    paths = {"/things": {"get": operation()}, "/things/{thing_id}": {"get": operation("get_thing", parameters=[ID])}}
    service = Service(contract(paths), root_path=root_path)

    assert [service.request("GET", sent).status for sent in (path, root_path + path)] == [status, status]


@pytest.mark.parametrize("url", ["/v1", "/v1/", "https://example.org/v1", "/{version}"])
def test_paths_begin_with_the_path_of_the_server(url: str) -> None:
    server = {"url": url} | ({"variables": {"version": {"default": "v1"}}} if "{" in url else {})
    service = Service(contract({"/things": {"get": operation()}}, servers=[server]))

    assert service.request("GET", "/v1/things").status == 204
    assert service.request("GET", "/things").body == b"elsewhere"
