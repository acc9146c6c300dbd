"""Citus: distributes the tables over its shards, so that all rows of a user are on one shard.

Citus is an extension that shards tables over several PostgreSQL servers. The SQL here needs Citus 13.1 or later, and
runs only on a database that has the extension. Row-level security, grants, trigger and indexes hold on the shards too.
"""

from __future__ import annotations

from uuid import uuid4

from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError

from db.statements import API_ROLE, USER_ID_SETTING

SETTINGS = {"citus.propagate_set_commands": "local", "citus.enable_unsafe_triggers": "on"}
"""The settings that each new session of the database needs.

With the first, Citus sends claims on to the shards. With the second, it allows the trigger on `tasks`.
"""

TRIED_USERS = 1_000
"""So many ids are made to find one on each node.

Of twenty nodes, one is missed once in 10^21 times; of a hundred, once in 230.
"""

NODE_SECONDS = 5
"""How long a node may take for its part of a check."""

# Row-level security is not forced on distributed tables: it would bind their owner too, and whoever moves shards as the
# owner would copy no row, and lose them all without an error. The service's role is bound in any case, since it is not
# the owner.
# Citus replaces defaults by values before it sends an insert to the shard, so there the role needs the right to insert
# into these columns too.
DISTRIBUTE = """
do $$
declare
    users_before bigint;
    tasks_before bigint;
begin
    if exists (select from pg_class where oid in ('users'::regclass, 'tasks'::regclass) and relforcerowsecurity) then
        alter table users no force row level security;
        alter table tasks no force row level security;
    end if;
    if exists (select from pg_dist_partition where logicalrelid = 'tasks'::regclass) then
        return;
    end if;
    perform set_config('citus.enable_unsafe_triggers', 'on', true);
    execute format('alter database %I set citus.propagate_set_commands = ''local''', current_database());
    execute format('alter database %I set citus.enable_unsafe_triggers = ''on''', current_database());
    alter role taskpact_api login;
    grant insert (created_at) on users to taskpact_api;
    grant insert (completed, version, created_at, updated_at) on tasks to taskpact_api;
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
    return connection.scalar(text("select true from pg_extension where extname = 'citus'")) is not None


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


def forces_policies(connection: Connection) -> bool:
    """Whether row-level security is forced on a distributed table, so that its rows would be lost when shards move."""
    forced = text(
        """
        select exists (
            select from pg_dist_partition join pg_class on oid = logicalrelid
            where oid in (to_regclass('users'), to_regclass('tasks')) and relforcerowsecurity
        )
        """
    )
    return bool(connection.scalar(forced))


def users_by_node(connection: Connection) -> dict[str, str]:
    """Each node that has shards of `users`, with the id of a user, who does not exist, whose shard is there."""
    placed = text(
        """
        select nodename || ':' || nodeport as node, min(id) from unnest(cast(:ids as text[])) as id
        join citus_shards on shardid = get_shard_id_for_distribution_column('users', id)
        where table_name = 'users'::regclass group by node order by node
        """
    )
    ids = [f"check-{uuid4()}" for _ in range(TRIED_USERS)]
    return {row.node: row.min for row in connection.execute(placed, {"ids": ids})}


def keeps_users_apart(connection: Connection, owner: str) -> bool:
    """Whether claims reach the owner's shard: tried with a row in `users` that they see and another user does not.

    The row is inserted under the role of the service, and always rolled back.

    Raises:
        sqlalchemy.exc.OperationalError: the shard's node cannot be reached, or does not answer in time.
    """
    other = f"check-{uuid4()}"
    seen = []
    connection.execute(text(f"set local statement_timeout = '{NODE_SECONDS}s'"))
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
