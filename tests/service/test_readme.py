"""The README lists every setting, and its links lead somewhere."""

from __future__ import annotations

import re

import attrs
import pytest

from app.settings import Settings
from support.paths import ROOT

README = (ROOT / "README.md").read_text()


@pytest.mark.requirement("NF-03")
def test_the_readme_lists_every_variable_and_no_other() -> None:
    table = README.split("| variable | default |")[1].split("\n\n")[0]
    listed = {name for row in table.splitlines() for name in re.findall(r"`([A-Z_]{4,})`", row.split(" | ")[0])}

    fields = {field.metadata["environ_config"].name for field in attrs.fields(Settings)}
    assert listed == fields


def test_every_link_of_the_readme_leads_somewhere() -> None:
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README)

    assert [target for target in targets if not (ROOT / target).exists()] == []
