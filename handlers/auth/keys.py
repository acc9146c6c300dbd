"""The keys that verify tokens: a shared secret, or the issuer's key set (RFC 7517)."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence
from typing import Protocol

import jwt
import structlog

from handlers.auth import issuer
from handlers.auth.issuer import KeySetRefused, PublishedKey

logger = structlog.get_logger()

FETCH_INTERVAL_SECONDS = 1.0
"""The least time between two fetches, so that invalid tokens cannot make the service flood the issuer."""

REFRESH_SECONDS = 300.0
"""The age at which keys are stale and are fetched again. Stale keys stay usable until a fetch succeeds."""


IGNORED_SHOWN = 10
"""How many ignored keys a log line names."""


class KeyUnknown(Exception):
    """No key has this id and this algorithm. Becomes 401."""


class KeysUnavailable(Exception):
    """No keys were fetched yet, and they cannot be fetched now. Becomes 503."""


class Keys(Protocol):
    """A source of keys."""

    generation: int
    """Changes when a key is removed or replaced. Tokens verified under another generation must be verified again."""

    async def find(self, key_id: object, algorithm: object) -> Sequence[jwt.PyJWK]:
        """Finds the keys for a token whose header has this `kid` and `alg`. One of them must have signed it.

        Raises:
            KeyUnknown: there is no such key (401).
            KeysUnavailable: the keys cannot be fetched (503).
        """
        ...

    def refresh(self) -> None:
        """Starts a fetch in the background if the keys are stale, and returns at once."""
        ...


class SharedSecret:
    """One secret, shared with the issuer, for HS256. It ignores the token's key id."""

    generation = 0

    def __init__(self, secret: bytes) -> None:
        self._keys = [jwt.PyJWK({"kty": "oct", "k": jwt.utils.base64url_encode(secret).decode()}, "HS256")]

    async def find(self, key_id: object, algorithm: object) -> Sequence[jwt.PyJWK]:
        del key_id
        if algorithm != "HS256":
            raise KeyUnknown
        return self._keys

    def refresh(self) -> None:
        """Does nothing: a secret does not become stale."""


class KeySet:
    """The issuer's published keys, fetched without blocking the event loop.

    Requests that wait for the keys at the same time share one fetch. A failed fetch is logged, and the known keys stay
    in use.
    """

    def __init__(self, url: str, tls: ssl.SSLContext) -> None:
        self.generation = 0
        self._url = url
        self._tls = tls
        self._keys: dict[tuple[str | None, str], list[jwt.PyJWK]] = {}
        self._usable: frozenset[PublishedKey] = frozenset()
        self._stale_at_seconds = float("-inf")
        self._attempted_at_seconds = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, key_id: object, algorithm: object) -> Sequence[jwt.PyJWK]:
        """Finds the keys with this id and algorithm; without an id, the only key for the algorithm.

        For an unknown key it waits for a running fetch, if any, and then for one new fetch: the issuer may have
        published the key since.

        Raises:
            KeyUnknown: the issuer publishes no such key for this algorithm (401).
            KeysUnavailable: no keys were fetched yet, and they cannot be fetched now (503).
        """
        self.refresh()
        asked_at_seconds = time.monotonic()
        while not (keys := self._known(key_id, algorithm)) and self._attempted_at_seconds < asked_at_seconds:
            # A running fetch may have started before the key was published, so a second fetch may follow it.
            await asyncio.shield(self._fetch())
        if not self._keys:
            raise KeysUnavailable
        if not keys:
            raise KeyUnknown
        return keys

    def refresh(self) -> None:
        """Starts a fetch in the background if the keys are stale, and returns at once."""
        if time.monotonic() > self._stale_at_seconds:
            self._fetch()

    def _known(self, key_id: object, algorithm: object) -> Sequence[jwt.PyJWK]:
        if not isinstance(key_id, str | None) or not isinstance(algorithm, str):
            return ()
        keys = self._keys.get((key_id, algorithm), ())
        return keys if key_id is not None or len(keys) == 1 else ()

    def _fetch(self) -> asyncio.Task[None]:
        """The running fetch, or a new one. All callers share it."""
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.create_task(self._fetch_when_due())
        return self._fetching

    async def _fetch_when_due(self) -> None:
        await asyncio.sleep(self._attempted_at_seconds + FETCH_INTERVAL_SECONDS - time.monotonic())
        self._attempted_at_seconds = time.monotonic()
        try:
            # A thread keeps the event loop free: reading 15,000 header lines takes 45 ms. The thread outlives its own
            # time-out if the issuer's name is resolved slowly, because nothing can interrupt that.
            async with asyncio.timeout(issuer.FETCH_SECONDS + 1):
                fetched = await asyncio.to_thread(issuer.fetch_keys, self._url, self._tls)
        except (KeySetRefused, TimeoutError) as error:
            logger.warning("key_set_refused", reason=str(error) or "the issuer's name is resolved too slowly")
            return
        if fetched.ignored:
            reasons = "; ".join(fetched.ignored[:IGNORED_SHOWN])
            logger.warning("keys_ignored", count=len(fetched.ignored), reasons=reasons)
        if not self._usable <= fetched.usable:
            self.generation += 1
        self._keys, self._usable = fetched.by_id_and_algorithm, fetched.usable
        self._stale_at_seconds = time.monotonic() + REFRESH_SECONDS
