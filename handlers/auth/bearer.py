"""Identifies the user by the bearer token, and checks that the path is that user's."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from db.tasks import User
from handlers.auth.tokens import Verifier


class NotOwner(Exception):
    """The user in the path is not the token's user. Becomes 403."""

    reason = "the path names another user"


async def authenticate(token: str, request: HTTPConnection) -> User:
    """Returns the token's user, after checking that `user_id` in the path is the same user.

    It leaves the user's id in `scope["state"]["user_id"]`, for the log, also when the path is another user's.

    Raises:
        TokenInvalid: the token is not valid (401).
        KeysUnavailable: the issuer's keys cannot be fetched, so the token cannot be verified (503).
        NotOwner: the path names another user (403).
    """
    state = request.scope["state"]
    verifier: Verifier = state["verifier"]
    user = await verifier.verify(token)
    state["user_id"] = user.id
    if request.path_params["user_id"] != user.id:
        raise NotOwner
    return user
