"""Services and key sets that trust a shared secret or an issuer, and what is logged of those who try them."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import structlog
from msgspec.structs import asdict
from structlog.testing import LogCapture

from app import application
from handlers import problems
from handlers.auth import keys
from handlers.auth.keys import KeySet
from support.attacks import ALL, ASYMMETRIC, SHARED, SIGNERS
from support.issuer import Issuer, issuing
from support.keys import FAST_INTERVAL_SECONDS, FIRST
from support.service import running


@pytest.fixture(scope="module")
def logged() -> Iterator[list[dict[str, Any]]]:
    """What the services and key sets of a module log."""
    capture = LogCapture()
    logger = structlog.wrap_logger(
        None, processors=[capture], wrapper_class=structlog.BoundLogger, cache_logger_on_first_use=False
    )
    with pytest.MonkeyPatch.context() as patch:
        for module in (problems, keys):
            patch.setattr(module, "logger", logger)
        patch.setattr(application, "request_logger", lambda *_: lambda line: capture.entries.append(asdict(line)))
        yield capture.entries


@pytest.fixture
def log(logged: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What they log during one test."""
    logged.clear()
    return logged


@pytest.fixture(scope="module")
def urls(database_url: str, logged: list[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """A service for each kind of signer: one with the secret, one with the key set."""
    del logged
    with (
        pytest.MonkeyPatch.context() as patch,
        issuing(*(SIGNERS[name] for name in ASYMMETRIC)) as issuer,
        running(database_url) as secret_url,
        running(database_url, JWT_JWKS_URL=issuer.url, JWT_AUDIENCE="any") as keys_url,
    ):
        # Else each token under an unknown key waits for a second, which is what the service is for, and not the test.
        patch.setattr(keys, "FETCH_INTERVAL_SECONDS", 0.001)
        yield {name: secret_url if name in SHARED else keys_url for name in ALL}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client() as client:
        yield client


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """An issuer that no service above has heard of."""
    with issuing(FIRST) as issuer:
        yield issuer


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def key_set(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> KeySet:
    """The issuer's keys, asked for as often as 50 times a second."""
    monkeypatch.setattr(keys, "FETCH_INTERVAL_SECONDS", FAST_INTERVAL_SECONDS)
    # Certificates are not what this is about, and loading them takes longer than most tests here.
    return KeySet(issuer.url, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
