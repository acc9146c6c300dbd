"""Fetches the issuer's key set (RFC 7517). Its size, its number of keys, each key and the time are bounded."""

from __future__ import annotations

import asyncio
import ssl
from typing import Annotated, NamedTuple

import httpx
import jwt
import msgspec

FETCH_SECONDS = 5.0
FETCH_LIMIT_BYTES = 1_048_576
REASON_LIMIT_CHARACTERS = 200

KEYS_LIMIT = 1_000
VALUES_LIMIT = 10_000
"""Decoding a megabyte takes 0.4 ms for one long string and 130 ms for 350,000 empty arrays. 10,000 take 4 ms."""

RSA_MINIMUM_BITS = 2048

Name = Annotated[str, msgspec.Meta(max_length=255)]

Number = Annotated[str, msgspec.Meta(max_length=2_732)]
"""16,384 bits in base64url. A signature under such an RSA key takes 1.5 ms; OpenSSL refuses longer ones."""

Exponent = Annotated[str, msgspec.Meta(max_length=6)]
"""36 bits in base64url. With an exponent of 3,072 bits, a signature takes 7 ms."""


class KeySetRefused(Exception):
    """The issuer cannot be reached, or its answer has no usable key. The message says why in one line."""


class PublishedKey(msgspec.Struct, frozen=True):
    """The members of a published key that are looked at (RFC 7517, section 4; RFC 7518, section 6)."""

    kty: Name
    kid: Name | None = None
    use: Name | None = None
    alg: Name | None = None
    crv: Name | None = None
    n: Number | None = None
    e: Exponent | None = None
    x: Number | None = None
    y: Number | None = None
    d: Number | None = None


class FetchedKeys(NamedTuple):
    """A key set. A key without an id is found under its own content, so that it hides no other key."""

    published: dict[object, PublishedKey]
    usable: dict[object, jwt.PyJWK]
    ignored: list[str]
    """The keys that cannot be used, each with its reason in one line."""

    date: str | None
    """The issuer's `Date` header."""


def fetch_keys(url: str, verify: ssl.SSLContext | bool = True) -> FetchedKeys:
    """Fetches the key set, and blocks for `FETCH_SECONDS` at most, or until the issuer's name is resolved.

    `verify` is httpx's.

    Raises:
        KeySetRefused: the issuer cannot be reached, or its answer has no usable key.
    """
    try:
        return asyncio.run(_fetch(url, verify))
    except TimeoutError:
        raise KeySetRefused(f"the issuer's answer takes longer than {FETCH_SECONDS:g} s") from None
    except Exception as error:  # noqa: BLE001 - each library has exceptions of its own for answers it cannot read
        raise KeySetRefused(_one_line(error)) from None


async def _fetch(url: str, verify: ssl.SSLContext | bool) -> FetchedKeys:
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    body = bytearray()
    async with (
        asyncio.timeout(FETCH_SECONDS),
        httpx.AsyncClient(verify=verify, timeout=FETCH_SECONDS, follow_redirects=False) as client,
        client.stream("GET", url, headers=headers) as response,
    ):
        if response.status_code != httpx.codes.OK:
            raise KeySetRefused(f"the issuer answered {response.status_code}")
        # A few bytes of gzip can become gigabytes.
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise KeySetRefused("the key set has a content encoding, although none was asked for")
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > FETCH_LIMIT_BYTES:
                raise KeySetRefused(f"the key set is larger than {FETCH_LIMIT_BYTES:,} bytes")
    published, usable, ignored = _read(body)
    return FetchedKeys(published, usable, ignored, response.headers.get("date"))


def _read(body: bytearray) -> tuple[dict[object, PublishedKey], dict[object, jwt.PyJWK], list[str]]:
    # Commas separate values, so this bounds their number before they are decoded.
    if body.count(b",") > VALUES_LIMIT:
        raise KeySetRefused(f"the key set has more than {VALUES_LIMIT:,} values")
    key_set = msgspec.json.decode(body)
    if not isinstance(key_set, dict) or not isinstance(key_set.get("keys"), list):
        raise KeySetRefused("the answer is not a key set")
    if len(key_set["keys"]) > KEYS_LIMIT:
        raise KeySetRefused(f"the key set has more than {KEYS_LIMIT:,} keys")
    published: dict[object, PublishedKey] = {}
    usable: dict[object, jwt.PyJWK] = {}
    ignored: list[str] = []
    for position, member in enumerate(key_set["keys"]):
        try:
            key = msgspec.convert(member, PublishedKey)
            key_id = key if key.kid is None else key.kid
            published[key_id] = key
            usable.pop(key_id, None)
            # Symmetric and private keys may not verify signatures: they are secret, but were published.
            if key.kty != "oct" and key.d is None and key.use in (None, "sig"):
                usable[key_id] = _verifying_key(key)
        except Exception as error:  # noqa: BLE001 - one bad key must not make the others unusable
            ignored.append(f"keys[{position}]: {_one_line(error)}")
    if not usable:
        raise KeySetRefused(f"the key set has no usable key{f': {ignored[0]}' if ignored else ''}")
    return published, usable, ignored


def _verifying_key(key: PublishedKey) -> jwt.PyJWK:
    members = {name: value for name, value in msgspec.structs.asdict(key).items() if value is not None}
    verifying_key = jwt.PyJWK(members)
    if key.kty == "RSA" and verifying_key.key.key_size < RSA_MINIMUM_BITS:
        raise ValueError(f"the RSA key has fewer than {RSA_MINIMUM_BITS:,} bits")
    return verifying_key


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:REASON_LIMIT_CHARACTERS]
