"""What must hold of a database before the service runs on it, and what it should have to run well."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from uuid import uuid4

import psycopg
from psycopg import pq
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex

from db.models import Base
from db.schema import citus
from db.schema.engine import connect, create_engine, explain
from db.schema.version import VERSION, SchemaMismatch, current, head, suffices
from db.statements import API_ROLE, DIALECT, SCHEMA_VERSION, USER_ID_SETTING
from db.wire.connection import Claims
from db.wire.pool import Pool

HELP = {
    "password authentication failed": "the user or the password in DATABASE_URL is wrong",
    "no password supplied": "DATABASE_URL needs a password",
    "Connection refused": "no server listens there: start it, or correct host and port in DATABASE_URL",
    "resolve host": "correct the host in DATABASE_URL",
    "timeout expired": "nothing answers there: correct host and port in DATABASE_URL, or let the firewall pass it",
    "does not exist": "create it, or correct DATABASE_URL",
}
"""What helps against what libpq says."""

OWNER_COLUMNS = {"users": "id", "tasks": "user_id"}
"""The column of each table that says whose a row is."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold: its name, whether it does, and a sentence that helps."""

    name: str
    passed: bool
    detail: str


def check_database(url: str) -> list[Check]:
    """Everything that must hold of a database before the service runs on it; stops at the first that does not.

    Never raises for what it finds, and never repeats the URL.
    """
    try:
        with create_engine(url).connect() as connection:
            return examine(connection)
    except DBAPIError as error:
        said = explain(error)
        helps = [sentence for phrase, sentence in HELP.items() if phrase in said]
        return [Check("database", False, ": ".join([said, *helps[:1]]))]


def inspect_database(url: str, *, prepare: bool, claims: Claims = "auto", pool_size: int) -> list[Check]:
    """What a service starts without, but does not run well without, of a database that `check` passed.

    With `prepare`, also whether the pooler on the way, if there is one, keeps prepared statements; with Citus, whether
    claims that travel this way reach its shards.
    """
    try:
        with create_engine(url).connect() as connection:
            checks = [_check_indexes(connection), _check_connections(connection, pool_size)]
            if citus.is_installed(connection):
                checks.append(_check_shards(connection, claims))
        return [*checks, _check_preparing(url)] if prepare else checks
    except (DBAPIError, psycopg.Error) as error:
        return [Check("database", False, explain(error) if isinstance(error, DBAPIError) else type(error).__name__)]


def _check_indexes(connection: Connection) -> Check:
    """Every index that the models name is there, and whole: one that was built concurrently may not be."""
    valid = set(
        connection.scalars(
            text(
                """
                select indexrelid::regclass::text from pg_index
                where indisvalid and indrelid in (to_regclass('users'), to_regclass('tasks'))
                """
            )
        )
    )
    for table in Base.metadata.sorted_tables:
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            if index.name not in valid:
                create = " ".join(str(CreateIndex(index).compile(dialect=DIALECT)).split())
                return Check(
                    "indexes",
                    False,
                    f"{index.name} is missing or invalid, so that {table.name} is searched row by row: run `drop index"
                    f" if exists {index.name}; {create.replace('INDEX', 'INDEX CONCURRENTLY', 1)}`",
                )
    return Check("indexes", True, "complete")


def _check_connections(connection: Connection, pool_size: int) -> Check:
    """The server has as many connections as the service may open, unless a pooler stands between them."""
    seen_by_client = connection.connection.driver_connection.info.backend_pid  # type: ignore[union-attr]
    if connection.scalar(text("select pg_backend_pid()")) != seen_by_client:
        return Check("connections", True, f"{pool_size} to a pooler")
    reserved = "sum(setting::int) filter (where name in ('superuser_reserved_connections', 'reserved_connections'))"
    most = connection.scalar(
        text(f"select sum(setting::int) filter (where name = 'max_connections') - {reserved} from pg_settings")  # noqa: S608 - no value of anybody's
    )
    if pool_size > most:
        return Check(
            "connections", False, f"DATABASE_POOL_SIZE is {pool_size}, the server has {most}: lower it, or use a pooler"
        )
    return Check("connections", True, f"{pool_size} of the server's {most}")


def _check_shards(connection: Connection, claims: Claims) -> Check:
    """Both tables are distributed, and a row that is made and rolled back is its owner's alone."""
    if not citus.is_distributed(connection):
        return Check(
            "shards", False, "the database has Citus, but the tables are not distributed: run `taskpact migrate`"
        )
    if claims == "set_config":
        return Check("shards", False, "DATABASE_CLAIMS=set_config does not reach the shards: unset it")
    if not citus.keeps_users_apart(connection):
        return Check(
            "shards",
            False,
            "claims do not reach the shards, which refuse everything: in new sessions, "
            f"{', '.join(f'{name} must be {value}' for name, value in citus.SETTINGS.items())}",
        )
    return Check("shards", True, "users and tasks are distributed, and claims reach their shards")


def _check_preparing(url: str) -> Check:
    """Two clients may prepare statements of one name, and run them later; a pooler might mix up whose is whose."""
    name = f"taskpact_check_{uuid4().hex}".encode()
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(url)).pgconn for _ in range(2)]
        results = [client.prepare(name, b"select 1") for client in clients]
        results += [client.exec_prepared(name, ()) for client in (*clients, *clients)]
        lost = any(result.status == pq.ExecStatus.FATAL_ERROR for result in results)
        if lost:
            # One that keeps them has other names for them: the server would log errors; and forgets them by itself.
            for client in clients:
                client.exec_(b"deallocate " + name)
    if lost:
        return Check(
            "prepared statements",
            False,
            "the pooler does not keep them: set DATABASE_PREPARE=false, or give it PgBouncer 1.21 or later"
            " with max_prepared_statements",
        )
    return Check("prepared statements", True, "kept from one transaction to the next")


