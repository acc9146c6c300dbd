"""The live server equals the contract: Schemathesis generates the requests and checks the answers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.paths import CONTRACT
from support.people import make_token

SECONDS = 600


@pytest.mark.conformance
@pytest.mark.requirement("FR-18", "FR-19", "SC-02", "SC-05")
def test_schemathesis_finds_nothing(service_url: str, tmp_path: Path) -> None:
    schemathesis = Path(sys.executable).with_name("schemathesis")
    configuration = Path(__file__).with_name("schemathesis.toml")
    command = [schemathesis, "--config-file", configuration, "run", CONTRACT, "--url", service_url, "--checks", "all"]
    token = make_token("schemathesis", exp=int(time.time()) + SECONDS)

    completed = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ
        | {"TASKPACT_TOKEN": token, "SCHEMATHESIS_HOOKS": str(configuration.with_name("schemathesis_hooks.py"))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )

    print(completed.stdout)
    assert completed.returncode == 0, completed.stdout
