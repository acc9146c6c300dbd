"""People who use the service: their tokens, and a client that sends them."""

from __future__ import annotations

import time
from dataclasses import dataclass

import httpx
import jwt

SECRET = "a secret that only these tests know, and of 32 bytes at least"


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a token, and a client that sends it."""

    id: str
    client: httpx.Client

    @property
    def tasks(self) -> str:
        return f"/api/{self.id}/tasks"


def make_token(sub: object, *, secret: str = SECRET, **claims: object) -> str:
    """A token that is good for a minute, unless the claims say otherwise; a claim that is None is left out."""
    now = int(time.time())
    payload = {"sub": sub, "iat": now, "exp": now + 60} | claims
    return jwt.encode({name: value for name, value in payload.items() if value is not None}, secret, "HS256")
