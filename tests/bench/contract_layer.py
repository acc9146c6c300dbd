"""CPU of the contract layer alone: routing, validation and shaping, in-process, without database, server or log.

    python tests/bench/contract_layer.py

Taskpact's whole stack with a stub for its tasks, FastAPI with response models, stock Connexion with responses
validated. What the handlers answer is fixed. Nobody verifies a token but Taskpact, which remembers it: FastAPI and
Connexion are spared even that.
"""

# ruff: noqa: ARG001 - the handlers take what the contract says, and answer the same whatever it was.

from __future__ import annotations

import asyncio
import json
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Annotated, Any
from uuid import UUID

import click
import rows
import uvloop
from fastapi import Depends, FastAPI, Query, Response
from peers import stock_connexion
from peers.usual import TaskCreate, TaskPage, TaskPublic, oauth2_scheme
from rich.console import Console
from rich.progress import track
from rich.table import Table
from starlette.types import ASGIApp, Message

from app.application import create_app
from app.observe.logs import configure_logs
from app.settings import read_settings
from db.tasks import Page, TaskRow
from handlers.auth.keys import SharedSecret
from handlers.auth.tokens import Verifier

BASE = "FastAPI"
OPERATIONS = {"read": 200, "list": 200, "create": 201}

USER_ID, TASK_IDS = next(iter(rows.people().items()))
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
TASK: dict[str, Any] = {
    "id": str(TASK_IDS[0]),
    "user_id": USER_ID,
    "title": "Buy oat milk",
    "description": "The barista kind, two litres.",
    "completed": False,
    "created_at": f"{NOW:%Y-%m-%dT%H:%M:%S.%fZ}",
    "updated_at": f"{NOW:%Y-%m-%dT%H:%M:%S.%fZ}",
}
PAGE = {"items": [TASK] * rows.LIST_LIMIT, "next_cursor": TASK_IDS[0].hex}
LOCATION = f"/api/{USER_ID}/tasks/{TASK['id']}"


class StubTasks:
    """Answers as `db.tasks.Tasks` does, without asking anybody."""

    row = TaskRow(json.dumps(TASK).encode(), 1)
    rows = Page([row.json] * rows.LIST_LIMIT, TASK_IDS[0].hex)

    async def get(self, *_: Any) -> TaskRow:
        return self.row

    async def page(self, *_: Any, **__: Any) -> Page:
        return self.rows

    async def create(self, *_: Any, **__: Any) -> tuple[UUID, TaskRow]:
        return TASK_IDS[0], self.row


def taskpact() -> tuple[ASGIApp, dict[str, Any]]:
    """The service, with the state that its lifespan would have made."""
    variables = {"DATABASE_URL": "postgresql:///unused", "JWT_SECRET": rows.SECRET, "LOG_LEVEL": "error"}
    configure_logs("error", "json")
    state = {"root_path": "", "tasks": StubTasks(), "verifier": Verifier(SharedSecret(rows.SECRET.encode()))}
    return create_app(read_settings(variables)), state


def fastapi() -> tuple[ASGIApp, dict[str, Any]]:
    """FastAPI with response models."""
    app = FastAPI()
    members = {**TASK, "id": TASK_IDS[0], "created_at": NOW, "updated_at": NOW}
    task = TaskPublic(**members)
    page = TaskPage(items=[task] * rows.LIST_LIMIT, next_cursor=TASK_IDS[0])

    @app.get("/api/{user_id}/tasks", response_model=TaskPage)
    async def list_tasks(
        user_id: UserId,
        limit: Annotated[int, Query(ge=1, le=100)] = 50,
        cursor: UUID | None = None,
        completed: bool | None = None,
    ) -> TaskPage:
        return page

    @app.post("/api/{user_id}/tasks", response_model=TaskPublic, status_code=201)
    async def create_task(user_id: UserId, content: TaskCreate, response: Response) -> TaskPublic:
        response.headers["Location"] = LOCATION
        return task

    @app.get("/api/{user_id}/tasks/{task_id}", response_model=TaskPublic)
    async def get_task(user_id: UserId, task_id: UUID) -> TaskPublic:
        return task

    return app, {}


async def get_user_id(user_id: str, token: Annotated[str, Depends(oauth2_scheme)]) -> str:
    return user_id


