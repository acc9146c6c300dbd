"""The schema of a database: how it gets there, and what must hold before the service runs."""

from __future__ import annotations

import logging
import random
import re
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import sqlalchemy
from psycopg import errors, pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import Connection, Engine, NullPool, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex

from db import citus
from db.connection import Claims
from db.models import Base
from db.pool import Pool
from db.statements import API_ROLE, DIALECT, SCHEMA_VERSION, USER_ID_SETTING
from db.url import to_conninfo

if TYPE_CHECKING:
    from alembic.config import Config

VERSIONS = Path(__file__).with_name("migrations") / "versions"

VERSION = re.compile("[0-9]{4}")

HELP = {
    "password authentication failed": "the user or the password in DATABASE_URL is wrong",
    "no password supplied": "DATABASE_URL needs a password",
    "Connection refused": "no server listens there: start it, or correct host and port in DATABASE_URL",
    "resolve host": "correct the host in DATABASE_URL",
    "timeout expired": "nothing answers there: correct host and port in DATABASE_URL, or let the firewall pass it",
    "does not exist": "create it, or correct DATABASE_URL",
}
"""What helps against what libpq says."""

CONNECT_SECONDS = 10

LOCK_SECONDS = 1
"""How long a migration may wait for a lock: meanwhile, whoever comes after it waits too."""

LOCK_ATTEMPTS = 30
LOCK_PAUSE_SECONDS = (1.0, 3.0)

MIGRATION_GUARDS = (
    f"set local lock_timeout = '{LOCK_SECONDS}s'",
    # Several instances may start at once: one migrates, the others wait and find nothing to do.
    "select pg_advisory_xact_lock(hashtext('taskpact.migrations'))",
)
"""What a migration's transaction begins with."""

logger = logging.getLogger("taskpact")

OWNER_COLUMNS = {"users": "id", "tasks": "user_id"}
"""The column of each table that says whose a row is."""


class SchemaMismatch(Exception):
    """The database's schema is not one that this service knows, or not the one that it needs. Becomes 503."""


class MigrationBlocked(Exception):
    """Others hold locks that the migration needs, for too long. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold: its name, whether it does, and a sentence that helps."""

    name: str
    passed: bool
    detail: str


def create_engine(url: str) -> Engine:
    """An engine for migrations and checks; libpq reads the URL, so that it may say all that libpq understands."""
    return sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: _connect(url), poolclass=NullPool)


def _connect(url: str) -> psycopg.Connection:
    parameters = {"connect_timeout": CONNECT_SECONDS} | conninfo_to_dict(to_conninfo(url))
    # Statements are not prepared, since a pooler between here and the server may not know how.
    return psycopg.connect(make_conninfo("", **parameters), prepare_threshold=None)


def explain(error: DBAPIError) -> str:
    """What libpq or the server said, in one line; it may name the host, but not the password."""
    said = error.orig.diag.message_primary if isinstance(error.orig, psycopg.Error) else None
    return " ".join((said or str(error.orig)).split())


@cache
def head() -> str:
    """The newest version of the schema, the one that this service needs; versions are in the order of their names."""
    return max(path.name for path in VERSIONS.glob("[0-9]*.py")).partition("_")[0]


def suffices(version: str | None) -> bool:
    """Whether this service runs on that version of the schema: its own or a newer one.

    A migration changes nothing that the release before it needs. What nobody needs any more is removed by a later one.
    """
    return version is not None and VERSION.fullmatch(version) is not None and version >= head()


