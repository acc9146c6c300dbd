"""Whether a database can be Taskpact's: its encoding, its settings, and whose tables are where ours would be."""

from __future__ import annotations

from sqlalchemy import Connection, text

from db.statements import IS_OURS

SETTINGS = {"row_security": "on", "standard_conforming_strings": "on", "session_replication_role": "origin"}
"""What the statements depend on, and the rules of the tables: without the last, no trigger and no foreign key acts."""

OUR_SCHEMAS = f"select string_agg(quote_ident(nspname), ', ' order by nspname) from pg_namespace where {IS_OURS}"  # noqa: S608 - our words
"""The schemas that have our tables, even where names are not looked up."""


class DatabaseUnfit(Exception):
    """The database cannot be Taskpact's. The message says why and what to do, in one line."""


def unfitness(connection: Connection) -> str | None:
    """Why the database cannot be Taskpact's, and what to do, in one line; None if it can."""
    return _encoding(connection) or _settings(connection) or _strangers(connection)


def has_our_tables(connection: Connection) -> bool:
    """Whether the schema in which names are looked up has our tables: only we have this domain."""
    return bool(connection.scalar(text("select to_regtype('task_title') is not null")))


def login(connection: Connection) -> str:
    """Who logged in, as SQL writes it."""
    return str(connection.scalar(text("select quote_ident(current_user)")))


def _encoding(connection: Connection) -> str | None:
    encoding = connection.scalar(
        text("select pg_encoding_to_char(encoding) from pg_database where datname = current_database()")
    )
    if encoding == "UTF8":
        return None
    return (
        f"the database's encoding is {encoding}, and must be UTF8:"
        " create another one with `create database ... encoding 'UTF8' template template0`"
    )


def _settings(connection: Connection) -> str | None:
    # What a session begins with is its `reset_val`.
    found = connection.execute(
        text("select name, reset_val, source from pg_settings where name = any(:names) order by name"),
        {"names": list(SETTINGS)},
    )
    for name, value, source in found:
        needed = SETTINGS[name]
        if value == needed:
            continue
        if source == "client":
            remedy = "take it out of DATABASE_URL or PGOPTIONS"
        else:
            database = connection.scalar(text("select quote_ident(current_database())"))
            remedy = f"run `alter role {login(connection)} in database {database} set {name} = {needed}`"
        return f"{name} is {value}, and must be {needed}: {remedy}"
    return None


def _strangers(connection: Connection) -> str | None:
    if has_our_tables(connection):
        return None
    names = connection.scalar(
        text(
            """
            select string_agg(relname, ', ' order by relname) from pg_class
            where relnamespace = (select oid from pg_namespace where nspname = current_schema())
            and relname in ('users', 'tasks', 'alembic_version')
            """
        )
    )
    if not names:
        return None
    schema, user = connection.scalar(text("select quote_ident(current_schema())")), login(connection)
    return (
        f"another application has {names} in the schema {schema}: give Taskpact a database or a schema of its own, such"
        f" as `create schema taskpact authorization {user}; alter role {user} set search_path = taskpact`"
    )
