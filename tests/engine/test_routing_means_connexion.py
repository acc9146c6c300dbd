"""The router finds the operations that Connexion's own router finds, the listed differences aside.

Connexion's `RoutingMiddleware` is the oracle. Contracts are generated from a few templates, and requests to them from
the templates' own segments, values for their parameters, and what is neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import connexion.middleware.routing
import pytest
from connexion.lifecycle import ConnexionResponse
from connexion.middleware import ConnexionMiddleware
from connexion.middleware.abstract import SpecMiddleware
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from openapi.errors import UnsupportedConstruct
from openapi.routing import RoutingMiddleware

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
TEMPLATES = ("/a", "/a/b", "/{x}", "/a/{x}", "/{x}/b", "/{x}/{y}", "/a/{x}/b", "/a.b", "/a b", "/{x}.json")
SEGMENTS = ("a", "b", "A", "a.b", "1", "", ".", "%41", "%C3%A9", "a%2Fb", "%2f", "%FF", "a%20b", "+", "x.json")
CASES = 800

Case = tuple[tuple[tuple[str, str], ...], str, str]
"""The operations of a contract as (method, template), and a request: its method and its path, as it is sent."""

OPERATIONS = st.lists(
    st.tuples(st.sampled_from([method for method in METHODS if method != "HEAD"]), st.sampled_from(TEMPLATES)),
    min_size=1, max_size=4, unique=True,
).map(tuple)  # fmt: skip
PATHS = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=3).map(lambda segments: "/" + "/".join(segments))
GENERATED: st.SearchStrategy[Case] = st.tuples(OPERATIONS, st.sampled_from(METHODS), PATHS)


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that the two routers do differently on purpose: when it can be, why, and an example."""

    name: str
    why: str
    explains: Callable[[Case], bool]
    example: Case


def templates(case: Case) -> list[str]:
    """The templates that match the request's path by the number of their segments."""
    decoded = unquote(case[2])
    return [each for _, each in case[0] if each.count("/") in (decoded.count("/"), case[2].count("/"))]


DIFFERENCES = (
    Difference(
        "encoded-slash",
        "It is a part of its segment (RFC 3986, section 2.2); Connexion separates segments there.",
        lambda case: "%2f" in case[2].lower(),
        ((("GET", "/a/{x}"),), "GET", "/a/a%2Fb"),
    ),
    Difference(
        "trailing-slash",
        "It is another path; Connexion redirects to the one without it, to whatever host the client names.",
        lambda case: case[2].endswith("/") or f"{case[2]}/" in [template for _, template in case[0]],
        ((("GET", "/a"),), "GET", "/a/"),
    ),
    Difference(
        "concrete-first",
        "Concrete paths are matched before templated ones (OpenAPI 3.0.3, Paths Object); Connexion takes the first.",
        lambda case: len(set(templates(case))) > 1,
        ((("GET", "/{x}"), ("GET", "/a")), "GET", "/a"),
    ),
    Difference(
        "invalid-utf-8",
        "A value that is not UTF-8 is kept, to be refused with its parameter's name; Connexion replaces the bytes.",
        lambda case: "%FF" in case[2],
        ((("GET", "/{x}"),), "GET", "/%FF"),
    ),
)


def _never(_scope: Any, error: Exception) -> ConnexionResponse:
    raise error


async def _handle() -> ConnexionResponse:
    raise NotImplementedError


def run(coroutine: Any) -> Any:
    """The result of a coroutine that never has to wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the coroutine waits")


class Router:
    """One of the two routers, put into Connexion's stack with a contract, and what it leaves in the scope."""

    def __init__(self, router: Callable[[Any], SpecMiddleware], operations: Sequence[tuple[str, str]]) -> None:
        self.routed: Any = None
        self.app = ConnexionMiddleware(self._record, middlewares=[router], resolver=lambda _: _handle)
        paths: dict[str, Any] = {}
        for number, (method, template) in enumerate(operations):
            names = [part[1 : part.index("}")] for part in template.split("/") if part.startswith("{")]
            paths.setdefault(template, {})[method.lower()] = {
                "operationId": f"operation_{number}",
                "responses": {"200": {"description": "Done"}},
                "parameters": [
                    {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
                ],
            }
        self.app.add_api({"openapi": "3.0.3", "info": {"title": "Things", "version": "1"}, "paths": paths})
        run(self.app({"type": "lifespan"}, None, None))

    async def _record(self, scope: Any, _receive: Any, _send: Any) -> None:
        routing = scope.get("extensions", {}).get("connexion_routing")
        if routing and routing["operation_id"] is not None:
            self.routed = routing, scope["path_params"]

    def route(self, method: str, path: str) -> Any:
        """The operation's id with its base path, and the path's values; a status; or None where nothing is found."""
        self.routed = None
        scope = {
            "type": "http", "method": method, "path": unquote(path), "raw_path": path.encode(), "root_path": "",
            "query_string": b"", "headers": [], "state": {},
        }  # fmt: skip

        async def send(message: Any) -> None:
            self.routed = message.get("status", self.routed)

        try:
            run(self.app(scope, None, send))
        except HTTPException as error:
            return error.status_code
        return self.routed


def outcomes(case: Case) -> tuple[Any, Any]:
    operations, method, path = case
    return (
        Router(lambda app: RoutingMiddleware(app, on_error=_never), operations).route(method, path),
        Router(connexion.middleware.routing.RoutingMiddleware, operations).route(method, path),
    )


@pytest.mark.requirement("SC-05")
@settings(max_examples=CASES, derandomize=True, database=None, deadline=None)
@given(case=GENERATED)
def test_the_router_finds_what_connexion_finds(case: Case) -> None:
    try:
        ours, connexions = outcomes(case)
    except UnsupportedConstruct:
        return  # Two of the templates cannot be told apart, and the contract is refused at the start.

    assert ours == connexions or any(difference.explains(case) for difference in DIFFERENCES)


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.name)
def test_a_listed_difference_of_the_routers_is_still_one(difference: Difference) -> None:
    ours, connexions = outcomes(difference.example)

    assert ours != connexions
    assert [other.name for other in DIFFERENCES if other.explains(difference.example)] == [difference.name]
