"""docs/operations.md is true: its metrics, links and queries exist, and systemd accepts its unit."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from app.observe.metrics import COUNTERS, GAUGES
from support.paths import ROOT

DOCUMENT = (ROOT / "docs" / "operations.md").read_text()
METRICS = {
    "taskpact_request_duration_seconds",
    "taskpact_database_errors_total",
    *GAUGES,
    *(f"{name}_total" for name in COUNTERS),
}


def test_every_metric_is_explained_and_no_other() -> None:
    table = DOCUMENT.split("| metric | labels | |")[1].split("\n\n")[0]

    assert {name for row in table.splitlines() for name in re.findall("`(taskpact_[a-z_]+)`", row)} == METRICS


def test_alerts_name_metrics_that_there_are() -> None:
    table = DOCUMENT.split("| alert | expression | what to do |")[1]
    named = set(re.findall("taskpact_[a-z_]+", table)) - {"taskpact_api"}

    assert {re.sub("_(bucket|count)$", "", name) for name in named} - METRICS == set()


def test_every_link_leads_somewhere() -> None:
    targets = re.findall(r"\]\((?!http)([^)#]+)", DOCUMENT)

    assert targets
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []


def test_every_query_of_the_alerts_runs(owner: psycopg.Connection) -> None:
    queries = re.findall(r"`(select [^`]+)`", DOCUMENT)

    assert len(queries) == 2
    for query in queries:
        owner.execute(query)


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze")
    (unit,) = re.findall(r"```ini\n(\[Unit\].*?)```", DOCUMENT, re.DOTALL)
    file = tmp_path / "taskpact.service"
    file.write_text(unit.replace("/opt/taskpact/bin/taskpact", sys.executable))

    done = subprocess.run([analyze, "verify", file], capture_output=True, text=True, check=False, timeout=60)

    assert (done.returncode, done.stderr) == (0, "")
