"""Turns exceptions into problem documents (RFC 9457), by one table: `PROBLEMS`.

`PROBLEMS` is searched for the exception's class, then for its base classes. If none is found, the table is searched for
the exception's `status_code`, which the exceptions of the engine and of the framework have. Any other exception is a
fault of the service and becomes 500. A problem's `name` is part of the contract and must not change.
"""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass, field
from typing import Any

import msgspec
import psycopg
import structlog
from connexion.exceptions import NonConformingResponse
from connexion.lifecycle import ConnexionResponse
from starlette.types import Scope

from db.schema.version import SchemaMismatch
from db.tasks import IdempotencyKeyReused, TaskNotFound, UserUnknown, VersionMismatch
from db.wire.failures import DatabaseUnavailable, OutcomeUnknown, Overloaded, WritesUnavailable
from handlers.auth.bearer import NotOwner
from handlers.auth.keys import KeysUnavailable
from handlers.auth.tokens import TokenInvalid

logger = structlog.get_logger()

TYPE_PREFIX = "tag:taskpact.example,2026:"
MEDIA_TYPE = "application/problem+json"

UUID = re.compile("[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
"""RFC 9562, section 4."""


class TooManyRequests(Exception):
    """The user has too many requests in flight. Becomes 429."""


class Ending(Exception):
    """This instance is shutting down. Becomes 503."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A kind of problem. If `detail` is None, the answer has the exception's own detail."""

    name: str
    status: int
    title: str
    detail: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


INVALID_TOKEN = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
RETRY = {"Retry-After": "1"}
NO_STORE = {"Cache-Control": "no-store"}

INTERNAL_ERROR = Problem(
    "internal-error", 500, "Internal error", "The service failed. Its log has the details under this request's id."
)

PROBLEMS: dict[type[Exception] | int, Problem] = {
    400: Problem("malformed-request", 400, "Malformed request", "The request is not valid HTTP/1.1."),
    TokenInvalid: Problem("unauthenticated", 401, "Not authenticated", "The token is not valid.", INVALID_TOKEN),
    UserUnknown: Problem("unauthenticated", 401, "Not authenticated", "The token's user is unknown.", INVALID_TOKEN),
    401: Problem("unauthenticated", 401, "Not authenticated", None, {"WWW-Authenticate": "Bearer"}),
    NotOwner: Problem("forbidden", 403, "Forbidden", "The user in the path is not the token's user."),
    404: Problem("path-not-found", 404, "Path not found", "There is nothing at this path."),
    TaskNotFound: Problem("task-not-found", 404, "Task not found", "You have no task with this id."),
    405: Problem("method-not-allowed", 405, "Method not allowed", "The path does not support this method."),
    408: Problem("request-timeout", 408, "Request timeout", "The complete request did not arrive in time."),
    406: Problem("not-acceptable", 406, "Not acceptable", None, {"Vary": "Accept"}),
    VersionMismatch: Problem(
        "precondition-failed", 412, "Precondition failed", "The task's entity tag does not match If-Match."
    ),
    413: Problem("content-too-large", 413, "Content too large"),
    415: Problem("unsupported-media-type", 415, "Unsupported media type"),
    422: Problem("invalid-request", 422, "Invalid request"),
    IdempotencyKeyReused: Problem(
        "idempotency-key-reused",
        422,
        "Idempotency key reused",
        "The idempotency key was already used with another title or description.",
    ),
    TooManyRequests: Problem(
        "too-many-requests",
        429,
        "Too many requests",
        "You have too many requests in flight. Wait for some of their answers.",
        RETRY,
    ),
    431: Problem(
        "headers-too-large",
        431,
        "Headers too large",
        "The head has more than 65,536 bytes or 100 header lines, or its target has more than 8,192 bytes.",
    ),
    501: Problem("not-implemented", 501, "Not implemented", "The service knows no transfer coding but chunked."),
    505: Problem(
        "http-version-not-supported", 505, "HTTP version not supported", "The service speaks HTTP/1.1 and HTTP/1.0."
    ),
    Overloaded: Problem("overloaded", 503, "Overloaded", "Too many requests are waiting. Try again.", RETRY),
    Ending: Problem("ending", 503, "Shutting down", "This instance is shutting down. Use another one.", RETRY),
    DatabaseUnavailable: Problem(
        "database-unavailable", 503, "Database unavailable", "The database is not answering. Try again.", RETRY
    ),
    WritesUnavailable: Problem(
        "writes-unavailable", 503, "Writes unavailable", "The database is not accepting changes. Reading works.", RETRY
    ),
    OutcomeUnknown: Problem(
        "outcome-unknown",
        503,
        "Outcome unknown",
        "The database's answer was lost. The change may have been made. Check before you try again.",
        RETRY,
    ),
    SchemaMismatch: Problem(
        "database-unavailable", 503, "Database unavailable", "The database is not ready for this service.", RETRY
    ),
    KeysUnavailable: Problem(
        "issuer-unavailable", 503, "Issuer unavailable", "The token cannot be verified now. Try again.", RETRY
    ),
}


def answer(scope: Scope, error: Exception) -> ConnexionResponse:
    """Makes the problem document for a failed request, and logs what the client must not see under the same id."""
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
    headers = {**NO_STORE, **problem.headers, **(getattr(error, "headers", None) or {})}
    return ConnexionResponse(problem.status, content_type=MEDIA_TYPE, body=msgspec.json.encode(body), headers=headers)


def _instance(request_id: str) -> str:
    """The request as a URI, with its id letter for letter as the log has it."""
    return f"urn:uuid:{request_id}" if UUID.fullmatch(request_id) else f"{TYPE_PREFIX}request/{request_id}"


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
    elif isinstance(error, (Overloaded, TooManyRequests, Ending)):
        pass  # These come in large numbers. Admission logs the refused requests together; the server logs its shutdown.
    elif problem.status == 503:  # noqa: PLR2004
        logger.error(problem.name, request_id=request_id, reason=type(error.__cause__ or error).__name__)
    elif problem is INTERNAL_ERROR:
        # An exception's message may quote user data, as PostgreSQL's do. Only its class and its stack are logged.
        logger.error(
            problem.name,
            request_id=request_id,
            error=type(error).__qualname__,
            sqlstate=error.sqlstate if isinstance(error, psycopg.Error) else None,
            violation=error.detail if isinstance(error, NonConformingResponse) else None,
            stack="".join(traceback.format_tb(error.__traceback__)),
        )
