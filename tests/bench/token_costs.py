"""What it costs to know who sent a token: verified for the first time (miss), and remembered (hit).

Run as `python tests/bench/token_costs.py`; prints medians in microseconds.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from handlers.auth.keys import Keys, SharedSecret
from handlers.auth.tokens import Verifier

SECRET = b"a secret that only this benchmark knows"
TOKENS = 2_000

PRIVATE: dict[str, Callable[[], Any]] = {
    "HS256": lambda: SECRET,
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
}


class Known:
    """A key set that has been fetched."""

    generation = 0

    def __init__(self, key: jwt.PyJWK) -> None:
        self._keys = [key]

    async def find(self, key_id: object, algorithm: object) -> Sequence[jwt.PyJWK]:
        del key_id, algorithm
        return self._keys

    def refresh(self) -> None:
        """It does not go stale."""


def keys_of(algorithm: str, private: Any) -> Keys:
    if algorithm == "HS256":
        return SharedSecret(private)
    jwk = jwt.get_algorithm_by_name(algorithm).to_jwk(private.public_key(), as_dict=True)
    return Known(jwt.PyJWK(jwk | {"alg": algorithm}))


async def costs(algorithm: str) -> tuple[float, float]:
    """The medians of a miss and of a hit."""
    private = PRIVATE[algorithm]()
    # The claims that Better Auth writes.
    claims = {"iat": int(time.time()), "exp": int(time.time()) + 900, "email": "a@example.com", "emailVerified": True,
              "name": "Alice", "image": None, "createdAt": "2026-01-01T00:00:00Z",
              "iss": "http://x", "aud": "http://x"}  # fmt: skip
    tokens = [
        jwt.encode(claims | {"sub": f"{number:032}"}, private, algorithm, headers={"kid": "key"})
        for number in range(TOKENS)
    ]
    verifier = Verifier(keys_of(algorithm, private))
    medians = []
    for _ in ("miss", "hit"):
        taken = []
        for token in tokens:
            started = time.perf_counter_ns()
            await verifier.verify(token)
            taken.append(time.perf_counter_ns() - started)
        medians.append(statistics.median(taken) / 1_000)
    return medians[0], medians[1]


def main() -> None:
    for algorithm in PRIVATE:
        miss, hit = asyncio.run(costs(algorithm))
        print(f"{algorithm}: miss {miss:.1f} µs, hit {hit:.2f} µs")


if __name__ == "__main__":
    main()
