"""Clients of many generators compile as strictly as their languages can, and work through a task's whole life."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients.generators import CLIENTS, HERE, OPENAPI_GENERATOR_TYPESCRIPT, TYPESCRIPT, make_typescript_clients, run

pytestmark = [
    pytest.mark.clients,
    pytest.mark.requirement("SC-08", "FR-06", "FR-07", "FR-08", "FR-09", "FR-10", "FR-11", "FR-12", "FR-18", "FR-19"),
]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_typescript_clients(tmp_path_factory.mktemp("typescript"))


@pytest.mark.parametrize("name", [*TYPESCRIPT, *OPENAPI_GENERATOR_TYPESCRIPT])
def test_a_typescript_client_works_through_the_life_of_a_task(
    name: str, bundles: Path, service_url: str, credentials: list[str]
) -> None:
    run("node", bundles / f"{name}.js", service_url, *credentials, cwd=bundles)


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_works_through_the_life_of_a_task(
    name: str, tmp_path: Path, service_url: str, credentials: list[str]
) -> None:
    life = CLIENTS[name](tmp_path)

    # What these languages warn of is the generator's own.
    run(*life, service_url, *credentials, cwd=tmp_path, PYTHONWARNINGS="default")


def test_every_client_is_in_the_documentation() -> None:
    documented = (HERE.parents[1] / "docs" / "clients.md").read_text()

    for name in (*TYPESCRIPT, *OPENAPI_GENERATOR_TYPESCRIPT, *CLIENTS, "openapi-python-client", "openapi-fetch"):
        assert f"`{name}`" in documented
