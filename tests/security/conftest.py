"""Services that trust a shared secret or an issuer, and what is logged of those who try them."""

from __future__ import annotations

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
from support.attacks import ALL, ASYMMETRIC, SHARED, SIGNERS
from support.issuer import issuing
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
        running(database_url, JWT_JWKS_URL=issuer.url) as keys_url,
    ):
        # Else each token under an unknown key waits for a second, which is what the service is for, and not the test.
        patch.setattr(keys, "FETCH_INTERVAL_SECONDS", 0.001)
        yield {name: secret_url if name in SHARED else keys_url for name in ALL}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client() as client:
        yield client
