"""The README shows the very examples that the tests of this folder run."""

from __future__ import annotations

import pytest

from support.paths import ROOT

HERE = ROOT / "tests" / "clients"
README = ROOT / "README.md"


@pytest.mark.parametrize(("name", "language"), [("python/example.py", "python"), ("typescript/example.ts", "ts")])
def test_the_readme_shows_what_the_tests_run(name: str, language: str) -> None:
    assert f"\n```{language}\n{(HERE / name).read_text()}```\n" in README.read_text()
