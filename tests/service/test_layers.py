"""The packages import each other only as the contracts of import-linter in pyproject.toml allow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.paths import ROOT


@pytest.mark.requirement("NF-02", "NF-04")
def test_imports_point_one_way_and_handlers_know_only_tasks() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]

    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert completed.returncode == 0, completed.stdout + completed.stderr
