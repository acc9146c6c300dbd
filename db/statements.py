"""The SQL of each operation, built with SQLAlchemy from the models and compiled once, at import.

PostgreSQL writes the JSON of a page's tasks: the columns of `TASK_MEMBERS`, in this order, and no others. It writes
times in the session's time zone, which the claims set to UTC. Whoever reads or writes one task gets `TASK_COLUMNS`.

Every statement filters by the user's id. Row-level security does the same once more, so a statement that forgot its
filter would show no other user's tasks.

One task is found or written by the plainest statement there is: Citus sends it on to one shard, as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any, Final, cast
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    CTE,
    BigInteger,
    BindParameter,
    Boolean,
    Integer,
    LargeBinary,
    Select,
    Table,
    Text,
    Uuid,
    and_,
    bindparam,
    case,
    delete,
    exists,
    extract,
    func,
    literal_column,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import TIMESTAMP, Insert
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.sql import ClauseElement, ColumnElement
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate
from sqlalchemy.sql.selectable import HasCTE

from db.models import Task, User

API_ROLE: Final = "taskpact_api"
"""The role under which every statement runs. Row-level security binds it, and it cannot change the schema."""

USER_ID_SETTING: Final = "taskpact.user_id"
"""PostgreSQL's setting that holds the user's id. The policies compare it with the owner of each row."""

TASK_MEMBERS = ("id", "user_id", "title", "description", "completed", "created_at", "updated_at")
"""The members of a task's JSON, which are columns of the same names, in the order in which they are written."""

PAGE_LIMIT: Final = 101
"""The most rows that a page reads: the contract's maximum of `limit`, and one more, which shows that a page follows.

A test compares it with the contract.
"""

DIALECT = postgresql.dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement as `db.wire` sends it: the name under which it is prepared, its text, the order of its parameters.

    If the answer to a statement that `writes` is lost, it may have been committed.
    Such a write is repeated only if its caller can detect that it was done.

    A write that locks `one_task` locks no row but that of the task `task_id`.
    """

    name: bytes
    sql: bytes
    parameters: tuple[str, ...]
    writes: bool = True
    one_task: bool = False

    @classmethod
    def compile(cls, name: str, clause: ClauseElement) -> Statement:
        compiled = clause.compile(dialect=DIALECT)
        # SQLAlchemy lists a parameter once for each use. PostgreSQL wants one value, and uses its $n several times.
        order: Sequence[str] = getattr(compiled, "positiontup", None) or ()
        sql = str(compiled)
        writes = re.search(r"\b(insert|update|delete)\b", sql, re.IGNORECASE) is not None
        # Behind a pooler, another release may have prepared a different text on the same server connection. The hash
        # gives each text a name of its own.
        unique = f"{name}_{sha256(sql.encode()).hexdigest()[:12]}"
        # Whoever records a user locks their row too, and an idempotency key may lead to another task.
        one_task = writes and "task_id" in order and not {"email", "idempotency_key"} & set(order)
        return cls(unique.encode(), sql.encode(), tuple(dict.fromkeys(order)), writes, one_task)

    def values(self, named: Mapping[str, bytes | None]) -> list[bytes | None]:
        """The parameters' values, in the statement's order."""
        return [named[name] for name in self.parameters]


USER_ID: BindParameter[str] = bindparam("user_id", type_=Text)
EMAIL: BindParameter[str] = bindparam("email", type_=Text)
NAME: BindParameter[str] = bindparam("name", type_=Text)
TASK_ID: BindParameter[UUID] = bindparam("task_id", type_=Uuid)
TITLE: BindParameter[str] = bindparam("title", type_=Text)
DESCRIPTION: BindParameter[str] = bindparam("description", type_=Text)
HAS_DESCRIPTION: BindParameter[bool] = bindparam("has_description", type_=Boolean)
COMPLETED: BindParameter[bool] = bindparam("completed", type_=Boolean)
VERSIONS: BindParameter[Sequence[int]] = bindparam("versions", type_=ARRAY(BigInteger))
CURSOR: BindParameter[UUID] = bindparam("cursor", type_=Uuid)
LIMIT: BindParameter[int] = bindparam("limit", type_=Integer)
IDEMPOTENCY_KEY: BindParameter[str] = bindparam("idempotency_key", type_=Text)
IDEMPOTENCY_FINGERPRINT: BindParameter[bytes] = bindparam("idempotency_fingerprint", type_=LargeBinary)

TASKS = cast("Table", Task.__table__)

OWN_TASK = and_(Task.user_id == USER_ID, Task.id == TASK_ID)
UNCHANGED = or_(VERSIONS.is_(None), Task.version == func.any(VERSIONS))
"""Whether the task has one of the versions that `If-Match` names. Null stands for a request without `If-Match`."""

USER_IS_KNOWN = exists().where(User.id == USER_ID)

TIME_FORMAT = literal_column("""'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'""", Text)
"""The times of the contract. PostgreSQL's own JSON has `+00:00`, which some clients refuse, and leaves zeros out."""

