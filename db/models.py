"""The tables, as SQLAlchemy maps them. They must equal what the migrations create, which a test compares.

Role, grants, policies and trigger are only in the migrations.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Text, func, text
from sqlalchemy.dialects.postgresql import DOMAIN, TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

BLANKS = r"\0009\000A\000B\000C\000D\0020\00A0\1680" + "".join(
    rf"\{code:04X}" for code in (*range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000, 0xFEFF)
)
r"""White space as ECMA-262 defines `\s`, which the contract's pattern uses. A title needs another than these."""

timestamp_now = Annotated[datetime, mapped_column(TIMESTAMP(timezone=True), server_default=func.now())]
bool_false = Annotated[bool, mapped_column(server_default=text("false"))]


task_title = Annotated[
    str,
    mapped_column(
        DOMAIN(
            "task_title",
            Text(),
            constraint_name="task_title_check",
            check=text(rf"char_length(value) between 1 and 200 and btrim(value, U&'{BLANKS}') <> ''"),
        )
    ),
]
task_description = Annotated[
    str,
    mapped_column(
        DOMAIN(
            "task_description",
            Text(),
            constraint_name="task_description_check",
            check=text("char_length(value) <= 2000"),
        )
    ),
]


class Base(DeclarativeBase):
    """The metadata that all tables share."""

    type_annotation_map = {str: Text()}  # noqa: RUF012 - SQLAlchemy reads it from the class


class User(Base):
    """A user. The first task that they create also creates this row, unless `PROVISION_USERS` is false.

    `id` is the `sub` of their tokens; email and name are those of their newest token that has them.
    """

    __tablename__ = "users"
    __table_args__ = (CheckConstraint("char_length(id) between 1 and 255", name="users_id_length"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    email: Mapped[str | None]
    name: Mapped[str | None]
    created_at: Mapped[timestamp_now]


class Task(Base):
    """A task of one user.

    The primary key begins with the owner and ends with a UUID that grows with time. So a page reads one range of its
    index backwards, from the user's newest task, and costs the same however many tasks and users there are. A sharded
    database can distribute the table by `user_id` as it is.

    `version` counts the changes of the task; the trigger of the migrations increments it. `ETag` is made of it.
    """

    __tablename__ = "tasks"
    __table_args__ = (
        CheckConstraint("char_length(idempotency_key) between 1 and 255", name="tasks_idempotency_key_length"),
        Index("tasks_id", "id", postgresql_using="hash"),
        Index("tasks_user_id_completed_id", "user_id", "completed", "id"),
        Index(
            "tasks_user_id_idempotency_key",
            "user_id",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key is not null"),
        ),
    )

    user_id: Mapped[str] = mapped_column(
        ForeignKey("users.id", name="tasks_user_id_fkey", ondelete="CASCADE"), primary_key=True
    )
    id: Mapped[UUID] = mapped_column(primary_key=True)
    title: Mapped[task_title]
    description: Mapped[task_description | None]
    completed: Mapped[bool_false]
    version: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))
    created_at: Mapped[timestamp_now]
    updated_at: Mapped[timestamp_now]
    idempotency_key: Mapped[str | None]
    idempotency_fingerprint: Mapped[bytes | None]
