"""The health probes: `/healthz` for liveness, `/readyz` for readiness."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from db.schema.version import SchemaMismatch, check_version
from db.wire.failures import DatabaseUnavailable
from db.wire.pool import Pool
from handlers.problems import Ending

READINESS_SECONDS: Final = 1.0
"""How long an answer of the database is good for: anybody may ask for readiness, as often as they like."""


class Readiness:
    """Whether the database can serve, asked at most once in `READINESS_SECONDS`, however many want to know.

    It asks through a pool of its own, so that a probe never takes a connection or a turn from a request.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._check: asyncio.Task[type[Exception] | None] | None = None
        self._asked_at_seconds = 0.0

    async def check(self) -> None:
        """Returns if the database can serve.

        Raises:
            DatabaseUnavailable: the database does not answer (503).
            SchemaMismatch: the database's schema is too old, or belongs to another service (503).
        """
        now_seconds = time.monotonic()
        if self._check is None or (self._check.done() and now_seconds - self._asked_at_seconds >= READINESS_SECONDS):
            self._asked_at_seconds = now_seconds
            self._check = asyncio.create_task(self._ask())
        failure = await asyncio.shield(self._check)
        if failure:
            raise failure

    async def _ask(self) -> type[Exception] | None:
        """Returns the class of a failure: raised for many, one exception would have an ever longer traceback."""
        try:
            await check_version(self._pool)
        except (DatabaseUnavailable, SchemaMismatch) as error:
            return type(error)
        return None


async def healthz(_request: Request) -> Response:
    """Answers 200 while the process is alive."""
    return Response(b'{"status":"alive"}', media_type="application/json")


async def readyz(request: Request) -> Response:
    """Answers 200 if the database answers, its schema suffices, and the service is not shutting down.

    Raises:
        Ending: the service is shutting down (503).
        DatabaseUnavailable, SchemaMismatch: see `Readiness.check` (503).
    """
    if hasattr(request.state, "is_ending"):
        raise Ending
    readiness: Readiness = request.state.readiness
    await readiness.check()
    return Response(b'{"status":"ready"}', media_type="application/json")


ROUTES = [Route("/healthz", healthz), Route("/readyz", readyz)]