MEMBERS = tuple(getattr(Task, name) for name in TASK_MEMBERS)


def _as_text(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Times as seconds since 1970: how PostgreSQL writes others, the session decides."""
    if not isinstance(column.type, TIMESTAMP):
        return column
    # Of a time without zone, since Citus wants functions that are immutable.
    return extract("epoch", func.timezone(literal_column("'UTC'"), column, type_=TIMESTAMP())).label(column.key)


TASK_COLUMNS = (*map(_as_text, MEMBERS), Task.version)
"""What is read of one task: see `db.task_json.task_json`."""


def _as_json(column: ColumnElement[Any]) -> ColumnElement[Any]:
    if not isinstance(column.type, TIMESTAMP):
        return column
    return func.to_char(column, TIME_FORMAT).label(column.key)


def _list(*, completed: bool, cursor: bool) -> Select[Any]:
    page = select(*map(_as_json, MEMBERS)).where(Task.user_id == USER_ID).order_by(Task.user_id.desc(), Task.id.desc())
    if completed:
        page = page.where(Task.completed == COMPLETED)
    if cursor:
        page = page.where(Task.id < CURSOR)
    # The constant limit tells the planner that a page is small. With a parameter alone, the generic plan looks so
    # expensive for a user with many tasks that the server plans each page anew, which takes as long as reading it.
    rows = page.limit(literal_column(str(PAGE_LIMIT))).cte("task")
    return select(func.row_to_json(rows.table_valued()), rows.c.id).order_by(rows.c.id.desc()).limit(LIMIT)


def _provision() -> CTE:
    """Inserts the user's row if it is missing, and else records the token's email and name in it."""
    claims = select(USER_ID, EMAIL, NAME)
    # The row is locked and written only if the token has a new email or name, not with every task. If the token has
    # none, the old one stays: many issuers leave the profile out of some tokens.
    known = exists().where(
        User.id == USER_ID,
        or_(EMAIL.is_(None), User.email == EMAIL),
        or_(NAME.is_(None), User.name == NAME),
    )
    provision = upsert(User).from_select(["id", "email", "name"], claims.where(~known))
    provision = provision.on_conflict_do_update(
        index_elements=[User.id],
        set_={
            "email": func.coalesce(provision.excluded.email, User.email),
            "name": func.coalesce(provision.excluded.name, User.name),
        },
    )
    return provision.cte("provisioned")


NEW_TASK: dict[str, BindParameter[Any]] = {
    "user_id": USER_ID,
    "id": TASK_ID,
    "title": TITLE,
    "description": DESCRIPTION,
}
KEY: dict[str, BindParameter[Any]] = {
    "idempotency_key": IDEMPOTENCY_KEY,
    "idempotency_fingerprint": IDEMPOTENCY_FINGERPRINT,
}


def _insert(values: Mapping[str, BindParameter[Any]], conditions: Sequence[ColumnElement[bool]]) -> Insert:
    """Inserts a task, if the conditions hold. Without any, Citus sends it to one shard as it is."""
    if not conditions:
        return upsert(TASKS).values(values)
    return upsert(TASKS).from_select(list(values), select(*values.values()).where(*conditions))


def _create(*conditions: ColumnElement[bool]) -> ReturningInsert[Any]:
    return _insert(NEW_TASK, conditions).returning(*TASK_COLUMNS)


def _create_once(*conditions: ColumnElement[bool]) -> ReturningInsert[Any]:
    task = _insert(NEW_TASK | KEY, conditions)
    # If the key exists, the update changes nothing and returns the row. A select in its place would not see a row that
    # another transaction has just committed. The trigger does not fire for it. If the key was used with another title
    # or description, no row is returned.
    task = task.on_conflict_do_update(
        index_elements=[Task.user_id, Task.idempotency_key],
        index_where=Task.idempotency_key.is_not(None),
        set_={"idempotency_key": task.excluded.idempotency_key},
        where=Task.idempotency_fingerprint == task.excluded.idempotency_fingerprint,
    )
    return task.returning(*TASK_COLUMNS)


def _update(**values: Any) -> ReturningUpdate[Any]:
    return update(TASKS).where(OWN_TASK, UNCHANGED).values(**values).returning(*TASK_COLUMNS)


def _write(name: str, clause: HasCTE, record: CTE) -> dict[bool, Statement]:
    """Two forms of a write: with True, it also records the token's email and name; with False, it does not.

    The second costs the server a seventh less, measured side by side.
    """
    return {
        True: Statement.compile(f"{name}_and_record", clause.add_cte(record)),
        False: Statement.compile(name, clause),
    }


def _record() -> CTE:
    """Records the token's email and name in the user's row, if there is one and they differ."""
    email, name = func.coalesce(EMAIL, User.email), func.coalesce(NAME, User.name)
    is_new = or_(User.email.is_distinct_from(email), User.name.is_distinct_from(name))
    return update(User).where(User.id == USER_ID, is_new).values(email=email, name=name).cte("recorded")


IS_OURS: Final = (
    "exists (select from pg_type where typnamespace = pg_namespace.oid and typname = 'task_title' and typtype = 'd')"
)
"""Whether the tables of a schema are ours: other applications have `users` and `tasks` too, but not this domain."""

SEARCH_PATH: Final = f"""
(
    select quote_ident(nspname) from pg_namespace
    where nspname = any (coalesce(nullif(current_schemas(false), '{{}}'), '{{public}}')) and nspname !~ '^pg_'
    order by {IS_OURS} desc, array_position(current_schemas(false), nspname) limit 1
)
"""  # noqa: S608 - no value of anybody's
"""The schema that holds our tables, or else the one in which they would be made, as a search path of one schema.

It depends on the log-in, whose name may be in its search path. So it is asked for before the role is taken, and names
are looked up there alone.
"""

ISOLATION: Final = "read committed"
"""What the statements are written for: with more, those that meet would fail."""

CLAIMS = Statement.compile(
    "claims",
    text(
        f"select set_config('role', '{API_ROLE}', true), set_config('{USER_ID_SETTING}', :user_id, true),"
        " set_config('statement_timeout', :statement_timeout, true), set_config('TimeZone', 'UTC', true),"
        " set_config('search_path', :search_path, true)"
    ),
)
"""All claims, for one transaction. As local settings, they end with it."""

SESSION_CLAIMS = Statement.compile(
    "session_claims",
    text(
        f"select set_config('search_path', {SEARCH_PATH}, false),"  # noqa: S608 - our names
        f" set_config('default_transaction_isolation', '{ISOLATION}', false),"
        f" set_config('role', '{API_ROLE}', false), set_config('TimeZone', 'UTC', false),"
        " set_config('statement_timeout', :statement_timeout, false)"
        " where pg_backend_pid() = :backend_pid and not exists (select from pg_extension where extname = 'citus')"
    ),
)
"""Sets all claims but the user's id once for a session, so that each statement sends only that.

It sets nothing and returns no row in two cases. Behind a pooler, the session is not ours alone: the server's process
is another one than the client was told. With Citus, the settings would not reach the shards.

This saves a seventh of what a toggle costs the server, measured side by side.
"""

USER_CLAIM = Statement.compile("user_claim", text(f"select set_config('{USER_ID_SETTING}', :user_id, true)"))
"""The user's id for one transaction, in a session that has run `SESSION_CLAIMS`."""

SHARED_LIMITS = Statement.compile(
    "shared_limits",
    text(
        "select set_config('lock_timeout', :lock_timeout, true),"
        " set_config('statement_timeout', :statement_timeout, true)"
    ),
)
"""The time-outs of a transaction that several users share."""

CHECK_AT_ONCE = Statement.compile("check_at_once", text("set constraints all immediate"))
"""Deferred triggers run with their statement, under its time-out, and not at the commit, where none is."""

CHECK_AT_ONCE_IN_DO = Statement.compile(
    "check_at_once_in_do", text("do $$ begin set constraints all immediate; end $$")
)
"""The same for older servers, which want a transaction block around `SET CONSTRAINTS` unless a function runs it.

Plain `SET CONSTRAINTS` makes them warn each time, in the server's log too, and send the answer in two parts, which
costs a toggle 10 % of its CPU.
"""

BEGIN = Statement.compile("begin", text(f"begin isolation level {ISOLATION}"))
COMMIT = Statement.compile("commit", text("commit"))
ROLLBACK = Statement.compile("rollback", text("rollback"))

LOCAL_CLAIMS = (
    Statement.compile("local_role", text(f"set local role {API_ROLE}")),
    Statement.compile("local_time_zone", text("set local timezone = 'UTC'")),
)
"""Role and time zone as `SET LOCAL` of a transaction block, which Citus repeats on its shards.

`SET` takes no parameters. So the others are written into the text: see `SET_LOCAL_USER_ID`, `local_setting`.
"""

SET_LOCAL_USER_ID: Final = f"set local {USER_ID_SETTING} = ".encode()

SURROUNDINGS = Statement.compile(
    "surroundings",
    text(
        f"select {SEARCH_PATH}, exists (select from pg_extension where extname = 'citus'),"  # noqa: S608 - our names
        f" current_setting('default_transaction_isolation') <> '{ISOLATION}'"
    ),
)
"""The search path, whether there is Citus, and whether transactions would have another isolation than ours."""


@cache
def local_setting(name: str, value: str) -> Statement:
    """A claim as `SET LOCAL`. The value is ours, or quoted by the database."""
    return Statement.compile(f"local_{name}", text(f"set local {name} = {value}"))


GET = Statement.compile("get", select(*TASK_COLUMNS).where(OWN_TASK))
LIST = {
    (completed, cursor): Statement.compile(f"list_{completed:d}{cursor:d}", _list(completed=completed, cursor=cursor))
    for completed in (False, True)
    for cursor in (False, True)
}
CREATE = _write("create", _create(), _provision())
CREATE_ONCE = _write("create_once", _create_once(), _provision())
# Without provisioning, a user without a row gets no row. The foreign key would say the same, but an error would roll
# back the other writes of the transaction.
CREATE_IF_KNOWN = {False: Statement.compile("create_if_known", _create(USER_IS_KNOWN))}
CREATE_ONCE_IF_KNOWN = {False: Statement.compile("create_once_if_known", _create_once(USER_IS_KNOWN))}
REPLACE = _write(
    "replace",
    _update(title=TITLE, description=DESCRIPTION, completed=func.coalesce(COMPLETED, Task.completed)),
    _record(),
)
UPDATE = _write(
    "update",
    _update(
        title=func.coalesce(TITLE, Task.title),
        description=case((HAS_DESCRIPTION, DESCRIPTION), else_=Task.description),
        completed=func.coalesce(COMPLETED, Task.completed),
    ),
    _record(),
)
TOGGLE = _write("toggle", _update(completed=~Task.completed), _record())
DELETE = _write("delete", delete(TASKS).where(OWN_TASK, UNCHANGED).returning(Task.id), _record())
TASK_EXISTS = Statement.compile("task_exists", select(Task.version).where(OWN_TASK))
USER_EXISTS = Statement.compile("user_exists", select(User.id).where(User.id == USER_ID))
SCHEMA_VERSION = Statement.compile("schema_version", text("select version_num from alembic_version"))
