"""The keys that verify tokens: a shared secret, or the issuer's key set (RFC 7517)."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Protocol

import httpx
import jwt
import msgspec
import structlog

logger = structlog.get_logger()

FETCH_SECONDS = 5.0
FETCH_LIMIT_BYTES = 1_048_576
FETCH_INTERVAL_SECONDS = 1.0
"""The least time between two fetches, so that invalid tokens cannot make the service flood the issuer."""

REFRESH_SECONDS = 300.0
"""The age at which keys are stale and are fetched again. Stale keys stay usable until a fetch succeeds."""

RSA_MINIMUM_BITS = 2048


class KeyUnknown(Exception):
    """No key has this id and this algorithm. Becomes 401."""


class KeysUnavailable(Exception):
    """No keys were fetched yet, and they cannot be fetched now. Becomes 503."""


class Keys(Protocol):
    """A source of keys."""

    generation: int
    """Changes when a key is removed or replaced. Tokens verified under another generation must be verified again."""

    async def find(self, key_id: object, algorithm: object) -> jwt.PyJWK:
        """Finds the key for a token whose header has this `kid` and `alg`.

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
        self._key = jwt.PyJWK({"kty": "oct", "k": jwt.utils.base64url_encode(secret).decode()}, "HS256")

    async def find(self, key_id: object, algorithm: object) -> jwt.PyJWK:
        del key_id
        if algorithm != "HS256":
            raise KeyUnknown
        return self._key

    def refresh(self) -> None:
        """Does nothing: a secret does not become stale."""


class KeySet:
    """The issuer's published keys, fetched without blocking the event loop.

    Requests that wait for the keys at the same time share one fetch. A failed fetch is logged, and the known keys stay
    in use.
    """

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self.generation = 0
        self._url = url
        self._client = client
        self._keys: dict[object, jwt.PyJWK] = {}
        self._published: dict[object, Any] = {}
        self._stale_at_seconds = float("-inf")
        self._attempted_at_seconds = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, key_id: object, algorithm: object) -> jwt.PyJWK:
        """Finds the key with this id and algorithm; without an id, the only key for the algorithm.

        An unknown key makes one new fetch: the issuer may have published it since the last one.

        Raises:
            KeyUnknown: the issuer publishes no such key for this algorithm (401).
            KeysUnavailable: no keys were fetched yet, and they cannot be fetched now (503).
        """
        self.refresh()
        asked_at_seconds = time.monotonic()
        while (key := self._known(key_id, algorithm)) is None and self._attempted_at_seconds < asked_at_seconds:
            # A running fetch may have started before the key was published, so a second fetch may follow it.
            await asyncio.shield(self._fetch())
        if not self._keys:
            raise KeysUnavailable
        if key is None:
            raise KeyUnknown
        return key

    def refresh(self) -> None:
        """Starts a fetch in the background if the keys are stale, and returns at once."""
        if time.monotonic() > self._stale_at_seconds:
            self._fetch()

    def _known(self, key_id: object, algorithm: object) -> jwt.PyJWK | None:
        if key_id is None:
            candidates = [key for key in self._keys.values() if key.algorithm_name == algorithm]
            return candidates[0] if len(candidates) == 1 else None
        key = self._keys.get(key_id) if isinstance(key_id, str) else None
        return key if key is not None and key.algorithm_name == algorithm else None

    def _fetch(self) -> asyncio.Task[None]:
        """The running fetch, or a new one. All callers share it."""
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.create_task(self._fetch_when_due())
        return self._fetching

    async def _fetch_when_due(self) -> None:
        await asyncio.sleep(self._attempted_at_seconds + FETCH_INTERVAL_SECONDS - time.monotonic())
        self._attempted_at_seconds = time.monotonic()
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                keys, published, _ = await fetch_keys(self._url, self._client)
        except (httpx.HTTPError, TimeoutError, ValueError, RecursionError) as error:
            logger.warning("key_set_refused", reason=str(error) or type(error).__name__)
            return
        if any(published.get(key_id) != key for key_id, key in self._published.items()):
            self.generation += 1
        self._keys, self._published = keys, published
        self._stale_at_seconds = time.monotonic() + REFRESH_SECONDS


async def fetch_keys(
    url: str, client: httpx.AsyncClient
) -> tuple[dict[object, jwt.PyJWK], dict[object, Any], str | None]:
    """Fetches the key set: its usable keys by id, all published keys by id, and the issuer's `Date` header.

    Raises:
        httpx.HTTPError: the issuer cannot be reached.
        ValueError: the answer is not a key set with a usable key.
    """
    body = b""
    async with client.stream("GET", url, headers={"Accept": "application/json"}) as response:
        if response.status_code != httpx.codes.OK:
            raise ValueError(f"the issuer answered {response.status_code}")
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > FETCH_LIMIT_BYTES:
                raise ValueError("the key set is too large")
    key_set = msgspec.json.decode(body)
    if not isinstance(key_set, dict) or not isinstance(key_set.get("keys"), list):
        raise ValueError("the answer is not a key set")  # noqa: TRY004 - the data is wrong, not an argument's type
    # A key without an id is stored under its own content, so that it hides no other key.
    published = {
        msgspec.json.encode(key) if key.get("kid") is None else key["kid"]: key
        for key in key_set["keys"]
        if isinstance(key, dict) and isinstance(key.get("kid"), str | None)
    }
    usable = _usable(published)
    if not usable:
        raise ValueError("the key set has no usable key")
    return usable, published, response.headers.get("date")


def _usable(published: dict[object, Any]) -> dict[object, jwt.PyJWK]:
    """The keys that may verify signatures. Symmetric and private keys may not: they are secret, but were published."""
    usable: dict[object, jwt.PyJWK] = {}
    for key_id, published_key in published.items():
        if published_key.get("kty") == "oct" or "d" in published_key or published_key.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(published_key)
        except Exception as error:  # noqa: BLE001 - one bad key must not make the others unusable
            logger.warning("key_ignored", key_id=published_key.get("kid"), reason=type(error).__name__)
            continue
        if key.key_type == "RSA" and key.key.key_size < RSA_MINIMUM_BITS:
            logger.warning("key_ignored", key_id=published_key.get("kid"), reason="the RSA key is too short")
            continue
        usable[key_id] = key
    return usable
