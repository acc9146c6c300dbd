"""The rows that every contender starts with, the people who own them, and the requests that are sent about them."""

from __future__ import annotations

import json
import random
import string
import time
from pathlib import Path
from uuid import UUID

import jwt
import psycopg

from db.schema.migrate import migrate

SECRET = "a secret that only this benchmark knows, of 32 bytes at least"
TOKEN_TTL_SECONDS = 86_400

SEED = 2026
USERS = 50
TASKS_PER_USER = 200
LIST_LIMIT = 20

OPERATIONS = ("read", "list", "create", "replace", "toggle", "mix")
MIX = ("read",) * 16 + ("list", "create", "replace", "toggle")
"""Of the mix, 80 % are reads."""

SCENARIOS: dict[str, tuple[str, int, int]] = {
    **{operation: (operation, USERS, TASKS_PER_USER) for operation in OPERATIONS},
    **{f"one-user-{operation}": (operation, 1, TASKS_PER_USER) for operation in OPERATIONS},
    "one-task-toggle": ("toggle", 1, 1),
}
"""What is measured: an operation, of so many users, each on so many of their tasks."""

REQUESTS_PER_FILE = 20_000
"""As many as the fastest contender answers in a few seconds: a replacement seldom writes what is there already."""

NO_ROW_LEVEL_SECURITY = (
    "alter table tasks disable row level security",
    "alter table users disable row level security",
    "drop trigger tasks_touch on tasks",
)
"""The peers' tables have the same columns, keys and checks; their own statements move `version` and `updated_at`."""


def people() -> dict[str, list[UUID]]:
    """Each user's id with the ids of their tasks, the same ones in every run."""
    chance = random.Random(SEED)  # noqa: S311 - it must be the same every time
    first_millisecond = 1_760_000_000_000
    users = ["".join(chance.choices(string.ascii_letters + string.digits, k=32)) for _ in range(USERS)]
    tasks: dict[str, list[UUID]] = {user: [] for user in users}
    for number in range(USERS * TASKS_PER_USER):
        # A UUID of version 7 (RFC 9562, section 5.7).
        time_and_version = (first_millisecond + number * 1000) << 16 | 7 << 12 | chance.getrandbits(12)
        tasks[users[number % USERS]].append(UUID(int=time_and_version << 64 | 2 << 62 | chance.getrandbits(62)))
    return tasks


def token(user_id: str) -> str:
    """A token that is good for longer than any run."""
    now = int(time.time())
    return jwt.encode({"sub": user_id, "iat": now, "exp": now + TOKEN_TTL_SECONDS}, SECRET, "HS256")


def make_databases(cluster_url: str, names: list[str]) -> dict[str, str]:
    """The URLs of new databases, all copies of one; only Taskpact's and pgbench's have row-level security."""
    seeded = _with_database(cluster_url, "seeded")
    urls = {name: _with_database(cluster_url, name) for name in names}
    with psycopg.connect(cluster_url, autocommit=True) as connection:
        connection.execute("create database seeded")
        migrate(seeded)
        _seed(seeded)
        for name in names:
            connection.execute(f'create database "{name}" template seeded strategy file_copy')
    for name, url in urls.items():
        if name not in ("taskpact", "set-local", "pgbench"):
            with psycopg.connect(url, autocommit=True) as connection:
                for statement in NO_ROW_LEVEL_SECURITY:
                    connection.execute(statement)
    return urls


def write_requests(path: Path, scenario: str, round_number: int) -> None:
    """Writes one scenario's requests for wrk.lua, one a line: others in each round, the same for every contender."""
    chance = random.Random(f"{SEED} {scenario} {round_number}")  # noqa: S311
    operation, number_of_users, tasks_of_each = SCENARIOS[scenario]
    owned = people()
    users = list(owned)[:number_of_users]
    tokens = {user: token(user) for user in users}
    with path.open("w") as file:
        for _ in range(REQUESTS_PER_FILE):
            user = chance.choice(users)
            kind = chance.choice(MIX) if operation == "mix" else operation
            method, target, body = request(
                kind, user, chance.choice(owned[user][:tasks_of_each]), chance.randrange(10**6)
            )
            text = "" if body is None else json.dumps(body)
            file.write(f"{method}\t{target}\t{tokens[user]}\t{text}\n")


def request(operation: str, user_id: str, task_id: UUID, number: int) -> tuple[str, str, dict[str, object] | None]:
    """One request's method, target and body."""
    tasks = f"/api/{user_id}/tasks"
    content = {"title": f"Buy oat milk, {number:06}", "description": "The barista kind, two litres, if they have it."}
    match operation:
        case "read":
            return "GET", f"{tasks}/{task_id}", None
        case "list":
            return "GET", f"{tasks}?limit={LIST_LIMIT}", None
        case "create":
            return "POST", tasks, content
        case "replace":
            return "PUT", f"{tasks}/{task_id}", content
        case "toggle":
            return "PATCH", f"{tasks}/{task_id}/complete", None
    raise LookupError(operation)


def _seed(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
        with cursor.copy("copy users (id) from stdin") as copy:
            for user in people():
                copy.write_row((user,))
        with cursor.copy("copy tasks (user_id, id, title, description) from stdin") as copy:
            for user, ids in people().items():
                for number, task_id in enumerate(ids):
                    copy.write_row((user, task_id, f"Task {number}: buy oat milk", "The barista kind, two litres."))
        cursor.execute("vacuum (analyze) users, tasks")


def _with_database(url: str, name: str) -> str:
    return url.replace("///postgres?", f"///{name}?")
