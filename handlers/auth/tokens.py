"""What makes a token valid: a JSON Web Token (RFC 7519), verified as RFC 8725 advises."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import jwt
from cachetools import LRUCache
from jwt.utils import base64url_decode, base64url_encode

from db.tasks import User
from handlers.auth.keys import Keys, KeyUnknown

TOKEN_LIMIT_CHARACTERS = 16_384
USER_ID_LIMIT_CHARACTERS = 255
CLAIM_LIMIT_CHARACTERS = 1_000
REMEMBERED_TOKENS = 10_000

TIMES = ("exp", "nbf", "iat")
"""Claims that are a NumericDate: a JSON number, not a string that looks like one (RFC 7519, section 2)."""

TYPES = frozenset({"jwt", "at+jwt"})
"""The values of `typ` that name an access token (RFC 8725, section 3.11)."""


class TokenInvalid(Exception):
    """The token is not valid; `reason` is for the log. Becomes 401."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Verified:
    user: User
    not_after_seconds: float
    generation: int


class Verifier:
    """Tells who sent a token. A verified one is remembered until it expires, or its keys change."""

    def __init__(
        self,
        keys: Keys,
        *,
        issuer: str | None = None,
        audience: str | None = None,
        leeway_seconds: float = 0,
        remembered_tokens: int = REMEMBERED_TOKENS,
    ) -> None:
        """Without `issuer` and `audience`, `iss` and `aud` are not looked at; with them, they are required."""
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._leeway_seconds = leeway_seconds
        # Keyed by digest, so that no token lies about in memory for longer than its request.
        self._verified: LRUCache[bytes, _Verified] = LRUCache(remembered_tokens)
        self.hits = self.misses = 0

    @property
    def remembered(self) -> int:
        """How many tokens are remembered."""
        return len(self._verified)

    async def verify(self, token: str) -> User:
        """The user whom the token names.

        Raises:
            TokenInvalid: malformed, forged, expired, not yet valid, or without a claim that it needs (401).
            KeysUnavailable: the keys cannot be fetched (503).
        """
        digest = sha256(token.encode("utf-8", "surrogateescape")).digest()
        known = self._verified.get(digest)
        if known is None or known.generation != self._keys.generation:
            self.misses += 1
            known = await self._verify(token)
            self._verified[digest] = known
        elif known.not_after_seconds <= time.time():
            del self._verified[digest]
            raise TokenInvalid("the token has expired")
        else:
            self.hits += 1
            # A remembered token needs no key, but it must not outlive one that was removed.
            self._keys.refresh()
        return known.user

    async def _verify(self, token: str) -> _Verified:
        try:
            header = _header(token)
            key = await self._keys.find(header.get("kid"), header.get("alg"))
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm_name],
                issuer=self._issuer,
                audience=self._audience,
                leeway=self._leeway_seconds,
                options={
                    "require": [
                        "exp",
                        "sub",
                        *(["iss"] if self._issuer is not None else []),
                        *(["aud"] if self._audience is not None else []),
                    ],
                    "verify_aud": self._audience is not None,
                    "verify_iss": self._issuer is not None,
                    "verify_jti": False,
                },
            )
        except KeyUnknown:
            raise TokenInvalid("no key verifies the token") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            # PyJWT's messages name the claim, not its value; of the others only the kind is told.
            raise TokenInvalid(str(error) if isinstance(error, jwt.PyJWTError) else type(error).__name__) from None
        if any(type(claims.get(name, 0)) not in (int, float) for name in TIMES):
            raise TokenInvalid("a time is not a number")
        # Whole seconds, as PyJWT reads them: a remembered token ends when a fresh one would.
        return _Verified(_user(claims), int(claims["exp"]) + self._leeway_seconds, self._keys.generation)


def _header(token: str) -> dict[str, Any]:
    """The token's header, if its form is one that is worth verifying."""
    if len(token) > TOKEN_LIMIT_CHARACTERS:
        raise TokenInvalid("the token is too long")
    if token.count(".") != 2:  # noqa: PLR2004 - header, claims and signature (RFC 7515, section 7.1)
        raise TokenInvalid("the token does not have three parts")
    decoded, _, _ = map(_decode, token.split("."))
    # PyJWT's own way to the header says in its message which critical extension it does not know, in the sender's
    # words; they are no reason to log.
    try:
        header = json.loads(decoded)
    except (ValueError, RecursionError):
        raise TokenInvalid("the token's header is not JSON") from None
    if not isinstance(header, dict):
        raise TokenInvalid("the token's header is not an object")
    if "crit" in header:
        raise TokenInvalid("the token has critical extensions")
    if not isinstance(header.get("kid", ""), str):
        raise TokenInvalid("kid is not a string")
    typ = header.get("typ")
    if typ is not None and (not isinstance(typ, str) or typ.lower() not in TYPES):
        raise TokenInvalid("the token is of another type")
    return header


def _decode(part: str) -> bytes:
    """The bytes of a part; a second spelling of them is not the token that was issued (RFC 4648, section 3.5)."""
    try:
        decoded = base64url_decode(part)
    except ValueError:
        decoded = b""
    if base64url_encode(decoded).decode() != part:
        raise TokenInvalid("the token is not canonical base64url")
    return decoded


def _user(claims: dict[str, Any]) -> User:
    user_id = _text(claims["sub"], USER_ID_LIMIT_CHARACTERS)
    if not user_id:
        raise TokenInvalid("sub cannot be a user's id")
    return User(
        user_id,
        email=_text(claims.get("email"), CLAIM_LIMIT_CHARACTERS),
        name=_text(claims.get("name"), CLAIM_LIMIT_CHARACTERS),
    )


def _text(claim: object, limit_characters: int) -> str | None:
    """A claim that PostgreSQL can store, or None: neither U+0000 nor lone surrogates, and not too long."""
    if not isinstance(claim, str) or len(claim) > limit_characters or "\0" in claim:
        return None
    try:
        claim.encode()
    except UnicodeEncodeError:
        return None
    return claim
