"""The schema of a database: how it gets there, and what must hold before the service runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import psycopg
import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, NullPool, text

from db.pool import Pool
from db.statements import API_ROLE, SCHEMA_VERSION
from db.url import to_conninfo

CONNECT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold: its name, whether it does, and a sentence that helps."""

    name: str
    passed: bool
    detail: str


def create_engine(url: str) -> Engine:
    """An engine for migrations and checks; libpq reads the URL, so that it may say all that libpq understands."""
    conninfo = to_conninfo(url)
    return sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(conninfo, connect_timeout=CONNECT_SECONDS),
        poolclass=NullPool,
    )


@cache
def head() -> str:
    """The newest version of the schema, the one that this service needs."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    if newest is None:
        raise LookupError("there are no migrations")
    return newest


def migrate(url: str, revision: str = "head") -> None:
    """Brings the database up to a version of the schema (or down, if it is beyond it), in one transaction.

    Raises:
        sqlalchemy.exc.DBAPIError: the database refused, or cannot be reached.
    """
    config = _config()
    with create_engine(url).begin() as connection:
        config.attributes["connection"] = connection
        # Several instances may start at once: one migrates, the others wait and find nothing to do.
        connection.execute(text("select pg_advisory_xact_lock(hashtext('taskpact.migrations'))"))
        if revision == "base" or revision < (_current(connection) or ""):
            command.downgrade(config, revision)
        else:
            command.upgrade(config, revision)


def check(url: str) -> list[Check]:
    """Everything that must hold of a database before the service runs on it; stops at the first that does not.

    Never raises for what it finds, and never repeats the URL.
    """
    checks: list[Check] = []
    try:
        with create_engine(url).connect() as connection:
            checks.append(Check("database", True, f"PostgreSQL {_server_version(connection)}"))
            for examine in (_check_role, _check_schema, _check_policies):
                checks.append(examine(connection))
                if not checks[-1].passed:
                    break
    except sqlalchemy.exc.DBAPIError as error:
        # libpq's message says what went wrong, with the host but without the password.
        checks.append(Check("database", False, str(error.orig).strip().replace("\n", " ")))
    return checks


class SchemaMismatch(Exception):
    """The database's schema is not the one that this service needs. Becomes 503."""


async def is_at_head(pool: Pool) -> None:
    """Asks a running service's database for its schema, as the service would ask for tasks.

    Raises:
        DatabaseUnavailable: it does not answer (503).
        SchemaMismatch: it is at another version (503).
    """
    rows = await pool.run("", SCHEMA_VERSION, ())
    if rows != [(head().encode(),)]:
        raise SchemaMismatch


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "db:migrations")
    return config


def _server_version(connection: sqlalchemy.Connection) -> str:
    return str(connection.scalar(text("show server_version")))


def _current(connection: sqlalchemy.Connection) -> str | None:
    if connection.scalar(text("select to_regclass('alembic_version')")) is None:
        return None
    version: str | None = connection.scalar(text("select version_num from alembic_version"))
    return version


def _check_role(connection: sqlalchemy.Connection) -> Check:
    """The effective role exists, may be taken, and could not bypass policies or change tables."""
    role = connection.execute(
        text("select rolsuper, rolbypassrls, rolcreaterole from pg_roles where rolname = :role"), {"role": API_ROLE}
    ).one_or_none()
    if role is None:
        return Check("role", False, f"there is no role {API_ROLE}: run `taskpact migrate`")
    if any(role):
        return Check(
            "role",
            False,
            f"{API_ROLE} could bypass row-level security: it must not be superuser, BYPASSRLS or CREATEROLE",
        )
    may = "SET" if (connection.dialect.server_version_info or (0,)) >= (16,) else "MEMBER"
    if not connection.scalar(text("select pg_has_role(current_user, :role, :may)"), {"role": API_ROLE, "may": may}):
        login = connection.scalar(text("select current_user"))
        return Check("role", False, f'{login} may not take the role: run `grant {API_ROLE} to "{login}"` as its owner')
    powerful = connection.scalar(
        text(
            "select string_agg(rolname, ', ') from pg_roles where rolname <> :role and pg_has_role(:role, oid, 'MEMBER')"
            " and (rolsuper or rolbypassrls or oid in (select relowner from pg_class where relname in ('users', 'tasks')"
            " and relkind in ('r', 'p')))"
        ),
        {"role": API_ROLE},
    )
    if powerful:
        return Check("role", False, f"{API_ROLE} could become {powerful} and bypass row-level security")
    return Check("role", True, f"{API_ROLE}, bound by row-level security")


def _check_schema(connection: sqlalchemy.Connection) -> Check:
    connection.execute(text(f"set local role {API_ROLE}"))
    needed = head()
    try:
        current = _current(connection)
    except sqlalchemy.exc.DBAPIError as error:
        return Check("schema", False, str(error.orig).strip())
    if current is None:
        return Check("schema", False, "the database is empty: run `taskpact migrate`")
    if current != needed:
        return Check("schema", False, f"the schema is at {current}, the service needs {needed}: run `taskpact migrate`")
    return Check("schema", True, f"at {needed}")


def _check_policies(connection: sqlalchemy.Connection) -> Check:
    open_tables = connection.scalar(
        text(
            "select string_agg(c.relname, ', ' order by c.relname) from pg_class c"
            " where c.oid in (to_regclass('users'), to_regclass('tasks'))"
            " and not (c.relrowsecurity and c.relforcerowsecurity"
            " and exists (select from pg_policy p where p.polrelid = c.oid))"
        )
    )
    if open_tables:
        return Check("policies", False, f"row-level security is not forced on {open_tables}: restore its policies")
    return Check("policies", True, "row-level security is forced on users and tasks")
