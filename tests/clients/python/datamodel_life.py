"""The whole life of a task through the models that datamodel-code-generator makes, and httpx."""

from __future__ import annotations

import sys
from typing import TypeVar

import httpx
from models import Completed, Description, Problem, Task, TaskCreate, TaskPage, TaskPatch, TaskReplace, Title
from pydantic import BaseModel

_, url, user, token = sys.argv
tasks = f"{url}/api/{user}/tasks"
client = httpx.Client(headers={"Authorization": f"Bearer {token}"})

Model = TypeVar("Model", bound=BaseModel)


def send(
    method: str, path: str, body: BaseModel | None = None, headers: dict[str, str] | None = None
) -> httpx.Response:
    content = None if body is None else body.model_dump(mode="json", exclude_unset=True)
    return client.request(method, tasks + path, json=content, headers=headers)


def succeed(model: type[Model], response: httpx.Response, status: int = 200) -> Model:
    assert response.status_code == status, response.text
    return model.model_validate_json(response.content)


def fail(response: httpx.Response, status: int, name: str) -> None:
    problem = Problem.model_validate_json(response.content)
    assert (response.status_code, problem.status) == (status, status)
    assert problem.type.root == f"tag:taskpact.example,2026:{name}"


milk = TaskCreate(title=Title("Buy oat milk"), description=Description("two litres"))
key = {"Idempotency-Key": "milk"}

# Created once under its key, and read again only if it changed.
task = succeed(Task, send("POST", "", milk, key), 201)
place = f"/{task.id.root}"
assert task.description == milk.description
assert succeed(Task, send("POST", "", milk, key), 201) == task
fail(send("POST", "", TaskCreate(title=Title("Another")), key), 422, "idempotency-key-reused")
assert succeed(Task, send("GET", place)) == task
assert send("GET", place, headers={"If-None-Match": '"1"'}).status_code == 304

# Changed by the one who saw it last, and by nobody else.
patched = succeed(Task, send("PATCH", place, TaskPatch(description=Description(None)), {"If-Match": '"1"'}))
assert patched.description == Description(None)
fail(send("PUT", place, TaskReplace(title=Title("Late")), {"If-Match": '"1"'}), 412, "precondition-failed")
replaced = succeed(Task, send("PUT", place, TaskReplace(title=Title("Buy milk")), {"If-Match": '"2"'}))
assert replaced.title.root == "Buy milk"
assert replaced.updated_at.root > task.updated_at.root
for completed in (True, False):
    assert succeed(Task, send("PATCH", f"{place}/complete")).completed == Completed(completed)

# Listed page by page, newest first.
bread = succeed(Task, send("POST", "", TaskCreate(title=Title("Bake bread"))), 201)
first = succeed(TaskPage, send("GET", "?limit=1"))
last = succeed(TaskPage, send("GET", f"?limit=1&completed=false&cursor={first.next_cursor.root}"))
assert [item.id for item in (*first.items, *last.items)] == [bread.id, task.id]
assert last.next_cursor.root is None

# Deleted, and gone.
assert send("DELETE", place).status_code == 204
fail(send("GET", place), 404, "task-not-found")
fail(send("GET", place, headers={"Authorization": "Bearer x.y.z"}), 401, "unauthenticated")
