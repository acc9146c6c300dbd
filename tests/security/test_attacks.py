"""Attacks, one row each: what every operation answers to it, and what the log says of it.

The rows follow RFC 8725, section 2, and then what people try besides. Every token row runs against a service with a
shared secret and against one with a key set of three kinds of keys, and on each of the seven operations. A row names
its attack by its id, `kind/what`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import socket
import threading
import time
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import psycopg
import pytest
import structlog
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms
from msgspec.structs import asdict
from structlog.testing import LogCapture

from app import application
from handlers import problems
from handlers.auth import keys
from support.people import SECRET, Person, make_token
from support.service import running, running_process

OPERATIONS = {
    "list_tasks": ("GET", "", None),
    "create_task": ("POST", "", {"title": "x"}),
    "get_task": ("GET", "/{task}", None),
    "replace_task": ("PUT", "/{task}", {"title": "x"}),
    "update_task": ("PATCH", "/{task}", {"title": "x"}),
    "delete_task": ("DELETE", "/{task}", None),
    "toggle_task_completion": ("PATCH", "/{task}/complete", None),
}
SAFE_WITHOUT_TASK = {"list_tasks": 200, "create_task": 201}
"""What a valid token gets with the id of no task; the other operations answer 404."""

INVALID = 'Bearer error="invalid_token"'
ALGORITHMS = get_default_algorithms()
SIGNING = [name for name in ALGORITHMS if name != "none"]
TELLING_CHARACTERS = 12
"""A part of a token that is this long may not stand in a log; shorter ones stand there by chance."""


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
    """Whom a service trusts: how its tokens are signed, and under which key id."""

    algorithm: str
    private: Any
    kid: str | None = None

    @property
    def header(self) -> dict[str, Any]:
        return {"alg": self.algorithm, "typ": "JWT"} | ({"kid": self.kid} if self.kid else {})

    def sign(self, message: bytes, algorithm: str | None = None) -> bytes:
        signature: bytes = ALGORITHMS[algorithm or self.algorithm].sign(message, self.private)
        return signature

    def token(self, header: Any = None, payload: Any = None) -> str:
        """A token with a genuine signature; members of `header` are added, bytes replace it."""
        whole = header if isinstance(header, bytes | list) else self.header | (header or {})
        whole = {k: v for k, v in whole.items() if v is not ...} if isinstance(whole, dict) else whole
        return compact(whole, claims() if payload is None else payload, self.sign)

    @property
    def public(self) -> dict[str, Any]:
        jwk = ALGORITHMS[self.algorithm].to_jwk(self.private.public_key(), as_dict=True)
        return {name: value for name, value in jwk.items() if name != "key_ops"} | {
            "alg": self.algorithm,
            "kid": self.kid,
        }


GENERATE: dict[str, Callable[[], Any]] = {
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
}
SIGNERS = {"HS256": Signer("HS256", SECRET.encode())} | {
    name: Signer(name, generate(), f"key-{name.lower()}") for name, generate in GENERATE.items()
}
STRANGERS = {"HS256": Signer("HS256", b"another secret" * 3)} | {
    name: Signer(name, generate(), f"key-{name.lower()}") for name, generate in GENERATE.items()
}
"""Keys that nobody trusts, under the ids of those that are."""

PUBLISHED = {"keys": [signer.public for name, signer in SIGNERS.items() if name != "HS256"]}


@cache
def trap() -> socket.socket:
    """Where the headers of forged tokens lead. Nobody must ever come."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    return listener


def trap_url() -> str:
    return f"http://127.0.0.1:{trap().getsockname()[1]}/jwks"


def visitors() -> int:
    """How many came."""
    with suppress(BlockingIOError):
        trap().accept()[0].close()
        return 1
    return 0


SHARED = ("HS256",)
ASYMMETRIC = tuple(GENERATE)
ALL = (*SHARED, *ASYMMETRIC)


@dataclass
class KeyServer:
    """A server on loopback that answers with a key set and remembers who asked for what."""

    url: str
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def serve_keys() -> Iterator[Callable[[dict[str, Any]], KeyServer]]:
    servers: list[ThreadingHTTPServer] = []

    def serve(key_set: dict[str, Any]) -> KeyServer:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                here.asked.append(self.path)
                body = json.dumps(key_set).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        here = KeyServer(f"http://127.0.0.1:{server.server_port}/jwks")
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return here

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


ServeKeys = Callable[[dict[str, Any]], KeyServer]


@pytest.fixture(scope="module", autouse=True)
def _trap() -> Iterator[None]:
    yield
    trap().close()
    trap.cache_clear()


@pytest.fixture(scope="module")
def issuer(serve_keys: ServeKeys) -> KeyServer:
    return serve_keys(PUBLISHED)


@pytest.fixture(scope="module")
def log() -> Iterator[list[dict[str, Any]]]:
    """What the services of this module log."""
    capture = LogCapture()
    logger = structlog.wrap_logger(
        None, processors=[capture], wrapper_class=structlog.BoundLogger, cache_logger_on_first_use=False
    )
    with pytest.MonkeyPatch.context() as patch:
        for module in (problems, keys):
            patch.setattr(module, "logger", logger)
        patch.setattr(application, "request_logger", lambda *_: lambda line: capture.entries.append(asdict(line)))
        yield capture.entries


