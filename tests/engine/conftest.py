"""What the contracts of this room name by module."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def bearer_functions(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that contracts of this file name for their tokens."""

    async def user_of(token: str, _request: Any) -> str | None:
        return {"good": "ada"}.get(token)

    def user_at_once(token: str, _request: Any) -> str:
        return token

    module = ModuleType("bearer_functions")
    module.user_of = user_of  # type: ignore[attr-defined]
    module.user_at_once = user_at_once  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module
