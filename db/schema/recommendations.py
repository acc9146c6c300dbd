"""The checks that a database should pass, for `taskpact check`: the service starts without, but is slow or fails later.

indexes              all are there, and valid
grants               nobody else may write to the tables
connections          the server allows as many as the service may open
shards               with Citus: the tables are distributed, and claims reach the shards
prepared statements  a pooler between service and server keeps them
"""

from __future__ import annotations

from contextlib import ExitStack
from uuid import uuid4

import psycopg
from psycopg import pq
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex

from db.models import Base
from db.schema import citus
from db.schema.checks import Check
from db.schema.engine import connect, create_engine, explain
from db.statements import API_ROLE, DIALECT
from db.wire.connection import Claims


def inspect_database(url: str, *, prepare: bool, claims: Claims = "auto", pool_size: int) -> list[Check]:
    """Runs the recommended checks on a database that passed `check_database`. A failure is returned, never raised.

    `prepare`, `claims` and `pool_size` are the service's settings. Without `prepare`, prepared statements are not
    checked; without Citus, shards are not.
    """
    try:
        with create_engine(url).connect() as connection:
            checks = [
                _check_indexes(connection),
                _check_grants(connection),
                _check_connections(connection, pool_size),
            ]
            if citus.is_installed(connection):
                checks.append(_check_shards(url, connection, claims))
        return [*checks, _check_preparing(url)] if prepare else checks
    except (DBAPIError, psycopg.Error) as error:
        return [Check("database", False, explain(error) if isinstance(error, DBAPIError) else type(error).__name__)]


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


def _check_grants(connection: Connection) -> Check:
    """Nobody but the role has a grant on a table, or on columns, that lets them change it.

    Policies hide rows, but do not bind TRUNCATE, and `alembic_version` has none.
    """
    granted = connection.execute(
        text(
            """
            select case grantee when 0 then 'PUBLIC' else grantee::regrole::text end as holder, oid::regclass::text,
                string_agg(distinct privilege_type, ', ' order by privilege_type), bool_or(privilege_type <> 'SELECT')
            from (
                select oid, relowner, relacl from pg_class
                union all select attrelid, relowner, attacl from pg_attribute join pg_class on pg_class.oid = attrelid
            ) as granting, aclexplode(relacl)
            where oid in (to_regclass('users'), to_regclass('tasks'), to_regclass('alembic_version'))
            and grantee <> relowner and grantee::regrole::text <> :role group by 1, 2 order by 4 desc, 1, 2
            """
        ),
        {"role": API_ROLE},
    ).all()
    if not granted:
        return Check("grants", True, f"none but {API_ROLE}'s")
    holders = ", ".join(f"{holder} {privileges} on {table}" for holder, table, privileges, _ in granted)
    if any(may_write for *_, may_write in granted):
        holder, table, *_ = granted[0]
        return Check(
            "grants", False, f"others may change the tables ({holders}): run `revoke all on {table} from {holder}`"
        )
    return Check("grants", True, f"others may read the tables: {holders}")


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


def _check_shards(url: str, connection: Connection, claims: Claims) -> Check:
    """Both tables are distributed, and on every node a user sees their own row and no other's."""
    if not citus.is_distributed(connection):
        return Check(
            "shards", False, "the database has Citus, but the tables are not distributed: run `taskpact migrate`"
        )
    if claims == "set_config":
        return Check("shards", False, "DATABASE_CLAIMS=set_config does not reach the shards: unset it")
    failures, is_apart = [], True
    users = citus.users_by_node(connection)
    for node, user_id in users.items():
        # A connection of its own, since a node that fails may take the transaction with it.
        try:
            with create_engine(url).connect() as own:
                is_apart &= citus.keeps_users_apart(own, user_id)
        except DBAPIError as error:
            failures.append(f"{node}: {explain(error)}")
    if failures:
        return Check("shards", False, f"{len(failures)} of {len(users)} nodes do not answer: {'; '.join(failures)}")
    if not is_apart:
        settings = ", ".join(f"{name} must be {value}" for name, value in citus.SETTINGS.items())
        return Check(
            "shards",
            False,
            f"claims do not reach the shards, which therefore refuse every request: for new sessions, {settings}"
            " (`alter database ... set`)",
        )
    count = f"{len(users)} node" if len(users) == 1 else f"{len(users)} nodes"
    return Check("shards", True, f"users and tasks are distributed over {count}, and claims reach them")


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
