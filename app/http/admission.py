"""Whether there is room for a user's request, which is asked once the user is known."""

from __future__ import annotations

import time
from typing import Final

import structlog

from db.tasks import User
from db.wire.pool import Pool
from handlers.problems import TooManyRequests

logger = structlog.get_logger()

LOG_SECONDS: Final = 1.0
"""The least time between two lines about refusals. A line tells how many there were since the one before."""


class Admission:
    """Counts each user's requests from the check of their token until there is an answer.

    A request without a valid token is never counted, so that nobody can take the room of a user by asking.
    """

    def __init__(self, pool: Pool, *, requests_per_user: int) -> None:
        """So many requests of one user may be in flight; the pool bounds how many of all users wait."""
        self._pool = pool
        self._requests_per_user = requests_per_user
        self._in_flight: dict[str, int] = {}
        self._refused = 0
        self._logged = 0
        self._next_log_seconds = 0.0

    @property
    def refused(self) -> int:
        """How many requests were refused, here (429) or because too many others waited for a connection (503)."""
        return self._refused + self._pool.refused

    def enter(self, user: User) -> None:
        """Counts a request that begins.

        Raises:
            TooManyRequests: the user has as many requests in flight as one user may have (429).
        """
        in_flight = self._in_flight.get(user.id, 0)
        if in_flight >= self._requests_per_user:
            self._refused += 1
            self._log_refusals()
            raise TooManyRequests
        self._in_flight[user.id] = in_flight + 1

    def leave(self, user: User) -> None:
        """Counts a request no more."""
        in_flight = self._in_flight.pop(user.id) - 1
        if in_flight:
            self._in_flight[user.id] = in_flight
        if self.refused != self._logged:
            self._log_refusals()

    def _log_refusals(self) -> None:
        if (now_seconds := time.monotonic()) > self._next_log_seconds:
            logger.warning("requests_refused", count=self.refused - self._logged)
            self._logged, self._next_log_seconds = self.refused, now_seconds + LOG_SECONDS
