"""FastAPI, SQLModel and asyncpg, as the documentation of FastAPI and SQLModel teaches them.

Tuned as far as that allows: an asynchronous engine whose pool is as large as everybody's and never pings;
`expire_on_commit=False` and defaults made here, so that no `refresh` costs another round trip; each read one `select`;
response models, which FastAPI hands to pydantic's serializer; uvicorn with uvloop and httptools. There is no row-level
security: the `where` of each statement is all that keeps users apart.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import jwt
import uuid_utils.compat
from fastapi import Depends, FastAPI, HTTPException, Query, Response
from fastapi.security import OAuth2PasswordBearer
from rows import SECRET
from sqlalchemy import TIMESTAMP
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import Field, SQLModel, select
from sqlmodel.ext.asyncio.session import AsyncSession

POOL_SIZE = 16

engine = create_async_engine("postgresql+asyncpg://", pool_size=POOL_SIZE, max_overflow=0)
app = FastAPI()
oauth2_scheme = OAuth2PasswordBearer(tokenUrl="token")


def now() -> datetime:
    return datetime.now(UTC)


class TaskCreate(SQLModel):
    title: str = Field(min_length=1, max_length=200)
    description: str | None = Field(default=None, max_length=2000)


class TaskReplace(TaskCreate):
    completed: bool | None = None


class TaskPublic(SQLModel):
    id: UUID
    user_id: str
    title: str
    description: str | None
    completed: bool
    created_at: datetime
    updated_at: datetime


class TaskPage(SQLModel):
    items: list[TaskPublic]
    next_cursor: UUID | None


class Task(SQLModel, table=True):
    __tablename__ = "tasks"

    user_id: str = Field(primary_key=True)
    id: UUID = Field(primary_key=True, default_factory=uuid_utils.compat.uuid7)
    title: str
    description: str | None = None
    completed: bool = False
    version: int = 1
    created_at: datetime = Field(default_factory=now, sa_type=TIMESTAMP(timezone=True))
    updated_at: datetime = Field(default_factory=now, sa_type=TIMESTAMP(timezone=True))


async def get_session() -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine, expire_on_commit=False) as session:
        yield session


async def get_user_id(user_id: str, token: Annotated[str, Depends(oauth2_scheme)]) -> str:
    try:
        claims = jwt.decode(token, SECRET, algorithms=["HS256"], options={"require": ["exp", "sub"]})
    except jwt.InvalidTokenError:
        raise HTTPException(401, "Could not validate credentials", {"WWW-Authenticate": "Bearer"}) from None
    if claims["sub"] != user_id:
        raise HTTPException(403, "Not yours")
    return user_id


Session = Annotated[AsyncSession, Depends(get_session)]
UserId = Annotated[str, Depends(get_user_id)]


async def find(session: AsyncSession, user_id: str, task_id: UUID) -> Task:
    task = await session.get(Task, (user_id, task_id))
    if task is None:
        raise HTTPException(404, "Task not found")
    return task


@app.get("/api/{user_id}/tasks", response_model=TaskPage)
async def list_tasks(
    session: Session,
    user_id: UserId,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: UUID | None = None,
    completed: bool | None = None,
) -> TaskPage:
    query = select(Task).where(Task.user_id == user_id).order_by(Task.id.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(Task.id < cursor)
    if completed is not None:
        query = query.where(Task.completed == completed)
    tasks = (await session.exec(query)).all()
    return {"items": tasks[:limit], "next_cursor": tasks[limit - 1].id if len(tasks) > limit else None}


@app.post("/api/{user_id}/tasks", response_model=TaskPublic, status_code=201)
async def create_task(session: Session, user_id: UserId, content: TaskCreate, response: Response) -> Task:
    task = Task(user_id=user_id, title=content.title, description=content.description)
    session.add(task)
    await session.commit()
    response.headers["Location"] = f"/api/{user_id}/tasks/{task.id}"
    return task


@app.get("/api/{user_id}/tasks/{task_id}", response_model=TaskPublic)
async def get_task(session: Session, user_id: UserId, task_id: UUID) -> Task:
    return await find(session, user_id, task_id)


@app.put("/api/{user_id}/tasks/{task_id}", response_model=TaskPublic)
async def replace_task(session: Session, user_id: UserId, task_id: UUID, content: TaskReplace) -> Task:
    task = await find(session, user_id, task_id)
    task.title, task.description = content.title, content.description
    if content.completed is not None:
        task.completed = content.completed
    task.version, task.updated_at = task.version + 1, now()
    await session.commit()
    return task


@app.patch("/api/{user_id}/tasks/{task_id}/complete", response_model=TaskPublic)
async def toggle_task_completion(session: Session, user_id: UserId, task_id: UUID) -> Task:
    task = await find(session, user_id, task_id)
    task.completed = not task.completed
    task.version, task.updated_at = task.version + 1, now()
    await session.commit()
    return task