UserId = Annotated[str, Depends(get_user_id)]


def connexion() -> tuple[ASGIApp, dict[str, Any]]:
    """Stock Connexion, whose contract names the functions below."""
    return stock_connexion.new_app("contract_layer", "contract_layer.claims"), {}


def claims(token: str) -> dict[str, str]:
    return {"sub": USER_ID}


PRIVATE = {**stock_connexion.JSON, "Cache-Control": "private, no-cache"}


async def list_tasks(user_id: str, limit: int = 50) -> stock_connexion.Answer:
    return PAGE, 200, {**PRIVATE, "Vary": "Accept, Accept-Encoding"}


async def create_task(user_id: str, body: dict[str, Any]) -> stock_connexion.Answer:
    return TASK, 201, {**stock_connexion.JSON, "ETag": '"1"', "Location": LOCATION}


async def get_task(user_id: str, task_id: str) -> stock_connexion.Answer:
    return TASK, 200, {**PRIVATE, "ETag": '"1"', "Vary": "Accept"}


replace_task = toggle_task_completion = get_task
"""The contract names them; nobody asks for them here."""

CONTENDERS: dict[str, Callable[[], tuple[ASGIApp, dict[str, Any]]]] = {
    "Taskpact": taskpact,
    "FastAPI": fastapi,
    "Connexion": connexion,
}


def scope(operation: str) -> tuple[dict[str, Any], bytes]:
    """A request as uvicorn hands it over, and its body."""
    method, target, content = rows.request(operation, USER_ID, TASK_IDS[0], 1)
    path, _, query = target.partition("?")
    body = b"" if content is None else json.dumps(content).encode()
    headers = [
        (b"host", b"127.0.0.1:8000"),
        (b"accept", b"*/*"),
        (b"authorization", f"Bearer {rows.token(USER_ID)}".encode()),
    ]
    if body:
        headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
        "scheme": "http",
        "method": method,
        "root_path": "",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": headers,
    }, body


async def drive(app: ASGIApp, state: dict[str, Any], operation: str, requests: int) -> list[Message]:
    """Sends so many requests, one after the other; returns what the last one was answered."""
    template, body = scope(operation)
    messages: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        messages.append(message)

    for _ in range(requests):
        messages.clear()
        await app({**template, "headers": list(template["headers"]), "state": state.copy()}, receive, send)
    return messages


@click.command()
@click.option("--requests", type=click.IntRange(1), default=300, show_default=True, help="In each repeat.")
@click.option("--repeats", type=click.IntRange(1), default=9, show_default=True, help="Interleaved.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Where to write the medians.")
def main(*, requests: int, repeats: int, json_path: Path | None) -> None:
    """Measure the contract layer's CPU in microseconds per request."""
    apps = {name: make() for name, make in CONTENDERS.items()}
    samples: dict[tuple[str, str], list[float]] = {
        (operation, name): [] for operation in OPERATIONS for name in CONTENDERS
    }
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for operation, name in samples:
            start, *rest = runner.run(drive(*apps[name], operation, 1))
            answer = json.loads(b"".join(message.get("body", b"") for message in rest))
            if (
                start["status"] != OPERATIONS[operation]
                or answer.keys() != (PAGE if operation == "list" else TASK).keys()
            ):
                raise SystemExit(f"failed: {name}, {operation}: {start['status']} {answer}")
        for _ in track(range(repeats), "measuring", transient=True):
            for (operation, name), of_one in samples.items():
                began = time.process_time()
                runner.run(drive(*apps[name], operation, requests))
                of_one.append((time.process_time() - began) / requests * 1e6)
    table = Table("operation", "contender", "ratio", "CPU us", title=f"Contract layer; ratios to {BASE}")
    results = []
    for (operation, name), of_one in samples.items():
        ratio = median(one / base for one, base in zip(of_one, samples[operation, BASE], strict=True))
        results.append({"operation": operation, "contender": name, "ratio": ratio, "cpu_us": median(of_one)})
        table.add_row(
            operation, name, f"{ratio:.2f}", f"{median(of_one):,.0f}", end_section=name == list(CONTENDERS)[-1]
        )
    Console().print(table)
    if json_path:
        json_path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    # Connexion imports Starlette's test client, and an old part of jsonschema: neither matters here.
    warnings.simplefilter("ignore")
    main()
