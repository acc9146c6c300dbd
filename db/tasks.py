"""The operations on one user's tasks, one round trip each.

A second round trip is needed only to find out why an operation found no row, and after a lost answer or a row that
was deleted meanwhile. Nothing here begins or commits a transaction: `Pool.run` gives each statement one of its own,
or one that it shares with other writes, under the user's claims.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Collection, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, NamedTuple, Protocol

from psycopg import errors

from db.statements import (
    CREATE,
    CREATE_IF_KNOWN,
    CREATE_ONCE,
    CREATE_ONCE_IF_KNOWN,
    DELETE,
    GET,
    LIST,
    REPLACE,
    TASK_EXISTS,
    TOGGLE,
    UPDATE,
    USER_EXISTS,
    Statement,
)
from db.task_ids import TaskIds
from db.task_json import task_json
from db.wire.connection import Row, Values

KEEP: Final = object()
"""The value of `description` that leaves it as it is. None removes it."""

BOOLEANS = {True: b"true", False: b"false", None: None}
"""PostgreSQL's text for truth values. All values are sent, and all rows are read, as text."""


class TaskNotFound(Exception):
    """The user has no such task. Becomes 404."""


class VersionMismatch(Exception):
    """The task exists, but has none of the versions that `If-Match` names. Becomes 412."""


class IdempotencyKeyReused(Exception):
    """The user has used this idempotency key for a task with another title or description. Becomes 422."""


class UserUnknown(Exception):
    """The user has no row, and `PROVISION_USERS` is false. Becomes 401."""


@dataclass(slots=True)
class User:
    """The user of a token: `sub`, and email and name if it has them. Requests with one token share this object."""

    id: str
    email: str | None = None
    name: str | None = None
    is_recorded: bool = field(default=False, compare=False)
    """Whether a write has tried to record this token's email and name in the user's row. Then the next ones do not."""


class TaskRow(NamedTuple):
    """A task: its JSON, and its version, of which the entity tag is made."""

    json: bytes
    version: int


@dataclass(frozen=True, slots=True)
class Page:
    """Tasks, newest first: the JSON of each, and the id after which the next page begins (None on the last)."""

    items: list[bytes]
    next_cursor: str | None


class Runner(Protocol):
    """What runs statements: a `db.wire.pool.Pool`, or the wrapper that traces it. See `Pool.run`."""

    def run(
        self,
        user_id: str,
        statement: Statement,
        values: Values,
        *,
        repeatable: bool = False,
        may_be_done: bool = False,
    ) -> Awaitable[list[Row]]: ...


