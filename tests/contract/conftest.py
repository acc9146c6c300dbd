"""The tools of this room from outside, as Node's packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.programs import node_modules

HERE = Path(__file__).parent

# test_prism.py imports them.
pytest.register_assert_rewrite(
    "operations.test_http", "operations.test_idempotency", "security.test_isolation", "operations.test_tasks"
)


@pytest.fixture(scope="session")
def tools() -> Path:
    """The folder of the tools' commands, with their packages installed as the lock file names them."""
    return node_modules(HERE) / ".bin"