def migrate(url: str, revision: str = "head") -> str | None:
    """Brings the database up to a version of the schema (or down, if it is beyond it), in one transaction; tells it.

    One that a newer release has migrated stays as it is. With Citus, the newest version's tables are distributed, those
    of an older one plain. Where others hold locks that the migration needs, it gives up
    soon, so that nobody waits behind it, and tries again.

    Raises:
        sqlalchemy.exc.DBAPIError: the database refused, or cannot be reached.
        SchemaMismatch: one of the versions is none of ours.
        MigrationBlocked: no attempt got the locks.
    """
    for attempt in range(1, LOCK_ATTEMPTS + 1):
        try:
            return _migrate(url, revision)
        except DBAPIError as error:
            if not isinstance(error.orig, errors.LockNotAvailable | errors.DeadlockDetected):
                raise
            if attempt < LOCK_ATTEMPTS:
                logger.warning("The migration waits for other transactions: attempt %d failed.", attempt)
                time.sleep(random.uniform(*LOCK_PAUSE_SECONDS))  # noqa: S311 - nothing to guess
    raise MigrationBlocked(
        "other transactions hold locks that the migration needs: end them (pg_stat_activity shows them), and try again;"
        " nothing was changed"
    )


def migration_sql(url: str) -> str:
    """The SQL that would bring the database to this service's version, for psql; empty where it is there.

    Raises:
        sqlalchemy.exc.DBAPIError: the database cannot be reached.
        SchemaMismatch: its version is none of ours.
    """
    from alembic import command  # noqa: PLC0415 - as below
    from alembic.util import CommandError  # noqa: PLC0415

    with create_engine(url).connect() as connection:
        current = _current(connection)
        distribute = citus.is_installed(connection) and not citus.is_distributed(connection)
    output = StringIO()
    try:
        if not suffices(current):
            command.upgrade(_alembic(output), f"{current or 'base'}:head", sql=True)
    except CommandError as error:
        raise SchemaMismatch(str(error)) from None
    if distribute:
        output.write(f"BEGIN;\n{citus.DISTRIBUTE};\nCOMMIT;\n")
    return output.getvalue()


def _alembic(output: StringIO | None = None) -> Config:
    # Alembic takes 8 MiB, which a process that serves does without.
    from alembic.config import Config  # noqa: PLC0415

    config = Config(output_buffer=output)
    config.set_main_option("script_location", "db:migrations")
    return config


def _migrate(url: str, revision: str) -> str | None:
    from alembic import command  # noqa: PLC0415 - as above
    from alembic.util import CommandError  # noqa: PLC0415

    config = _alembic()
    with create_engine(url).begin() as connection:
        config.attributes["connection"] = connection
        for guard in MIGRATION_GUARDS:
            connection.execute(text(guard))
        current = _current(connection)
        has_citus = citus.is_installed(connection)
        try:
            if revision == "head":
                if not suffices(current):
                    command.upgrade(config, revision)
                if has_citus:
                    connection.execute(text(citus.DISTRIBUTE))
                return _current(connection)
            if has_citus:
                connection.execute(text(citus.UNDISTRIBUTE))
            if revision == "base":
                command.downgrade(config, revision)
                # Alembic's own table would stay, empty.
                connection.execute(text("drop table alembic_version"))
            elif revision < (current or ""):
                command.downgrade(config, revision)
            else:
                command.upgrade(config, revision)
        except CommandError as error:
            raise SchemaMismatch(str(error)) from None
        return _current(connection)


def check(url: str) -> list[Check]:
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


def inspect(url: str, *, prepare: bool, claims: Claims = "auto", pool_size: int) -> list[Check]:
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
        clients = [stack.enter_context(_connect(url)).pgconn for _ in range(2)]
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


def _current(connection: Connection) -> str | None:
    if connection.scalar(text("select to_regclass('alembic_version')")) is None:
        return None
    version: str | None = connection.scalar(text("select version_num from alembic_version"))
    return version


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
    current, needed = _current(connection), head()
    if current is None:
        return Check("schema", False, "the database is empty: run `taskpact migrate`")
    if not VERSION.fullmatch(current):
        return Check(
            "schema", False, f"the schema is at {current}, which is none of ours: it belongs to another service"
        )
    if not suffices(current):
        return Check("schema", False, f"the schema is at {current}, the service needs {needed}: run `taskpact migrate`")
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
            return Check("schema", False, f"there is no table {table}, although the schema is at {current}: restore it")
        schema, may_change = row
        if may_change:
            return Check("schema", False, f"{API_ROLE} may change {table} or its schema {schema}: revoke that from it")
    return Check("schema", True, f"at {current}" + (f", newer than {needed}" if current != needed else ""))


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
