"""Who is let in: while many requests wait for the database, others are refused at once instead of waiting longer."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Final

import structlog
import uuid_utils
from starlette.types import Scope

from db.wire.pool import Pool
from handlers import problems
from openapi.responses import encode_headers

logger = structlog.get_logger()

REFUSALS_PER_TURN: Final = 32
"""Each costs 20 us: those who were let in need the event loop too, and it has the time for no more than these."""

LOG_SECONDS: Final = 1.0
"""How often the log is told how many were refused: a line for each would cost more than refusing does."""


class Admission:
    """Is shut while `limit` requests wait for one of the pool's connections."""

    def __init__(self, pool: Pool, *, limit: int, cors_origins: Collection[str]) -> None:
        self._pool = pool
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._entering = 0
        self._put_off: deque[Callable[[], None]] = deque()
        self._origins = {origin.encode() for origin in cors_origins}
        self._logged = 0
        self._log_at = 0.0
        self.refused = 0
        marker = "00000000-0000-4000-8000-000000000000"
        answer = problems.answer({"state": {"request_id": marker}}, problems.Overloaded())
        self._headers = b"".join(b"%s: %s\r\n" % header for header in encode_headers(answer))
        self._before, self._after = answer.body.split(marker.encode())
        self._length = len(answer.body)

    @property
    def is_shut(self) -> bool:
        return self._pool.free + self._limit <= self._entering

    def admits(self) -> bool:
        """Whether a request may come in that begins now."""
        if self.is_shut:
            return False
        if not self._entering:
            # Who is let in gets as far as the pool in the event loop's next turn; until then they are counted here.
            self._loop.call_soon(self._forget)
        self._entering += 1
        return True

    def put_off(self, refuse: Callable[[], None]) -> None:
        """Calls `refuse` when there is time for it."""
        if not self._put_off:
            self._loop.call_soon(self._refuse_some)
        self._put_off.append(refuse)

    def refusal(self, scope: Scope) -> tuple[bytes, bytes]:
        """The headers and the body of an answer that costs next to nothing, and is counted."""
        self.refused += 1
        if (now := time.monotonic()) > self._log_at:
            logger.warning("overloaded", refused=self.refused - self._logged)
            self._logged, self._log_at = self.refused, now + LOG_SECONDS
        request_id = str(uuid_utils.uuid4()).encode()
        cors = b""
        for name, value in scope["headers"]:
            if name == b"origin" and value in self._origins:
                cors = b"access-control-allow-origin: %s\r\naccess-control-allow-credentials: true\r\nvary: Origin\r\n"
                cors %= value
        return (
            b"%s%sx-request-id: %s\r\ncontent-length: %d\r\n" % (self._headers, cors, request_id, self._length),
            b"%s%s%s" % (self._before, request_id, self._after),
        )

    def _forget(self) -> None:
        self._entering = 0

    def _refuse_some(self) -> None:
        for _ in range(min(REFUSALS_PER_TURN, len(self._put_off))):
            self._put_off.popleft()()
        if self._put_off:
            self._loop.call_soon(self._refuse_some)
