"""Tokens from a real Better Auth open exactly the tasks of the person who signed in."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import jwt
import psycopg
import pytest

from issuer.better_auth import Issuer, Session
from support.operations import OPERATIONS, TASK_OPERATIONS
from support.service import running

pytestmark = pytest.mark.issuer

ALGORITHMS = {
    "EdDSA": None,
    "ES256": {"jwks": {"keyPairConfig": {"alg": "ES256"}}},
    "RS256": {"jwks": {"keyPairConfig": {"alg": "RS256"}}},
}
"""The options of the jwt plugin that sign so; without any, Better Auth signs with EdDSA."""


@pytest.fixture(scope="module", params=ALGORITHMS)
def algorithm(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def issuer(algorithm: str, start_issuer: Callable[..., object]) -> Iterator[Issuer]:
    with start_issuer(ALGORITHMS[algorithm]) as issuer:
        yield issuer


@pytest.fixture(scope="module")
def service_url(issuer: Issuer) -> Iterator[str]:
    with running(issuer.database_url, **issuer.settings("taskpact.env")) as url:
        yield url


@pytest.fixture
def visit(service_url: str) -> Iterator[Callable[[Session], httpx.Client]]:
    """Makes clients of the service that send what fetch clients of such frontends send."""
    clients: list[httpx.Client] = []

    def make(session: Session) -> httpx.Client:
        headers = {"Authorization": f"Bearer {session.token()}", "Content-Type": "application/json"}
        clients.append(httpx.Client(base_url=f"{service_url}/api/{session.id}", headers=headers))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.mark.requirement("FR-01", "FR-02")
def test_a_token_is_signed_as_configured_and_names_issuer_and_audience(issuer: Issuer, algorithm: str) -> None:
    token = issuer.sign_up("Alice").token()

    header, claims = jwt.get_unverified_header(token), jwt.decode(token, options={"verify_signature": False})
    assert header["alg"] == algorithm
    assert (claims["iss"], claims["aud"]) == (issuer.url, issuer.url)


@pytest.mark.requirement("FR-02", "FR-04", "FR-06", "FR-07", "FR-08", "FR-09", "FR-10", "FR-11", "FR-12")
def test_a_person_who_signed_up_works_through_all_operations(
    issuer: Issuer, visit: Callable[[Session], httpx.Client]
) -> None:
    session = issuer.sign_up("Alice")
    alice = visit(session)

    created = alice.post("/tasks", json={"title": "Buy oat milk"})
    task = f"/tasks/{created.json()['id']}"
    answers = [
        created,
        alice.get("/tasks"),
        alice.get(task),
        alice.put(task, json={"title": "Buy two litres"}),
        alice.patch(task, json={"description": "of oat milk"}),
        alice.patch(f"{task}/complete"),
        alice.delete(task),
    ]

    assert [answer.status_code for answer in answers] == [201, 200, 200, 200, 200, 200, 204]
    last = answers[5].json()
    assert (last["title"], last["description"], last["completed"]) == ("Buy two litres", "of oat milk", True)
    with psycopg.connect(issuer.database_url) as connection:
        row = connection.execute("select email, name from users where id = %s", [session.id]).fetchone()
    assert row == (session.email, "Alice")


@pytest.mark.requirement("FR-05", "SR-03", "SR-05", "SC-03")
def test_two_people_see_only_their_own_tasks(issuer: Issuer, visit: Callable[[Session], httpx.Client]) -> None:
    sessions = [issuer.sign_up("Alice"), issuer.sign_up("Bob")]
    alice, bob = map(visit, sessions)
    hers, his = (client.post("/tasks", json={"title": "mine"}).json()["id"] for client in (alice, bob))

    on_his_path = [
        alice.request(one.method, f"{bob.base_url}tasks{one.suffix.format(task_id=his)}", json=one.body).status_code
        for one in OPERATIONS.values()
    ]
    on_her_path = [
        alice.request(one.method, f"/tasks{one.suffix.format(task_id=his)}", json=one.body).status_code
        for one in TASK_OPERATIONS.values()
    ]

    assert {*on_his_path} == {403}
    assert {*on_her_path} == {404}
    assert [[task["id"] for task in client.get("/tasks").json()["items"]] for client in (alice, bob)] == [[hers], [his]]
    assert bob.get(f"/tasks/{his}").json()["title"] == "mine"


@pytest.mark.requirement("FR-02", "SR-04")
def test_a_token_of_another_better_auth_is_refused(
    issuer: Issuer, visit: Callable[[Session], httpx.Client], algorithm: str, start_issuer: Callable[..., object]
) -> None:
    client = visit(issuer.sign_up("Alice"))
    with start_issuer(ALGORITHMS[algorithm]) as other:
        client.headers["Authorization"] = f"Bearer {other.sign_up('Alice').token()}"

        response = client.get("/tasks")

    assert (response.status_code, response.headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')


@pytest.mark.requirement("FR-20")
def test_the_frontends_origin_may_call_with_credentials(
    issuer: Issuer, visit: Callable[[Session], httpx.Client]
) -> None:
    response = visit(issuer.sign_up("Alice")).get("/tasks", headers={"Origin": issuer.url})

    assert response.headers["access-control-allow-origin"] == issuer.url
    assert response.headers["access-control-allow-credentials"] == "true"
