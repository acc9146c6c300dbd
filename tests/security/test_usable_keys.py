"""A key verifies the tokens of its own algorithm, and a key that may not verify anything is passed over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from handlers.auth.keys import KeySet, KeyUnknown, SharedSecret
from handlers.auth.tokens import TokenInvalid, Verifier
from support.issuer import ALGORITHMS, Issuer, Signer, new_signer
from support.keys import FIRST, P256, P384, RSA, SECOND, found

pytestmark = pytest.mark.requirement("FR-02")

TOO_SHORT = rsa.generate_private_key(65537, 1024).public_key()  # noqa: S505 - that is the point

UNUSABLE = {
    "symmetric": {"kty": "oct", "k": "c2VjcmV0" * 8, "kid": "odd", "alg": "HS256"},
    "symmetric-that-says-otherwise": {"kty": "oct", "k": "c2VjcmV0" * 8, "kid": "odd", "alg": "RS256"},
    "for-encryption": SECOND.public | {"kid": "odd", "use": "enc"},
    "use-not-a-string": SECOND.public | {"kid": "odd", "use": ["sig"]},
    "rsa-too-short": ALGORITHMS["RS256"].to_jwk(TOO_SHORT, as_dict=True) | {"kid": "odd", "alg": "RS256"},
    "rsa-that-says-hs256": RSA.public | {"kid": "odd", "alg": "HS256"},
    "rsa-that-says-es256": RSA.public | {"kid": "odd", "alg": "ES256"},
    "ed25519-that-says-rs256": SECOND.public | {"kid": "odd", "alg": "RS256"},
    "none": SECOND.public | {"kid": "odd", "alg": "none"},
    "algorithm-unknown": SECOND.public | {"kid": "odd", "alg": "XS256"},
    "algorithm-not-a-string": SECOND.public | {"kid": "odd", "alg": ["EdDSA"]},
    "private": ALGORITHMS["EdDSA"].to_jwk(SECOND.private, as_dict=True) | {"kid": "odd", "alg": "EdDSA"},
    "private-rsa": ALGORITHMS["RS256"].to_jwk(RSA.private, as_dict=True) | {"kid": "odd", "alg": "RS256"},
    "kind-unknown": {"kty": "AKP", "kid": "odd", "alg": "ML-DSA-44", "pub": "AAAA"},
    "kind-not-a-string": SECOND.public | {"kid": "odd", "kty": ["OKP"]},
    "kind-missing": {"kid": "odd", "alg": "EdDSA"},
    "curve-unknown": SECOND.public | {"kid": "odd", "crv": "Ed1"},
    "not-on-the-curve": P256.public | {"kid": "odd", "x": P256.public["y"]},
    "coordinates-missing": {"kty": "EC", "crv": "P-256", "kid": "odd", "alg": "ES256"},
    "coordinates-not-text": P256.public | {"kid": "odd", "x": 1},
    "modulus-too-long": RSA.public | {"kid": "odd", "n": "_" * 2_733},
    "exponent-too-long": RSA.public | {"kid": "odd", "e": "_" * 7},
    "id-too-long": SECOND.public | {"kid": "x" * 256},
    "nested-deeply": SECOND.public | {"kid": "odd", "alg": {"x": [[[{}]]]}},
    "modulus-not-text": RSA.public | {"kid": "odd", "n": [1]},
    "exponent-one": RSA.public | {"kid": "odd", "e": "AQ"},
    "exponent-empty": RSA.public | {"kid": "odd", "e": ""},
    "id-not-a-string": SECOND.public | {"kid": 5},
    "id-a-list": SECOND.public | {"kid": ["odd"]},
    "not-a-key": "odd",
}


@pytest.mark.anyio
@pytest.mark.parametrize("key", UNUSABLE.values(), ids=UNUSABLE)
async def test_a_key_that_may_not_verify_is_ignored_and_the_others_work(
    key_set: KeySet, issuer: Issuer, key: Any
) -> None:
    issuer.published = [key, FIRST.public, key]

    assert await found(key_set, "first")
    names = ["none", "HS256", "RS256", "ES256", "EdDSA"]
    assert [name for name in names if await found(key_set, "odd", name)] == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("own", "expected"),
    [
        pytest.param(FIRST.public, {"EdDSA"}, id="ed25519"),
        pytest.param(P256.public, {"ES256"}, id="p-256"),
        pytest.param(P384.public, {"ES384"}, id="p-384"),
        pytest.param(RSA.public, {"RS256"}, id="rsa"),
        pytest.param(RSA.public | {"alg": "PS256"}, {"PS256"}, id="rsa-pss"),
        pytest.param(P256.public | {"alg": None}, {"ES256"}, id="p-256-unsaid"),
        pytest.param(RSA.public | {"alg": None}, {"RS256"}, id="rsa-unsaid"),
        pytest.param(FIRST.public | {"alg": None}, {"EdDSA"}, id="ed25519-unsaid"),
    ],
)
async def test_a_key_verifies_its_own_algorithm_and_no_other(
    key_set: KeySet, issuer: Issuer, own: dict[str, Any], expected: set[str]
) -> None:
    issuer.published = [own]

    verified = {name for name in ALGORITHMS if await found(key_set, own["kid"], name)}

    assert verified == expected


@pytest.mark.anyio
async def test_a_key_of_another_curve_than_its_algorithm_verifies_nothing(key_set: KeySet, issuer: Issuer) -> None:
    issuer.published = [P384.public | {"alg": "ES256"}, FIRST.public]
    token = P256.token({"kid": P384.kid})

    with pytest.raises(TokenInvalid):
        await Verifier(key_set).verify(token)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("published", "expected"),
    [
        pytest.param([FIRST], True, id="the-only-key"),
        pytest.param([FIRST, RSA], True, id="the-only-one-for-the-algorithm"),
        pytest.param([FIRST, SECOND], False, id="one-of-two"),
        pytest.param([RSA], False, id="none-for-the-algorithm"),
    ],
)
async def test_a_token_without_key_id_is_verified_where_only_one_key_can(
    key_set: KeySet, issuer: Issuer, published: list[Signer], expected: bool
) -> None:
    issuer.publish(*published)

    assert await found(key_set, None) is expected


@pytest.mark.anyio
async def test_keys_without_id_verify_tokens_without_one(key_set: KeySet, issuer: Issuer) -> None:
    ed25519_key, rsa_key = new_signer(None), replace(RSA, kid=None)
    issuer.published = [ed25519_key.public, rsa_key.public | {"kid": None}]
    verifier = Verifier(key_set)

    users = [await verifier.verify(one.token(sub=sub)) for one, sub in ((ed25519_key, "alice"), (rsa_key, "bob"))]

    assert [user.id for user in users] == ["alice", "bob"]


@pytest.mark.anyio
async def test_what_other_keys_verified_is_still_remembered_when_one_is_added(
    key_set: KeySet, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier, token = Verifier(key_set), FIRST.token()
    await verifier.verify(token)
    issuer.publish(FIRST, SECOND)
    await verifier.verify(SECOND.token())
    monkeypatch.setattr(jwt, "decode", None)

    assert (await verifier.verify(token)).id == "alice"


@pytest.mark.anyio
async def test_a_forged_token_is_never_remembered(key_set: KeySet, issuer: Issuer) -> None:
    issuer.publish(FIRST, SECOND)
    verifier, forged = Verifier(key_set), SECOND.token({"kid": "first"})

    for _ in range(3):
        with pytest.raises(TokenInvalid):
            await verifier.verify(forged)

    assert len(verifier._verified) == 0  # noqa: SLF001 - what is not remembered cannot be seen from outside


@pytest.mark.anyio
@pytest.mark.parametrize("algorithm", ["RS256", "HS512", "none", "", None])
async def test_a_shared_secret_verifies_hs256_alone(algorithm: str) -> None:
    secret = SharedSecret(b"x" * 32)

    with pytest.raises(KeyUnknown):
        await secret.find(None, algorithm)
