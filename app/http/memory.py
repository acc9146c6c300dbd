"""The bytes that a process holds for its connections, and their bound."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

from app.http.refusals import OccasionalLog

HELD_LIMIT_BYTES: Final = 67_108_864
"""Of all connections of a process. Some sixty of the largest pages, or a thousand of the largest heads, fit in."""


FEW_BYTES: Final = 4_194_304
"""When no more is held after the limit was reached, memory is given back to the system."""


class Connection(Protocol):
    """A transport, as far as it matters here."""

    def abort(self) -> None:
        """Ends the connection, and forgets what was to be sent."""


class _Held(NamedTuple):
    holder: str | None
    size_bytes: int


class HeldBytes:
    """Counts what was written and not taken, or came and cannot be served yet; beyond the limit, cuts connections off.

    First the user for whom most is held: who does not read takes nothing from others who read slowly. Then, of that
    user's connections that hold the average or more, the one that has moved no byte for the longest time. The average
    spares those that wait for the service: they hold little.
    """

    def __init__(self, limit_bytes: int = HELD_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._held: dict[Connection, _Held] = {}
        """By connection; which has moved bytes longest ago comes first."""
        self._bytes_by_holder: dict[str | None, int] = {}
        self._log = OccasionalLog("connection_cut_off")
        self._was_full = False
        self.total_bytes = 0

    def hold(self, connection: Connection, holder: str | None, size_bytes: int) -> None:
        """Counts what is held for a connection from now on, instead of what was; it has just moved bytes.

        `holder` is the user, or None for whoever has sent no valid token.
        """
        self._count(self._held.pop(connection, None), -1)
        if size_bytes:
            held = self._held[connection] = _Held(holder, size_bytes)
            self._count(held, 1)
            while self.total_bytes > self._limit_bytes:
                self._cut_off()
                self._was_full = True
        elif self._was_full and self.total_bytes < FEW_BYTES:
            self._was_full = False
            _trim()

    def _count(self, held: _Held | None, sign: int) -> None:
        if held:
            self.total_bytes += sign * held.size_bytes
            self._bytes_by_holder[held.holder] = self._bytes_by_holder.get(held.holder, 0) + sign * held.size_bytes
            if not self._bytes_by_holder[held.holder]:
                del self._bytes_by_holder[held.holder]

    def _cut_off(self) -> None:
        greatest = max(self._bytes_by_holder, key=self._bytes_by_holder.__getitem__)
        own = [(one, held.size_bytes) for one, held in self._held.items() if held.holder == greatest]
        average_bytes = self._bytes_by_holder[greatest] // len(own)
        slowest = next(one for one, size_bytes in own if size_bytes >= average_bytes)
        held = self._held.pop(slowest)
        self._count(held, -1)
        slowest.abort()
        self._log.warning(user_id=greatest, held_bytes=held.size_bytes)


def _trim() -> None:
    """Gives freed memory back to the system: glibc keeps it, 100 MiB after fifteen thousand pages that nobody took."""
    with suppress(AttributeError):  # Other C libraries lack it.
        ctypes.CDLL(None).malloc_trim(0)
