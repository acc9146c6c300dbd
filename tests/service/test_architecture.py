"""The house: who may import whom, and what a handler may hold."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from handlers import tasks
from support.paths import ROOT

MAY_IMPORT = {
    "app": {"app", "openapi", "handlers", "db"},
    "handlers": {"handlers", "db"},
    "openapi": {"openapi"},
    "db": {"db"},
}
HTTP = {"connexion", "starlette", "uvicorn", "httpx", "jwt"}


def imports(package: str) -> set[tuple[str, str]]:
    """The top-level packages that a package's modules import, each with the module."""
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {(str(path.relative_to(ROOT)), alias.name.partition(".")[0]) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((str(path.relative_to(ROOT)), (node.module or "").partition(".")[0]))
    return found


@pytest.mark.requirement("NF-02")
@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    ours = {(module, name) for module, name in imports(package) if name in MAY_IMPORT}

    assert sorted((module, name) for module, name in ours if name not in MAY_IMPORT[package]) == []


@pytest.mark.requirement("NF-02")
def test_the_database_knows_nothing_of_http() -> None:
    assert sorted((module, name) for module, name in imports("db") if name in HTTP) == []


@pytest.mark.requirement("NF-02")
def test_the_front_door_is_imported_by_nobody() -> None:
    importers = {
        module for package in ("openapi", "handlers", "db") for module, name in imports(package) if name == "app"
    }

    assert importers == set()


@pytest.mark.requirement("NF-04")
def test_handlers_pass_on_and_shape_and_do_nothing_else() -> None:
    """At most one branch, no loop, no exception caught or raised, one call of the database."""
    source = ast.parse(Path(sys.modules[tasks.__name__].__file__ or "").read_text())
    operations = [node for node in source.body if isinstance(node, ast.AsyncFunctionDef)]

    assert len(operations) == 7
    for operation in operations:
        nodes = list(ast.walk(operation))
        assert not [n for n in nodes if isinstance(n, ast.Try | ast.Raise | ast.For | ast.While | ast.With)], (
            operation.name
        )
        assert sum(isinstance(n, ast.If) for n in nodes) <= 1, operation.name
        assert sum(isinstance(n, ast.Await) for n in nodes) == 1, operation.name
