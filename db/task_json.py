"""The JSON of one task, made of its columns: byte for byte what PostgreSQL writes for the same task in a page."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from msgspec.json import Encoder

MEMBERS = (
    b'{"id":"%b","user_id":%b,"title":%b,"description":%b,"completed":%b,"created_at":"%b.%06dZ",'
    b'"updated_at":"%b.%06dZ"}'
)

BOOLEANS = {b"t": b"true", b"f": b"false"}

_encode = Encoder().encode


def task_json(columns: Sequence[Any]) -> bytes:
    """The JSON of a task of these columns, as `db.statements.TASK_COLUMNS` gives them, in PostgreSQL's text form.

    In Python it takes 3 us. PostgreSQL needs a second level of query for it, which Citus plans anew each time.
    """
    task_id, user_id, title, description, completed, created, updated = columns
    return MEMBERS % (
        task_id,
        _encode(user_id.decode()),
        _encode(title.decode()),
        b"null" if description is None else _encode(description.decode()),
        BOOLEANS[completed],
        *_time(created),
        *_time(updated),
    )


def _time(seconds: bytes) -> tuple[bytes, int]:
    whole, _, fraction = seconds.partition(b".")
    second, microseconds = divmod(int(whole + fraction.ljust(6, b"0")), 1_000_000)
    return _second(second), microseconds


@lru_cache(maxsize=1_024)
def _second(second: int) -> bytes:
    return datetime.fromtimestamp(second, UTC).isoformat()[:19].encode()
