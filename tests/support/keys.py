"""Keys of each kind that an issuer publishes, and how a test asks for them."""

from __future__ import annotations

from handlers.auth.keys import KeySet, KeyUnknown
from support.issuer import new_signer

FIRST, SECOND = new_signer("first"), new_signer("second")
RSA, P256, P384 = new_signer("rsa", "RS256"), new_signer("p-256", "ES256"), new_signer("p-384", "ES384")
ED448, P521, K256 = new_signer("ed448", "Ed448"), new_signer("p-521", "ES512"), new_signer("k-256", "ES256K")
FAST_INTERVAL_SECONDS = 0.02


async def found(key_set: KeySet, key_id: object, algorithm: str = "EdDSA") -> bool:
    try:
        await key_set.find(key_id, algorithm)
    except KeyUnknown:
        return False
    return True
