"""Puts the stack together: front door, contract, pages."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
import yaml
from connexion.middleware import ConnexionMiddleware
from connexion.middleware.lifespan import LifespanMiddleware
from connexion.middleware.swagger_ui import SwaggerUIMiddleware
from connexion.options import SwaggerUIOptions
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import Router
from starlette.types import ASGIApp

import openapi
from app import probes
from app.http.admission import Admission
from app.http.memory import HeldBytes
from app.http.middleware import Cors, RequestLog, security_headers
from app.http.refusals import Refusals
from app.observe.logs import configure_logs, request_logger
from app.observe.metrics import Metrics, new_metrics
from app.pages import EXCEPTIONS, ROUTES, Rooted, WholeFiles, contract_routes, policies, to_starlette
from app.probes import Readiness
from app.settings import Settings, SettingsError, issuer_tls, read_settings
from db.schema.checks import check_database
from db.tasks import Tasks
from db.wire.pool import Pool
from handlers import problems
from handlers.auth.keys import Keys, KeySet, SharedSecret
from handlers.auth.tokens import Verifier
from openapi.contract import ContractMiddleware
from openapi.routing import RoutingMiddleware

if TYPE_CHECKING:
    from app.observe.tracing import Tracing

logger = structlog.get_logger()

CONTRACT = Path(openapi.__file__).with_name("openapi.yaml")

CORS_MAX_AGE_SECONDS = 600

QUEUED_PER_CONNECTION = 3
"""A request waits for at most this many statements of others: an answer takes at most four times as long."""

RESPONSE_HEADERS = (
    "Accept-Encoding",
    "Accept-Patch",
    "Allow",
    "Content-Location",
    "ETag",
    "Link",
    "Location",
    "Retry-After",
    "WWW-Authenticate",
    "X-Request-Id",
)
"""Response headers that scripts of another origin may read, beside those that every page may."""


class StartRefused(Exception):
    """The service must not run like this; the message says what to do."""


def create_app(settings: Settings) -> ASGIApp:
    """The service as an ASGI application.

    Raises:
        SettingsError: there is no database.
        UnsupportedConstruct: the contract says something that the engine does not implement.
    """
    metrics = new_metrics() if settings.metrics_port else None
    root_path = settings.root_path
    tracing = _tracing(root_path)
    on_error = to_starlette(problems.answer)
    documentation = SwaggerUIOptions(serve_spec=False, swagger_ui_path="/docs")
    # From the outside in. Connexion has errors and Swagger UI before its router; here they stand behind the contract,
    # so that requests for operations do not pass through them: that saves 12 us, a seventh of a read.
    middlewares: list[Any] = [
        partial(RoutingMiddleware, on_error=problems.answer, root_path=root_path),
        partial(
            ContractMiddleware,
            on_error=problems.answer,
            state_names=("root_path", "tasks"),
            outer_headers=("x-request-id",),
        ),
        partial(ExceptionMiddleware, handlers=dict.fromkeys(EXCEPTIONS, on_error)),
        WholeFiles,
        partial(Rooted, root_path=root_path),
        SwaggerUIMiddleware,
        LifespanMiddleware,
    ]
    connexion_app = ConnexionMiddleware(
        # A redirect to the path without its slash would go to whatever host the client names.
        Router([*probes.ROUTES, *ROUTES, *contract_routes(CONTRACT, root_path)], redirect_slashes=False),
        lifespan=_lifespan(settings, metrics, tracing),
        middlewares=middlewares,
        swagger_ui_options=documentation,
    )
    connexion_app.add_api(CONTRACT)
    app: ASGIApp = connexion_app
    if settings.cors_origins:
        app = Cors(
            app,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            # Libraries for tracing add headers to each request, each its own. The origins are trusted by name.
            allow_headers=["*"],
            allow_credentials=True,
            expose_headers=RESPONSE_HEADERS,
            max_age=CORS_MAX_AGE_SECONDS,
        )
    if tracing:
        app = tracing.requests(app)
    observers = request_logger(settings.log_level, settings.log_format), metrics and metrics.observe
    return RequestLog(
        app,
        *[observe for observe in observers if observe],
        hsts_seconds=settings.hsts_seconds,
        policies=policies(documentation, root_path),
    )


def from_environment() -> ASGIApp:
    """The service as the environment describes it, for a server that wants a factory."""
    settings = read_settings()
    configure_logs(settings.log_level, settings.log_format)
    return create_app(settings)


def _share(settings: Settings, whole: int) -> int:
    """One worker's part of what the service may have."""
    return max(1, whole // settings.workers)


def _lifespan(settings: Settings, metrics: Metrics | None, tracing: Tracing | None) -> Callable[[Any], Any]:
    if settings.database_url is None:
        raise SettingsError("DATABASE_URL must be set")
    url = settings.database_url.reveal()
    queue_size = settings.database_queue_size or QUEUED_PER_CONNECTION * settings.database_pool_size

    new_pool = partial(
        Pool,
        url,
        prepare=settings.database_prepare,
        claims=settings.database_claims,
        wait_seconds=settings.database_wait_seconds,
        statement_seconds=settings.database_statement_seconds,
    )

    @asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[dict[str, Any]]:
        for check in await asyncio.to_thread(check_database, url):
            if not check.passed:
                raise StartRefused(f"{check.name}: {check.detail}")
        async with (
            _keys(settings) as keys,
            new_pool(
                size=_share(settings, settings.database_pool_size), queue_size=_share(settings, queue_size)
            ) as pool,
            new_pool(size=1) as probe_pool,
        ):
            verifier = Verifier(
                keys,
                issuer=settings.jwt_issuer,
                audience=settings.audience,
                leeway_seconds=settings.jwt_leeway_seconds,
                remembered_tokens=settings.jwt_cache_size,
            )
            admission = Admission(pool, requests_per_user=settings.requests_per_user)
            async with metrics.following(pool, verifier, admission) if metrics else nullcontext():
                # Objects made so far live as long as the process: freezing them spares each garbage collection 80 ms.
                gc.collect()
                gc.freeze()
                state: dict[str, Any] = {
                    "admission": admission,
                    "held_bytes": HeldBytes(),
                    "readiness": Readiness(probe_pool),
                    "refusals": Refusals(security_headers(hsts_seconds=settings.hsts_seconds)),
                    "root_path": settings.root_path,
                    "tasks": Tasks(pool, provision_users=settings.provision_users),
                    "verifier": verifier,
                }
                if tracing:
                    # It takes the place of `tasks` in requests that have a span.
                    state["traced_tasks"] = Tasks(tracing.pool(pool), provision_users=settings.provision_users)
                yield state
            if tracing:
                await asyncio.to_thread(tracing.close)

    return lifespan


def _tracing(root_path: str, variables: Mapping[str, str] = os.environ) -> Tracing | None:
    """Tracing, where the environment names a collector and does not switch it off."""
    names = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    is_off = variables.get("OTEL_TRACES_EXPORTER") == "none" or variables.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if is_off or not any(variables.get(name) for name in names):
        return None
    try:
        from app.observe.tracing import Tracing  # noqa: PLC0415 - an extra
    except ImportError:
        logger.warning("tracing_off", reason="a collector is named, but taskpact[otel] is not installed")
        return None
    paths: dict[str, dict[str, Any]] = yaml.safe_load(CONTRACT.read_bytes())["paths"]
    return Tracing(
        {
            operation["operationId"]: root_path + path
            for path, item in paths.items()
            for operation in item.values()
            if "operationId" in operation
        }
    )


@asynccontextmanager
async def _keys(settings: Settings) -> AsyncIterator[Keys]:
    if settings.jwt_secret:
        yield SharedSecret(settings.jwt_secret.reveal().encode())
    elif settings.jwt_jwks_url:
        yield KeySet(settings.jwt_jwks_url, issuer_tls(settings.jwt_jwks_url))
    else:
        raise SettingsError("JWT_SECRET or JWT_JWKS_URL must be set: there is no default secret")
