"""What the tables of attacks share: whom the services trust, how requests are sent, and what logs may tell."""

from __future__ import annotations

import json
import re
import socket
from contextlib import suppress
from typing import Any

import httpx

from support.issuer import Signer, new_signer
from support.operations import OPERATIONS
from support.people import SECRET

INVALID = 'Bearer error="invalid_token"'
PARTS = "the token does not have three parts"
NOT_CANONICAL = "the token is not canonical base64url"
TELLING_CHARACTERS = 12
"""A part of a token that is this long may not stand in a log; shorter ones stand there by chance."""

WITHOUT_TASK = {name: 404 if one.needs_task else one.status for name, one in OPERATIONS.items()}
"""What each operation answers to a valid token and the id of no task."""

SHARED = ("HS256",)
ASYMMETRIC = ("EdDSA", "ES256", "RS256")
ALL = (*SHARED, *ASYMMETRIC)
SIGNERS = {"HS256": Signer("HS256", SECRET.encode())} | {
    name: new_signer(f"key-{name.lower()}", name) for name in ASYMMETRIC
}
"""Whom the services trust."""


def call(
    client: httpx.Client,
    base: str,
    operation: str,
    user_id: str,
    authorization: bytes | str | None,
) -> httpx.Response:
    """Calls an operation on a user's path with this Authorization header."""
    one = OPERATIONS[operation]
    headers = {} if authorization is None else {"Authorization": authorization}
    return client.request(one.method, base + one.path(user_id), json=one.body, headers=headers)


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


def request_to(target: bytes, token: str, method: str = "GET", body: object = None) -> bytes:
    """A request as bytes, so that no client tidies its target up."""
    content = b"" if body is None else json.dumps(body).encode()
    kind = b"" if body is None else b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(content)
    head = b"%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer %s\r\n%s\r\n"
    return head % (method.encode(), target, token.encode(), kind) + content


def parts(token: str) -> set[str]:
    """The token and each of its parts that is long enough to be told from other text."""
    return {part for part in (token, *token.split(".")) if len(part) >= TELLING_CHARACTERS}


def reasons(log: list[dict[str, Any]], event: str) -> list[str]:
    return [entry["reason"] for entry in log if entry["event"] == event]
