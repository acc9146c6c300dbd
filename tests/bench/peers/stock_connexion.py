"""Stock Connexion on the same contract, with responses validated, and SQLAlchemy's asynchronous ORM on psycopg.

Connexion's `AsyncApp` does all that the contract asks for; only the names of the functions are replaced in it. Tuned
like the usual stack.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import connexion
import jwt
import uuid_utils.compat
import yaml
from connexion.exceptions import Forbidden, ProblemException
from rows import SECRET
from sqlalchemy import select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

import openapi
from db.models import Task

CONTRACT = Path(openapi.__file__).with_name("openapi.yaml")
POOL_SIZE = 16
MEMBERS = ("user_id", "title", "description", "completed")

NOT_MEASURED = ("patch", "delete")

JSON = {"Content-Type": "application/json"}
"""Connexion wants to be told, since problems have another media type."""

Answer = tuple[dict[str, Any], int, dict[str, str]]

engine = create_async_engine("postgresql+psycopg://", pool_size=POOL_SIZE, max_overflow=0)
new_session = async_sessionmaker(engine, expire_on_commit=False)


def contract(controller: str, authenticate: str) -> dict[str, Any]:
    """The contract with other functions behind it, less the operations that are not measured."""
    document: dict[str, Any] = yaml.safe_load(CONTRACT.read_text())
    for method in NOT_MEASURED:
        del document["paths"]["/api/{user_id}/tasks/{task_id}"][method]
    for path in document["paths"].values():
        for operation in path.values():
            if isinstance(operation, dict):
                operation["x-openapi-router-controller"] = controller
    document["components"]["headers"]["RequestId"]["required"] = False  # The service's front door adds it.
    document["components"]["securitySchemes"]["bearer"]["x-bearerInfoFunc"] = authenticate
    return document


def claims(token: str) -> dict[str, Any] | None:
    """A token's claims; None, which is 401, where it is not valid."""
    try:
        return jwt.decode(token, SECRET, algorithms=["HS256"], options={"require": ["exp", "sub"]})
    except jwt.InvalidTokenError:
        return None


async def list_tasks(
    user_id: str, user: str, limit: int = 50, cursor: str | None = None, completed: bool | None = None
) -> Answer:
    own(user_id, user)
    query = select(Task).where(Task.user_id == user_id).order_by(Task.id.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(Task.id < UUID(cursor))
    if completed is not None:
        query = query.where(Task.completed == completed)
    async with new_session() as session:
        tasks = (await session.scalars(query)).all()
    next_cursor = tasks[limit - 1].id.hex if len(tasks) > limit else None
    page = {"items": [to_json(task) for task in tasks[:limit]], "next_cursor": next_cursor}
    headers = {**JSON, "Cache-Control": "private, no-cache", "Vary": "Accept, Accept-Encoding"}
    if next_cursor:
        headers["Link"] = f'<?limit={limit}&cursor={next_cursor}>; rel="next"'
    return page, 200, headers


async def create_task(user_id: str, user: str, body: dict[str, Any]) -> Answer:
    own(user_id, user)
    task = Task(user_id=user_id, id=uuid_utils.compat.uuid7(), title=body["title"], description=body.get("description"))
    async with new_session() as session:
        session.add(task)
        await session.commit()
    return to_json(task), 201, {**JSON, "ETag": f'"{task.version}"', "Location": f"/api/{user_id}/tasks/{task.id}"}


async def get_task(user_id: str, user: str, task_id: str) -> Answer:
    own(user_id, user)
    async with new_session() as session:
        task = found(await session.get(Task, (user_id, UUID(task_id))))
    headers = {**JSON, "ETag": f'"{task.version}"', "Cache-Control": "private, no-cache", "Vary": "Accept"}
    return to_json(task), 200, headers


async def replace_task(user_id: str, user: str, task_id: str, body: dict[str, Any]) -> Answer:
    return await change(
        user_id, user, task_id,
        lambda task: {
            "title": body["title"],
            "description": body.get("description"),
            "completed": body.get("completed", task.completed),
        },
    )  # fmt: skip


async def toggle_task_completion(user_id: str, user: str, task_id: str) -> Answer:
    body, status, headers = await change(user_id, user, task_id, lambda task: {"completed": not task.completed})
    return body, status, {**headers, "Content-Location": f"/api/{user_id}/tasks/{task_id}"}


async def change(user_id: str, user: str, task_id: str, changes: Callable[[Task], dict[str, Any]]) -> Answer:
    own(user_id, user)
    async with new_session() as session:
        task = found(await session.get(Task, (user_id, UUID(task_id))))
        for name, value in changes(task).items():
            setattr(task, name, value)
        task.version, task.updated_at = task.version + 1, datetime.now(UTC)
        await session.commit()
    return to_json(task), 200, {**JSON, "ETag": f'"{task.version}"'}


def own(user_id: str, user: str) -> None:
    if user_id != user:
        raise Forbidden


def found(task: Task | None) -> Task:
    if task is None:
        raise ProblemException(status=404, title="Task not found", detail="You have no task with this id.")
    return task


def to_json(task: Task) -> dict[str, Any]:
    members = {name: getattr(task, name) for name in MEMBERS}
    times = {"created_at": task.created_at.isoformat(), "updated_at": task.updated_at.isoformat()}
    return {"id": str(task.id), **members, **times}


def new_app(controller: str, authenticate: str) -> connexion.AsyncApp:
    """Stock Connexion, whose operations are the functions of a module."""
    app = connexion.AsyncApp(__name__)
    app.add_api(contract(controller, authenticate), validate_responses=True)
    return app


create = partial(new_app, __name__, f"{__name__}.claims")
