"""Fetches the issuer's key set (RFC 7517). Its size, its number of keys, each key and the time are bounded."""

from __future__ import annotations

import asyncio
import codecs
import copy
import os
import ssl
from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import Annotated, NamedTuple
from urllib.request import getproxies, proxy_bypass

import httpx
import jwt
import msgspec
from jwt.algorithms import get_default_algorithms

FETCH_SECONDS = 5.0
FETCH_LIMIT_BYTES = 1_048_576
REASON_LIMIT_CHARACTERS = 200
KEY_ID_SHOWN_CHARACTERS = 50

KEYS_LIMIT = 1_000
VALUES_LIMIT = 10_000
"""Decoding a megabyte takes 0.4 ms for one long string and 130 ms for 350,000 empty arrays. 10,000 take 4 ms."""

RSA_MINIMUM_BITS = 2048

SAME_KEYS_LIMIT = 4
"""Keys that may share an id and an algorithm: a token tries all of them, and a signature takes up to 1.5 ms."""

ALGORITHMS = {
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("EC", "secp256k1"): ("ES256K",),
    ("OKP", "Ed25519"): ("EdDSA", "Ed25519"),
    ("OKP", "Ed448"): ("EdDSA", "Ed448"),
}
"""The algorithms of each type and curve of key (RFC 7518, section 3.1; RFC 8812; RFC 8037; RFC 9864).

A curve of type OKP has one algorithm with two names. None of these is symmetric, so no public key becomes a secret.
"""

IMPLEMENTATIONS = get_default_algorithms()
IMPLEMENTATIONS |= dict.fromkeys(("Ed25519", "Ed448"), IMPLEMENTATIONS["EdDSA"])

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
    key_ops: tuple[Name, ...] | None = None
    alg: Name | None = None
    crv: Name | None = None
    n: Number | None = None
    e: Exponent | None = None
    x: Number | None = None
    y: Number | None = None
    d: Number | None = None


class FetchedKeys(NamedTuple):
    """A key set, of which only the usable keys count: an unusable one hides no other (RFC 7517, section 5)."""

    usable: frozenset[PublishedKey]
    by_id_and_algorithm: dict[tuple[str | None, str], list[jwt.PyJWK]]
    """The usable keys, bound to one algorithm each (RFC 8725, section 3.1). Under the id None, all keys are found."""

    ignored: list[str]
    """The keys that cannot be used, each with its reason and its id in one line."""

    date: str | None
    """The issuer's `Date` header."""


class Proxy(NamedTuple):
    """A proxy that the environment names."""

    variable: str
    url: str


def proxy_for(url: httpx.URL) -> Proxy | None:
    """The proxy through which the environment wants this URL to be fetched; None for one on this machine.

    httpx would choose the same, but refuses some values of NO_PROXY that other programs take, such as `[::1]`.
    """
    # Some write IPv6 addresses with brackets, or a port.
    is_excepted = proxy_bypass(url.host) or proxy_bypass(url.netloc.decode()) or _is_in_range(url.host)
    if is_excepted or is_loopback(url.host):
        return None
    found = getproxies()
    for name in (f"{url.scheme}_proxy", "all_proxy"):
        if proxy := found.get(name.removesuffix("_proxy")):
            # Lower case goes before upper case, and comes after it in the alphabet.
            variable = max([spelt for spelt in os.environ if spelt.lower() == name], default=name.upper())
            return Proxy(variable, proxy if "://" in proxy else f"http://{proxy}")
    return None


