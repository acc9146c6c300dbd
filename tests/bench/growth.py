"""What does not grow: a page's cost with the number of tasks and users, and the round trips of an operation.

Prints medians, in milliseconds: pages of 20 for a user with few and with many tasks, and in databases with few and with
many users, taken in turn; then each operation over a proxy that adds five milliseconds each way.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import click
import psycopg
import uvloop
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from db.embedded import embedded_server
from db.schema.migrate import migrate
from db.tasks import Tasks, User
from db.wire.pool import Pool
from support.proxy import Proxy

FEW_TASKS, MANY_TASKS = 100, 1_000_000
FEW_USERS, MANY_USERS = 100, 100_000
PAGE = 20
DELAY_SECONDS = 0.005

FILL_USERS = "insert into users (id) select 'user-' || n from generate_series(1, %s) n"
# Ids as the service makes them: they grow with time (RFC 9562, version 7).
FILL_TASKS = """
insert into tasks (user_id, id, title)
select %s, ('01920f3c-' || lpad(to_hex(n / 65536), 4, '0') || '-7' || lpad(to_hex(n %% 4096), 3, '0') || '-8000-'
            || lpad(to_hex(n), 12, '0'))::uuid, 'Task ' || n
from generate_series(1, %s) n
"""

Operation = Callable[[], Awaitable[object]]


@contextmanager
def database(url: str, name: str, users: int, tasks: dict[str, int]) -> Iterator[str]:
    """A database with so many users, of whom these have so many tasks."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'create database "{name}"')
    address = url.replace("/postgres?", f"/{name}?")
    migrate(address)
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(FILL_USERS, [users])
        for user, count in tasks.items():
            connection.execute(FILL_TASKS, [user, count])
        connection.execute("vacuum analyze")
    yield address


async def medians(operations: dict[str, Operation], repeats: int) -> dict[str, float]:
    """The median of each operation's times, in milliseconds; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in operations}
    for turn in range(repeats + 10):
        for name, operation in operations.items():
            started = time.perf_counter()
            await operation()
            if turn >= 10:
                times[name].append((time.perf_counter() - started) * 1000)
    return {name: median(values) for name, values in times.items()}


def page(tasks: Tasks, user: str, cursor: str | None = None) -> Operation:
    return lambda: tasks.page(User(user), limit=PAGE, cursor=cursor, completed=None)


async def cursor_in_the_middle(url: str, user: str) -> str:
    """The cursor of the page in the middle of a user's tasks."""
    half = "(select count(*) / 2 from tasks where user_id = %s)"
    query = f"select id from tasks where user_id = %s order by id offset {half} limit 1"
    async with await psycopg.AsyncConnection.connect(url) as connection:
        row = await (await connection.execute(query, [user, user])).fetchone()
        return str(row[0]) if row else ""


async def measure_growth(few: str, many: str, repeats: int) -> dict[str, float]:
    async with Pool(few, size=1) as few_pool, Pool(many, size=1) as many_pool:
        in_few, in_many = Tasks(few_pool), Tasks(many_pool)
        small, large = await cursor_in_the_middle(many, "user-1"), await cursor_in_the_middle(many, "user-2")
        return await medians(
            {
                f"first page of {FEW_TASKS:,} tasks": page(in_many, "user-1"),
                f"first page of {MANY_TASKS:,} tasks": page(in_many, "user-2"),
                f"page in the middle of {FEW_TASKS:,} tasks": page(in_many, "user-1", small),
                f"page in the middle of {MANY_TASKS:,} tasks": page(in_many, "user-2", large),
                f"first page beside {FEW_USERS:,} users": page(in_few, "user-1"),
                f"first page beside {MANY_USERS:,} users": page(in_many, "user-1"),
            },
            repeats,
        )


async def measure_distance(url: str, repeats: int) -> dict[str, float]:
    user = User("user-1")
    async with Pool(url, size=1) as pool:
        tasks = Tasks(pool)
        task_id, _ = await tasks.create(user, title="x", description=None)

        async def delete() -> None:
            await tasks.delete(user, doomed.pop(), versions=None)

        doomed = [(await tasks.create(user, title="x", description=None))[0] for _ in range(repeats + 10)]
        return await medians(
            {
                "create": lambda: tasks.create(user, title="x", description=None),
                "list": page(tasks, "user-1"),
                "get": lambda: tasks.get(user, task_id),
                "replace": lambda: tasks.replace(
                    user, task_id, title="y", description=None, completed=None, versions=None
                ),
                "update": lambda: tasks.update(
                    user, task_id, title="z", description=None, completed=None, versions=None
                ),
                "toggle": lambda: tasks.toggle(user, task_id, versions=None),
                "delete": delete,
            },
            repeats,
        )


@click.command()
@click.option("--repeats", type=click.IntRange(1, 10_000), default=300, show_default=True)
def main(repeats: int) -> None:
    """Measure what does not grow."""
    table = Table("what", title="Medians")
    table.add_column("ms", justify="right")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        url = stack.enter_context(embedded_server(folder))
        few = stack.enter_context(database(url, "few", FEW_USERS, {"user-1": FEW_TASKS}))
        tasks = {"user-1": FEW_TASKS, "user-2": MANY_TASKS}
        many = stack.enter_context(database(url, "many", MANY_USERS, tasks))
        for name, milliseconds in uvloop.run(measure_growth(few, many, repeats)).items():
            table.add_row(name, f"{milliseconds:.3f}")
        table.add_section()
        proxy = stack.enter_context(Proxy(few))
        proxy.delay_seconds = DELAY_SECONDS
        for name, milliseconds in uvloop.run(measure_distance(proxy.url, min(repeats, 50))).items():
            table.add_row(f"{name}, {DELAY_SECONDS * 1000:.0f} ms away each way", f"{milliseconds:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
