"""Verifies JSON Web Tokens (RFC 7519) as RFC 8725 advises.

The reasons of `TokenInvalid` are logged: they must never quote the token or a claim's value.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from contextlib import suppress
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

NO_USER_IDS = frozenset({"", ".", ".."})
"""The contract refuses these in a path, where the last two mean another place (RFC 3986, section 5.2.4)."""

TIMES = ("exp", "nbf", "iat")
"""Claims that must be a NumericDate: a JSON number, not a string of digits (RFC 7519, section 2).

A time of issue in the future refuses nothing (RFC 7519, section 4.1.6): `nbf` says when a token begins.
"""

TYPES = frozenset({"jwt", "at+jwt"})
"""The media types, without `application/`, that a token's `typ` may name (RFC 7519, section 5.1; RFC 9068, section 4).

A token may also have no `typ`.
"""


class TokenInvalid(Exception):
    """The token is not valid. `reason` goes into the log only. Becomes 401."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Verified:
    user: User
    not_after_seconds: float
    generation: int


class Verifier:
    """Finds the user of a token. Verified tokens are remembered until they expire or a key is removed.

    `hits` counts uses of a remembered token, `misses` the tokens that had to be verified.
    """

    def __init__(
        self,
        keys: Keys,
        *,
        issuer: str | None = None,
        audience: str | None = None,
        leeway_seconds: float = 0,
        remembered_tokens: int = REMEMBERED_TOKENS,
    ) -> None:
        """`iss` must equal `issuer`, and `aud` must contain `audience`. None for an argument skips its check."""
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._leeway_seconds = leeway_seconds
        # The cache is indexed by digests, so that no token stays in memory longer than its request.
        self._verified: LRUCache[bytes, _Verified] = LRUCache(remembered_tokens)
        self.hits = self.misses = 0

    @property
    def remembered(self) -> int:
        """How many tokens are remembered."""
        return len(self._verified)

    async def verify(self, token: str) -> User:
        """Returns the user that the token's claims describe.

        Raises:
            TokenInvalid: the token is malformed, forged, expired, not yet valid, or lacks a required claim (401).
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
            # A remembered token needs no key. The refresh discovers whether its key was removed.
            self._keys.refresh()
        return known.user

    async def _verify(self, token: str) -> _Verified:
        try:
            header = _header(token)
            keys = await self._keys.find(header.get("kid"), header.get("alg"))
            claims = self._claims(token, keys)
        except KeyUnknown:
            raise TokenInvalid("no key verifies the token") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            # PyJWT's messages name a claim, not its value. Others may quote the token, so only their class is logged.
            raise TokenInvalid(str(error) if isinstance(error, jwt.PyJWTError) else type(error).__name__) from None
        if not all(_is_number(claims.get(name, 0)) for name in TIMES):
            raise TokenInvalid("a time is not a number")
        # PyJWT compares whole seconds. Doing the same here makes remembered and new tokens expire at the same time.
        return _Verified(_user(claims), int(claims["exp"]) + self._leeway_seconds, self._keys.generation)

    def _claims(self, token: str, keys: Sequence[jwt.PyJWK]) -> dict[str, Any]:
        """The claims, checked, of a token that one of the keys signed.

        Raises:
            PyJWTError: no key signed it, or a claim is missing or wrong.
        """
        *others, last = keys
        for key in others:
            with suppress(jwt.InvalidSignatureError):
                return self._claims(token, [key])
        claims: dict[str, Any] = jwt.decode(
            token,
            last,
            algorithms=[last.algorithm_name],
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
                "verify_iat": False,
                "verify_jti": False,
            },
        )
        return claims


def _header(token: str) -> dict[str, Any]:
    """Decodes the token's header and checks the token's form, before any key is looked up.

    Raises:
        TokenInvalid: the token is too long or malformed, or its header asks for something unsupported (401).
    """
    if len(token) > TOKEN_LIMIT_CHARACTERS:
        raise TokenInvalid("the token is too long")
    if token.count(".") != 2:  # noqa: PLR2004 - header, claims and signature (RFC 7515, section 7.1)
        raise TokenInvalid("the token does not have three parts")
    decoded, _, _ = map(_decode, token.split("."))
    # PyJWT could decode the header too, but its message quotes an unknown critical extension, and the client's words
    # must not be logged.
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
    if typ is not None and (not isinstance(typ, str) or typ.lower().removeprefix("application/") not in TYPES):
        raise TokenInvalid("the token is of another type")
    return header


def _is_number(value: object) -> bool:
    """Whether this is a JSON number. Python's reader also takes `NaN` and `Infinity`, and `bool` is an `int`."""
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _decode(part: str) -> bytes:
    """Decodes a part of the token. It refuses another encoding of the same bytes (RFC 4648, section 3.5)."""
    try:
        decoded = base64url_decode(part)
    except ValueError:
        decoded = b""
    if base64url_encode(decoded).decode() != part:
        raise TokenInvalid("the token is not canonical base64url")
    return decoded


def _user(claims: dict[str, Any]) -> User:
    user_id = _text(claims["sub"], USER_ID_LIMIT_CHARACTERS)
    if user_id is None or user_id in NO_USER_IDS:
        raise TokenInvalid("sub cannot be a user's id")
    return User(
        user_id,
        email=_text(claims.get("email"), CLAIM_LIMIT_CHARACTERS),
        name=_text(claims.get("name"), CLAIM_LIMIT_CHARACTERS),
    )


def _text(claim: object, limit_characters: int) -> str | None:
    """The claim, or None if PostgreSQL cannot store it: U+0000, a lone surrogate, or more than `limit_characters`."""
    if not isinstance(claim, str) or len(claim) > limit_characters or "\0" in claim:
        return None
    try:
        claim.encode()
    except UnicodeEncodeError:
        return None
    return claim