@pytest.fixture(scope="module")
def urls(database_url: str, issuer: KeyServer, log: list[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """A service for each kind of signer: one with the secret, one with the key set."""
    del log
    with (
        pytest.MonkeyPatch.context() as patch,
        running(database_url) as secret_url,
        running(database_url, JWT_JWKS_URL=issuer.url) as keys_url,
    ):
        # Else each token under an unknown key waits for a second, which is what the service is for, and not the test.
        patch.setattr(keys, "FETCH_INTERVAL_SECONDS", 0.001)
        yield {name: secret_url if name in SHARED else keys_url for name in ALL}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client() as client:
        yield client


def url_of(base: str, operation: str, user_id: str, task: object = None) -> str:
    _, suffix, _ = OPERATIONS[operation]
    return f"{base}/api/{user_id}/tasks{suffix.format(task=task or uuid4())}"


def call(
    client: httpx.Client,
    base: str,
    operation: str,
    user_id: str,
    authorization: bytes | str | None,
    task: object = None,
) -> httpx.Response:
    """Calls an operation on a user's path with this Authorization header."""
    method, _, body = OPERATIONS[operation]
    headers = {} if authorization is None else {"Authorization": authorization}
    return client.request(method, url_of(base, operation, user_id, task), json=body, headers=headers)


def parts(token: str) -> set[str]:
    """The token and each of its parts that is long enough to be told from other text."""
    return {part for part in (token, *token.split(".")) if len(part) >= TELLING_CHARACTERS}


@dataclass(frozen=True)
class Attack:
    """A token, and the reason that the log must give when it is refused: a text, or what it has to match."""

    forge: Callable[[Signer], str]
    reason: str
    signers: tuple[str, ...] = ALL


UNSIGNED = "Signature verification failed"
NO_KEY = "no key verifies the token"
NOT_CANONICAL = "the token is not canonical base64url"
PARTS = "the token does not have three parts"
NOT_JSON = "the token's header is not JSON"
NO_SUB = "sub cannot be a user's id"
NO_NUMBER = "a time is not a number"
EXPIRED = "Signature has expired"


def signed(header: Any = None, payload: Callable[[], Any] = claims) -> Callable[[Signer], str]:
    """Whom the service trusts signed it, and yet it must not do."""
    return lambda signer: signer.token(header, payload())


def claiming(**others: Any) -> Callable[[Signer], str]:
    return signed(payload=lambda: claims(**others))


def by_stranger(header: Callable[[Signer], dict[str, Any]]) -> Callable[[Signer], str]:
    """An attacker's key signed it, and the header says where to find it."""
    return lambda signer: STRANGERS[signer.algorithm].token(header(STRANGERS[signer.algorithm]))


def unsigned(alg: Any) -> Callable[[Signer], str]:
    return lambda signer: compact(signer.header | {"alg": alg}, claims(), lambda _: b"")


def with_signature(signature: bytes) -> Callable[[Signer], str]:
    return lambda signer: compact(signer.header, claims(), lambda _: signature)


def confused(secret: Callable[[Any], bytes]) -> Callable[[Signer], str]:
    """HS256, with something that everybody can read of the public key as the secret."""
    return lambda signer: compact(signer.header | {"alg": "HS256"}, claims(), hs256(secret(signer)))


def encoded(encoding: str, format_: str) -> Callable[[Signer], bytes]:
    def encode(signer: Signer) -> bytes:
        public: bytes = signer.private.public_key().public_bytes(
            getattr(serialization.Encoding, encoding), getattr(serialization.PublicFormat, format_)
        )
        return public

    return encode


def relabelled(algorithm: str) -> Callable[[Signer], str]:
    """Signed with another algorithm under the same key where that can be done, else only named for it."""

    def forge(signer: Signer) -> str:
        def sign(message: bytes) -> bytes:
            try:
                return signer.sign(message, algorithm)
            except Exception:  # noqa: BLE001 - the key is of another kind
                return signer.sign(message)

        return compact(signer.header | {"alg": algorithm}, claims(), sign)

    return forge


def spelled(change: Callable[[str], str]) -> Callable[[Signer], str]:
    """The same bytes, spelt otherwise."""
    return lambda signer: change(signer.token())


def loose_bits(token: str) -> str:
    """The last character's unused bits set: lenient decoders read the same signature."""
    head, _, signature = token.rpartition(".")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return f"{head}.{signature[:-1]}{alphabet[alphabet.index(signature[-1]) + 1]}"


def standard_alphabet(token: str) -> str:
    header, payload, _ = token.split(".")
    return f"{header}.{payload}.{'+/' * 32}"


def raw_claims(text: str) -> Callable[[Signer], str]:
    """Claims as text, because no JSON library would write them so."""
    return lambda signer: signer.token(payload=text.replace("LATER", str(int(time.time()) + 60)).encode())


P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def malleable(signature: bytes) -> bytes:
    """The signature with the group's order added to S: the same number to whoever forgets to check its size."""
    order = 2**252 + 27742317777372353535851937790883648493
    return signature[:32] + (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")


def lone(signer: Signer) -> str:
    return signer.token(payload=b'{"sub":"\\ud800","exp":%d}' % (time.time() + 60))


KID_LIES = {
    "traversal": "../../../../../../dev/null",
    "file-url": "file:///dev/null",
    "sql": "x' union select 'secret' -- ",
    "command": "|sleep 5",
    "unicode": "ｋｅｙ\u202e",
    "nul": "key-eddsa\0",
    "case": "KEY-EDDSA",
    "space": " key-eddsa",
    "long": "k" * 8_000,
    "empty": "",
}

ATTACKS: dict[str, Attack] = {
    # No signature (RFC 8725, sections 2.1 and 3.2).
    **{f"none/{alg!r}": Attack(unsigned(alg), NO_KEY) for alg in
       ("none", "None", "NONE", "nOnE", "none ", "ｎone", "", "null", None, False, 0, [], {}, ["none"])},
    "none/missing": Attack(
        lambda s: compact({"typ": "JWT"} | ({"kid": s.kid} if s.kid else {}), claims(), s.sign), NO_KEY),
    "none/with-the-signature-of-another-token": Attack(
        lambda s: compact(s.header | {"alg": "none"}, claims(), lambda _: s.sign(b"x")), NO_KEY),
    "none/signature-stripped": Attack(lambda s: s.token().rpartition(".")[0] + ".", UNSIGNED),
    "none/signature-and-dot-stripped": Attack(lambda s: s.token().rpartition(".")[0], PARTS),
    "none/one-zero-byte": Attack(with_signature(b"\0"), UNSIGNED),
    # Another key (section 3.1): mere forgeries.
    "forged/by-a-stranger": Attack(by_stranger(lambda _: {}), UNSIGNED),
    "forged/by-a-stranger-without-key-id": Attack(by_stranger(lambda _: {"kid": ...}), UNSIGNED),
    "forged/claims-exchanged": Attack(
        lambda s: re.sub(r"\..*\.", f".{b64(json.dumps(claims(sub='bob')).encode())}.", s.token()), UNSIGNED),
    "forged/header-exchanged": Attack(
        lambda s: b64(json.dumps(s.header | {"x": 1}).encode()) + s.token()[s.token().index("."):], UNSIGNED),
    "forged/one-bit": Attack(
        lambda s: compact(s.header, claims(), lambda m: bytes([s.sign(m)[0] ^ 1]) + s.sign(m)[1:]), UNSIGNED),
    "forged/signature-cut-short": Attack(lambda s: compact(s.header, claims(), lambda m: s.sign(m)[:-1]), UNSIGNED),
    "forged/signature-prolonged": Attack(lambda s: compact(s.header, claims(), lambda m: s.sign(m) + b"\0"), UNSIGNED),
    "forged/signature-in-hex": Attack(
        lambda s: compact(s.header, claims(), lambda m: s.sign(m).hex().encode()), UNSIGNED),
    # Weak secrets (section 2.2): what a dictionary tries first.
    **{f"secret/{name}": Attack(confused(lambda _, secret=secret: secret), UNSIGNED, SHARED) for name, secret in {
        "empty": b"", "nul": b"\0", "secret": b"secret", "changeme": b"changeme", "null": b"null",
        "undefined": b"undefined",
        "of-the-debugger": b"your-256-bit-secret", "project": b"taskpact", "as-it-is-shown": b"Secret(***)",
        "upper-case": SECRET.upper().encode(), "with-line-end": SECRET.encode() + b"\n", "cut": SECRET.encode()[:32],
        "reversed": SECRET.encode()[::-1], "digest": hashlib.sha256(SECRET.encode()).digest(),
        "base64": base64.b64encode(SECRET.encode())}.items()},
    "secret/as-hs384": Attack(relabelled("HS384"), NO_KEY, SHARED),
    # The public key as a secret (section 2.1).
    **{f"confusion/{name}": Attack(confused(secret), NO_KEY, ASYMMETRIC) for name, secret in {
        "pem": encoded("PEM", "SubjectPublicKeyInfo"),
        "pem-without-line-end": lambda s: encoded("PEM", "SubjectPublicKeyInfo")(s).rstrip(),
        "pem-with-crlf": lambda s: encoded("PEM", "SubjectPublicKeyInfo")(s).replace(b"\n", b"\r\n"),
        "der": encoded("DER", "SubjectPublicKeyInfo"),
        "jwk": lambda s: json.dumps(s.public).encode(),
        "jwk-compact": lambda s: json.dumps(s.public, separators=(",", ":"), sort_keys=True).encode(),
        "jwk-set": lambda _: json.dumps(PUBLISHED).encode(),
        "member-as-text": lambda s: s.public.get("x", s.public.get("n")).encode(),
        "member-as-bytes": lambda s: base64.urlsafe_b64decode(s.public.get("x", s.public.get("n")) + "=="),
        "key-id": lambda s: s.kid.encode(),
        "empty": lambda _: b"",
    }.items()},
    "confusion/pkcs1-pem": Attack(confused(encoded("PEM", "PKCS1")), NO_KEY, ("RS256",)),
    "confusion/raw-point": Attack(confused(encoded("X962", "UncompressedPoint")), NO_KEY, ("ES256",)),
    "confusion/raw-key": Attack(confused(encoded("Raw", "Raw")), NO_KEY, ("EdDSA",)),
    "confusion/pem-without-key-id": Attack(
        lambda s: compact({"alg": "HS256"}, claims(), hs256(encoded("PEM", "SubjectPublicKeyInfo")(s))), NO_KEY,
            ASYMMETRIC),
    "confusion/signed-with-the-pem-of-a-key-never-published": Attack(
        lambda _: confused(encoded("PEM", "SubjectPublicKeyInfo"))(STRANGERS["RS256"]), UNSIGNED, SHARED),
    # One key, one algorithm (section 3.1).
    **{f"algorithm/{alg}": Attack(
        relabelled(alg), NO_KEY, tuple(name for name in ALL if name != alg)) for alg in SIGNING},
    **{f"algorithm/{alg}": Attack(unsigned(alg), NO_KEY) for alg in
       ("hs256", "rs256", "EDDSA", "Ed25519", "A128KW", "RSA1_5", "dir", "HS1", "MD5", " HS256", "RS256\0",
           "X" * 5_000)},
    **{f"algorithm/{name}-under-the-key-id-of-{other}": Attack(
        lambda s, other=other: SIGNERS[other].token({"kid": s.kid}), NO_KEY, (name,))
       for name in ASYMMETRIC for other in ASYMMETRIC if name != other},
    **{f"algorithm/{name}-named-but-signed-by-{other}": Attack(
        lambda s, other=other: compact(s.header, claims(), SIGNERS[other].sign), UNSIGNED, (name,))
       for name in ALL for other in ALL if name != other},
    # Keys that the token brings along (sections 2.9 and 3.10, RFC 7515, section 4.1).
    "embedded/jwk": Attack(by_stranger(lambda s: {"jwk": s.public}), UNSIGNED, ASYMMETRIC),
    "embedded/jwk-without-key-id": Attack(by_stranger(lambda s: {"jwk": s.public, "kid": ...}), UNSIGNED, ASYMMETRIC),
    "embedded/jwk-symmetric": Attack(
        lambda _: compact({"alg": "HS256", "kid": "x", "jwk": {"kty": "oct", "k": b64(b"k" * 32)}}, claims(),
                          hs256(b"k" * 32)), rf"{UNSIGNED}|{NO_KEY}"),
    "embedded/jwk-with-the-id-of-another": Attack(
        by_stranger(lambda s: {"jwk": s.public, "kid": "new"}), NO_KEY, ASYMMETRIC),
    **{f"embedded/{name}": Attack(
        by_stranger(lambda _, name=name: {name: trap_url()}), UNSIGNED) for name in ("jku", "x5u")},
    **{f"embedded/{name}-with-unknown-key-id": Attack(
        by_stranger(lambda _, name=name: {name: trap_url(), "kid": "new"}), NO_KEY, ASYMMETRIC) for name in (
            "jku", "x5u")},
    "embedded/kid-a-url": Attack(by_stranger(lambda _: {"kid": trap_url()}), NO_KEY, ASYMMETRIC),
    "embedded/iss-a-url": Attack(
        lambda s: compact(s.header, claims(iss=trap_url()), STRANGERS[s.algorithm].sign), UNSIGNED),
    "embedded/x5c": Attack(
        by_stranger(lambda s: {"x5c": [base64.b64encode(encoded("DER", "SubjectPublicKeyInfo")(s)).decode()]}),
        UNSIGNED, ASYMMETRIC),
    "embedded/x5t": Attack(by_stranger(lambda _: {"x5t": b64(b"x" * 20), "x5t#S256": b64(b"x" * 32)}), UNSIGNED),
    # The key id (section 3.10).
    **{f"kid/{name}": Attack(signed({"kid": kid}), NO_KEY, ASYMMETRIC) for name, kid in KID_LIES.items()},
    **{f"kid/{name}-and-an-empty-secret": Attack(
        lambda _, kid=kid: compact({"alg": "HS256", "kid": kid}, claims(), hs256(b"")), rf"{UNSIGNED}|{NO_KEY}")
       for name, kid in KID_LIES.items()},
    **{f"kid/{name}": Attack(signed({"kid": kid}), "kid is not a string") for name, kid in
       {"null": None, "list": ["key-eddsa"], "object": {"kid": "key-eddsa"}, "number": 0, "true": True}.items()},
    # What a token asks of whoever reads it (RFC 7515, section 4.1.11; RFC 7797).
    **{f"critical/{name}": Attack(signed({"crit": crit, "exp": 1}), "the token has critical extensions")
        for name, crit in
       {"known": ["exp"], "unknown": ["http://example.com/x"], "standard": ["alg"], "empty": [], "null": None,
        "text": "exp", "numbers": [1], "twice": ["exp", "exp"],
        "with-line-ends": ["x\nauthentication_succeeded"]}.items()},
    "critical/b64-false": Attack(signed({"b64": False, "crit": ["b64"]}), "the token has critical extensions"),
    "critical/b64-false-unsaid": Attack(signed({"b64": False}), "Payload segment must be empty when 'b64' is false."),
    "critical/b64-false-unsaid-and-detached": Attack(
        signed({"b64": False}, lambda: b""), "The 'b64' header parameter requires 'b64' to be listed in 'crit'."),
    # Tokens for something else (section 3.11), in tokens (section 2.8), compressed, encrypted, in another form.
    **{f"type/{typ!r}": Attack(signed({"typ": typ}), "the token is of another type") for typ in
       ("secevent+jwt", "dpop+jwt", "logout+jwt", "id_token", "JOSE", "", 1, ["JWT"], {}, False)},
    "nested/token-in-a-token": Attack(
        lambda s: s.token({"cty": "JWT"}, s.token().encode()), "Invalid payload string: Expecting value.*"),
    "nested/token-in-quotes": Attack(
        lambda s: s.token({"cty": "JWT"}, s.token()), "Invalid payload string: must be a json object"),
    "compressed/deflate": Attack(
        lambda s: s.token({"zip": "DEF"}, zlib.compress(json.dumps(claims()).encode())[2:-4]),
            r"Invalid payload string: .*"),
    "compressed/bomb": Attack(
        lambda s: s.token({"zip": "DEF"}, zlib.compress(b"[" * 5_000_000)), r"Invalid payload string: .*"),
    "encrypted/five-parts": Attack(
        lambda _: ".".join([b64(b'{"alg":"dir","enc":"A256GCM"}'), "", "eA", "eA", "eA"]), PARTS),
    "encrypted/three-parts": Attack(
        lambda _: ".".join([b64(b'{"alg":"dir","enc":"A256GCM"}'), "eA", "eA"]), NO_KEY),
    "form/json-flattened": Attack(
        lambda s: json.dumps(dict(zip(("protected", "payload", "signature"), s.token().split("."),
            strict=True))), PARTS),
    "form/json-general": Attack(
        lambda s: json.dumps({"payload": s.token().split(".")[1], "signatures": [{"header": {"alg": "none"}}]}), PARTS),
    "form/dots": Attack(lambda _: "..", NOT_JSON),
    "form/many-dots": Attack(lambda _: "." * 10_000, PARTS),
    "form/four-parts": Attack(lambda s: s.token() + ".", PARTS),
    "form/quoted": Attack(lambda s: f'"{s.token()}"', NOT_CANONICAL),
    "form/scheme-twice": Attack(lambda s: f"Bearer {s.token()}", NOT_CANONICAL),
    "form/comma-joined": Attack(lambda s: f"{s.token()},Bearer", NOT_CANONICAL),
    "form/with-parameters": Attack(lambda s: f"{s.token()}; realm=x", NOT_CANONICAL),
    "form/too-long": Attack(lambda s: s.token({"x": "x" * 20_000}), "the token is too long"),
    "header/empty": Attack(lambda s: compact(b"", claims(), s.sign), NOT_JSON),
    "header/not-json": Attack(signed(b"{alg:HS256}"), NOT_JSON),
    "header/not-utf-8": Attack(signed(b'{"alg":"\xff"}'), NOT_JSON),
    "header/deep": Attack(signed(b"[" * 9_000), NOT_JSON),
    "header/huge-number": Attack(signed(b'{"alg":' + b"9" * 5_000 + b"}"), NOT_JSON),
    "header/list": Attack(signed([{"alg": "HS256"}]), "the token's header is not an object"),
    "header/null": Attack(signed(b"null"), "the token's header is not an object"),
    "header/alg-twice": Attack(
        lambda s: compact(json.dumps(s.header).encode()[:-1] + b',"alg":"none"}', claims(), s.sign), NO_KEY),
    "header/alg-twice-confused": Attack(
        lambda s: compact(b'{"alg":"none",' + json.dumps(s.header).encode()[1:], claims(), lambda _: b""), UNSIGNED),
    # Base64 that is not the one way to write it (RFC 7515, section 2).
    "base64/padded": Attack(spelled(lambda t: t + "=="), NOT_CANONICAL),
    "base64/padded-header": Attack(spelled(lambda t: t.replace(".", "=.", 1)), NOT_CANONICAL),
    "base64/loose-bits": Attack(spelled(loose_bits), NOT_CANONICAL),
    "base64/standard-alphabet": Attack(spelled(standard_alphabet), NOT_CANONICAL),
    "base64/space-within": Attack(spelled(lambda t: t[:-5] + " " + t[-5:]), NOT_CANONICAL),
    "base64/tab-within": Attack(spelled(lambda t: t[:-5] + "\t" + t[-5:]), NOT_CANONICAL),
    "base64/tab-before": Attack(spelled(lambda t: "\t" + t), NOT_CANONICAL),
    "base64/percent-encoded": Attack(spelled(lambda t: t.replace(".", "%2E")), PARTS),
    "base64/junk-within": Attack(spelled(lambda t: t[:-5] + "!" + t[-5:]), NOT_CANONICAL),
    "base64/latin-1-within": Attack(spelled(lambda t: t[:-5] + "\xe9" + t[-5:]), NOT_CANONICAL),
    "base64/one-character-too-many": Attack(
        spelled(lambda t: t + "A" * (5 - len(t.rpartition(".")[2]) % 4)), NOT_CANONICAL),
    "base64/not-at-all": Attack(lambda _: "!.!.!", NOT_CANONICAL),
    # Signatures that broken verifiers take for any message.
    "mathematics/psychic": Attack(with_signature(bytes(64)), UNSIGNED),
    "mathematics/r-and-s-are-the-order": Attack(
        with_signature(P256_ORDER.to_bytes(32, "big") * 2), UNSIGNED, ("ES256",)),
    "mathematics/r-zero": Attack(with_signature(bytes(32) + b"\1" * 32), UNSIGNED, ("ES256",)),
    "mathematics/s-zero": Attack(with_signature(b"\1" * 32 + bytes(32)), UNSIGNED, ("ES256",)),
    "mathematics/der-of-zeros": Attack(with_signature(bytes.fromhex("3006020100020100")), UNSIGNED, ("ES256",)),
    "mathematics/der-signature": Attack(
        lambda s: compact(s.header, claims(), lambda m: s.private.sign(m, ec.ECDSA(hashes.SHA256()))),
        UNSIGNED, ("ES256",)),
    "mathematics/small-order-identity": Attack(with_signature(b"\1" + bytes(63)), UNSIGNED, ("EdDSA",)),
    "mathematics/small-order-two": Attack(
        with_signature(bytes.fromhex("ec" + "ff" * 30 + "7f") + bytes(32)), UNSIGNED, ("EdDSA",)),
    "mathematics/small-order-eight": Attack(
        with_signature(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a") + bytes(32)),
        UNSIGNED, ("EdDSA",)),
    "mathematics/malleable-s": Attack(
        lambda s: compact(s.header, claims(), lambda m: malleable(s.sign(m))), UNSIGNED, ("EdDSA",)),
    "mathematics/rsa-zero": Attack(with_signature(bytes(256)), UNSIGNED, ("RS256",)),
    "mathematics/rsa-one": Attack(with_signature(bytes(255) + b"\1"), UNSIGNED, ("RS256",)),
    "mathematics/rsa-modulus": Attack(
        lambda s: compact(s.header, claims(), lambda _: base64.urlsafe_b64decode(s.public["n"] + "==")),
            UNSIGNED, ("RS256",)),
    # Claims, under a genuine signature: `sub`.
    "sub/missing": Attack(claiming(sub=...), 'Token is missing the "sub" claim'),
    "sub/null": Attack(claiming(sub=None), 'Token is missing the "sub" claim'),
    "sub/empty": Attack(claiming(sub=""), NO_SUB),
    **{f"sub/{name}": Attack(claiming(sub=sub), "Subject must be a string") for name, sub in
       {"number": 1, "zero": 0, "true": True, "list": ["alice"], "object": {"id": "alice"}}.items()},
    "sub/too-long": Attack(claiming(sub="a" * 256), NO_SUB),
    "sub/with-nul": Attack(claiming(sub="alice\0"), NO_SUB),
    "sub/lone-surrogate": Attack(lone, NO_SUB),
    "sub/of-another-name": Attack(claiming(sub=..., id="alice", user_id="alice"), 'Token is missing the "sub" claim'),
    "sub/of-another-case": Attack(claiming(sub=..., Sub="alice"), 'Token is missing the "sub" claim'),
    "sub/twice-and-null-at-last": Attack(
        raw_claims('{"sub":"alice","exp":LATER,"sub":null}'), 'Token is missing the "sub" claim'),
    # The times.
    "exp/missing": Attack(claiming(exp=...), 'Token is missing the "exp" claim'),
    "exp/null": Attack(claiming(exp=None), 'Token is missing the "exp" claim'),
    "exp/past": Attack(lambda s: s.token(payload=claims(exp=int(time.time()) - 1)), EXPIRED),
    "exp/just-now": Attack(lambda s: s.token(payload=claims(exp=int(time.time()))), EXPIRED),
    "exp/fraction-of-the-second-that-runs": Attack(
        lambda s: s.token(payload=claims(exp=int(time.time()) + 0.999)), EXPIRED),
    **{f"exp/{name}": Attack(claiming(exp=exp), EXPIRED) for name, exp in
       {"zero": 0, "negative": -1, "very-negative": -1e300, "negative-zero": -0.0, "fraction": 0.5, "true": True,
        "false": False}.items()},
    **{f"exp/{name}": Attack(claiming(exp=exp), r"Expiration Time claim \(exp\) must be an integer.") for name, exp in
       {"text": "tomorrow", "list": [9999999999], "object": {}, "empty": "", "infinite": float("inf"),
        "negative-infinite": float("-inf"), "nan": float("nan"), "date": "2999-01-01T00:00:00Z"}.items()},
    "exp/beyond-double": Attack(
        raw_claims('{"sub":"alice","exp":1e999}'), r"Expiration Time claim \(exp\) must be an integer."),
    "exp/beyond-text": Attack(raw_claims('{"sub":"alice","exp":' + "9" * 5_000 + "}"), "Invalid payload string: .*"),
    "exp/number-in-quotes": Attack(claiming(exp="9999999999"), NO_NUMBER),
    "exp/number-in-arabic-digits": Attack(claiming(exp="٩٩٩٩٩٩٩٩٩٩"), NO_NUMBER),
    "exp/number-with-underscores": Attack(claiming(exp=" 9_999_999_999 "), NO_NUMBER),
    "exp/twice-and-past-at-last": Attack(raw_claims('{"sub":"alice","exp":LATER,"exp":1}'), EXPIRED),
    "exp/twice-and-null-at-last": Attack(
        raw_claims('{"sub":"alice","exp":LATER,"exp":null}'), 'Token is missing the "exp" claim'),
    "nbf/future": Attack(
        lambda s: s.token(payload=claims(nbf=int(time.time()) + 30)), r"The token is not yet valid \(nbf\)"),
    "nbf/far": Attack(claiming(nbf=1e300), r"The token is not yet valid \(nbf\)"),
    **{f"nbf/{name}": Attack(claiming(nbf=nbf), r"Not Before claim \(nbf\) must be an integer.") for name, nbf in
       {"null": None, "text": "now", "list": [0], "infinite": float("inf"), "nan": float("nan")}.items()},
    "nbf/number-in-quotes": Attack(claiming(nbf="0"), NO_NUMBER),
    "nbf/true": Attack(claiming(nbf=True), NO_NUMBER),
    "iat/future": Attack(
        lambda s: s.token(payload=claims(iat=int(time.time()) + 30)), r"The token is not yet valid \(iat\)"),
    **{f"iat/{name}": Attack(claiming(iat=iat), r"Issued At claim \(iat\) must be an integer.") for name, iat in
       {"null": None, "text": "now", "list": [0], "infinite": float("-inf")}.items()},
    "iat/number-in-quotes": Attack(claiming(iat="0"), NO_NUMBER),
    "iat/false": Attack(claiming(iat=False), NO_NUMBER),
    # The claims as a whole.
    **{f"claims/{name}": Attack(signed(payload=lambda text=text: text), "Invalid payload string: .*") for name, text in
       {"list": b'[{"sub":"alice","exp":9999999999}]', "text": b'"alice"', "null": b"null", "empty": b"",
           "cut": b'{"sub":"alice"',
        "not-utf-8": b'{"sub":"\xff"}', "single-quotes": b"{'sub':'alice'}", "comment": b'{"sub":"alice"/**/}',
        "followed-by-more": b'{"sub":"alice","exp":9999999999}{}', "deep": b'{"x":' + b"[" * 9_000}.items()},
}  # fmt: skip

KEYLESS = {"base64", "claims", "critical", "exp", "form", "header", "iat", "kid", "nbf", "sub", "type"}

TOKEN_ROWS = [
    pytest.param(SIGNERS[name], attack, id=f"{name}-{kind}")
    for kind, attack in ATTACKS.items()
    for name in attack.signers
    # What no key decides is tried once on each service, the rest with each kind of key.
    if kind.partition("/")[0] not in KEYLESS or name in ("HS256", "EdDSA")
]


def reasons(log: list[dict[str, Any]], event: str) -> list[str]:
    return [entry["reason"] for entry in log if entry["event"] == event]


@pytest.mark.requirement("FR-02", "FR-03", "SR-01", "SR-04", "SR-11", "SC-02")
@pytest.mark.parametrize(("signer", "attack"), TOKEN_ROWS)
def test_no_operation_takes_the_token_and_the_log_says_why(
    client: httpx.Client, urls: dict[str, str], log: list[dict[str, Any]], signer: Signer, attack: Attack
) -> None:
    token = attack.forge(signer)
    authorization = f"Bearer {token}".encode("latin-1")
    log.clear()

    answers = {
        operation: call(client, urls[signer.algorithm], operation, "alice", authorization) for operation in OPERATIONS
    }

    refused = {name: (answer.status_code, answer.headers.get("www-authenticate")) for name, answer in answers.items()}
    assert refused == dict.fromkeys(OPERATIONS, (401, INVALID))
    given = reasons(log, "authentication_failed")
    assert len(given) == len(OPERATIONS)
    assert [reason for reason in given if not re.fullmatch(attack.reason, reason)] == []
    assert visitors() == 0
    told = repr(log) + "".join(answer.text for answer in answers.values())
    assert [part for part in parts(token) if part in told] == []


STRICT = {"JWT_ISSUER": "https://issuer.example", "JWT_AUDIENCE": "taskpact", "JWT_LEEWAY_SECONDS": "10"}
EARLY = r"The token is not yet valid \({}\)"
NO_AUDIENCE = 'Token is missing the "aud" claim'

ISSUED: dict[str, tuple[dict[str, Any], str | None]] = {
    "issuer-and-audience": ({}, None),
    "audience-among-others": ({"aud": ["other", "taskpact"]}, None),
    "audience-missing": ({"aud": ...}, NO_AUDIENCE),
    "audience-null": ({"aud": None}, NO_AUDIENCE),
    "audience-empty": ({"aud": ""}, NO_AUDIENCE),
    "audience-an-empty-list": ({"aud": []}, NO_AUDIENCE),
    "audience-another": ({"aud": "other"}, "Audience doesn't match"),
    "audience-longer": ({"aud": "taskpact2"}, "Audience doesn't match"),
    "audience-shorter": ({"aud": "task"}, "Audience doesn't match"),
    "audience-in-other-case": ({"aud": "Taskpact"}, "Audience doesn't match"),
    "audience-look-alike": ({"aud": "tаskpact"}, "Audience doesn't match"),
    "audience-others": ({"aud": ["other", "task", "pact"]}, "Audience doesn't match"),
    "audience-nested": ({"aud": [["taskpact"]]}, "Invalid claim format in token"),
    "audience-among-numbers": ({"aud": ["taskpact", 1]}, "Invalid claim format in token"),
    "audience-an-object": ({"aud": {"taskpact": 1}}, "Invalid claim format in token"),
    "audience-a-number": ({"aud": 1}, "Invalid claim format in token"),
    "issuer-missing": ({"iss": ...}, 'Token is missing the "iss" claim'),
    "issuer-null": ({"iss": None}, 'Token is missing the "iss" claim'),
    "issuer-another": ({"iss": "https://evil.example"}, "Invalid issuer"),
    "issuer-empty": ({"iss": ""}, "Invalid issuer"),
    "issuer-with-slash": ({"iss": "https://issuer.example/"}, "Invalid issuer"),
    "issuer-within-another": ({"iss": "https://issuer.example.evil.example"}, "Invalid issuer"),
    "issuer-part": ({"iss": "https://issuer"}, "Invalid issuer"),
    "issuer-in-other-case": ({"iss": "https://Issuer.example"}, "Invalid issuer"),
    "issuer-a-list": ({"iss": ["https://issuer.example"]}, r"Payload Issuer \(iss\) must be a string"),
    "expired-within-leeway": ({"exp": -7}, None),
    "expired-exactly-at-leeway": ({"exp": -10}, EXPIRED),
    "expired-beyond-leeway": ({"exp": -11}, EXPIRED),
    "early-within-leeway": ({"nbf": 10}, None),
    "early-beyond-leeway": ({"nbf": 30}, EARLY.format("nbf")),
    "issued-within-leeway": ({"iat": 10}, None),
    "issued-beyond-leeway": ({"iat": 30}, EARLY.format("iat")),
}


@pytest.fixture(scope="module")
def strict_url(database_url: str, log: list[dict[str, Any]]) -> Iterator[str]:
    """A service that wants an issuer and an audience, and grants ten seconds."""
    del log
    with running(database_url, **STRICT) as url:
        yield url


@pytest.mark.requirement("FR-02", "FR-03", "SR-11", "SC-02")
@pytest.mark.parametrize(("others", "reason"), ISSUED.values(), ids=ISSUED)
def test_configured_issuer_audience_and_leeway_hold_on_every_operation(
    client: httpx.Client, strict_url: str, log: list[dict[str, Any]], others: dict[str, Any], reason: str | None
) -> None:
    now = int(time.time())
    times = {name: now + value for name, value in others.items() if name in ("exp", "nbf", "iat")}
    token = SIGNERS["HS256"].token(
        payload=claims(**({"iss": STRICT["JWT_ISSUER"], "aud": "taskpact"} | others | times))
    )
    log.clear()

    statuses = {
        operation: call(client, strict_url, operation, "alice", f"Bearer {token}").status_code
        for operation in OPERATIONS
    }

    if reason is None:
        assert statuses == {name: SAFE_WITHOUT_TASK.get(name, 404) for name in OPERATIONS}
    else:
        assert statuses == dict.fromkeys(OPERATIONS, 401)
        given = reasons(log, "authentication_failed")
        assert [bool(re.fullmatch(reason, one)) for one in given] == [True] * len(OPERATIONS)


@pytest.mark.requirement("FR-04")
@pytest.mark.parametrize("name", ["HS256", "EdDSA"])
def test_of_a_claim_that_is_there_twice_the_last_one_counts(
    client: httpx.Client, urls: dict[str, str], name: str
) -> None:
    """One of the two ways that RFC 7519, section 4, leaves; both of the service's readings must take the same one."""
    token = raw_claims('{"sub":"alice","exp":1,"sub":"bob","exp":LATER}')(SIGNERS[name])

    statuses = [call(client, urls[name], "list_tasks", who, f"Bearer {token}").status_code for who in ("alice", "bob")]

    assert statuses == [403, 200]


@pytest.mark.requirement("FR-02")
@pytest.mark.parametrize(
    "header",
    [{"cty": "JWT"}, {"zip": "DEF"}, {"jku": "https://x"}, {"b64": True}, {"x": {"y": [1]}}, {"typ": "AT+JWT"}],
    ids=["cty", "zip", "jku", "b64-true", "unknown", "at+jwt"],
)
@pytest.mark.parametrize("name", ALL)
def test_a_genuine_tokens_other_header_members_are_not_looked_at(
    client: httpx.Client, urls: dict[str, str], name: str, header: dict[str, Any]
) -> None:
    token = SIGNERS[name].token(header)

    assert call(client, urls[name], "list_tasks", "alice", f"Bearer {token}").status_code == 200


@pytest.mark.requirement("FR-03")
@pytest.mark.parametrize("name", ["HS256", "EdDSA"])
def test_a_remembered_token_ends_in_the_second_in_which_a_fresh_one_would(
    client: httpx.Client, urls: dict[str, str], log: list[dict[str, Any]], name: str
) -> None:
    exp = int(time.time()) + 2.9
    token = SIGNERS[name].token(payload=claims(exp=exp))
    before = call(client, urls[name], "list_tasks", "alice", f"Bearer {token}")
    time.sleep(int(exp) - time.time() + 0.01)
    log.clear()

    after = {operation: call(client, urls[name], operation, "alice", f"Bearer {token}") for operation in OPERATIONS}

    assert before.status_code == 200
    assert {answer.status_code for answer in after.values()} == {401}
    assert reasons(log, "authentication_failed")[0] == "the token has expired"


ELSEWHERE: dict[str, dict[str, Any]] = {
    "nowhere": {},
    "query": {"params": {"access_token": "TOKEN", "token": "TOKEN", "Authorization": "Bearer TOKEN"}},
    "cookie": {"headers": {"Cookie": "token=TOKEN; Authorization=Bearer TOKEN; better-auth.session_token=TOKEN"}},
    "other-headers": {
        "headers": {
            "X-User-Id": "alice",
            "X-Authorization": "Bearer TOKEN",
            "X-Forwarded-User": "alice",
            "From": "alice",
        }
    },
    "proxy-authorization": {"headers": {"Proxy-Authorization": "Bearer TOKEN"}},
    "websocket-protocol": {"headers": {"Sec-WebSocket-Protocol": "bearer, TOKEN"}},
    "body": {"json": {"token": "TOKEN", "user_id": "alice", "access_token": "TOKEN"}},
    "form": {"data": {"access_token": "TOKEN"}},
    "underscored-header": {"headers": {"AUTHORIZATION_": "Bearer TOKEN", "HTTP_AUTHORIZATION": "Bearer TOKEN"}},
    "basic": {"headers": {"Authorization": "Basic TOKEN"}},
    "basic-with-the-token-as-password": {"auth": ("alice", "TOKEN")},
    "token-scheme": {"headers": {"Authorization": "Token TOKEN"}},
    "digest": {"headers": {"Authorization": "Digest TOKEN"}},
    "no-scheme": {"headers": {"Authorization": "TOKEN"}},
    "tab-for-space": {"headers": {"Authorization": "Bearer\tTOKEN"}},
    "colon": {"headers": {"Authorization": "Bearer: TOKEN"}},
    "quoted-scheme": {"headers": {"Authorization": '"Bearer" TOKEN'}},
    "comma-before": {"headers": {"Authorization": ", Bearer TOKEN"}},
    "another-scheme-before": {"headers": [("Authorization", "Basic eDp5"), ("Authorization", "Bearer TOKEN")]},
    "empty-header-before": {"headers": [("Authorization", ""), ("Authorization", "Bearer TOKEN")]},
}


@pytest.mark.requirement("FR-01", "SR-01", "SR-02", "SR-04", "SR-11", "SC-02")
@pytest.mark.parametrize("options", ELSEWHERE.values(), ids=ELSEWHERE)
def test_no_operation_takes_a_token_from_elsewhere(
    client: httpx.Client, urls: dict[str, str], log: list[dict[str, Any]], options: dict[str, Any]
) -> None:
    token = make_token("alice")
    filled = json.loads(json.dumps(options).replace("TOKEN", token))
    for name in filled.keys() & {"auth", "headers"}:
        if isinstance(filled[name], list):
            filled[name] = tuple(tuple(one) if isinstance(one, list) else one for one in filled[name])
    log.clear()

    answers = {
        name: client.request(method, url_of(urls["HS256"], name, "alice"), **filled)
        for name, (method, _, _) in OPERATIONS.items()
    }

    refused = {name: (answer.status_code, answer.headers["www-authenticate"]) for name, answer in answers.items()}
    assert refused == dict.fromkeys(OPERATIONS, (401, "Bearer"))
    assert reasons(log, "authentication_failed") == ["There is no bearer token."] * len(OPERATIONS)
    told = repr(log) + "".join(answer.text for answer in answers.values())
    assert [part for part in parts(token) if part in told] == []


@pytest.mark.requirement("FR-01", "FR-02", "SR-02")
@pytest.mark.parametrize("subs", [("alice", "bob"), ("bob", "alice"), ("alice", "alice"), ("alice", None)])
@pytest.mark.parametrize("joined", [False, True], ids=["two-headers", "comma-joined"])
def test_two_tokens_are_none_on_every_operation(
    client: httpx.Client, urls: dict[str, str], log: list[dict[str, Any]], subs: tuple[str, str | None], joined: bool
) -> None:
    fields = [f"Bearer {make_token(sub)}" if sub else "" for sub in subs]
    headers = [("Authorization", value) for value in ([", ".join(fields).strip()] if joined else fields)]
    log.clear()

    answers = {
        name: client.request(method, url_of(urls["HS256"], name, "alice"), headers=headers)
        for name, (method, _, _) in OPERATIONS.items()
    }

    assert {answer.status_code for answer in answers.values()} == {401}
    assert {*reasons(log, "authentication_failed")} <= {PARTS, NOT_CANONICAL}
    assert not any(part in repr(log) for value in fields for part in parts(value.removeprefix("Bearer ")))


def raw(url: str, request: bytes) -> list[tuple[int, bytes]]:
    """Sends these bytes and reads the answers to them: status and body of each, until the service closes."""
    host, _, port = url.removeprefix("http://").partition(":")
    # Not shut down for writing: the server takes that for a client that went away.
    with socket.create_connection((host, int(port)), timeout=1) as connection:
        connection.sendall(request)
        received = b""
        with suppress(OSError):
            while chunk := connection.recv(65_536):
                received += chunk
    return [
        (int(status), body)
        for status, body in re.findall(
            rb"HTTP/1\.1 (\d{3}) [^\r]*\r\n(?:[^\r]+\r\n)*\r\n(.*?)(?=HTTP/1\.1 |\Z)", received, re.DOTALL
        )
    ]


def request_to(target: bytes, token: str, method: str = "GET", body: object = None, more: bytes = b"") -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    kind = b"" if body is None else b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(content)
    head = b"%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer %s\r\n%s%s\r\n"
    return head % (method.encode(), target, token.encode(), more, kind) + content


OWN = 0
"""Stands for what an operation answers on the own path."""

PATHS: dict[bytes, int] = {
    **dict.fromkeys((b"%61lice", b"%61%6c%69%63%65", b"%61%6C%69%63%65"), OWN),
    **dict.fromkeys(
        (
            # Others, and what other APIs take for oneself or for all.
            b"bob", b"me", b"self", b"*", b"%2A", b"null", b"None", b"undefined", b"true", b"0", b"-1", b"[]",
            b"alice,bob",
            b"alice%2Cbob", b"%22alice%22", b"'alice'", b"alice'--", b"'%20or%20'1'='1", b"%25", b"%5F",
            b"alic_", b"al%25",
            # Case, what is cut and what is added.
            b"Alice", b"ALICE", b"alic", b"alicee", b"alice.", b".alice", b"alice..", b"alice~", b"alice-",
            b"alice@x", b"alice:1",
            b"%20alice", b"alice%20", b"alice+", b"+alice", b"alice%09", b"alice%0a",
            b"alice%0D%0AX-User:%20bob", b"alice%00",
            b"%00alice", b"alice%00bob", b"alice%7F", b"alice%08",
            # Slashes, dots, backslashes, parameters, fragments and queries that are not.
            b"alice%2F", b"alice%2f..%2fbob", b"bob%2F..%2Falice", b"%2Falice", b"..%2falice", b"alice%5C",
            b"bob\\..\\alice",
            b"alice\\", b".", b"..", b"%2e", b"%2E%2E", b"alice;", b"alice;a=1", b"alice%3Ba=1", b";alice", b"alice%3F",
            b"alice%23", b"alice&x", b"alice=alice",
            # Encoded twice, too long, by halves, or not in UTF-8.
            b"%2561lice", b"%25%36%31lice", b"alice%252F", b"alice%2500", b"%C1%A1lice", b"%E0%81%A1lice",
            b"%F0%80%81%A1lice",
            b"%u0061lice", b"%", b"alice%", b"alice%2", b"alice%zz", b"%%61lice", b"%ff", b"alice%FF",
            b"alice%C0%80", b"%ED%A0%80",
            b"%2B%41GE-lice", b"%fe%ff%00a", b"&%2397;lice",
            # Look-alikes and what nobody sees.
            *(quote(name).encode() for name in (
                "аlice", "ａlice", "alicе", "aliсe", "ɑlice", "ⓐlice", "𝐚lice", "alice\u200b", "\ufeffalice",
                "ali\u00adce",
                "alice\u0301", "al\u0131ce", "a\u202elice", "alice\u00a0", "alice\ufe0e", "\u2024alice",
                "alice\U000e0001")),
        ),
        403,
    ),
    **dict.fromkeys(
        (b"", b"/", b"alice/.", b"alice/..", b"alice/../alice", b"bob/../alice", b"alice/../bob", b"./alice",
            b"alice/", b"/alice",
         b"alice//", b"alice/%2e%2e/bob", b"..;/alice", b"v1/alice"),
        404,
    ),
}  # fmt: skip


@pytest.mark.requirement("FR-04", "FR-05", "SR-05", "SR-11", "SC-03")
@pytest.mark.parametrize(("segment", "status"), PATHS.items(), ids=lambda value: ascii(value)[2:-1] if value else None)
def test_no_operation_takes_another_path_than_the_tokens(
    urls: dict[str, str], log: list[dict[str, Any]], segment: bytes, status: int
) -> None:
    """The bytes are sent as they stand here: no client has tidied them up before."""
    token, task = make_token("alice"), str(uuid4()).encode()
    log.clear()

    statuses = {}
    for name, (method, suffix, body) in OPERATIONS.items():
        target = b"/api/%s/tasks%s" % (segment, suffix.encode().replace(b"{task}", task))
        statuses[name] = [code for code, _ in raw(urls["HS256"], request_to(target, token, method, body))]

    assert statuses == {name: [status or SAFE_WITHOUT_TASK.get(name, 404)] for name in OPERATIONS}
    told = reasons(log, "authorization_failed")
    assert told == (["the path names another user"] * len(OPERATIONS) if status == 403 else [])
    assert token not in repr(log)


@pytest.mark.requirement("FR-05", "SR-05")
@pytest.mark.parametrize("sub_form", ["NFC", "NFD"])
@pytest.mark.parametrize("path_form", ["NFC", "NFD", "NFKC", "NFKD"])
@pytest.mark.parametrize("name", ["José", "Åsa", "ﬁn", "①", "한"])
def test_a_name_is_its_characters_and_not_what_they_look_like(
    client: httpx.Client, urls: dict[str, str], name: str, sub_form: Any, path_form: Any
) -> None:
    sub, path = unicodedata.normalize(sub_form, name), unicodedata.normalize(path_form, name)

    response = call(client, urls["HS256"], "list_tasks", quote(path), f"Bearer {make_token(sub)}")

    assert response.status_code == (200 if sub == path else 403)


@pytest.mark.requirement("FR-04", "FR-05", "FR-06")
@pytest.mark.parametrize(
    "sub",
    ["auth0|507f1f77", "a/b", "../x", "%2e%2e", "a b", "a+b", "a?b#c", "x;y=1", "é", "用户", "🙂", "\u202e",
        "'; drop table users", "-"],
)  # fmt: skip
def test_an_odd_user_reaches_their_own_tasks_at_the_place_that_is_told(
    person: Callable[..., Person], urls: dict[str, str], sub: str
) -> None:
    somebody = person(f"{sub}-{uuid4().hex}", url=urls["HS256"])
    path = f"/api/{quote(somebody.id, safe='')}/tasks"

    created = somebody.client.post(path, json={"title": "x"})
    found = somebody.client.get(created.headers["location"])

    assert (created.status_code, found.status_code, found.json()["user_id"]) == (201, 200, somebody.id)


REQUESTS: dict[str, tuple[bytes, set[int]]] = {
    "absolute-form": (b"GET http://evil.example/api/alice/tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", {200}),
    "absolute-form-of-another": (b"GET http://x/api/bob/tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", {403}),
    "absolute-form-with-user": (b"GET http://bob@x/api/alice/tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", {200}),
    "two-slashes": (b"GET //api/alice/tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", {404}),
    "slash-encoded": (b"GET /api%2Falice%2Ftasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", {404}),
    "prefix-encoded": (b"GET /%61pi/alice/tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", {200}),
    "suffix-with-dot": (b"GET /api/alice/tasks. HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", {404}),
    "suffix-with-slash": (b"GET /api/alice/tasks/ HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", {404}),
    "suffix-with-format": (b"GET /api/alice/tasks.json HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", {404}),
    "suffix-with-line-end": (b"GET /api/alice/tasks%0a HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", {404}),
    "prefix-in-capitals": (b"GET /API/alice/tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", {404}),
    "raw-non-ascii": (b"GET /api/ali\xe9ce/tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", {400}),
    "raw-nul": (b"GET /api/alice\0/tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", {400}),
    "raw-space": (b"GET /api/alice /tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", {400}),
    "asterisk-form": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", {400, 404}),
    "fragment": (b"GET /api/alice/tasks#/../bob HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", {200, 400}),
    "identity-in-query": (b"GET /api/alice/tasks?user_id=bob HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", {422}),
    "host-of-another": (b"GET /api/alice/tasks HTTP/1.1\r\nHost: evil.example\r\nAUTH\r\n\r\n", {200}),
    "two-hosts": (b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nHost: y\r\nAUTH\r\n\r\n", {200, 400}),
    "http-1.0": (b"GET /api/alice/tasks HTTP/1.0\r\nAUTH\r\n\r\n", {200}),
    "http-0.9": (b"GET /api/alice/tasks\r\n\r\n", {400, 401}),
    "http-9.9": (b"GET /api/alice/tasks HTTP/9.9\r\nHost: x\r\nAUTH\r\n\r\n", {400}),
    "method-unknown": (b"HACK /api/alice/tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", {400, 405}),
    "method-in-lower-case": (b"delete /api/alice/tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", {400, 405}),
    "trace": (b"TRACE /api/alice/tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", {405}),
    "connect": (b"CONNECT /api/alice/tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", {400, 404, 405}),
    "method-overridden": (
        (b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nX-HTTP-Method-Override: POST\r\nX-Method-Override: DELETE\r\n"
        b"X-HTTP-Method: PUT\r\nAUTH\r\n\r\n"), {200}),
    "path-overridden": (
        (
            b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nX-Original-URL: /api/bob/tasks\r\n"
            b"X-Rewrite-URL: /api/bob/tasks\r\n"
        b"X-Forwarded-Prefix: /x\r\nX-Script-Name: /api/bob\r\nAUTH\r\n\r\n"), {200}),
    "sender-overridden": (
        (b"GET /api/bob/tasks HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\n"
        b"X-Real-IP: 127.0.0.1\r\nX-Forwarded-User: bob\r\nX-User-Id: bob\r\nAUTH\r\n\r\n"), {403}),
    "scheme-overridden": (
        b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nX-Forwarded-Proto: data\r\nX-Forwarded-Host: y\r\nAUTH\r\n\r\n",
        {200}),
    "header-with-space-before-colon": (
        b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer x\r\n\r\n", {400, 401}),
    "header-without-value": (b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nAuthorization:\r\n\r\n", {401}),
    "bearer-without-token": (b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer\r\n\r\n", {401}),
    "bearer-and-space": (b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \r\n\r\n", {401}),
    "folded-header": (b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer\r\n TOKEN\r\n\r\n",
        {400, 401}),
    "nul-in-header": (b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nX: a\0b\r\nAUTH\r\n\r\n", {400}),
    "non-ascii-token": (
        b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe.x.y\r\n\r\n", {401}),
    "line-end-alone": (b"GET /api/alice/tasks HTTP/1.1\nHost: x\nAUTH\n\n", {200, 400}),
    "many-headers": (
        b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(
        2_000)) + b"AUTH\r\n\r\n",
        {200, 400, 431}),
    "long-header": (b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000 + b"\r\nAUTH\r\n\r\n",
        {200, 400, 431}),
    "long-token": (
        b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + b"y" * 500_000 + b"\r\n\r\n",
        {431}),
    "long-path": (b"GET /api/" + b"a" * 60_000 + b"/tasks HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n", {400, 403, 414}),
    "length-and-chunks": (
        (b"POST /api/alice/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\nAUTH\r\n\r\n0\r\n\r\nGET /api/bob/tasks HTTP/1.1\r\nHost: x\r\n\r\n"), {400}),
    "two-lengths": (
        (b"POST /api/alice/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 13\r\n"
        b'Content-Length: 0\r\nAUTH\r\n\r\n{"title":"x"}'), {400}),
    "length-negative": (b"POST /api/alice/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\nAUTH\r\n\r\n", {400}),
    "length-signed": (
        b'POST /api/alice/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: +13\r\nAUTH\r\n\r\n{"title":"x"}', {400}),
    "chunked-twice": (
        b"POST /api/alice/tasks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, chunked\r\nAUTH\r\n\r\n0\r\n\r\n",
        {400, 415, 422}),
    "chunked-in-disguise": (
        b"POST /api/alice/tasks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\nAUTH\r\n\r\n0\r\n\r\n", {400}),
    "body-that-is-a-request": (
        (b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 39\r\nConnection: close\r\nAUTH\r\n\r\n"
        b"DELETE /api/alice/tasks HTTP/1.1\r\nX: y\r\n"), {200}),
    "upgrade-to-websocket": (
        (b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAUTH\r\n\r\n"), {200, 400,
        403, 426}),
    "upgrade-to-http-2": (
        (b"GET /api/alice/tasks HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQAAP__\r\nAUTH\r\n\r\n"), {200}),
    "http-2-at-once": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 404, 405}),
    "tls": (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", {400}),
    "documentation-files": (b"GET /docs/..%2f..%2f..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: x\r\n\r\n", {404}),
    "documentation-files-raw": (b"GET /docs/../../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", {404}),
}  # fmt: skip


@pytest.mark.requirement("FR-05", "SR-02", "SR-10", "SC-03")
@pytest.mark.parametrize(("request_", "expected"), REQUESTS.values(), ids=REQUESTS)
def test_a_request_that_plays_tricks_is_refused_or_means_nothing_else(
    owner: psycopg.Connection, urls: dict[str, str], request_: bytes, expected: set[int]
) -> None:
    token, bob = make_token("alice").encode(), owner.execute("select count(*) from tasks").fetchone()
    filled = request_.replace(b"AUTH", b"Connection: close\r\nAuthorization: Bearer TOKEN").replace(b"TOKEN", token)
    if b"Connection" not in filled:
        filled = filled.replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n")
    owner.rollback()

    answers = raw(urls["HS256"], filled)

    assert [status for status, _ in answers] != []
    assert {status for status, _ in answers} <= expected
    assert len(answers) == 1
    text = answers[0][1].decode("utf-8", "replace")
    assert not re.search(r"Traceback|File \"|psycopg|select |root:", text)
    assert owner.execute("select count(*) from tasks").fetchone() == bob
    assert httpx.get(f"{urls['HS256']}/healthz").status_code == 200


@pytest.mark.requirement("SR-06", "SR-11")
@pytest.mark.parametrize("format_", ["json", "console"])
def test_whatever_is_thrown_at_a_process_its_log_tells_no_token(
    database_url: str, tmp_path: Path, format_: str
) -> None:
    """Every attack once, at the most talkative level: libraries log there too."""
    tokens = [attack.forge(SIGNERS["HS256"]) for attack in ATTACKS.values() if "HS256" in attack.signers]
    log = tmp_path / "log"

    with (
        running_process(database_url, log, LOG_LEVEL="debug", LOG_FORMAT=format_) as url,
        httpx.Client(base_url=url) as client,
    ):
        authorizations = [f"Bearer {token}".encode("latin-1") for token in tokens]
        statuses = [client.get("/api/alice/tasks", headers={"Authorization": a}).status_code for a in authorizations]
    logged = log.read_text()

    assert set(statuses) == {401}
    assert logged.count("authentication_failed") == len(tokens)
    assert [part for token in tokens for part in parts(token) if part in logged] == []
    assert SECRET not in logged
