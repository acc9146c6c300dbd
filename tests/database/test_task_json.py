"""The JSON of one task, made of its columns, is what PostgreSQL writes for the same task in a page."""

from __future__ import annotations

import psycopg
import pytest

from db.tasks import Tasks, User
from db.wire.pool import Pool
from support.connections import run

CHARACTERS = "".join(chr(point) for point in range(1, 0x3000) if not 0xD800 <= point < 0xE000) + "\U0001f980\U0010ffff"

TIMES = [
    "2026-11-27 18:13:59.120300+00",
    "2026-11-27 18:13:59+00",
    "2026-02-28 23:59:59.999999-09:30",
    "1969-12-31 23:59:59.000001+00",
    "0999-01-01 00:00:00.5+00",
    "9999-12-31 23:59:59.999999+00",
]


@pytest.mark.requirement("FR-02", "FR-05")
def test_a_task_is_the_same_bytes_alone_and_in_a_page(own_database: str) -> None:
    user = User('al"ice\\ \u00fc')

    async def main() -> None:
        async with Pool(own_database, size=1) as pool:
            tasks = Tasks(pool)
            for start in range(0, len(CHARACTERS), 1_000):
                text = CHARACTERS[start : start + 1_000]
                title = f"x{text[:198]}x"
                task_id, made = await tasks.create(user, title=title, description=text)
                (listed,) = (await tasks.page(user, limit=1, cursor=None, completed=None)).items
                assert made.json == listed == (await tasks.get(user, task_id)).json
                toggled = await tasks.toggle(user, task_id, versions=None)
                assert (await tasks.page(user, limit=1, cursor=None, completed=None)).items == [toggled.json]

            _, made = await tasks.create(user, title="no description", description=None)
            assert (await tasks.page(user, limit=1, cursor=None, completed=None)).items == [made.json]

    run(main)


@pytest.mark.requirement("FR-02", "FR-05")
@pytest.mark.parametrize("time", TIMES)
def test_a_time_is_the_same_bytes_alone_and_in_a_page_whatever_the_sessions_style(own_database: str, time: str) -> None:
    with psycopg.connect(own_database, autocommit=True) as owner:
        name = owner.info.dbname
        owner.execute(f"alter database {name} set datestyle = 'SQL, DMY'")
        owner.execute(f"alter database {name} set timezone = 'Asia/Kolkata'")
        owner.execute("set session_replication_role = replica")
        owner.execute("insert into users (id) values ('alice')")
        owner.execute(
            "insert into tasks (user_id, id, title, created_at, updated_at)"
            " values ('alice', '00000000-0000-7000-8000-000000000001', 'x', %(time)s, %(time)s)",
            {"time": time},
        )

    async def main() -> None:
        async with Pool(own_database, size=1) as pool:
            tasks, alice = Tasks(pool), User("alice")
            (listed,) = (await tasks.page(alice, limit=1, cursor=None, completed=None)).items
            assert (await tasks.get(alice, "00000000-0000-7000-8000-000000000001")).json == listed

    run(main)
