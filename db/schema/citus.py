"""Citus: distributes the tables over its shards, so that all rows of a user are on one shard.

Citus is an extension that shards tables over several PostgreSQL servers. The SQL here needs Citus 13.1 or later, and
runs only on a database that has the extension. Row-level security, grants, trigger and indexes hold on the shards too.
"""

from __future__ import annotations

from uuid import uuid4

from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError

from db.statements import API_ROLE, HAS_CITUS, USER_ID_SETTING

SETTINGS = {"citus.propagate_set_commands": "local", "citus.enable_unsafe_triggers": "on"}
"""The settings that each new session of the database needs.

With the first, Citus sends claims on to the shards. With the second, it allows the trigger on `tasks`.
"""

# Row-level security is not forced while rows move: it would hide the rows from the tables' owner, unless that is a
# superuser, and none would be moved or counted.
# Citus replaces defaults by values before it sends an insert to the shard, so there the role needs the right to insert
# into these columns too.
DISTRIBUTE = """
do $$
declare
    users_before bigint;
    tasks_before bigint;
begin
    if exists (select from pg_dist_partition where logicalrelid = 'tasks'::regclass) then
        return;
    end if;
    perform set_config('citus.enable_unsafe_triggers', 'on', true);
    execute format('alter database %I set citus.propagate_set_commands = ''local''', current_database());
    execute format('alter database %I set citus.enable_unsafe_triggers = ''on''', current_database());
    alter role taskpact_api login;
    grant insert (created_at) on users to taskpact_api;
    grant insert (completed, version, created_at, updated_at) on tasks to taskpact_api;
    alter table users no force row level security;
    alter table tasks no force row level security;
    select count(*) into users_before from users;
    select count(*) into tasks_before from tasks;
    perform create_distributed_table('users', 'id', colocate_with => 'none');
    perform create_distributed_table('tasks', 'user_id', colocate_with => 'users');
    if (select count(*) from users) <> users_before or (select count(*) from tasks) <> tasks_before then
        raise 'rows were lost on their way to the shards: nothing was changed';
    end if;
    -- The rows from before are still on the coordinator's disk, where no query sees them.
    perform truncate_local_data_after_distributing_table('tasks');
    perform truncate_local_data_after_distributing_table('users');
    alter table users force row level security;
    alter table tasks force row level security;
end
$$
"""

UNDISTRIBUTE = """
do $$
declare
    users_before bigint;
    tasks_before bigint;
begin
    if not exists (select from pg_dist_partition where logicalrelid = to_regclass('tasks')) then
        return;
    end if;
    perform set_config('citus.enable_unsafe_triggers', 'on', true);
    alter table users no force row level security;
    alter table tasks no force row level security;
    select count(*) into users_before from users;
    select count(*) into tasks_before from tasks;
    -- tasks refers to users by a foreign key, so both tables are brought back together.
    perform undistribute_table('users', cascade_via_foreign_keys => true);
    if (select count(*) from users) <> users_before or (select count(*) from tasks) <> tasks_before then
        raise 'rows were lost on their way back: nothing was changed';
    end if;
    alter table users force row level security;
    alter table tasks force row level security;
    revoke insert (created_at) on users from taskpact_api;
    revoke insert (completed, version, created_at, updated_at) on tasks from taskpact_api;
    -- The role may still log in: other databases of the cluster may need it.
    execute format('alter database %I reset citus.propagate_set_commands', current_database());
    execute format('alter database %I reset citus.enable_unsafe_triggers', current_database());
end
$$
"""


def is_installed(connection: Connection) -> bool:
    """Whether the database has the extension."""
    return connection.scalar(text(HAS_CITUS.sql.decode())) is not None


def is_distributed(connection: Connection) -> bool:
    """Whether both tables are distributed by their owner and co-located: a user's rows of both are on one shard."""
    distributed = text(
        """
        select count(*) = 2 and count(distinct colocationid) = 1 from pg_dist_partition
        where (logicalrelid, column_to_column_name(logicalrelid, partkey))
            in ((to_regclass('users'), 'id'), (to_regclass('tasks'), 'user_id'))
        """
    )
    return bool(connection.scalar(distributed))


def keeps_users_apart(connection: Connection) -> bool:
    """Whether claims reach the shards: tried with a row in `users` that its owner sees and another user does not.

    The row is inserted under the role of the service, and always rolled back.
    """
    owner, other = f"check-{uuid4()}", f"check-{uuid4()}"
    seen = []
    with connection.begin_nested() as attempt:
        try:
            connection.execute(text(f"set local role {API_ROLE}"))
            connection.execute(text(f"set local {USER_ID_SETTING} = '{owner}'"))
            connection.execute(text("insert into users (id) values (:owner)"), {"owner": owner})
            for user in (owner, other):
                connection.execute(text(f"set local {USER_ID_SETTING} = '{user}'"))
                seen.append(connection.scalar(text("select count(*) from users where id = :owner"), {"owner": owner}))
        except ProgrammingError:
            pass  # Row-level security refused the insert, since the user's id did not reach the shard.
        finally:
            attempt.rollback()
    return seen == [1, 0]
