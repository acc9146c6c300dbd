"""The operations on one user's tasks, one round trip each."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Collection, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Protocol

import uuid_utils
from psycopg import errors

from db.statements import (
    CREATE,
    CREATE_ONCE,
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
from db.wire.connection import Row, Values

KEEP: Final = object()
"""Stands for a description that stays as it is, where None would remove it."""

BOOLEANS = {True: b"true", False: b"false", None: None}


class TaskNotFound(Exception):
    """The user has no such task. Becomes 404."""


class VersionMismatch(Exception):
    """The task is none of the versions that the client knows. Becomes 412."""


class IdempotencyKeyReused(Exception):
    """The user's idempotency key stands for another task. Becomes 422."""


class UserUnknown(Exception):
    """The user has no row, and the service does not make one. Becomes 401."""


@dataclass(slots=True)
class User:
    """Who asks: the token's `sub`, and what it says about the person."""

    id: str
    email: str | None = None
    name: str | None = None
    is_recorded: bool = field(default=False, compare=False)
    """Whether a write has told the database all this; the next ones need not say it again."""


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task as PostgreSQL wrote it: its JSON, and its version."""

    json: bytes
    version: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some tasks, newest first: their JSON, and the id after which the next page begins, None on the last."""

    items: list[bytes]
    next_cursor: str | None


class Runner(Protocol):
    """Runs statements: a pool, or what stands before it."""

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
    """Every user's tasks, each reached only as that user."""

    def __init__(self, pool: Runner, *, provision_users: bool = True) -> None:
        """With `provision_users`, a user's row is made at their first write, and follows each new token with its first.

        Without, somebody else keeps the users: who has no row is unknown, and email and name stay as they are.
        """
        self._pool = pool
        self._provision_users = provision_users

    async def page(self, user: User, *, limit: int, cursor: str | None, completed: bool | None) -> Page:
        """The newest `limit` tasks, or those after `cursor`; all, or only those (not) completed."""
        statement = LIST[completed is not None, cursor is not None]
        values = statement.values(
            user_id=user.id.encode(),
            completed=BOOLEANS[completed],
            cursor=cursor.encode() if cursor else None,
            limit=b"%d" % (limit + 1),
        )
        rows = await self._pool.run(user.id, statement, values)
        if not rows:
            await self._check_user(user)
        items = [task for task, _ in rows[:limit] if task is not None]
        next_cursor = rows[limit - 1][1] if len(rows) > limit else None
        return Page(items, next_cursor.decode() if next_cursor else None)

    async def create(
        self, user: User, *, title: str, description: str | None, idempotency_key: str | None = None
    ) -> tuple[str, TaskRow]:
        """Creates a task, and the user's row where it is missing or the token says something new; tells the id first.

        With a key, the task that the user created under it before, for as long as there is one, as it is now.

        Raises:
            IdempotencyKeyReused: that task was created with another title or description (422).
            UserUnknown: the user has no row, and none is to be made (401).
        """
        task_id = str(uuid_utils.uuid7())
        values = {
            "task_id": task_id.encode(),
            "title": title.encode(),
            "description": _text(description),
            "idempotency_key": _text(idempotency_key),
            "idempotency_fingerprint": None if idempotency_key is None else _fingerprint(title, description),
        }
        create = CREATE if idempotency_key is None else CREATE_ONCE
        try:
            rows = await self._write(create, user, values, repeatable=True)
        except errors.UniqueViolation:
            # The answer was lost, and the statement run again: it had made the task, whose id nobody else has.
            rows = await self._pool.run(user.id, GET, GET.values(**values), may_be_done=True)
        except errors.ForeignKeyViolation:
            if not self._provision_users:
                raise UserUnknown from None
            # The user's row was there, and was deleted meanwhile. Now it makes another.
            user.is_recorded = False
            rows = await self._write(create, user, values)
        if not rows:
            raise IdempotencyKeyReused
        task, version, *ids = rows[0]
        # Under a key, it may be a task that was there before.
        return (ids[0].decode() if ids and ids[0] else task_id), _task((task, version))

    async def get(self, user: User, task_id: str) -> TaskRow:
        """One task.

        Raises:
            TaskNotFound: the user has no such task (404).
        """
        values = GET.values(user_id=user.id.encode(), task_id=task_id.encode())
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
            VersionMismatch: it is none of `versions` (412).
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
        """Changes what is not None, and the description unless it is `KEEP`.

        Raises:
            TaskNotFound: the user has no such task (404).
            VersionMismatch: it is none of `versions` (412).
        """
        rows = await self._change(
            UPDATE, user, task_id, versions,
            title=_text(title), has_description=BOOLEANS[description is not KEEP],
            description=description.encode() if isinstance(description, str) else None, completed=BOOLEANS[completed],
        )  # fmt: skip
        return _task(rows[0])

    async def toggle(self, user: User, task_id: str, *, versions: Collection[int] | None) -> TaskRow:
        """Completes the task, or takes that back, whichever it was.

        Raises:
            TaskNotFound: the user has no such task (404).
            VersionMismatch: it is none of `versions` (412).
        """
        rows = await self._change(TOGGLE, user, task_id, versions)
        return _task(rows[0])

    async def delete(self, user: User, task_id: str, *, versions: Collection[int] | None) -> None:
        """Removes the task for good.

        Raises:
            TaskNotFound: the user has no such task (404).
            VersionMismatch: it is none of `versions` (412).
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
        values["task_id"] = task_id.encode()
        values["versions"] = None if versions is None else b"{%s}" % b",".join(b"%d" % version for version in versions)
        rows = await self._write(statements, user, values)
        if not rows:
            # Only a failure costs a second round trip: which one was it?
            if versions is not None and await self._pool.run(user.id, TASK_EXISTS, TASK_EXISTS.values(**values)):
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
        """Runs a write, and records the user with it unless that has been done, or is somebody else's to do."""
        values["user_id"] = user.id.encode()
        if not self._provision_users or user.is_recorded:
            statement = statements[False]
            return await self._pool.run(user.id, statement, statement.values(**values), repeatable=repeatable)
        statement = statements[True]
        values |= {"email": _text(user.email), "name": _text(user.name)}
        rows = await self._pool.run(user.id, statement, statement.values(**values), repeatable=repeatable)
        user.is_recorded = True
        return rows

    async def _check_user(self, user: User) -> None:
        if not self._provision_users:
            statement = USER_EXISTS
            if not await self._pool.run(user.id, statement, statement.values(user_id=user.id.encode())):
                raise UserUnknown


def _text(value: str | None) -> bytes | None:
    return None if value is None else value.encode()


def _fingerprint(title: str, description: str | None) -> bytes:
    """What a request to create a task wants, in 32 bytes, however it was written; as PostgreSQL reads bytes."""
    return b"\\x" + sha256(json.dumps([title, description]).encode()).hexdigest().encode()


def _task(row: Row) -> TaskRow:
    task, version = row
    if task is None or version is None:
        raise TypeError("the statement answered null")
    return TaskRow(task, int(version))
