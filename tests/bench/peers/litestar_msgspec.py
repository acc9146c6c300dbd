"""Litestar, msgspec and asyncpg, with SQL by hand: as fast as we know Python to be with a framework.

Tuned: one statement an operation; asyncpg's prepared statements; no reset of a connection that went back to its pool,
which would be another round trip; structs that msgspec writes; verified tokens remembered as Taskpact remembers them;
no OpenAPI document, no exception logging.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any
from uuid import UUID

import asyncpg
import jwt
import msgspec
import uuid_utils.compat
from litestar import Litestar, Response, get, patch, post, put
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.exceptions import NotAuthorizedException, NotFoundException, PermissionDeniedException
from litestar.handlers import BaseRouteHandler
from litestar.params import Parameter
from rows import SECRET

POOL_SIZE = 16
REMEMBERED_TOKENS = 10_000

COLUMNS = "id, user_id, title, description, completed, created_at, updated_at"
GET = f"select {COLUMNS} from tasks where user_id = $1 and id = $2"
LIST = f"select {COLUMNS} from tasks where user_id = $1 order by id desc limit $2"
LIST_AFTER = f"select {COLUMNS} from tasks where user_id = $1 and id < $3 order by id desc limit $2"
CREATE = f"insert into tasks (user_id, id, title, description) values ($1, $2, $3, $4) returning {COLUMNS}"
CHANGED = "version = version + 1, updated_at = now()"
REPLACE = (
    f"update tasks set title = $3, description = $4, completed = coalesce($5, completed), {CHANGED}"
    f" where user_id = $1 and id = $2 returning {COLUMNS}"
)
TOGGLE = f"update tasks set completed = not completed, {CHANGED} where user_id = $1 and id = $2 returning {COLUMNS}"


class Task(msgspec.Struct):
    id: UUID
    user_id: str
    title: str
    description: str | None
    completed: bool
    created_at: datetime
    updated_at: datetime


class TaskPage(msgspec.Struct):
    items: list[Task]
    next_cursor: UUID | None


class TaskCreate(msgspec.Struct, forbid_unknown_fields=True):
    title: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    description: Annotated[str, msgspec.Meta(max_length=2000)] | None = None


class TaskReplace(TaskCreate):
    completed: bool | None = None


@lru_cache(REMEMBERED_TOKENS)
def verify(token: str) -> tuple[str, float]:
    claims = jwt.decode(token, SECRET, algorithms=["HS256"], options={"require": ["exp", "sub"]})
    return claims["sub"], claims["exp"]


def own(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    try:
        user_id, expires_at_seconds = verify(token)
    except jwt.InvalidTokenError:
        raise NotAuthorizedException from None
    if scheme.lower() != "bearer" or expires_at_seconds <= time.time():
        raise NotAuthorizedException
    if user_id != connection.path_params["user_id"]:
        raise PermissionDeniedException


async def one(state: State, statement: str, *values: object) -> Task:
    row = await state.pool.fetchrow(statement, *values)
    if row is None:
        raise NotFoundException
    return Task(*row)


@get("/api/{user_id:str}/tasks")
async def list_tasks(
    state: State,
    user_id: str,
    limit: Annotated[int, Parameter(ge=1, le=100)] = 50,
    cursor: UUID | None = None,
) -> TaskPage:
    more = () if cursor is None else (cursor,)
    rows = await state.pool.fetch(LIST_AFTER if more else LIST, user_id, limit + 1, *more)
    return TaskPage([Task(*row) for row in rows[:limit]], rows[limit - 1][0] if len(rows) > limit else None)


@post("/api/{user_id:str}/tasks")
async def create_task(state: State, user_id: str, data: TaskCreate) -> Response[Task]:
    task = await one(state, CREATE, user_id, uuid_utils.compat.uuid7(), data.title, data.description)
    return Response(task, headers={"Location": f"/api/{user_id}/tasks/{task.id}"})


@get("/api/{user_id:str}/tasks/{task_id:uuid}")
async def get_task(state: State, user_id: str, task_id: UUID) -> Task:
    return await one(state, GET, user_id, task_id)


@put("/api/{user_id:str}/tasks/{task_id:uuid}")
async def replace_task(state: State, user_id: str, task_id: UUID, data: TaskReplace) -> Task:
    return await one(state, REPLACE, user_id, task_id, data.title, data.description, data.completed)


@patch("/api/{user_id:str}/tasks/{task_id:uuid}/complete")
async def toggle_task_completion(state: State, user_id: str, task_id: UUID) -> Task:
    return await one(state, TOGGLE, user_id, task_id)


async def keep(_connection: asyncpg.Connection) -> None:
    """Resets nothing: no statement here leaves anything behind."""


@asynccontextmanager
async def lifespan(app: Litestar) -> AsyncIterator[None]:
    async with asyncpg.create_pool(min_size=POOL_SIZE, max_size=POOL_SIZE, reset=keep) as pool:
        app.state.pool = pool
        yield


app = Litestar(
    [list_tasks, create_task, get_task, replace_task, toggle_task_completion],
    guards=[own],
    lifespan=[lifespan],
    openapi_config=None,
    logging_config=None,
)
