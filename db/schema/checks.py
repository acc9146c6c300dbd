"""Checks of a database, for `taskpact check` and for the start of the service. They change nothing.

check_database    what the service requires: it does not start if one of these fails
    database             it can be reached
    role                 row-level security applies to the service's role
    schema               its version suffices, and the role cannot change it
    policies             row-level security is forced on both tables, with the policies of the migrations
inspect_database  what the service recommends: it starts without, but is slow or fails under load
    indexes              all are there, and valid
    connections          the server allows as many as the service may open
    shards               with Citus: the tables are distributed, and claims reach the shards
    prepared statements  a pooler between service and server keeps them

`taskpact check` shows these names. Each check is one function of this module, in this order. A detail says what is
wrong and what to do, and never repeats `DATABASE_URL`, which may hold a password.
"""

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
from db.schema.version import VERSION_FORMAT, current, head, suffices
from db.statements import API_ROLE, DIALECT, USER_ID_SETTING
from db.wire.connection import Claims

ADVICE = {
    "password authentication failed": "the user or the password in DATABASE_URL is wrong",
    "no password supplied": "DATABASE_URL needs a password",
    "Connection refused": "no server listens there: start it, or correct host and port in DATABASE_URL",
    "resolve host": "correct the host in DATABASE_URL",
    "timeout expired": "nothing answers there: correct host and port in DATABASE_URL, or open the firewall",
    "does not exist": "create it, or correct DATABASE_URL",
}
"""What to do, for a phrase in the message of libpq or the server."""

OWNER_COLUMNS = {"users": "id", "tasks": "user_id"}
"""The tables, each with the column that holds the id of the user to whom a row belongs."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check: its name, whether it passed, and what was found or what to do."""

    name: str
    passed: bool
    detail: str


def check_database(url: str) -> list[Check]:
    """Runs the required checks and stops after the first that fails. A failure is returned, never raised."""
    try:
        with create_engine(url).connect() as connection:
            return examine(connection)
    except DBAPIError as error:
        said = explain(error)
        advice = [sentence for phrase, sentence in ADVICE.items() if phrase in said]
        return [Check("database", False, ": ".join([said, *advice[:1]]))]


def inspect_database(url: str, *, prepare: bool, claims: Claims = "auto", pool_size: int) -> list[Check]:
    """Runs the recommended checks on a database that passed `check_database`. A failure is returned, never raised.

    `prepare`, `claims` and `pool_size` are the service's settings. Without `prepare`, prepared statements are not
    checked; without Citus, shards are not.
    """
    try:
        with create_engine(url).connect() as connection:
            checks = [_check_indexes(connection), _check_connections(connection, pool_size)]
            if citus.is_installed(connection):
                checks.append(_check_shards(connection, claims))
        return [*checks, _check_preparing(url)] if prepare else checks
    except (DBAPIError, psycopg.Error) as error:
        return [Check("database", False, explain(error) if isinstance(error, DBAPIError) else type(error).__name__)]


# What the service requires.


def examine(connection: Connection) -> list[Check]:
    """Runs the required checks in a transaction that the caller rolls back, since they change its role."""
    checks = [Check("database", True, f"PostgreSQL {connection.scalar(text('show server_version'))}")]
    for check in (_check_role, _check_schema, _check_policies):
        try:
            checks.append(check(connection))
        except DBAPIError as error:
            checks.append(Check("database", False, explain(error)))
        if not checks[-1].passed:
            break
    return checks


def _check_role(connection: Connection) -> Check:
    """The role exists, the login may take it, and it cannot bypass row-level security, not even as another's member."""
    role = connection.execute(
        text("select rolsuper, rolbypassrls, rolcreaterole from pg_roles where rolname = :role"), {"role": API_ROLE}
    ).one_or_none()
    if role is None:
        return Check("role", False, f"there is no role {API_ROLE}: run `taskpact migrate`")
    if any(role):
        return Check(
            "role",
            False,
            f"{API_ROLE} must not be superuser, BYPASSRLS or CREATEROLE, which let it bypass row-level security:"
            f" run `alter role {API_ROLE} nosuperuser nobypassrls nocreaterole`",
        )
    # Since PostgreSQL 16, a member may lack the right to take the role.
    privilege = "SET" if (connection.dialect.server_version_info or (0,)) >= (16,) else "MEMBER"
    if not connection.scalar(text("select pg_has_role(:role, :privilege)"), {"role": API_ROLE, "privilege": privilege}):
        login = connection.scalar(text("select quote_ident(current_user)"))
        return Check(
            "role",
            False,
            f"{login} may not take the role {API_ROLE}:"
            f" the creator of {API_ROLE}, or a superuser, must run `grant {API_ROLE} to {login}`",
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
            "role",
            False,
            f"{API_ROLE} is a member of {powerful}, directly or through others, and could bypass row-level security so:"
            " revoke that membership",
        )
    return Check("role", True, f"{API_ROLE}, bound by row-level security")


