"""What is outside the contract: health, readiness, the contract itself and its documentation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import yaml
from connexion.lifecycle import ConnexionResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Scope

from db.schema import check_version
from handlers.problems import Ending

OnError = Callable[[Request, Exception], Response]


async def healthz(_request: Request) -> Response:
    """Answers 200 while the process is alive."""
    return Response(b'{"status":"alive"}', media_type="application/json")


async def readyz(request: Request) -> Response:
    """Answers 200 when the database answers, its schema suffices, and the service is not about to end.

    Raises:
        Ending: it is about to end (503).
        DatabaseUnavailable: it does not answer (503).
        SchemaMismatch: its schema is older, or none of ours (503).
    """
    if hasattr(request.state, "is_ending"):
        raise Ending
    await check_version(request.state.pool)
    return Response(b'{"status":"ready"}', media_type="application/json")


async def home(_request: Request) -> Response:
    """Leads to the documentation."""
    return RedirectResponse("/docs/")


def contract_routes(contract: Path) -> list[Route]:
    """Routes to the contract: as it was written, and as JSON."""
    text = contract.read_bytes()
    json = msgspec.json.encode(yaml.safe_load(text))

    async def openapi_yaml(_request: Request) -> Response:
        return Response(text, media_type="application/yaml")

    async def openapi_json(_request: Request) -> Response:
        return Response(json, media_type="application/json")

    return [Route("/openapi.yaml", openapi_yaml), Route("/openapi.json", openapi_json)]


def to_starlette(answer: Callable[[Scope, Exception], ConnexionResponse]) -> OnError:
    """The problem table in the form that Starlette's exception middleware takes."""

    def on_error(request: Request, error: Exception) -> Response:
        response = answer(request.scope, error)
        return Response(response.body, response.status_code, response.headers)

    return on_error


ROUTES = [Route("/", home), Route("/healthz", healthz), Route("/readyz", readyz)]
EXCEPTIONS = (HTTPException, Exception)