def _is_in_range(host: str) -> bool:
    """Whether `NO_PROXY` has a range of addresses, such as `10.0.0.0/8`, with this one: clusters set such."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    for entry in getproxies().get("no", "").split(","):
        with suppress(ValueError):
            if address in ip_network(entry.strip(), strict=False):
                return True
    return False


def is_loopback(host: str) -> bool:
    """Whether this is an address of this machine or a name that always means one (RFC 6761, section 6.3)."""
    try:
        address = ip_address(host)
    except ValueError:
        return f".{host.removesuffix('.')}".endswith(".localhost")
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def fetch_keys(url: str, tls: ssl.SSLContext) -> FetchedKeys:
    """Fetches the key set, and blocks for `FETCH_SECONDS` at most, or until the issuer's name is resolved.

    Raises:
        KeySetRefused: the issuer cannot be reached, or its answer has no usable key.
    """
    asked = httpx.URL(url)
    proxy = proxy_for(asked)
    through = f" (asked through {proxy.variable})" if proxy else ""
    try:
        return asyncio.run(_fetch(asked, tls, proxy))
    except TimeoutError:
        raise KeySetRefused(f"the issuer's answer takes longer than {FETCH_SECONDS:g} s{through}") from None
    except Exception as error:  # noqa: BLE001 - each library has exceptions of its own for answers it cannot read
        raise KeySetRefused(_one_line(error) + through) from None


async def _fetch(asked: httpx.URL, tls: ssl.SSLContext, proxy: Proxy | None) -> FetchedKeys:
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", "Host": asked.netloc.decode()}
    extensions = {}
    if asked.host.removesuffix(".").endswith(".localhost"):
        # Such names always mean this machine (RFC 6761, section 6.3), but not every resolver knows, and another's
        # answer could lead elsewhere.
        extensions["sni_hostname"] = asked.host
        asked = asked.copy_with(host="localhost")
    body = bytearray()
    async with (
        asyncio.timeout(FETCH_SECONDS),
        httpx.AsyncClient(
            verify=tls, proxy=proxy and proxy.url, trust_env=False, timeout=FETCH_SECONDS, follow_redirects=False
        ) as client,
        client.stream("GET", asked, headers=headers, extensions=extensions) as response,
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
    return _read(body, response.headers.get("date"))


def _read(body: bytearray, date: str | None) -> FetchedKeys:
    usable: set[PublishedKey] = set()
    found: dict[tuple[str | None, str], list[jwt.PyJWK]] = {}
    ignored: list[str] = []
    for position, member in enumerate(_members(body)):
        try:
            key = msgspec.convert(member, PublishedKey)
            bound_keys = _bound_keys(key)
            if key.kid is not None and any(
                len(found.get((key.kid, bound.algorithm_name), ())) == SAME_KEYS_LIMIT for bound in bound_keys
            ):
                raise ValueError(f"more than {SAME_KEYS_LIMIT} keys have its id and algorithm")
        except Exception as error:  # noqa: BLE001 - one bad key must not make the others unusable
            ignored.append(f"keys[{position}]: {_one_line(error)}{_named(member)}")
            continue
        if key not in usable:
            usable.add(key)
            for bound in bound_keys:
                for key_id in {key.kid, None}:
                    found.setdefault((key_id, bound.algorithm_name), []).append(bound)
    if not usable:
        raise KeySetRefused(f"the key set has no usable key{f': {ignored[0]}' if ignored else ''}")
    return FetchedKeys(frozenset(usable), found, ignored, date)


def _members(body: bytearray) -> list[object]:
    """The published keys, whatever they are."""
    # Commas separate values, so this bounds their number before they are decoded.
    if body.count(b",") > VALUES_LIMIT:
        raise KeySetRefused(f"the key set has more than {VALUES_LIMIT:,} values")
    # A reader may pass over a byte order mark (RFC 8259, section 8.1).
    key_set = msgspec.json.decode(body.removeprefix(codecs.BOM_UTF8))
    if not isinstance(key_set, dict) or not isinstance(key_set.get("keys"), list):
        raise KeySetRefused("the answer is not a key set")
    members: list[object] = key_set["keys"]
    if len(members) > KEYS_LIMIT:
        raise KeySetRefused(f"the key set has more than {KEYS_LIMIT:,} keys")
    return members


def _bound_keys(key: PublishedKey) -> list[jwt.PyJWK]:
    """The key, once for each algorithm that it may verify: its own, or else all of its type and curve.

    Raises:
        ValueError: the key may not or cannot verify signatures.
        PyJWTError: a member is missing or wrong.
    """
    # Symmetric and private keys are secret, but were published.
    if key.kty == "oct":
        raise ValueError("the key is symmetric")
    if key.d is not None:
        raise ValueError("the key is private")
    if key.use not in (None, "sig"):
        raise ValueError(f"the key's use is {key.use!a}")
    if key.key_ops is not None and "verify" not in key.key_ops:
        raise ValueError("the key's key_ops lack 'verify'")
    names = ALGORITHMS.get((key.kty, None if key.kty == "RSA" else key.crv))
    if names is None:
        raise ValueError(f"keys of type {key.kty!a} and curve {key.crv!a} are unknown")
    if key.alg is not None:
        if key.alg not in names:
            raise ValueError(f"the key's alg is {key.alg!a}, which is none of its type and curve")
        names = names if key.kty == "OKP" else (key.alg,)
    members = {name: getattr(key, name) for name in ("kty", "crv", "n", "e", "x", "y")}
    verifying_key = jwt.PyJWK({name: value for name, value in members.items() if value is not None}, names[0])
    if key.kty == "RSA" and verifying_key.key.key_size < RSA_MINIMUM_BITS:
        raise ValueError(f"the RSA key has fewer than {RSA_MINIMUM_BITS:,} bits")
    return [_bound(verifying_key, name) for name in names]


def _bound(key: jwt.PyJWK, algorithm: str) -> jwt.PyJWK:
    bound = copy.copy(key)
    bound.algorithm_name, bound.Algorithm = algorithm, IMPLEMENTATIONS[algorithm]
    return bound


def _named(member: object) -> str:
    key_id = member.get("kid") if isinstance(member, dict) else None
    return f" (kid {key_id[:KEY_ID_SHOWN_CHARACTERS]!a})" if isinstance(key_id, str) else ""


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:REASON_LIMIT_CHARACTERS]
