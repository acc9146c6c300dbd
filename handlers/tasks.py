"""The contract's seven operations. Each calls one function of `db.tasks` and makes the answer from its result.

The engine has already checked the request against the contract, so nothing is validated here. Failures are exceptions:
`handlers.problems` turns them into answers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from urllib.parse import quote

from connexion.lifecycle import ConnexionResponse

from db.tasks import KEEP, TaskRow, Tasks, User
from handlers.headers import entity_tag, matches, versions

JSON = "application/json"
PRIVATE = {"Cache-Control": "private, no-cache", "Vary": "Accept"}
PRIVATE_PAGE = {"Cache-Control": "private, no-cache", "Vary": "Accept, Accept-Encoding"}


async def list_tasks(
    tasks: Tasks, user: User, limit: int, cursor: str | None = None, completed: bool | None = None
) -> ConnexionResponse:
    """Answers a page of the user's tasks, newest first, with a link to the next page."""
    page = await tasks.page(user, limit=limit, cursor=cursor, completed=completed)
    headers, next_cursor = {**PRIVATE_PAGE}, b"null"
    if page.next_cursor:
        next_cursor = b'"%s"' % page.next_cursor.encode()
        filtered = "" if completed is None else f"&completed={str(completed).lower()}"
        headers["Link"] = f'<?limit={limit}&cursor={page.next_cursor}{filtered}>; rel="next"'
    body = b'{"items":[%s],"next_cursor":%s}' % (b",".join(page.items), next_cursor)
    return ConnexionResponse(200, content_type=JSON, body=body, headers=headers)


async def create_task(
    tasks: Tasks,
    user: User,
    body: dict[str, Any],
    *,
    root_path: str,
    idempotency_key: str | None = None,
) -> ConnexionResponse:
    """Creates a task and answers it with its `Location`. A repeated idempotency key gets the task it created before.

    Raises:
        IdempotencyKeyReused: the key was already used with another title or description (422).
        UserUnknown: the user has no row, and the service may not create one (401).
    """
    task_id, task = await tasks.create(
        user, title=body["title"], description=body.get("description"), idempotency_key=idempotency_key
    )
    location = {"Location": _path(root_path, user, task_id)}
    return _answer(task, status=201, headers=location)


async def get_task(tasks: Tasks, user: User, task_id: str, if_none_match: str | None = None) -> ConnexionResponse:
    """Answers one task, or 304 if the client already has this version.

    Raises:
        TaskNotFound: the user has no such task (404).
    """
    task = await tasks.get(user, task_id)
    if if_none_match is not None and matches(if_none_match, task.version):
        return ConnexionResponse(304, headers={**PRIVATE, "ETag": entity_tag(task.version)})
    return _answer(task, headers=PRIVATE)


async def replace_task(
    tasks: Tasks,
    user: User,
    task_id: str,
    body: dict[str, Any],
    *,
    if_match: str | None = None,
) -> ConnexionResponse:
    """Replaces a task's title and description, and `completed` if it was sent, and answers the task.

    Raises:
        TaskNotFound: the user has no such task (404).
        VersionMismatch: the task's entity tag is not in If-Match (412).
    """
    task = await tasks.replace(
        user,
        task_id,
        title=body["title"],
        description=body.get("description"),
        completed=body.get("completed"),
        versions=versions(if_match),
    )
    return _answer(task)


async def update_task(
    tasks: Tasks,
    user: User,
    task_id: str,
    body: dict[str, Any],
    *,
    if_match: str | None = None,
) -> ConnexionResponse:
    """Changes the members that were sent, as a merge patch (RFC 7396), and answers the task.

    Raises:
        TaskNotFound: the user has no such task (404).
        VersionMismatch: the task's entity tag is not in If-Match (412).
    """
    task = await tasks.update(
        user,
        task_id,
        title=body.get("title"),
        description=body.get("description", KEEP),
        completed=body.get("completed"),
        versions=versions(if_match),
    )
    return _answer(task)


async def delete_task(tasks: Tasks, user: User, task_id: str, if_match: str | None = None) -> ConnexionResponse:
    """Deletes a task permanently.

    Raises:
        TaskNotFound: the user has no such task (404).
        VersionMismatch: the task's entity tag is not in If-Match (412).
    """
    await tasks.delete(user, task_id, versions=versions(if_match))
    return ConnexionResponse(204)


async def toggle_task_completion(
    tasks: Tasks, user: User, task_id: str, *, root_path: str, if_match: str | None = None
) -> ConnexionResponse:
    """Toggles whether a task is completed, and answers the task with its `Content-Location`.

    Raises:
        TaskNotFound: the user has no such task (404).
        VersionMismatch: the task's entity tag is not in If-Match (412).
    """
    task = await tasks.toggle(user, task_id, versions=versions(if_match))
    return _answer(task, headers={"Content-Location": _path(root_path, user, task_id)})


def _path(root_path: str, user: User, task_id: str) -> str:
    return f"{root_path}/api/{_encoded(user.id)}/tasks/{task_id}"


@lru_cache(maxsize=1_000)
def _encoded(user_id: str) -> str:
    return quote(user_id, safe="")


def _answer(task: TaskRow, *, status: int = 200, headers: dict[str, str] | None = None) -> ConnexionResponse:
    return ConnexionResponse(
        status, content_type=JSON, body=task.json, headers={**(headers or {}), "ETag": entity_tag(task.version)}
    )
