"""The tables `users` and `tasks`, their trigger, the service's role, its grants, and row-level security."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# A role belongs to the cluster, not to one database. Another database may have created it before, and may still need it
# when this one is downgraded. Since PostgreSQL 16, even the creator of a role must be granted the right to take it, and
# only the creator may grant it.
CREATE_ROLE = """
do $$
begin
    if not exists (select from pg_roles where rolname = 'taskpact_api') then
        begin
            create role taskpact_api nologin nosuperuser nobypassrls nocreatedb nocreaterole noreplication;
        exception when duplicate_object or unique_violation then
            null;  -- Another database's migration was faster.
        end;
    end if;
    if current_setting('server_version_num')::integer >= 160000 then
        if not pg_has_role(current_user, 'taskpact_api', 'SET') then
            execute format('grant taskpact_api to %I with inherit false, set true', current_user);
        end if;
    elsif not pg_has_role(current_user, 'taskpact_api', 'MEMBER') then
        execute format('grant taskpact_api to %I', current_user);
    end if;
exception when insufficient_privilege then
    if exists (select from pg_roles where rolname = 'taskpact_api') then
        raise insufficient_privilege using message = format(
            'the role taskpact_api was made by somebody else, who must run: grant taskpact_api to %I', current_user);
    end if;
    raise insufficient_privilege using message = format(
        'whoever may make roles must run: create role taskpact_api; grant taskpact_api to %I', current_user);
end
$$
"""

DROP_ROLE = """
do $$
begin
    drop role taskpact_api;
exception
    when dependent_objects_still_exist or insufficient_privilege or object_in_use then
        raise notice 'role taskpact_api is kept: %', sqlerrm;
end
$$
"""

BLANKS = (
    r"\0009\000A\000B\000C\000D\0020\0085\00A0\1680\2000\2001\2002\2003\2004\2005\2006\2007\2008\2009\200A"
    r"\2028\2029\202F\205F\3000"
)

# Title and description have domains, because PostgreSQL reads a domain's checks once. It reads the checks of a table
# anew for every statement that writes, which took a fifth of a create.
DOMAINS = (
    rf"""
    create domain task_title as text
    constraint task_title_check check (char_length(value) between 1 and 200 and btrim(value, U&'{BLANKS}') <> '')
    """,
    """
    create domain task_description as text
    constraint task_description_check check (char_length(value) <= 2000)
    """,
)

TABLES = (
    """
    create table users (
        id text not null,
        email text,
        name text,
        created_at timestamptz not null default now(),
        constraint users_pkey primary key (id),
        constraint users_id_length check (char_length(id) between 1 and 255)
    )
    """,
    """
    create table tasks (
        user_id text not null,
        id uuid not null,
        title task_title not null,
        description task_description,
        completed boolean not null default false,
        version bigint not null default 1,
        created_at timestamptz not null default now(),
        updated_at timestamptz not null default now(),
        constraint tasks_pkey primary key (user_id, id),
        constraint tasks_user_id_fkey foreign key (user_id) references users (id) on delete cascade
    )
    """,
    # This index finds one task by its id. It is a hash index because it must have no order. Where few users own most
    # tasks, the planner would take an ordered index of all tasks for a short way to those of one user: a page of a user
    # with a hundred tasks would read another user's million.
    "create index tasks_id on tasks using hash (id)",
    "create index tasks_user_id_completed_id on tasks (user_id, completed, id)",
)

# Every change of a task increments its version, sets `updated_at` and keeps `created_at`, whoever makes the change. An
# update that changes no value does none of this.
TRIGGER = (
    """
    create function tasks_touch() returns trigger language plpgsql as $$
    begin
        new.created_at := old.created_at;
        new.updated_at := clock_timestamp();
        new.version := old.version + 1;
        return new;
    end
    $$
    """,
    """
    create trigger tasks_touch before update on tasks
    for each row when (old.* is distinct from new.*) execute function tasks_touch()
    """,
)

# A local setting becomes an empty string when its transaction ends. `nullif` makes it null, which equals no user's id.
POLICIES = tuple(
    statement
    for table, owner in (("users", "id"), ("tasks", "user_id"))
    for statement in (
        f"alter table {table} enable row level security",
        f"alter table {table} force row level security",
        f"""
        create policy {table}_owner on {table} to taskpact_api
        using ({owner} = nullif(current_setting('taskpact.user_id', true), ''))
        with check ({owner} = nullif(current_setting('taskpact.user_id', true), ''))
        """,
    )
)

GRANTS = (
    "do $$ begin execute format('grant usage on schema %I to taskpact_api', current_schema()); end $$",
    "grant select on alembic_version to taskpact_api",
    "grant select, insert (id, email, name), update (email, name) on users to taskpact_api",
    """
    grant select, insert (user_id, id, title, description), update (title, description, completed), delete
    on tasks to taskpact_api
    """,
)

# A database's default privileges may give others rights on each new table, and policies do not bind `truncate`.
REVOKE_DEFAULTS = """
do $$
declare
    given record;
begin
    for given in
        select distinct oid::regclass as relation,
            case grantee when 0 then 'public' else grantee::regrole::text end as grantee
        from pg_class, aclexplode(relacl)
        where oid in ('users'::regclass, 'tasks'::regclass, 'alembic_version'::regclass)
        and grantee <> relowner
    loop
        execute format('revoke all on %s from %s', given.relation, given.grantee);
    end loop;
end
$$
"""

REVOKES = (
    "do $$ begin execute format('revoke usage on schema %I from taskpact_api', current_schema()); end $$",
    "revoke all on alembic_version from taskpact_api",
)


def upgrade() -> None:
    for statement in (CREATE_ROLE, *DOMAINS, *TABLES, *TRIGGER, *POLICIES, REVOKE_DEFAULTS, *GRANTS):
        op.execute(statement)


def downgrade() -> None:
    for statement in (
        "drop table tasks",
        "drop table users",
        "drop function tasks_touch()",
        "drop domain task_title, task_description",
        *REVOKES,
        DROP_ROLE,
    ):
        op.execute(statement)
