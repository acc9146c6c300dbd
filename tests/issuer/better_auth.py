"""Better Auth as it runs on a socket, and the people who signed up there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx

HERE = Path(__file__).parent
BETTER_AUTH_SECRET = "a secret that only Better Auth and these tests know"
README_ORIGIN = "http://localhost:3000"
README_SECRET = "<BETTER_AUTH_SECRET>"


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who signed up at the issuer, with the cookies of their session."""

    id: str
    email: str
    name: str
    client: httpx.Client

    def token(self, path: str = "/api/auth/token") -> str:
        """A new token, as a frontend fetches it."""
        response = self.client.get(path)
        assert response.status_code == 200, response.text
        return response.json()["token"]


@dataclass(frozen=True, slots=True)
class Issuer:
    """Better Auth, running."""

    url: str
    database_url: str
    clients: list[httpx.Client]

    def sign_up(self, name: str) -> Session:
        """A new person with a session, made as a browser does it: cookies, and an `Origin`."""
        client = httpx.Client(base_url=self.url, headers={"Origin": self.url})
        self.clients.append(client)
        credentials = {"email": f"{name.lower()}-{uuid4().hex}@example.org", "password": uuid4().hex, "name": name}
        response = client.post("/api/auth/sign-up/email", json=credentials)
        assert response.status_code == 200, response.text
        return Session(response.json()["user"]["id"], credentials["email"], name, client)

    def key_requests_at_seconds(self) -> list[float]:
        """When the key set was asked for."""
        return httpx.get(f"{self.url}/key-requests").json()

    def settings(self, name: str) -> dict[str, str]:
        """The service's variables as the README has them, for the address and the secret of this issuer."""
        text = (HERE / name).read_text().replace(README_ORIGIN, self.url).replace(README_SECRET, BETTER_AUTH_SECRET)
        return dict(line.split("=", 1) for line in text.splitlines())
