"""One process that serves: uvicorn's server, configured, which drains before it ends."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import STARTUP_FAILURE

from app.http.protocol import Protocol
from app.settings import Settings

logger = structlog.get_logger()

BACKLOG: Final = 4096
SHUTDOWN_SECONDS: Final = 10
"""How long requests may take that are under way when the server ends."""


def server_config(settings: Settings, app: ASGIApp | str) -> uvicorn.Config:
    """How uvicorn serves an application, or what the factory of this name makes."""
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        workers=settings.workers,
        loop="uvloop",
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        # A pipelined request begins where the one before ends, and must not find itself in that one's trace.
        reset_contextvars=True,
    )


class Server(uvicorn.Server):
    """uvicorn's server. Before it ends, it serves on for a while and says that it is about to end.

    `lifespan.state["is_ending"]` says so to `/readyz`, which answers 503, and to `Protocol`, which closes each
    connection after its next answer.
    """

    def __init__(
        self, config: uvicorn.Config, *, drain_seconds: float = 0, on_started: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(config)
        self.drain_seconds = drain_seconds
        self.on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        addresses = [listener.getsockname()[:2] for listener in sockets or ()]
        await super().startup(sockets)
        # Sockets of two programs can be bound to one port, until one of them listens. uvloop does not tell the other.
        if None in [listener for listening in self.servers for listener in listening.sockets]:
            logger.error("cannot_listen", addresses=addresses, reason="another program listens there by now")
            await self.lifespan.shutdown()
            sys.exit(STARTUP_FAILURE)
        logger.info("listening", addresses=addresses)
        self.on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.lifespan.state["is_ending"] = True
        await asyncio.sleep(self.drain_seconds)
        # Connections that are made already would be reset with the listener, and perhaps a request on them.
        listeners = [listener for listening in self.servers for listener in listening.sockets]
        accepted = [client for listener in listeners for client in _accept_all(listener)]
        for listening in self.servers:
            listening.close()
        for client in accepted:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, client)
        await super().shutdown(sockets)

    def _protocol(self) -> Protocol:
        return Protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


def _accept_all(listener: socket.socket) -> Iterator[socket.socket]:
    """The connections that clients have made, and nobody has accepted yet."""
    with socket.socket(fileno=os.dup(listener.fileno())) as duplicate, suppress(OSError):
        duplicate.setblocking(False)
        while True:
            yield duplicate.accept()[0]


def run(server: Server, listeners: list[socket.socket]) -> None:
    """Serves on these sockets until a signal.

    Raises:
        SystemExit: the service cannot start.
    """
    # The server raises the signal again that it ended by.
    with suppress(KeyboardInterrupt):
        server.run(listeners)
    if not server.started:
        sys.exit(STARTUP_FAILURE)
