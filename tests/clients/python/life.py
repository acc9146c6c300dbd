"""The whole life of a task, and every problem, through the generated Python client."""

from __future__ import annotations

import sys
from http import HTTPStatus
from uuid import UUID, uuid4

import httpx
from taskpact_client import AuthenticatedClient
from taskpact_client.api.tasks import (
    create_task,
    delete_task,
    get_task,
    list_tasks,
    replace_task,
    toggle_task_completion,
    update_task,
)
from taskpact_client.models import Problem, Task, TaskCreate, TaskPage, TaskPatch, TaskReplace
from taskpact_client.types import UNSET, Response, Unset

TASKS = 250

_, url, damaged_url, gone_url, user, token = sys.argv


def connect(base_url: str = url, token: str = token, **changes: str) -> AuthenticatedClient:
    """A client, which on its way out may change what the generated code never gets wrong."""

    def change(request: httpx.Request) -> None:
        request.method = changes.get("method", request.method)
        request.headers["Content-Type"] = changes.get("media_type", request.headers.get("Content-Type", ""))

    hooks = {"event_hooks": {"request": [change]}} if changes else {}
    return AuthenticatedClient(base_url=base_url, token=token, httpx_args=hooks)


def refuse(response: Response[Problem | Task] | Response[Problem | TaskPage], status: int, kind: str) -> Problem:
    problem = response.parsed
    assert isinstance(problem, Problem), response
    assert (response.status_code, problem.status) == (status, status)
    assert problem.type_ == f"tag:taskpact.example,2026:{kind}"
    return problem


client = connect()
milk = TaskCreate(title="Buy oat milk", description="two litres")

# Created, and read again only if it changed.
created = create_task.sync_detailed(user, client=client, body=milk)
assert created.status_code is HTTPStatus.CREATED
task, tag = created.parsed, created.headers["ETag"]
assert isinstance(task, Task)
assert (task.title, task.description, task.completed) == ("Buy oat milk", "two litres", False)
assert created.headers["Location"].endswith(str(task.id))
assert get_task.sync(user, task.id, client=client) == task
unchanged = get_task.sync_detailed(user, task.id, client=client, if_none_match=tag)
assert (unchanged.status_code, unchanged.parsed, unchanged.content) == (HTTPStatus.NOT_MODIFIED, None, b"")

# Changed by the one who saw it last, and by nobody else.
patched = update_task.sync_detailed(user, task.id, client=client, body=TaskPatch(description=None), if_match=tag)
assert isinstance(patched.parsed, Task)
assert (patched.parsed.title, patched.parsed.description) == ("Buy oat milk", None)
late = replace_task.sync_detailed(user, task.id, client=client, body=TaskReplace(title="Late"), if_match=tag)
refuse(late, 412, "precondition-failed")
replaced = replace_task.sync(
    user, task.id, client=client, body=TaskReplace(title="Buy milk"), if_match=patched.headers["ETag"]
)
assert isinstance(replaced, Task)
assert replaced.title == "Buy milk"
assert replaced.updated_at > task.updated_at
toggled = [toggle_task_completion.sync(user, task.id, client=client) for _ in range(2)]
assert [answer.completed for answer in toggled if isinstance(answer, Task)] == [True, False]

# Created once, however often it is said.
named = [
    create_task.sync_detailed(user, client=client, body=body, idempotency_key="bread")
    for body in (TaskCreate(title="Bake bread"), TaskCreate(title="Bake bread"), milk)
]
bread, same = named[0].parsed, named[1].parsed
assert isinstance(bread, Task)
assert bread == same
refuse(named[2], 422, "idempotency-key-reused")
delete_task.sync(user, bread.id, client=client)

# Deleted, and gone.
assert delete_task.sync_detailed(user, task.id, client=client).status_code is HTTPStatus.NO_CONTENT
refuse(get_task.sync_detailed(user, task.id, client=client), 404, "task-not-found")

# Listed page by page, newest first, each once.
ids: list[UUID] = []
for number in range(TASKS):
    numbered = create_task.sync(user, client=client, body=TaskCreate(title=f"task {number}"))
    assert isinstance(numbered, Task)
    ids.append(numbered.id)
listed: list[UUID] = []
sizes: list[int] = []
cursor: str | Unset | None = UNSET
while cursor is not None:
    page = list_tasks.sync(user, client=client, limit=100, cursor=cursor, completed=False)
    assert isinstance(page, TaskPage)
    listed += [item.id for item in page.items]
    sizes.append(len(page.items))
    cursor = page.next_cursor
assert (listed, sizes) == (ids[::-1], [100, 100, 50])

# Each problem, by its type.
refuse(list_tasks.sync_detailed(user, client=connect(token="x.y.z")), 401, "unauthenticated")
refuse(list_tasks.sync_detailed("another", client=client), 403, "forbidden")
refuse(toggle_task_completion.sync_detailed(user, uuid4(), client=client), 404, "task-not-found")
not_allowed = get_task.sync_detailed(user, ids[0], client=connect(method="POST"))
refuse(not_allowed, 405, "method-not-allowed")
too_large = create_task.sync_detailed(user, client=client, body=TaskCreate(title="x" * 2**16))
refuse(too_large, 413, "content-too-large")
text = create_task.sync_detailed(user, client=connect(media_type="text/plain"), body=milk)
refuse(text, 415, "unsupported-media-type")
html = connect().with_headers({"Accept": "text/html"})
refuse(list_tasks.sync_detailed(user, client=html), 406, "not-acceptable")
blank = refuse(create_task.sync_detailed(user, client=client, body=TaskCreate(title=" ")), 422, "invalid-request")
assert blank.errors
assert blank.errors[0].pointer == "/title"
beyond = refuse(list_tasks.sync_detailed(user, client=client, limit=101), 422, "invalid-request")
assert beyond.errors
assert beyond.errors[0].parameter == "limit"
damaged = create_task.sync_detailed(user, client=connect(damaged_url), body=milk)
refuse(damaged, 500, "internal-error")
gone = list_tasks.sync_detailed(user, client=connect(gone_url))
refuse(gone, 503, "database-unavailable")
assert gone.headers["Retry-After"] == "1"
