"""Keys change while requests run: nobody with a valid token notices, and the issuer is left in peace."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, pairwise
from uuid import uuid4

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from issuer.better_auth import Issuer, Session
from support.service import running

pytestmark = pytest.mark.issuer

ROTATION_SECONDS = 2
TOKEN_SECONDS = 5
GRACE_SECONDS = 8
"""Longer than a token lives, or Better Auth itself would withdraw the keys of valid tokens."""

RUN_SECONDS = 16
OLDEST = 75
"""How far back the readers reach: among the tokens, ten a second, are some that have expired."""

READERS = 4
FORGERS = 6


@dataclass(frozen=True, slots=True)
class Token:
    text: str
    user_id: str
    key_id: str
    expires_at_seconds: int


@dataclass(frozen=True, slots=True)
class Answer:
    token: Token
    newest_key_id: str
    sent_at_seconds: float
    received_at_seconds: float
    status: int


def fetch_token(session: Session) -> Token:
    text = session.token()
    claims = jwt.decode(text, options={"verify_signature": False})
    return Token(text, session.id, jwt.get_unverified_header(text)["kid"], claims["exp"])


def forge(url: str, issuer: Issuer, user_id: str, over: threading.Event) -> list[int]:
    """Sends tokens that no key of the issuer signed, each under a key id of its own."""
    key, statuses = Ed25519PrivateKey.generate(), []
    with httpx.Client(base_url=url) as client:
        while not over.is_set():
            claims = {"sub": user_id, "exp": int(time.time()) + 60, "iss": issuer.url, "aud": issuer.url}
            token = jwt.encode(claims, key, "EdDSA", headers={"kid": uuid4().hex})
            response = client.get(f"/api/{user_id}/tasks", headers={"Authorization": f"Bearer {token}"})
            statuses.append(response.status_code)
    return statuses


@pytest.mark.requirement("FR-02", "FR-03", "SR-04")
def test_rotation_refuses_no_valid_token_and_asks_for_keys_once_a_second_at_most(
    start_issuer: Callable[..., object],
) -> None:
    jwt_options = {
        "jwks": {"rotationInterval": ROTATION_SECONDS, "gracePeriod": GRACE_SECONDS},
        "jwt": {"expirationTime": f"{TOKEN_SECONDS} seconds"},
    }
    with (
        start_issuer(jwt_options) as issuer,
        running(issuer.database_url, **issuer.settings("taskpact.env"), JWT_LEEWAY_SECONDS="0") as url,
    ):
        sessions = [issuer.sign_up("Alice"), issuer.sign_up("Bob")]
        tokens = [fetch_token(session) for session in sessions]
        ends_at_seconds = time.monotonic() + RUN_SECONDS
        over = threading.Event()

        def mint() -> None:
            try:
                for session in cycle(sessions):
                    tokens.append(fetch_token(session))
                    time.sleep(0.1)
                    if time.monotonic() > ends_at_seconds:
                        return
            finally:
                over.set()

        def read() -> list[Answer]:
            answers: list[Answer] = []
            with httpx.Client(base_url=url) as client:
                while not over.is_set():
                    # Every other one is the newest, whose key the service may not know yet; the rest are of any age.
                    age = 0 if len(answers) % 2 else len(answers) % min(len(tokens), OLDEST)
                    token = tokens[-1 - age]
                    sent_at_seconds = time.time()
                    response = client.get(
                        f"/api/{token.user_id}/tasks", headers={"Authorization": f"Bearer {token.text}"}
                    )
                    answers.append(Answer(token, tokens[-1].key_id, sent_at_seconds, time.time(), response.status_code))
            return answers

        with ThreadPoolExecutor(1 + READERS + FORGERS) as threads:
            minting = threads.submit(mint)
            reading = [threads.submit(read) for _ in range(READERS)]
            forging = [threads.submit(forge, url, issuer, sessions[0].id, over) for _ in range(FORGERS)]
            minting.result()
            answers = [answer for future in reading for answer in future.result()]
            forged = Counter(status for future in forging for status in future.result())
        asked_at_seconds = issuer.key_requests_at_seconds()

    valid = [answer for answer in answers if answer.received_at_seconds < answer.token.expires_at_seconds]
    expired = [answer for answer in answers if answer.sent_at_seconds >= answer.token.expires_at_seconds]
    under_older_keys = [answer for answer in valid if answer.token.key_id != answer.newest_key_id]
    intervals = [after - before for before, after in pairwise(asked_at_seconds)]
    shortest_seconds = min(intervals, default=RUN_SECONDS)
    print(
        f"\n{len({token.key_id for token in tokens})} keys, {len(tokens)} tokens; requests with valid tokens:"
        f" {len(valid)} ({len(under_older_keys)} of them under older keys),"
        f" answered {Counter(answer.status for answer in valid)};"
        f" with expired ones: {Counter(answer.status for answer in expired)}; forged: {forged};"
        f" {len(asked_at_seconds)} key requests in {RUN_SECONDS} s, {shortest_seconds:.3f} s apart at least;"
        f" slowest valid answer {max(answer.received_at_seconds - answer.sent_at_seconds for answer in valid):.2f} s"
    )
    assert {answer.status for answer in valid} == {200}
    assert {answer.status for answer in expired} == {401}
    assert set(forged) == {401}
    assert under_older_keys
    assert len({token.key_id for token in tokens}) >= RUN_SECONDS // ROTATION_SECONDS - 1
    assert len(asked_at_seconds) <= RUN_SECONDS + 2
    # The issuer notes when a request arrives, which is later than it was sent, and not always equally so.
    assert all(sixth - first > 4 for first, sixth in zip(asked_at_seconds, asked_at_seconds[5:], strict=False))
