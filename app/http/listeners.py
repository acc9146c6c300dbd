"""Where the service listens: the same sockets for one worker, for several, and for the metrics."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

ABSENT: Final = {
    errno.EADDRNOTAVAIL: "this machine does not have the address",
    errno.EAFNOSUPPORT: "this machine has no IPv6",
}


class CannotListen(Exception):
    """The port is taken, or the host is unknown or another machine's. The message says so in one line."""


@contextmanager
def bound(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Gives sockets that are bound to all addresses of a host and to one port; 0 means a free one.

    They do not listen: until a worker is ready and does, whoever connects is refused. `::` takes IPv4 too.

    Raises:
        CannotListen: one of the addresses cannot be bound to.
    """
    with ExitStack() as opened:
        try:
            listeners = _bind(opened, host, port)
        except (OSError, UnicodeError) as error:
            reason = ABSENT.get(getattr(error, "errno", 0)) or getattr(error, "strerror", None) or error
            raise CannotListen(f"cannot listen on {host}, port {port}: {reason}") from None
        yield listeners


def _bind(opened: ExitStack, host: str, port: int) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    absence = None
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, _, _, _, address in dict.fromkeys(found):
        try:
            listener = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind((address[0], port, *address[2:]))
        except OSError as error:
            # Many a hosts file says that `localhost` is `::1` too, where there is no IPv6.
            if error.errno not in ABSENT:
                raise
            absence = error
        else:
            listeners.append(listener)
            port = listener.getsockname()[1]
    if absence and not listeners:
        raise absence
    return listeners
