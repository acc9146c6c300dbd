"""The health probes: `/healthz` for liveness, `/readyz` for readiness."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from db.schema.version import check_version
from handlers.problems import Ending


async def healthz(_request: Request) -> Response:
    """Answers 200 while the process is alive."""
    return Response(b'{"status":"alive"}', media_type="application/json")


async def readyz(request: Request) -> Response:
    """Answers 200 if the database answers, its schema suffices, and the service is not shutting down.

    Raises:
        Ending: the service is shutting down (503).
        DatabaseUnavailable: the database does not answer (503).
        SchemaMismatch: the database's schema is too old, or belongs to another service (503).
    """
    if hasattr(request.state, "is_ending"):
        raise Ending
    await check_version(request.state.pool)
    return Response(b'{"status":"ready"}', media_type="application/json")


ROUTES = [Route("/healthz", healthz), Route("/readyz", readyz)]
