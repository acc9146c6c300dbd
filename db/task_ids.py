"""Makes the ids of tasks, which sort by the time when they were made."""

from __future__ import annotations

import time
from collections.abc import Callable

import uuid_utils

TICKS_PER_MILLISECOND = 4096


class TaskIds:
    """Makes UUIDs of version 7 (RFC 9562). Each is greater than those that this object made before.

    The 12 bits below the millisecond continue it (section 6.2, method 3), so an id tells 244 nanoseconds apart, and
    the ids of all processes of a machine sort as they were made, but for those of one tick. While the clock
    has gone back, or stands still, each id is one tick later than the one before. 62 random bits keep ids of the same
    tick apart.
    """

    def __init__(self, time_ns: Callable[[], int] = time.time_ns) -> None:
        """`time_ns` tells the nanoseconds since 1970."""
        self._time_ns = time_ns
        self._last_tick = 0

    def new(self) -> str:
        """A new id, in lower case."""
        tick = self._time_ns() * TICKS_PER_MILLISECOND // 1_000_000
        self._last_tick = tick = max(self._last_tick + 1, tick)
        # The last three digits are the ticks, the twelve before them the milliseconds.
        digits = f"{tick:015x}"
        # From its variant on, a UUID of version 4 is made as one of version 7 is.
        return f"{digits[:8]}-{digits[8:12]}-7{digits[12:]}{str(uuid_utils.uuid4())[18:]}"
