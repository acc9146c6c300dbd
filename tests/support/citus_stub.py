"""An extension by the name of Citus, for PostgreSQL 18: what migrations and checks call, keeping rows where they are.

It refuses what Citus refuses of them, so that the service under test goes the whole way it goes on a cluster.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import mkdtemp

import psycopg
from psycopg import errors

CONTROL = "default_version = '0'\nrelocatable = false\nschema = pg_catalog\n"

FUNCTIONS = """
create schema citus_stub;
create table citus_stub.pg_dist_partition (
    logicalrelid regclass primary key, partkey text not null, colocationid serial
);
alter table citus_stub.pg_dist_partition set schema pg_catalog;
grant select on pg_dist_partition to public;

create view citus_stub.citus_shards as
    select logicalrelid as table_name, shardid, 'worker' as nodename, 5432 + shardid as nodeport
    from pg_dist_partition, generate_series(1, 2) as shardid;
alter view citus_stub.citus_shards set schema pg_catalog;
grant select on citus_shards to public;

create function get_shard_id_for_distribution_column(regclass, value text) returns bigint immutable
return 1 + abs(hashtext(value)) % 2;

create function column_to_column_name(regclass, text) returns text immutable return $2;

create function create_distributed_table(
    table_name regclass, distribution_column text, distribution_type text = 'hash', colocate_with text = 'default'
) returns void language plpgsql as $$
begin
    if exists (select from pg_trigger where tgrelid = table_name and not tgisinternal)
        and current_setting('citus.enable_unsafe_triggers', true) is distinct from 'on' then
        raise 'triggers are not supported on distributed tables when "citus.enable_unsafe_triggers" is set to "false"';
    end if;
    if exists (
        select from pg_index where indrelid = table_name and indisunique and not exists (
            select from pg_attribute
            where attrelid = table_name and attname = distribution_column and attnum = any (indkey)
        )
    ) then
        raise 'cannot create constraint on "%": a unique index must include the distribution column', table_name;
    end if;
    if exists (
        select from pg_constraint where conrelid = table_name and contype = 'f'
        and confrelid not in (select logicalrelid from pg_dist_partition)
    ) then
        raise 'cannot create foreign key constraint since relations are not colocated';
    end if;
    insert into pg_dist_partition values (
        table_name, distribution_column,
        coalesce(
            (select colocationid from pg_dist_partition where logicalrelid = to_regclass(colocate_with)),
            nextval('pg_dist_partition_colocationid_seq')
        )
    );
end
$$;

create function undistribute_table(table_name regclass, cascade_via_foreign_keys boolean = false)
returns void language plpgsql as $$
declare
    referring regclass[] := array(select conrelid from pg_constraint where confrelid = table_name and contype = 'f');
begin
    if referring <> '{}' and not cascade_via_foreign_keys then
        raise 'cannot complete operation because table % is referenced by a foreign key', table_name;
    end if;
    delete from pg_dist_partition where logicalrelid = table_name or logicalrelid = any (referring);
end
$$;

create function truncate_local_data_after_distributing_table(function_table regclass) returns void
language plpgsql as $$
begin
    if not exists (select from pg_dist_partition where logicalrelid = function_table) then
        raise 'supplied parameter is not a distributed relation';
    end if;
end
$$;
"""


def write() -> str:
    """Writes the extension's files where any server may read them, and tells its `extension_control_path`."""
    folder = Path(mkdtemp(prefix="taskpact-citus-"))
    folder.chmod(0o755)
    (folder / "extension").mkdir()
    (folder / "extension" / "citus.control").write_text(CONTROL)
    (folder / "extension" / "citus--0.sql").write_text(FUNCTIONS)
    return f"$system:{folder}"


def install(cluster_url: str) -> None:
    """Lets a running server find it."""
    with psycopg.connect(cluster_url, autocommit=True) as connection:
        connection.execute(f"alter system set extension_control_path = '{write()}'")
        connection.execute("select pg_reload_conf()")


def create(url: str) -> None:
    """Gives it to a database."""
    # A new session knows of it, once the server has read its settings again.
    deadline = time.monotonic() + 5
    while True:
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("create extension citus")
        except errors.FeatureNotSupported:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
