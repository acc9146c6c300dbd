"""The whole life of a task through the client that openapi-generator makes for Python."""

from __future__ import annotations

import sys
from collections.abc import Callable

from taskpact_client import ApiClient, ApiException, Configuration, TaskCreate, TaskPatch, TaskReplace, TasksApi
from taskpact_client.models.problem import Problem

_, url, user, token = sys.argv


def connect(token: str) -> TasksApi:
    return TasksApi(ApiClient(Configuration(host=url, access_token=token)))


def failure(call: Callable[[], object]) -> ApiException:
    try:
        answer = call()
    except ApiException as error:
        return error
    raise AssertionError(answer)


def fails(status: int, name: str | None, call: Callable[[], object]) -> None:
    error = failure(call)
    assert error.status == status, error
    if name:
        assert isinstance(error.data, Problem)
        assert error.data.type == f"tag:taskpact.example,2026:{name}"


api = connect(token)
milk = TaskCreate(title="Buy oat milk", description="two litres")

# Created once under its key, and read again only if it changed.
created = api.create_task_with_http_info(user, milk, idempotency_key="milk")
task = created.data
assert (created.status_code, task.description) == (201, "two litres")
assert {name.lower(): value for name, value in (created.headers or {}).items()}["etag"] == '"1"'
assert api.create_task(user, milk, idempotency_key="milk") == task
another = TaskCreate(title="Another")
fails(422, "idempotency-key-reused", lambda: api.create_task(user, another, idempotency_key="milk"))
assert api.get_task(user, task.id) == task
fails(304, None, lambda: api.get_task(user, task.id, if_none_match='"1"'))

# Changed by the one who saw it last, and by nobody else.
assert api.update_task(user, task.id, TaskPatch(description=None), if_match='"1"').description is None
late = TaskReplace(title="Late")
fails(412, "precondition-failed", lambda: api.replace_task(user, task.id, late, if_match='"1"'))
replaced = api.replace_task(user, task.id, TaskReplace(title="Buy milk"), if_match='"2"')
assert replaced.title == "Buy milk"
assert replaced.updated_at > task.updated_at
assert [api.toggle_task_completion(user, task.id).completed for _ in range(2)] == [True, False]

# Listed page by page, newest first.
bread = api.create_task(user, TaskCreate(title="Bake bread"))
first = api.list_tasks(user, limit=1)
last = api.list_tasks(user, limit=1, cursor=first.next_cursor, completed=False)
assert [item.id for item in (*first.items, *last.items)] == [bread.id, task.id]
assert last.next_cursor is None

# Deleted, and gone.
assert api.delete_task_with_http_info(user, task.id).status_code == 204
fails(404, "task-not-found", lambda: api.get_task(user, task.id))
fails(401, "unauthenticated", lambda: connect("x.y.z").get_task(user, task.id))
