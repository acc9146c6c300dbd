"""A key verifies the tokens of its own algorithm, and a key that may not verify anything is passed over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from handlers.auth.issuer import SAME_KEYS_LIMIT
from handlers.auth.keys import KeySet, KeyUnknown, SharedSecret
from handlers.auth.tokens import TokenInvalid, Verifier
from support.issuer import ALGORITHMS, Issuer, Signer, new_signer
from support.keys import ED448, FIRST, K256, P256, P384, P521, RSA, SECOND, found

pytestmark = pytest.mark.requirement("FR-02", "SC-09")

RSA_ALGORITHMS = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}

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
    "for-encryption-by-its-operations": SECOND.public | {"kid": "odd", "key_ops": ["encrypt", "wrapKey"]},
    "operations-not-a-list": SECOND.public | {"kid": "odd", "key_ops": "verify"},
    "ed25519-that-says-ed448": SECOND.public | {"kid": "odd", "alg": "Ed448"},
    "ed448-that-says-ed25519": ED448.public | {"kid": "odd", "alg": "Ed25519"},
    "curve-of-another-kind": SECOND.public | {"kid": "odd", "crv": "X25519", "alg": None},
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
    names = ["none", "HS256", "RS256", "ES256", "EdDSA", "Ed25519"]
    assert [name for name in names if await found(key_set, "odd", name)] == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("own", "expected"),
    [
        pytest.param(FIRST.public, {"EdDSA", "Ed25519"}, id="ed25519"),
        pytest.param(P256.public, {"ES256"}, id="p-256"),
        pytest.param(P384.public, {"ES384"}, id="p-384"),
        pytest.param(RSA.public, {"RS256"}, id="rsa"),
        pytest.param(RSA.public | {"alg": "PS256"}, {"PS256"}, id="rsa-pss"),
        pytest.param(RSA.public | {"alg": "RS512"}, {"RS512"}, id="rsa-512"),
        pytest.param(P521.public, {"ES512"}, id="p-521"),
        pytest.param(K256.public, {"ES256K"}, id="secp256k1"),
        pytest.param(FIRST.public | {"alg": "Ed25519"}, {"EdDSA", "Ed25519"}, id="ed25519-by-its-new-name"),
        pytest.param(ED448.public, {"EdDSA", "Ed448"}, id="ed448"),
        pytest.param(ED448.public | {"alg": "EdDSA"}, {"EdDSA", "Ed448"}, id="ed448-by-its-old-name"),
        pytest.param(P256.public | {"alg": None}, {"ES256"}, id="p-256-unsaid"),
        pytest.param(P521.public | {"alg": None}, {"ES512"}, id="p-521-unsaid"),
        pytest.param(K256.public | {"alg": None}, {"ES256K"}, id="secp256k1-unsaid"),
        pytest.param(RSA.public | {"alg": None}, RSA_ALGORITHMS, id="rsa-unsaid"),
        pytest.param(RSA.public | {"alg": None, "crv": "P-256"}, RSA_ALGORITHMS, id="rsa-with-a-curve"),
        pytest.param(FIRST.public | {"alg": None}, {"EdDSA", "Ed25519"}, id="ed25519-unsaid"),
        pytest.param(ED448.public | {"alg": None}, {"EdDSA", "Ed448"}, id="ed448-unsaid"),
    ],
)
async def test_a_key_verifies_its_own_algorithm_and_no_other(
    key_set: KeySet, issuer: Issuer, own: dict[str, Any], expected: set[str]
) -> None:
    issuer.published = [own]

    verified = {name for name in ALGORITHMS if await found(key_set, own["kid"], name)}

    assert verified == expected


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("signer", "published", "algorithm"),
    [
        pytest.param(signer, published, algorithm, id=f"{signer.kid}-that-says-{published}-signs-{algorithm}")
        for signer, names, algorithms in (
            (FIRST, ("EdDSA", "Ed25519", None), ("EdDSA", "Ed25519")),
            (ED448, ("EdDSA", "Ed448", None), ("EdDSA", "Ed448")),
            (RSA, (None,), sorted(RSA_ALGORITHMS)),
            (P384, (None, "ES384"), ("ES384",)),
            (P521, (None, "ES512"), ("ES512",)),
            (K256, (None, "ES256K"), ("ES256K",)),
        )
        for published in names
        for algorithm in algorithms
    ],
)
async def test_a_token_is_verified_by_whichever_name_of_its_algorithm(
    key_set: KeySet, issuer: Issuer, signer: Signer, published: str | None, algorithm: str
) -> None:
    issuer.published = [signer.public | {"alg": published}]
    verifier = Verifier(key_set)

    assert (await verifier.verify(replace(signer, algorithm=algorithm).token())).id == "alice"
    with pytest.raises(TokenInvalid, match="Signature verification failed"):
        await verifier.verify(replace(new_signer(signer.kid, signer.algorithm), algorithm=algorithm).token())


RSA_2 = new_signer("rsa-2", "RS256")
STRANGERS = {type(one.private): new_signer(None, one.algorithm).private for one in (FIRST, ED448, RSA, P256)}
"""Keys of each kind that nobody published."""


def one_id(*published: dict[str, Any]) -> list[dict[str, Any]]:
    return [key | {"kid": "one"} for key in published]


ONE_ID = {
    "two-algorithms": (one_id(RSA.public, P256.public), [RSA, P256]),
    "two-algorithms-the-other-way-round": (one_id(P256.public, RSA.public), [RSA, P256]),
    "signature-then-encryption": (one_id(RSA.public, SECOND.public | {"use": "enc"}), [RSA]),
    "encryption-then-signature": (one_id(RSA.public | {"use": "enc"}, RSA.public), [RSA]),
    "a-secret-last": (one_id(FIRST.public, {"kty": "oct", "k": "c2VjcmV0" * 8}), [FIRST]),
    "a-secret-first": (one_id({"kty": "oct", "k": "c2VjcmV0" * 8}, FIRST.public), [FIRST]),
    "a-private-key-last": (one_id(FIRST.public, SECOND.public | {"d": "AAAA"}), [FIRST]),
    "an-unknown-kind-last": (one_id(FIRST.public, {"kty": "AKP", "alg": "ML-DSA-44"}), [FIRST]),
    "an-unusable-one-last": (one_id(P256.public, P256.public | {"x": "AAAA"}), [P256]),
    "two-of-one-algorithm": (one_id(FIRST.public, SECOND.public), [FIRST, SECOND]),
    "two-curves-of-one-name": (one_id(FIRST.public | {"alg": "EdDSA"}, ED448.public | {"alg": "EdDSA"}),
                               [replace(FIRST, algorithm="EdDSA"), replace(ED448, algorithm="EdDSA")]),
    "one-that-says-its-algorithm-and-one-that-does-not": (
        one_id(RSA.public, RSA_2.public | {"alg": None}), [RSA, RSA_2, replace(RSA_2, algorithm="PS256")]),
    "one-twice": (one_id(FIRST.public, FIRST.public | {"use": "sig"}, FIRST.public), [FIRST]),
}  # fmt: skip


@pytest.mark.anyio
@pytest.mark.parametrize(("published", "signers"), ONE_ID.values(), ids=ONE_ID)
async def test_of_keys_with_one_id_each_verifies_its_own_tokens(
    key_set: KeySet, issuer: Issuer, published: list[dict[str, Any]], signers: list[Signer]
) -> None:
    issuer.published = published
    verifier = Verifier(key_set)

    users = [
        (await verifier.verify(replace(signer, kid="one").token(sub=f"user-{number}"))).id
        for number, signer in enumerate(signers)
    ]

    assert users == [f"user-{number}" for number in range(len(signers))]
    for signer in signers:
        with pytest.raises(TokenInvalid, match="Signature verification failed"):
            await verifier.verify(replace(signer, private=STRANGERS[type(signer.private)], kid="one").token())


@pytest.mark.anyio
async def test_a_token_under_an_id_of_several_keys_is_refused_for_what_its_own_key_says(
    key_set: KeySet, issuer: Issuer
) -> None:
    issuer.published = one_id(FIRST.public, SECOND.public)

    with pytest.raises(TokenInvalid, match="Signature has expired"):
        await Verifier(key_set).verify(replace(SECOND, kid="one").token(exp=1))


@pytest.mark.anyio
async def test_the_keys_that_a_token_tries_are_bounded(
    key_set: KeySet, issuer: Issuer, log: list[dict[str, Any]]
) -> None:
    signers = [new_signer("one") for _ in range(SAME_KEYS_LIMIT + 1)]
    issuer.publish(*signers, FIRST)
    verifier = Verifier(key_set)

    for signer in signers[:-1]:
        assert (await verifier.verify(signer.token())).id == "alice"
    with pytest.raises(TokenInvalid):
        await verifier.verify(signers[-1].token())
    assert log[0]["reasons"] == "keys[4]: more than 4 keys have its id and algorithm (kid 'one')"


@pytest.mark.requirement("SR-11")
@pytest.mark.anyio
async def test_ignored_keys_are_logged_in_one_line_with_their_reasons_and_without_what_is_secret(
    key_set: KeySet, issuer: Issuer, log: list[dict[str, Any]]
) -> None:
    issuer.published = [
        UNUSABLE["symmetric"],
        UNUSABLE["private"],
        UNUSABLE["for-encryption"],
        UNUSABLE["none"],
        UNUSABLE["kind-unknown"] | {"kid": "x\n" * 100},
        UNUSABLE["id-not-a-string"],
        "odd",
        FIRST.public,
    ]

    assert await found(key_set, "first")

    assert [(entry["event"], entry["count"]) for entry in log] == [("keys_ignored", 7)]
    assert log[0]["reasons"].split("; ") == [
        "keys[0]: the key is symmetric (kid 'odd')",
        "keys[1]: the key is private (kid 'odd')",
        "keys[2]: the key's use is 'enc' (kid 'odd')",
        "keys[3]: the key's alg is 'none', which is none of its type and curve (kid 'odd')",
        "keys[4]: keys of type 'AKP' and curve None are unknown (kid '" + r"x\n" * 25 + "')",
        "keys[5]: Expected `str | null`, got `int` - at `$.kid`",
        "keys[6]: Expected `object`, got `str`",
    ]


@pytest.mark.anyio
@pytest.mark.parametrize("member", ["use", "d", "alg", "crv", "key_ops", "n", "y", "x5c"])
async def test_a_member_that_is_null_counts_as_absent(
    key_set: KeySet, issuer: Issuer, log: list[dict[str, Any]], member: str
) -> None:
    issuer.published = [FIRST.public | {member: None}] if member != "crv" else [RSA.public | {"crv": None}]

    assert await found(key_set, "first") or await found(key_set, "rsa", "RS256")
    assert log == []


@pytest.mark.anyio
async def test_a_key_whose_operations_include_verifying_verifies(key_set: KeySet, issuer: Issuer) -> None:
    issuer.published = [FIRST.public | {"key_ops": ["verify"]}]

    assert await found(key_set, "first")


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