class Tasks:
    """The tasks of all users. Every method runs as one user, and reaches only that user's tasks.

    Besides what it names, every method raises `DatabaseUnavailable` and its subclasses (503), and `UserUnknown` (401)
    if it finds no row, the user has none, and users are not provisioned.
    """

    def __init__(self, pool: Runner, *, provision_users: bool = True) -> None:
        """With `provision_users`, the first write with a token records its email and name in the user's row.

        If the user has no row yet, `create` creates it. The other writes do not, because such a user has no tasks.

        Without `provision_users`, the rows of `users` belong to another service: nothing is written to them, and a user
        without a row is refused.
        """
        self._pool = pool
        self._task_ids = TaskIds()
        self._provision_users = provision_users
        self._create = CREATE if provision_users else CREATE_IF_KNOWN
        self._create_once = CREATE_ONCE if provision_users else CREATE_ONCE_IF_KNOWN

    async def page(self, user: User, *, limit: int, cursor: str | None, completed: bool | None) -> Page:
        """The newest `limit` tasks, or those older than the task `cursor`; `completed` filters unless it is None."""
        statement = LIST[completed is not None, cursor is not None]
        values = {
            "user_id": user.id.encode(),
            "completed": BOOLEANS[completed],
            "cursor": cursor.encode() if cursor else None,
            "limit": b"%d" % (limit + 1),
        }
        rows = await self._pool.run(user.id, statement, statement.values(values))
        if not rows:
            await self._check_user(user)
        items = [task for task, _ in rows[:limit] if task is not None]
        last_id = rows[limit - 1][1] if len(rows) > limit else None
        # PostgreSQL reads a UUID without its hyphens too. So a cursor is the id of a task, and does not look like one.
        return Page(items, last_id.replace(b"-", b"").decode() if last_id else None)

    async def create(
        self, user: User, *, title: str, description: str | None, idempotency_key: str | None = None
    ) -> tuple[str, TaskRow]:
        """Creates a task, after the user's row if it is provisioned. Returns the task's id and the task.

        With an idempotency key, a repeated request creates nothing. It returns the task of the first request as it is
        now, unless that task has been deleted.

        Raises:
            IdempotencyKeyReused: the first request with this key had another title or description (422).
            UserUnknown: the user has no row, and users are not provisioned (401).
        """
        task_id = self._task_ids.new()
        values = {
            "task_id": task_id.encode(),
            "title": title.encode(),
            "description": _text(description),
            "idempotency_key": _text(idempotency_key),
            "idempotency_fingerprint": None if idempotency_key is None else _fingerprint(title, description),
        }
        create = self._create if idempotency_key is None else self._create_once
        try:
            rows = await self._write(create, user, values, repeatable=True)
        except errors.UniqueViolation:
            # The first answer was lost, and the statement was run again. The first run had created the task: no other
            # has its id, which was made above. So the task is read.
            rows = await self._pool.run(user.id, GET, GET.values(values), may_be_done=True)
        except errors.ForeignKeyViolation:
            if not self._provision_users:
                raise UserUnknown from None
            # The user has no row, although a write with this token set `is_recorded`: the row has been deleted since,
            # or that write was no `create` and found none. The second write creates the row.
            user.is_recorded = False
            rows = await self._write(create, user, values)
        if not rows and not self._provision_users:
            if idempotency_key is None:
                raise UserUnknown
            # The user had no row, or has used the key.
            await self._check_user(user)
            rows = await self._write(create, user, values)
        if not rows:
            raise IdempotencyKeyReused
        # With a key, it may be an older task.
        task = rows[0]
        return (task[0] or b"").decode(), _task(task)

    async def get(self, user: User, task_id: str) -> TaskRow:
        """Reads a task.

        Raises:
            TaskNotFound: the user has no such task (404).
        """
        values = GET.values({"user_id": user.id.encode(), "task_id": task_id.encode()})
        rows = await self._pool.run(user.id, GET, values)
        if not rows:
            await self._check_user(user)
            raise TaskNotFound
        return _task(rows[0])

    async def replace(
        self,
        user: User,
        task_id: str,
        *,
        title: str,
        description: str | None,
        completed: bool | None,
        versions: Collection[int] | None,
    ) -> TaskRow:
        """Replaces title and description, and `completed` unless it is None.

        Raises:
            TaskNotFound: the user has no such task (404).
            VersionMismatch: the task's version is not in `versions` (412).
        """
        rows = await self._change(
            REPLACE, user, task_id, versions,
            title=title.encode(), description=_text(description), completed=BOOLEANS[completed],
        )  # fmt: skip
        return _task(rows[0])

    async def update(
        self,
        user: User,
        task_id: str,
        *,
        title: str | None,
        description: object,
        completed: bool | None,
        versions: Collection[int] | None,
    ) -> TaskRow:
        """Changes title and `completed` unless they are None, and the description unless it is `KEEP`.

        Raises:
            TaskNotFound: the user has no such task (404).
            VersionMismatch: the task's version is not in `versions` (412).
        """
        rows = await self._change(
            UPDATE, user, task_id, versions,
            title=_text(title), has_description=BOOLEANS[description is not KEEP],
            description=description.encode() if isinstance(description, str) else None, completed=BOOLEANS[completed],
        )  # fmt: skip
        return _task(rows[0])

    async def toggle(self, user: User, task_id: str, *, versions: Collection[int] | None) -> TaskRow:
        """Marks an open task as completed, and a completed one as open. The server inverts it, so no update is lost.

        Raises:
            TaskNotFound: the user has no such task (404).
            VersionMismatch: the task's version is not in `versions` (412).
        """
        rows = await self._change(TOGGLE, user, task_id, versions)
        return _task(rows[0])

    async def delete(self, user: User, task_id: str, *, versions: Collection[int] | None) -> None:
        """Deletes the task. Deletion is permanent.

        Raises:
            TaskNotFound: the user has no such task (404).
            VersionMismatch: the task's version is not in `versions` (412).
        """
        await self._change(DELETE, user, task_id, versions)

    async def _change(
        self,
        statements: Mapping[bool, Statement],
        user: User,
        task_id: str,
        versions: Collection[int] | None,
        **values: bytes | None,
    ) -> list[Row]:
        """Runs a write on one task, if it has one of `versions` (None: any), and returns its row."""
        values["task_id"] = task_id.encode()
        values["versions"] = None if versions is None else b"{%s}" % b",".join(b"%d" % version for version in versions)
        rows = await self._write(statements, user, values)
        if not rows:
            # Only here is a second round trip needed, to tell the possible failures apart.
            if versions is not None and await self._pool.run(user.id, TASK_EXISTS, TASK_EXISTS.values(values)):
                raise VersionMismatch
            await self._check_user(user)
            raise TaskNotFound
        return rows

    async def _write(
        self,
        statements: Mapping[bool, Statement],
        user: User,
        values: dict[str, bytes | None],
        *,
        repeatable: bool = False,
    ) -> list[Row]:
        """Runs a write; it also records the token's email and name if users are provisioned and no write has yet."""
        values["user_id"] = user.id.encode()
        if not self._provision_users or user.is_recorded:
            statement = statements[False]
            return await self._pool.run(user.id, statement, statement.values(values), repeatable=repeatable)
        statement = statements[True]
        values |= {"email": _text(user.email), "name": _text(user.name)}
        rows = await self._pool.run(user.id, statement, statement.values(values), repeatable=repeatable)
        user.is_recorded = True
        return rows

    async def _check_user(self, user: User) -> None:
        """Raises UserUnknown if users are not provisioned and the user has no row. Called when no task was found."""
        if not self._provision_users:
            statement = USER_EXISTS
            if not await self._pool.run(user.id, statement, statement.values({"user_id": user.id.encode()})):
                raise UserUnknown


def _text(value: str | None) -> bytes | None:
    return None if value is None else value.encode()


def _fingerprint(title: str, description: str | None) -> bytes:
    """The SHA-256 of title and description, however the JSON was spelled, as PostgreSQL's text for `bytea`."""
    return b"\\x" + sha256(json.dumps([title, description]).encode()).hexdigest().encode()


def _task(row: Row) -> TaskRow:
    *columns, version = row
    if version is None:
        raise TypeError("the statement returned null in place of a task")
    return TaskRow(task_json(columns), int(version))
