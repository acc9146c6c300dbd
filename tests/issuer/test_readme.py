"""The README shows the very files that the tests of this folder run."""

from __future__ import annotations

import pytest

from support.paths import ROOT

HERE = ROOT / "tests" / "issuer"
README = ROOT / "README.md"


@pytest.mark.requirement("FR-02", "NF-03")
@pytest.mark.parametrize(
    ("name", "language"),
    [("auth.mjs", "js"), ("taskpact.env", "sh"), ("token.mjs", "js"), ("taskpact-secret.env", "sh")],
)
def test_the_readme_shows_what_the_tests_run(name: str, language: str) -> None:
    assert f"\n```{language}\n{(HERE / name).read_text()}```\n" in README.read_text()
