"""Who asks, and whether the path is theirs. The contract's security scheme names `authenticate`."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from db.tasks import User
from handlers.auth.tokens import Verifier


class NotOwner(Exception):
    """The path names another user than the token. Becomes 403."""

    reason = "the path names another user"


async def authenticate(token: str, request: HTTPConnection) -> User:
    """The user whom a valid token names, whose path this is.

    Raises:
        TokenInvalid: the token is not valid (401).
        KeysUnavailable: the issuer's keys cannot be fetched, so that nobody can tell (503).
        NotOwner: the path names another user (403).
    """
    state = request.scope["state"]
    verifier: Verifier = state["verifier"]
    user = await verifier.verify(token)
    state["user_id"] = user.id
    if request.path_params["user_id"] != user.id:
        raise NotOwner
    return user