def examine(connection: Connection) -> list[Check]:
    """The same for a connection, as its transaction sees the database; the transaction is to be rolled back."""
    checks = [Check("database", True, f"PostgreSQL {connection.scalar(text('show server_version'))}")]
    for examine_one in (_check_role, _check_schema, _check_policies):
        try:
            checks.append(examine_one(connection))
        except DBAPIError as error:
            checks.append(Check("database", False, explain(error)))
        if not checks[-1].passed:
            break
    return checks


async def check_version(pool: Pool) -> None:
    """Asks a running service's database for its schema, as the service would ask for tasks.

    Raises:
        DatabaseUnavailable: it does not answer (503).
        SchemaMismatch: it is at an older version, or none of ours (503).
    """
    rows = await pool.run("", SCHEMA_VERSION, ())
    if not any(suffices(version.decode()) for (version,) in rows if version is not None):
        raise SchemaMismatch


def _check_role(connection: Connection) -> Check:
    """The role exists, may be taken, and could not bypass policies."""
    role = connection.execute(
        text("select rolsuper, rolbypassrls, rolcreaterole from pg_roles where rolname = :role"), {"role": API_ROLE}
    ).one_or_none()
    if role is None:
        return Check("role", False, f"there is no role {API_ROLE}: run `taskpact migrate`")
    if any(role):
        return Check("role", False, f"{API_ROLE} must not be superuser, BYPASSRLS or CREATEROLE: take that from it")
    may = "SET" if (connection.dialect.server_version_info or (0,)) >= (16,) else "MEMBER"
    if not connection.scalar(text("select pg_has_role(:role, :may)"), {"role": API_ROLE, "may": may}):
        login = connection.scalar(text("select quote_ident(current_user)"))
        return Check(
            "role", False, f"{login} may not take the role: whoever made it must run `grant {API_ROLE} to {login}`"
        )
    powerful = connection.scalar(
        text(
            """
            select string_agg(rolname, ', ') from pg_roles
            where rolname <> :role and pg_has_role(:role, oid, 'MEMBER') and (
                rolsuper or rolbypassrls or rolcreaterole
                or oid in (select relowner from pg_class where oid in (to_regclass('users'), to_regclass('tasks')))
            )
            """
        ),
        {"role": API_ROLE},
    )
    if powerful:
        return Check(
            "role", False, f"{API_ROLE} could become {powerful}, whom policies do not bind: revoke that from it"
        )
    return Check("role", True, f"{API_ROLE}, bound by row-level security")


def _check_schema(connection: Connection) -> Check:
    """The version is this service's, seen as the role, which could not change anything about it."""
    connection.execute(text(f"set local role {API_ROLE}"))
    at, needed = current(connection), head()
    if at is None:
        return Check("schema", False, "the database is empty: run `taskpact migrate`")
    if not VERSION.fullmatch(at):
        return Check("schema", False, f"the schema is at {at}, which is none of ours: it belongs to another service")
    if not suffices(at):
        return Check("schema", False, f"the schema is at {at}, the service needs {needed}: run `taskpact migrate`")
    for table in OWNER_COLUMNS:
        row = connection.execute(
            text(
                """
                select relnamespace::regnamespace::text,
                    relowner = current_user::regrole or has_schema_privilege(relnamespace, 'CREATE')
                    or has_table_privilege(oid, 'TRUNCATE, REFERENCES, TRIGGER')
                from pg_class where oid = to_regclass(:table)
                """
            ),
            {"table": table},
        ).one_or_none()
        if row is None:
            return Check("schema", False, f"there is no table {table}, although the schema is at {at}: restore it")
        schema, may_change = row
        if may_change:
            return Check("schema", False, f"{API_ROLE} may change {table} or its schema {schema}: revoke that from it")
    return Check("schema", True, f"at {at}" + (f", newer than {needed}" if at != needed else ""))


def _check_policies(connection: Connection) -> Check:
    """Policies are forced on each table, and the one that the migrations made is all that binds the role."""
    for table, owner in OWNER_COLUMNS.items():
        if not connection.scalar(
            text("select relrowsecurity and relforcerowsecurity from pg_class where oid = to_regclass(:table)"),
            {"table": table},
        ):
            return Check("policies", False, f"row-level security is not forced on {table}: enable and force it")
        policies = connection.execute(
            text(
                """
                select polpermissive, polcmd::text, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)
                from pg_policy where polrelid = to_regclass(:table)
                and exists (select from unnest(polroles) as bound where bound = 0 or pg_has_role(bound, 'USAGE'))
                """
            ),
            {"table": table},
        ).all()
        is_own = f"({owner} = NULLIF(current_setting('{USER_ID_SETTING}'::text, true), ''::text))"
        if policies != [(True, "*", is_own, is_own)]:
            return Check("policies", False, f"the policies of {table} are not those of the migrations: restore them")
    return Check("policies", True, f"row-level security is forced on {' and '.join(OWNER_COLUMNS)}")
