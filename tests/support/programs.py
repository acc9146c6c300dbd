"""Programs that some tests need and not everybody has."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skips the test; in CI, which has everything, fails it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def node_modules(folder: Path) -> Path:
    """Node's packages that the folder wants, installed as its lock file names them."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        missing(f"Node and npm are needed for tests/{folder.name}, and are not installed")
    lock, modules = folder / "package-lock.json", folder / "node_modules"
    installed = modules / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        subprocess.run([npm, "ci"], cwd=folder, check=True)
    return modules
