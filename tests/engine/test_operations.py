"""A handler gets what it names, and only a known sender reaches it; one that cannot be called stops the start."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from connexion.exceptions import OAuthProblem
from connexion.lifecycle import ConnexionResponse

from openapi.errors import UnsupportedConstruct
from support.contracts import (
    BEARER,
    ECHOED,
    STRING,
    Contract,
    Handler,
    Service,
    contract,
    echoing,
    operation,
    query,
    with_body,
    with_parameter,
    with_security,
)


async def _wants(argument: Any) -> ConnexionResponse:
    raise NotImplementedError(argument)


def _at_once() -> ConnexionResponse:
    raise NotImplementedError


async def _wants_query(q: str) -> ConnexionResponse:
    raise NotImplementedError(q)


async def _wants_body(body: Any) -> ConnexionResponse:
    raise NotImplementedError(body)


async def _wants_user(user: str) -> ConnexionResponse:
    raise NotImplementedError(user)


async def _wants_anything(**arguments: Any) -> ConnexionResponse:
    raise NotImplementedError(arguments)


@pytest.mark.parametrize(
    ("described", "handler", "message"),
    [
        pytest.param(with_parameter(), _wants, "argument", id="unknown argument"),
        pytest.param(with_parameter(), _wants_user, "user", id="user without security"),
        pytest.param(with_parameter(), _wants_body, "body", id="body without one"),
        pytest.param(with_parameter(), _wants_anything, "arguments", id="any arguments"),
        pytest.param(with_parameter(), _at_once, "coroutine", id="not a coroutine function"),
        pytest.param(with_parameter(), _wants_query, "'q'", id="optional parameter without a default"),
        pytest.param(with_body(), _wants_body, "'body'", id="optional body without a default"),
    ],
)
def test_a_handler_that_cannot_be_called_stops_the_start(described: Contract, handler: Handler, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Service(described, {"handle": handler})


def test_a_token_function_that_is_no_coroutine_function_stops_the_start() -> None:
    scheme = BEARER | {"x-bearerInfoFunc": "bearer_functions.user_at_once"}

    with pytest.raises(TypeError, match="coroutine"):
        Service(with_security([{"a": []}], a=scheme))


@pytest.mark.parametrize("described", [with_parameter(required=True), with_parameter(schema=STRING | {"default": "a"})])
def test_an_argument_that_is_always_there_needs_no_default(described: Contract) -> None:
    assert Service(described, {"handle": _wants_query}).request("DELETE", "/things").status == 405


def test_a_handler_gets_what_it_names_of_the_state() -> None:
    described = contract({"/things": {"get": operation(responses=ECHOED)}})
    service = Service(described, echoing("things"), {"things": ["a"], "others": []})

    assert service.request("GET", "/things").body == b'{"things": ["a"]}'


def test_a_parameter_cannot_take_the_place_of_the_state() -> None:
    with pytest.raises(UnsupportedConstruct):
        Service(with_parameter(name="things"), {}, {"things": []})


def test_a_parameter_cannot_take_the_place_of_the_user() -> None:
    described = with_security([{"a": []}])
    described["paths"]["/things"]["get"]["parameters"] = [query("user")]

    with pytest.raises(UnsupportedConstruct):
        Service(described)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param([("Authorization", "Bearer good")], 204, id="good"),
        pytest.param([("Authorization", "bEARER good")], 204, id="scheme in other case"),
        pytest.param([("Authorization", "Bearer bad")], 401, id="nobody's"),
        pytest.param([], 401, id="absent"),
        pytest.param([("Authorization", "good")], 401, id="no scheme"),
        pytest.param([("Authorization", "Basic good")], 401, id="another scheme"),
        pytest.param([("Authorization", "Bearer good"), ("Authorization", "Bearer good")], 401, id="twice"),
    ],
)
def test_only_a_token_of_somebody_opens(headers: list[tuple[str, str]], status: int) -> None:
    """A function that finds nobody refuses, as it does in Connexion."""
    service = Service(with_security([{"a": []}]))

    assert service.request("GET", "/things", headers=headers).status == status
    assert [type(error) for error in service.errors] == [OAuthProblem] * (status == 401)


@pytest.mark.requirement("SR-13", "SR-14")
@pytest.mark.parametrize(
    "token", [pytest.param(b"bad", id="strangers"), pytest.param(b"good", id="users without room")]
)
def test_who_is_not_let_in_is_told_so_one_in_a_turn_of_the_event_loop(token: bytes) -> None:
    class Full:
        def enter(self, _user: Any) -> None:
            raise OAuthProblem

    service = Service(with_security([{"a": []}]))
    scope = {"type": "http", "method": "GET", "raw_path": b"/things", "query_string": b""}
    scope["headers"] = [(b"authorization", b"Bearer " + token)]
    told: list[int] = []

    async def send(_message: Any) -> None:
        pass

    async def main() -> None:
        asked = [
            asyncio.ensure_future(service.app(scope | {"state": {"admission": Full()}}, None, send)) for _ in range(8)
        ]
        while not all(each.done() for each in asked):
            before = len(service.errors)
            await asyncio.sleep(0)
            told.append(len(service.errors) - before)

    asyncio.run(main())

    assert sum(told) == 8
    assert max(told) == 1


def test_nothing_is_read_before_the_sender_is_known() -> None:
    described = with_security([{"a": []}])
    described["paths"]["/things"]["get"]["parameters"] = [query("q") | {"required": True}]

    assert Service(described).request("GET", "/things?unknown=1").status == 401
