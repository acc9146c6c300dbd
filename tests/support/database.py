"""Databases and roles that are made for a test and dropped after it, and what their catalogues say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

OWNERS = {
    "superuser": ("login superuser", False),
    "like-Neons": ("login nosuperuser createrole createdb bypassrls", True),
    "member-of-one-that-bypasses": ("login nosuperuser createrole createdb", True),
}
"""The attributes of a role that may own a database, and whether it is a member of one that bypasses policies."""

DEFINITIONS = {
    "columns": """
        select table_name, column_name, data_type, domain_name, is_nullable, column_default
        from information_schema.columns where table_schema = 'public' and table_name <> 'alembic_version' order by 1, 2
    """,
    "constraints": """
        select conrelid::regclass::text, contypid::regtype::text, conname, pg_get_constraintdef(oid) from pg_constraint
        where connamespace = 'public'::regnamespace and conrelid is distinct from to_regclass('alembic_version')
        order by 1, 2, 3
    """,
    "indexes": """
        select indexdef from pg_indexes where schemaname = 'public' and tablename <> 'alembic_version' order by 1
    """,
}
"""Queries whose answers are the whole schema, so that two schemas can be compared."""


def execute(url: str, statement: str, *names: str) -> None:
    """Runs a statement with each `{}` in it replaced by a name, quoted."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def fetch(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchall()


def with_database(url: str, name: str) -> str:
    """The same URL or conninfo, for another database."""
    if "://" not in url:
        return make_conninfo(url, dbname=name)
    address, question_mark, options = url.partition("?")
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}/{name}{question_mark}{options}"


def with_role(url: str, role: str) -> str:
    """The same URL, for another role, in the form that the service takes."""
    parameters = conninfo_to_dict(url)
    address = f"host={str(parameters['host']).replace('/', '%2F')}&port={parameters['port']}&user={role}"
    return f"postgresql:///{parameters['dbname']}?{address}"


@contextmanager
def new_database(cluster_url: str, *, owner: str | None = None) -> Iterator[str]:
    """An empty database of its own, dropped afterwards; its URL logs in as the cluster's URL does."""
    name = f"taskpact_test_{uuid4().hex}"
    if owner:
        execute(cluster_url, "create database {} owner {}", name, owner)
    else:
        execute(cluster_url, "create database {}", name)
    try:
        yield with_database(cluster_url, name)
    finally:
        execute(cluster_url, "drop database {} with (force)", name)


@contextmanager
def new_role(cluster_url: str, attributes: str = "login") -> Iterator[str]:
    """A role, dropped afterwards."""
    name = f"taskpact_test_{uuid4().hex}"
    execute(cluster_url, f"create role {{}} {attributes}", name)
    try:
        yield name
    finally:
        execute(cluster_url, "drop role {}", name)


@contextmanager
def new_owner(cluster_url: str, kind: str = "member-of-one-that-bypasses") -> Iterator[str]:
    """A role that may own a database, of one of the kinds of `OWNERS`."""
    attributes, is_member = OWNERS[kind]
    with new_role(cluster_url, "nologin bypassrls") as powerful, new_role(cluster_url, attributes) as name:
        if is_member:
            execute(cluster_url, "grant {} to {}", powerful, name)
        yield name
