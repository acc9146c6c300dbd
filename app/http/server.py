"""One process that serves: uvicorn's server, which drains before it ends."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from app.http.protocol import Protocol


class Server(uvicorn.Server):
    """uvicorn's server, which says for a while that it is about to end, and serves on, before it does."""

    def __init__(self, config: uvicorn.Config, *, drain_seconds: float, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self.drain_seconds = drain_seconds
        self.on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.lifespan.state["is_ending"] = True
        await asyncio.sleep(self.drain_seconds)
        # Connections that are made already would be reset with the listener, and perhaps a request on them.
        accepted = [one for server in self.servers for listener in server.sockets for one in _accept_all(listener)]
        for server in self.servers:
            server.close()
        for one in accepted:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, one)
        await super().shutdown(sockets)

    def _protocol(self) -> Protocol:
        return Protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


def _accept_all(listener: socket.socket) -> Iterator[socket.socket]:
    with socket.socket(fileno=os.dup(listener.fileno())) as same, suppress(OSError):
        same.setblocking(False)
        while True:
            yield same.accept()[0]


def run(server: Server, sockets: list[socket.socket] | None = None) -> None:
    """Serves until a signal.

    Raises:
        SystemExit: the service cannot start.
    """
    # The server raises the signal again that it ended by.
    with suppress(KeyboardInterrupt):
        server.run(sockets)
    if not server.started:
        sys.exit(STARTUP_FAILURE)
