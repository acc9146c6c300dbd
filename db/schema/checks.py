"""The checks that a database must pass, for `taskpact check` and for the start of the service. They change nothing.

database  it can be reached, and can be ours
role      row-level security applies to the service's role
schema    its version suffices, and the role cannot change it
policies  row-level security is forced on both tables, with the policies of the migrations; on Citus, it is not forced

`taskpact check` shows these names. Each check is one function of this module, in this order. A detail says what is
wrong and what to do, and never repeats `DATABASE_URL`, which may hold a password.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from db.schema import citus
from db.schema.engine import create_engine, explain
from db.schema.fitness import OUR_SCHEMAS, has_our_tables, login, unfitness
from db.schema.version import VERSION_FORMAT, current, head, suffices
from db.statements import API_ROLE, USER_ID_SETTING

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


def examine(connection: Connection) -> list[Check]:
    """Runs the required checks in a transaction that the caller rolls back, since they change its role."""
    if reason := unfitness(connection):
        return [Check("database", False, reason)]
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
    if reason := _explain_place(connection):
        return Check("schema", False, reason)
    connection.execute(text(f"set local role {API_ROLE}"))
    version, needed = current(connection), head()
    if reason := _explain_version(version) or _explain_tables(connection):
        return Check("schema", False, reason)
    return Check("schema", True, f"at {version}" + (f", newer than {needed}" if version != needed else ""))


def _explain_place(connection: Connection) -> str | None:
    """Why the service would not find the tables where names are looked up."""
    if not has_our_tables(connection) and (elsewhere := connection.scalar(text(OUR_SCHEMAS))):
        user = login(connection)
        return (
            f"the tables are in {elsewhere}, which is not on the search path of {user}: run"
            f" `alter role {user} set search_path = {elsewhere}`, or make others with `taskpact migrate`"
        )
    schema, may_use = connection.execute(
        text("select quote_ident(current_schema()), has_schema_privilege(:role, current_schema(), 'USAGE')"),
        {"role": API_ROLE},
    ).one()
    if may_use is False:
        return f"{API_ROLE} may not use the schema {schema}: run `grant usage on schema {schema} to {API_ROLE}`"
    return None


def _explain_version(version: str | None) -> str | None:
    """Why the service does not run on this version of the schema."""
    if version is None:
        return "the database has no schema: run `taskpact migrate`"
    if not VERSION_FORMAT.fullmatch(version):
        return (
            f"{version} is not a version of Taskpact's schema: the database belongs to another service, so correct"
            " DATABASE_URL"
        )
    if not suffices(version):
        return f"the schema is at {version}, the service needs {head()} or later: run `taskpact migrate`"
    return None


def _explain_tables(connection: Connection) -> str | None:
    """Why the tables are not as the role needs them: missing, or the role could change them."""
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
            return f"there is no table {table}, although the schema has a version: restore a backup"
        schema, may_change = row
        if may_change:
            return (
                f"{API_ROLE} may change {table} or its schema {schema}: make another role the owner of {table},"
                f" and revoke CREATE on {schema}, and TRUNCATE, REFERENCES and TRIGGER on {table}, from {API_ROLE}"
                " and PUBLIC"
            )
    return None


def _check_policies(connection: Connection) -> Check:
    """Row-level security is on for each table, and the policy of the migrations is the only one for the role.

    It is forced, so that it binds the owner too, except where Citus has distributed the tables.
    """
    must_force = not (citus.is_installed(connection) and citus.is_distributed(connection))
    for table, owner in OWNER_COLUMNS.items():
        is_on, is_forced = connection.execute(
            text("select relrowsecurity, relforcerowsecurity from pg_class where oid = to_regclass(:table)"),
            {"table": table},
        ).one()
        if is_forced and not must_force:
            return Check(
                "policies",
                False,
                f"row-level security is forced on {table}, whose rows Citus would lose when the owner moves shards:"
                f" run `taskpact migrate`, or `alter table {table} no force row level security`",
            )
        if not is_on or is_forced != must_force:
            forced = ", force row level security" if must_force else ""
            return Check(
                "policies",
                False,
                f"row-level security is not {'forced' if must_force else 'on'} on {table}:"
                f" run `alter table {table} enable row level security{forced}`",
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
    state = "forced" if must_force else "on, and not forced, as Citus needs it,"
    return Check("policies", True, f"row-level security is {state} on {' and '.join(OWNER_COLUMNS)}")
