"""The keys that tokens are verified with: a shared secret, or the issuer's key set (RFC 7517)."""

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
"""At most one request per interval leaves for the issuer, whatever is thrown at the service."""

REFRESH_SECONDS = 300.0
"""After this the keys are fetched again, while the known ones go on working."""

RSA_MINIMUM_BITS = 2048


class KeyUnknown(Exception):
    """There is no such key, or it does not verify this algorithm. Becomes 401."""


class KeysUnavailable(Exception):
    """There are no keys yet, and the issuer does not give any. Becomes 503."""


class Keys(Protocol):
    """Where keys come from."""

    generation: int
    """Another number whenever a key was removed: what the old keys verified must be verified again."""

    async def find(self, key_id: object, algorithm: object) -> jwt.PyJWK:
        """The key that verifies a token with this header.

        Raises:
            KeyUnknown: there is none (401).
            KeysUnavailable: nobody can tell just now (503).
        """
        ...

    def refresh(self) -> None:
        """Starts to fetch the keys again where they are stale, without waiting for them."""
        ...


class SharedSecret:
    """One secret, shared with the issuer, for HS256; it has no id, and none is looked at."""

    generation = 0

    def __init__(self, secret: bytes) -> None:
        self._key = jwt.PyJWK({"kty": "oct", "k": jwt.utils.base64url_encode(secret).decode()}, "HS256")

    async def find(self, key_id: object, algorithm: object) -> jwt.PyJWK:
        del key_id
        if algorithm != "HS256":
            raise KeyUnknown
        return self._key

    def refresh(self) -> None:
        """A secret does not go stale."""


class KeySet:
    """The issuer's published keys, fetched without blocking the event loop, once for many waiting requests."""

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
        """The key of this id, or the only one for the algorithm where the token names none.

        Raises:
            KeyUnknown: the issuer does not publish it, or not for this algorithm (401).
            KeysUnavailable: no keys were ever fetched, and none can be now (503).
        """
        self.refresh()
        asked_at_seconds = time.monotonic()
        while (key := self._known(key_id, algorithm)) is None and self._attempted_at_seconds < asked_at_seconds:
            # A fetch that was under way already may have left before the key was published: the next one tells.
            await asyncio.shield(self._fetch())
        if not self._keys:
            raise KeysUnavailable
        if key is None:
            raise KeyUnknown
        return key

    def refresh(self) -> None:
        """Starts to fetch the keys again where they are stale, without waiting for them."""
        if time.monotonic() > self._stale_at_seconds:
            self._fetch()

    def _known(self, key_id: object, algorithm: object) -> jwt.PyJWK | None:
        if key_id is None:
            candidates = [key for key in self._keys.values() if key.algorithm_name == algorithm]
            return candidates[0] if len(candidates) == 1 else None
        key = self._keys.get(key_id) if isinstance(key_id, str) else None
        return key if key is not None and key.algorithm_name == algorithm else None

    def _fetch(self) -> asyncio.Task[None]:
        """The fetch that is under way, or a new one; whoever awaits it shares it."""
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
    """The usable keys and the published ones, whatever they are, by id; and the time that the issuer says it is.

    Raises:
        httpx.HTTPError: the issuer cannot be reached.
        ValueError: what it answers is no key set with a usable key.
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
        raise ValueError("the answer is not a key set")  # noqa: TRY004 - what was sent is wrong, not what was passed
    # Keys without an id stand under their own content, so that none hides another.
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
    """Those keys that may verify signatures. Symmetric and private ones may not: a published secret is no secret."""
    usable: dict[object, jwt.PyJWK] = {}
    for key_id, published_key in published.items():
        if published_key.get("kty") == "oct" or "d" in published_key or published_key.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(published_key)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one key, the others go on working
            logger.warning("key_ignored", key_id=published_key.get("kid"), reason=type(error).__name__)
            continue
        if key.key_type == "RSA" and key.key.key_size < RSA_MINIMUM_BITS:
            logger.warning("key_ignored", key_id=published_key.get("kid"), reason="the RSA key is too short")
            continue
        usable[key_id] = key
    return usable
