"""Clients generated from the contract pass strict type checks, and work through a task's whole life."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from clients.generators import run

pytestmark = pytest.mark.clients


def test_the_python_client_and_its_users_have_strict_types(python_client: Path) -> None:
    run(sys.executable, "-m", "mypy", "--strict", "--cache-dir", python_client / ".cache", ".", cwd=python_client)


def test_the_typescript_client_and_its_users_have_strict_types(typescript_client: Path) -> None:
    """The compiler, strict, emits nothing where it finds an error."""
    assert {path.name for path in typescript_client.glob("*.js")} == {"life.js", "example.js"}


@pytest.mark.requirement("FR-06", "FR-07", "FR-08", "FR-09", "FR-10", "FR-11", "FR-12", "FR-18", "FR-19")
def test_the_python_client_works_through_the_life_of_a_task(
    python_client: Path, service_url: str, damaged_url: str, gone_url: str, credentials: list[str]
) -> None:
    run(sys.executable, "life.py", service_url, damaged_url, gone_url, *credentials, cwd=python_client)


@pytest.mark.requirement("FR-06", "FR-07", "FR-08", "FR-09", "FR-10", "FR-11", "FR-12", "FR-18", "FR-19")
def test_the_typescript_client_works_through_the_life_of_a_task(
    typescript_client: Path, service_url: str, damaged_url: str, gone_url: str, credentials: list[str]
) -> None:
    run("node", "life.js", service_url, damaged_url, gone_url, *credentials, cwd=typescript_client)


def test_the_python_example_completes_a_task(python_client: Path, service_url: str, credentials: list[str]) -> None:
    assert run(sys.executable, "example.py", service_url, *credentials, cwd=python_client) == "Buy oat milk\n"


def test_the_typescript_example_completes_a_task(
    typescript_client: Path, service_url: str, credentials: list[str]
) -> None:
    assert run("node", "example.js", service_url, *credentials, cwd=typescript_client) == "Buy oat milk\n"
