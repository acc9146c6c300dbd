"""The service on a real socket, in this process or as its command runs it."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from app.application import create_app
from app.http.server import Server, server_config
from app.observe.logs import configure_logs
from app.settings import read_settings
from support.people import SECRET, make_token

START_SECONDS = 20
SERVE = [sys.executable, "-m", "app", "serve"]

# Runs of the tests that go on side by side take different ones.
_ports = iter(random.SystemRandom().sample(range(10_000, 32_000), 22_000))


@contextmanager
def running(database_url: str, **variables: str) -> Iterator[str]:
    """The service in a thread of this process, configured by these variables; yields its URL."""
    keys = {} if "JWT_JWKS_URL" in variables else {"JWT_SECRET": SECRET}
    settings = read_settings({"DATABASE_URL": database_url, "LOG_LEVEL": "error"} | keys | variables)
    configure_logs(settings.log_level, settings.log_format)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(server_config(settings, create_app(settings)))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the service does not start")
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(START_SECONDS)


@dataclass(frozen=True, slots=True)
class Service:
    """The service as its command runs it."""

    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def serving(
    database_url: str, log: Path, address: str = "127.0.0.1", command: Sequence[str] = SERVE, **variables: str
) -> Iterator[Service]:
    """The service as its command runs it, a process of its own that logs to `log` and is asked at this address."""
    url = f"http://{address}:{variables.get('PORT') or free_port()}"
    keys = {} if "JWT_JWKS_URL" in variables else {"JWT_SECRET": SECRET}
    environment = os.environ | {"DATABASE_URL": database_url, "PORT": url.rpartition(":")[2]} | keys | variables
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, env=environment, stderr=stderr)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not is_ready(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the service does not start: {log.read_text()}")
            time.sleep(0.05)
        yield Service(url, process)
    finally:
        process.terminate()
        try:
            process.wait(START_SECONDS)
        finally:
            process.kill()


@contextmanager
def running_process(database_url: str, log: Path, **variables: str) -> Iterator[str]:
    """The same, for tests that need only its URL."""
    with serving(database_url, log, **variables) as service:
        yield service.url


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def free_port() -> int:
    """A port that nobody listens on, each time another one.

    It lies below those that the kernel gives to clients (from 32768 on), so that none takes it before it is used.
    """
    while True:
        port = next(_ports)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def assert_keeps_users_apart(database_url: str) -> None:
    """The service makes and reads two users' tasks, and each user reads only their own."""
    with running(database_url) as url:
        for user in ("alice", "bob"):
            headers = {"Authorization": f"Bearer {make_token(user)}"}
            made = httpx.post(f"{url}/api/{user}/tasks", json={"title": user}, headers=headers)
            assert made.status_code == httpx.codes.CREATED, made.text
            listed = httpx.get(f"{url}/api/{user}/tasks", headers=headers).json()
            assert [task["title"] for task in listed["items"]] == [user]
