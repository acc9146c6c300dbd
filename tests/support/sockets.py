"""Requests as bytes on a socket, and what comes back."""

from __future__ import annotations

import json
import re
import socket
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from handlers.problems import TYPE_PREFIX


def connect(url: str, *, receive_bytes: int | None = None) -> socket.socket:
    """A connection to the service, with a small buffer for a client that is to read little."""
    address = urlsplit(url)
    connection = socket.socket()
    connection.settimeout(10)
    if receive_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.connect((address.hostname, address.port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def send_in_pieces(connection: socket.socket, data: bytes, piece_bytes: int = 1_000) -> None:
    for start in range(0, len(data), piece_bytes):
        connection.sendall(data[start : start + piece_bytes])


def received(connection: socket.socket) -> bytes:
    """Everything until the service closes."""
    chunks = []
    with suppress(ConnectionResetError):  # What it did not read any more ends like this.
        while chunk := connection.recv(65_536):
            chunks.append(chunk)
    return b"".join(chunks)


def exchange(url: str, request: bytes, piece_bytes: int = 10_000_000) -> bytes:
    """What comes back for these bytes until the service closes, which must not reset the connection."""
    answer = b""
    with connect(url) as connection:
        send_in_pieces(connection, request, piece_bytes)
        while chunk := connection.recv(65_536):
            answer += chunk
    return answer


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+)", answers)]


def assert_refused(answer: bytes, status: int, name: str) -> dict[str, Any]:
    """One answer by the server itself, with the headers that every answer has, after which the connection is closed."""
    fields, _, body = answer.partition(b"\r\n\r\n")
    assert fields.startswith(b"HTTP/1.1 %d " % status), answer
    problem: dict[str, Any] = json.loads(body)
    for field in (
        b"content-type: application/problem+json",
        b"connection: close",
        b"strict-transport-security: max-age=31536000",
        b"x-content-type-options: nosniff",
        b"cache-control: no-store",
        b"x-request-id: " + problem["instance"].removeprefix("urn:uuid:").encode(),
    ):
        assert field in fields
    assert (problem["status"], problem["type"]) == (status, TYPE_PREFIX + name)
    return problem
