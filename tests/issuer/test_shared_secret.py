"""A token that a frontend signs from the session, with a shared secret, opens that person's own tasks."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import psycopg
import pytest

from issuer.better_auth import BETTER_AUTH_SECRET
from support.service import running

pytestmark = pytest.mark.issuer


@pytest.mark.requirement("FR-01", "FR-02", "FR-04", "FR-05", "SR-05")
def test_a_token_signed_from_the_session_opens_the_persons_own_tasks(start_issuer: Callable[..., object]) -> None:
    with start_issuer() as issuer:
        settings = issuer.settings("taskpact-secret.env")
        alice, bob = issuer.sign_up("Alice"), issuer.sign_up("Bob")
        headers = {"Authorization": f"Bearer {alice.token('/api/token')}"}
        with (
            running(issuer.database_url, **settings) as url,
            httpx.Client(base_url=f"{url}/api", headers=headers) as client,
        ):
            created = client.post(f"/{alice.id}/tasks", json={"title": "Buy oat milk"})
            listed = client.get(f"/{alice.id}/tasks")
            elsewhere = client.get(f"/{bob.id}/tasks")
            by_key_set = client.get(f"/{alice.id}/tasks", headers={"Authorization": f"Bearer {alice.token()}"})
        with psycopg.connect(issuer.database_url) as connection:
            users = connection.execute("select id, email, name from users").fetchall()

    assert settings["JWT_SECRET"] == BETTER_AUTH_SECRET
    assert (created.status_code, listed.json()["items"]) == (201, [created.json()])
    assert (elsewhere.status_code, by_key_set.status_code) == (403, 401)
    assert users == [(alice.id, alice.email, "Alice")]


@pytest.mark.requirement("SR-01")
def test_without_a_session_no_token_is_signed(start_issuer: Callable[..., object]) -> None:
    with start_issuer() as issuer:
        answers = [httpx.get(f"{issuer.url}{path}") for path in ("/api/token", "/api/auth/token")]

    assert [answer.status_code for answer in answers] == [401, 401]
