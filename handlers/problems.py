"""Exception -> problem (RFC 9457), one table.

An exception is looked up by its class and the classes that it is derived from; one that brings its own HTTP status, as
the engine's and the framework's do, by that status. What is in neither is a fault of ours.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import structlog
from connexion.exceptions import NonConformingResponse
from connexion.lifecycle import ConnexionResponse
from starlette.types import Scope

from db.schema.version import SchemaMismatch
from db.tasks import IdempotencyKeyReused, TaskNotFound, UserUnknown, VersionMismatch
from db.wire.pool import DatabaseUnavailable, OutcomeUnknown, WritesUnavailable
from handlers.auth.bearer import NotOwner
from handlers.auth.keys import KeysUnavailable
from handlers.auth.tokens import TokenInvalid

logger = structlog.get_logger()

TYPE_PREFIX = "tag:taskpact.example,2026:"
MEDIA_TYPE = "application/problem+json"


class Overloaded(Exception):
    """More requests wait than can be answered soon. Becomes 503."""


class Ending(Exception):
    """The service is about to end, and somebody else is to be asked. Becomes 503."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A kind of problem; without a `detail` of its own, the exception's is told."""

    name: str
    status: int
    title: str
    detail: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


INVALID_TOKEN = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
RETRY = {"Retry-After": "1"}

INTERNAL_ERROR = Problem(
    "internal-error", 500, "Internal error", "The service failed. Its log knows more under this instance."
)

PROBLEMS: dict[type[Exception] | int, Problem] = {
    400: Problem("malformed-request", 400, "Malformed request", "This is no HTTP/1.1 that the service understands."),
    TokenInvalid: Problem("unauthenticated", 401, "Not authenticated", "The token is not valid.", INVALID_TOKEN),
    UserUnknown: Problem("unauthenticated", 401, "Not authenticated", "The token's user is not known.", INVALID_TOKEN),
    401: Problem("unauthenticated", 401, "Not authenticated", None, {"WWW-Authenticate": "Bearer"}),
    NotOwner: Problem("forbidden", 403, "Not yours", "The path names another user than the token."),
    404: Problem("path-not-found", 404, "Path not found", "There is nothing at this path."),
    TaskNotFound: Problem("task-not-found", 404, "Task not found", "You have no task with this id."),
    405: Problem("method-not-allowed", 405, "Method not allowed", "The path does not have this method."),
    408: Problem("request-timeout", 408, "Request timeout", "The request did not come to its end in time."),
    406: Problem("not-acceptable", 406, "Not acceptable"),
    VersionMismatch: Problem(
        "precondition-failed", 412, "Precondition failed", "The task is not the one that If-Match names."
    ),
    413: Problem("content-too-large", 413, "Content too large"),
    415: Problem("unsupported-media-type", 415, "Unsupported media type"),
    422: Problem("invalid-request", 422, "Invalid request"),
    IdempotencyKeyReused: Problem(
        "idempotency-key-reused", 422, "Idempotency key reused", "The idempotency key stands for another task."
    ),
    431: Problem(
        "headers-too-large", 431, "Headers too large", "Request line and headers are larger than 65,536 bytes."
    ),
    Overloaded: Problem(
        "overloaded", 503, "Overloaded", "The service has more to do than it can do soon. Try again.", RETRY
    ),
    Ending: Problem("ending", 503, "Ending", "The service is about to end. Ask another instance.", RETRY),
    DatabaseUnavailable: Problem(
        "database-unavailable", 503, "Database unavailable", "The database does not answer just now. Try again.", RETRY
    ),
    WritesUnavailable: Problem(
        "writes-unavailable", 503, "Writes unavailable", "The database takes no changes just now. Reading works.", RETRY
    ),
    OutcomeUnknown: Problem(
        "outcome-unknown",
        503,
        "Outcome unknown",
        "The database's answer was lost: the change may have been made. Look before you try again.",
        RETRY,
    ),
    SchemaMismatch: Problem(
        "database-unavailable", 503, "Database unavailable", "The database is not ready for this service.", RETRY
    ),
    KeysUnavailable: Problem(
        "issuer-unavailable", 503, "Issuer unavailable", "The token cannot be verified just now. Try again.", RETRY
    ),
}


def answer(scope: Scope, error: Exception) -> ConnexionResponse:
    """The answer to a request that failed; what its sender must not know goes into the log, under the same id."""
    problem = _problem(error)
    request_id: str = scope["state"]["request_id"]
    _log(problem, error, request_id)
    body: dict[str, Any] = {
        "type": TYPE_PREFIX + problem.name,
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail or getattr(error, "detail", problem.title),
        "instance": _instance(request_id),
    }
    if problem.status == 422:  # noqa: PLR2004 - the one status with a list of errors
        body |= getattr(error, "ext", None) or {}
    headers = {**problem.headers, **(getattr(error, "headers", None) or {})}
    return ConnexionResponse(problem.status, content_type=MEDIA_TYPE, body=msgspec.json.encode(body), headers=headers)


def _instance(request_id: str) -> str:
    """The request as a URI; its id is a UUID unless whoever sent it gave another one."""
    try:
        return UUID(request_id).urn
    except ValueError:
        return f"{TYPE_PREFIX}request/{request_id}"


def _problem(error: Exception) -> Problem:
    for kind in type(error).__mro__:
        if kind in PROBLEMS:
            return PROBLEMS[kind]
    return PROBLEMS.get(getattr(error, "status_code", 500), INTERNAL_ERROR)


def _log(problem: Problem, error: Exception, request_id: str) -> None:
    if problem.status in (401, 403):
        event = "authentication_failed" if problem.status == 401 else "authorization_failed"  # noqa: PLR2004
        reason = getattr(error, "reason", None) or problem.detail or getattr(error, "detail", None)
        logger.warning(event, request_id=request_id, reason=reason)
    elif isinstance(error, (Overloaded, Ending)):
        pass  # Each would be one of very many: admission tells the log of the first, the server's end of the second.
    elif problem.status == 503:  # noqa: PLR2004
        logger.error(problem.name, request_id=request_id, reason=type(error.__cause__ or error).__name__)
    elif problem is INTERNAL_ERROR:
        # An exception's message may quote what a user sent, PostgreSQL's do: only its kind is logged, and its way.
        logger.error(
            problem.name,
            request_id=request_id,
            error=type(error).__qualname__,
            sqlstate=error.sqlstate if isinstance(error, psycopg.Error) else None,
            violation=error.detail if isinstance(error, NonConformingResponse) else None,
            stack="".join(traceback.format_tb(error.__traceback__)),
        )