def _check_schema(connection: Connection) -> Check:
    """The version suffices, and the tables are there for the role, which cannot change them or their schema.

    From here on, the transaction has the service's role, and sees what the service will see.
    """
    connection.execute(text(f"set local role {API_ROLE}"))
    version, needed = current(connection), head()
    if version is None:
        return Check("schema", False, "the database has no schema: run `taskpact migrate`")
    if not VERSION_FORMAT.fullmatch(version):
        return Check(
            "schema",
            False,
            f"{version} is not a version of Taskpact's schema: the database belongs to another service, so correct"
            " DATABASE_URL",
        )
    if not suffices(version):
        return Check(
            "schema", False, f"the schema is at {version}, the service needs {needed} or later: run `taskpact migrate`"
        )
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
            return Check(
                "schema", False, f"there is no table {table}, although the schema is at {version}: restore a backup"
            )
        schema, may_change = row
        if may_change:
            return Check(
                "schema",
                False,
                f"{API_ROLE} may change {table} or its schema {schema}: make another role the owner of {table},"
                f" and revoke CREATE on {schema}, and TRUNCATE, REFERENCES and TRIGGER on {table}, from {API_ROLE}"
                " and PUBLIC",
            )
    return Check("schema", True, f"at {version}" + (f", newer than {needed}" if version != needed else ""))


def _check_policies(connection: Connection) -> Check:
    """Row-level security is forced on each table, and the policy of the migrations is the only one for the role."""
    for table, owner in OWNER_COLUMNS.items():
        if not connection.scalar(
            text("select relrowsecurity and relforcerowsecurity from pg_class where oid = to_regclass(:table)"),
            {"table": table},
        ):
            return Check(
                "policies",
                False,
                f"row-level security is not forced on {table}:"
                f" run `alter table {table} enable row level security, force row level security`",
            )
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
            return Check(
                "policies",
                False,
                f"the policies of {table} differ from the migrations': restore {table}_owner as the migrations create"
                f" it, and drop all others that apply to {API_ROLE}",
            )
    return Check("policies", True, f"row-level security is forced on {' and '.join(OWNER_COLUMNS)}")


# What the service recommends.


def _check_indexes(connection: Connection) -> Check:
    """Every index of the models exists and is valid. `create index concurrently` leaves an invalid one if it fails."""
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
    """The server allows as many connections as the service may open. Behind a pooler, this is not asked."""
    # A pooler tells its client a process number of its own, which is not the one of the server's process.
    seen_by_client = connection.connection.driver_connection.info.backend_pid  # type: ignore[union-attr]
    if connection.scalar(text("select pg_backend_pid()")) != seen_by_client:
        return Check("connections", True, f"{pool_size} to a pooler")
    reserved = "sum(setting::int) filter (where name in ('superuser_reserved_connections', 'reserved_connections'))"
    allowed = connection.scalar(
        text(f"select sum(setting::int) filter (where name = 'max_connections') - {reserved} from pg_settings")  # noqa: S608 - no value of anybody's
    )
    if pool_size > allowed:
        return Check(
            "connections",
            False,
            f"DATABASE_POOL_SIZE is {pool_size}, but the server allows {allowed} connections: lower it, raise"
            " max_connections of the server, or use a pooler",
        )
    return Check("connections", True, f"{pool_size} of the server's {allowed}")


def _check_shards(connection: Connection, claims: Claims) -> Check:
    """Both tables are distributed, and on the shards a user sees their own row and no other's."""
    if not citus.is_distributed(connection):
        return Check(
            "shards", False, "the database has Citus, but the tables are not distributed: run `taskpact migrate`"
        )
    if claims == "set_config":
        return Check("shards", False, "DATABASE_CLAIMS=set_config does not reach the shards: unset it")
    if not citus.keeps_users_apart(connection):
        settings = ", ".join(f"{name} must be {value}" for name, value in citus.SETTINGS.items())
        return Check(
            "shards",
            False,
            f"claims do not reach the shards, which therefore refuse every request: for new sessions, {settings}"
            " (`alter database ... set`)",
        )
    return Check("shards", True, "users and tasks are distributed, and claims reach their shards")


def _check_preparing(url: str) -> Check:
    """A pooler keeps prepared statements: two clients prepare one under the same name, and each can run its own later.

    Without a pooler, this always passes.
    """
    name = f"taskpact_check_{uuid4().hex}".encode()
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(url)).pgconn for _ in range(2)]
        results = [client.prepare(name, b"select 1") for client in clients]
        results += [client.exec_prepared(name, ()) for client in (*clients, *clients)]
        lost = any(result.status == pq.ExecStatus.FATAL_ERROR for result in results)
        if lost:
            # The pooler leaves the statement on the server's connections, so it is removed. A pooler that keeps them
            # removes it by itself, and has another name for it: to remove it here would only log errors on the server.
            for client in clients:
                client.exec_(b"deallocate " + name)
    if lost:
        return Check(
            "prepared statements",
            False,
            "the pooler does not keep them: set DATABASE_PREPARE=false, or use PgBouncer 1.21 or later"
            " with max_prepared_statements",
        )
    return Check("prepared statements", True, "kept from one transaction to the next")
