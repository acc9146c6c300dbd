"""An issuer on loopback: keys that sign tokens of any form, and a server that publishes what it likes."""

from __future__ import annotations

import base64
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import get_default_algorithms

ALGORITHMS = get_default_algorithms()
ALGORITHMS |= dict.fromkeys(("Ed25519", "Ed448"), ALGORITHMS["EdDSA"])
GENERATE: dict[str, Callable[[], Any]] = {
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "Ed448": ed448.Ed448PrivateKey.generate,
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ES512": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ES256K": lambda: ec.generate_private_key(ec.SECP256K1()),
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
}

Answer = Callable[[BaseHTTPRequestHandler], object]


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def compact(header: Any, payload: Any, sign: Callable[[bytes], bytes]) -> str:
    """A JWS in its compact form, of just this header and payload: bytes are taken as they are."""
    texts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    signed = ".".join(map(b64, texts))
    return f"{signed}.{b64(sign(signed.encode()))}"


def hs256(secret: bytes) -> Callable[[bytes], bytes]:
    return lambda message: hmac.digest(secret, message, "sha256")


def claims(**others: Any) -> dict[str, Any]:
    """Claims that are good for a minute; a claim that is `...` is left out."""
    payload = {"sub": "alice", "iat": int(time.time()), "exp": int(time.time()) + 60} | others
    return {name: value for name, value in payload.items() if value is not ...}


@dataclass(frozen=True)
class Signer:
    """A key that signs tokens: a private one, or a shared secret."""

    algorithm: str
    private: Any
    kid: str | None = None

    @property
    def header(self) -> dict[str, Any]:
        return {"alg": self.algorithm, "typ": "JWT"} | ({"kid": self.kid} if self.kid else {})

    def sign(self, message: bytes, algorithm: str | None = None) -> bytes:
        signature: bytes = ALGORITHMS[algorithm or self.algorithm].sign(message, self.private)
        return signature

    def token(self, header: Any = None, payload: Any = None, **others: Any) -> str:
        """A token with a genuine signature, of a payload or of the usual claims and others.

        Members of `header` are added to the usual ones, or left out if they are `...`; bytes and a list replace it.
        """
        whole = header if isinstance(header, bytes | list) else self.header | (header or {})
        whole = {k: v for k, v in whole.items() if v is not ...} if isinstance(whole, dict) else whole
        return compact(whole, claims(**others) if payload is None else payload, self.sign)

    @property
    def public(self) -> dict[str, Any]:
        """The public key as a key set has it."""
        jwk = ALGORITHMS[self.algorithm].to_jwk(self.private.public_key(), as_dict=True)
        named = {name: value for name, value in jwk.items() if name != "key_ops"} | {"alg": self.algorithm}
        return named | ({"kid": self.kid} if self.kid else {})


def new_signer(kid: str | None, algorithm: str = "EdDSA") -> Signer:
    return Signer(algorithm, GENERATE[algorithm](), kid)


@dataclass
class Issuer:
    """A server with a key set, which remembers the paths that it was asked for; `answer`, if set, is sent instead."""

    url: str
    published: list[Any] = field(default_factory=list)
    answer: Answer | None = None
    asked: list[str] = field(default_factory=list)

    def publish(self, *signers: Signer) -> None:
        self.published = [signer.public for signer in signers]

    @property
    def key_set(self) -> bytes:
        return json.dumps({"keys": self.published}).encode()


@contextmanager
def issuing(*signers: Signer) -> Iterator[Issuer]:
    """An issuer that publishes these keys."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here.asked.append(self.path)
            # The keys are those of the moment when the question came, however long the answer takes.
            key_set = here.key_set
            with suppress(ConnectionError):
                (here.answer or send(key_set))(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        here = Issuer(f"http://127.0.0.1:{server.server_port}/jwks")
        here.publish(*signers)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield here
        server.shutdown()
        thread.join()


def send(body: bytes, status: int = 200, **headers: str) -> Answer:
    """An answer with this body."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    return answer


def hang_up(request: BaseHTTPRequestHandler) -> None:
    """An answer that never comes."""
    request.close_connection = True
