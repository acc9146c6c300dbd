"""Tokens that no service may accept, a row each, named `kind/what`.

The rows follow RFC 8725, section 2, and then what people try besides.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from support.attacks import ALL, ASYMMETRIC, NOT_CANONICAL, PARTS, SHARED, SIGNERS
from support.issuer import ALGORITHMS, Signer, b64, claims, compact, hs256, new_signer
from support.people import SECRET

SIGNING = [name for name in ALGORITHMS if name != "none"]
LEEWAY_SECONDS = 5
"""What the services grant to clocks when JWT_LEEWAY_SECONDS is not set."""

ALSO_NAMED = {"EdDSA": "Ed25519"}
"""The second name of an algorithm with these keys (RFC 9864)."""

STRANGERS = {"HS256": Signer("HS256", b"another secret" * 3)} | {
    name: new_signer(f"key-{name.lower()}", name) for name in ASYMMETRIC
}
"""Keys that nobody trusts, under the ids of those that are."""

PUBLISHED = {"keys": [SIGNERS[name].public for name in ASYMMETRIC]}


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


@dataclass(frozen=True)
class Attack:
    """A token, and the reason that the log must give when it is refused: a text, or what it has to match."""

    forge: Callable[[Signer], str]
    reason: str
    signers: tuple[str, ...] = ALL


UNSIGNED = "Signature verification failed"
NO_KEY = "no key verifies the token"
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
        relabelled(alg), NO_KEY, tuple(name for name in ALL if alg not in (name, ALSO_NAMED.get(name))))
       for alg in SIGNING},
    **{f"algorithm/{alg}": Attack(unsigned(alg), NO_KEY) for alg in
       ("hs256", "rs256", "EDDSA", "ed25519", "A128KW", "RSA1_5", "dir", "HS1", "MD5", " HS256", "RS256\0",
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
       ("secevent+jwt", "dpop+jwt", "logout+jwt", "id_token", "JOSE", "", "application/", "application/secevent+jwt",
        "application/application/jwt", "text/jwt", "jwt/application", "application/jwt; v=1", " jwt", "at+jwt2",
        "at jwt", "application/at", 1, ["JWT"], {}, False)},
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
    "exp/past": Attack(lambda s: s.token(payload=claims(exp=int(time.time()) - LEEWAY_SECONDS - 1)), EXPIRED),
    "exp/just-now": Attack(lambda s: s.token(payload=claims(exp=int(time.time()) - LEEWAY_SECONDS)), EXPIRED),
    "exp/fraction-of-the-second-that-runs": Attack(
        lambda s: s.token(payload=claims(exp=int(time.time()) - LEEWAY_SECONDS + 0.999)), EXPIRED),
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
    **{f"iat/{name}": Attack(claiming(iat=iat), NO_NUMBER) for name, iat in
       {"null": None, "text": "now", "list": [0], "object": {}, "infinite": float("-inf"),
        "nan": float("nan")}.items()},
    "iat/beyond-double": Attack(raw_claims('{"sub":"alice","exp":LATER,"iat":1e999}'), NO_NUMBER),
    "iat/number-in-quotes": Attack(claiming(iat="0"), NO_NUMBER),
    "iat/false": Attack(claiming(iat=False), NO_NUMBER),
    # The claims as a whole.
    **{f"claims/{name}": Attack(signed(payload=lambda text=text: text), "Invalid payload string: .*") for name, text in
       {"list": b'[{"sub":"alice","exp":9999999999}]', "text": b'"alice"', "null": b"null", "empty": b"",
           "cut": b'{"sub":"alice"',
        "not-utf-8": b'{"sub":"\xff"}', "single-quotes": b"{'sub':'alice'}", "comment": b'{"sub":"alice"/**/}',
        "followed-by-more": b'{"sub":"alice","exp":9999999999}{}', "deep": b'{"x":' + b"[" * 9_000}.items()},
}  # fmt: skip
