"""Every operation of the contract, read from it, so that a test of all operations cannot forget a new one."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

import yaml

from support.paths import CONTRACT

TASKS = "/api/{user_id}/tasks"

CONDITIONS = frozenset({"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"})
"""RFC 9110, section 13.1."""


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation, and a request to it that the service accepts."""

    id: str
    method: str
    suffix: str
    """What follows the path of the user's tasks; `{task_id}` stands for a task's id."""
    body: object
    status: int
    """What a valid request gets."""
    conditions: frozenset[str]
    """The headers that make the operation conditional."""

    @property
    def needs_task(self) -> bool:
        return "{task_id}" in self.suffix

    def path(self, user_id: str, task_id: object = None) -> str:
        """The operation's path for a user and a task, by default a task that nobody has."""
        return TASKS.format(user_id=user_id) + self.suffix.format(task_id=task_id or uuid4())


def read() -> dict[str, Operation]:
    """The operations by id, in the contract's order. Raises ValueError for one that is not about a user's tasks."""
    found = {}
    contract = yaml.safe_load(CONTRACT.read_text())
    parameters = contract["components"]["parameters"]
    for path, item in contract["paths"].items():
        if not path.startswith(TASKS):
            raise ValueError(f"{path} needs an entry in tests/support/operations.py")
        for method, operation in item.items():
            if "operationId" in operation:
                found[operation["operationId"]] = Operation(
                    operation["operationId"],
                    method.upper(),
                    path.removeprefix(TASKS),
                    {"title": "new"} if "requestBody" in operation else None,
                    min(int(status) for status in operation["responses"] if status.startswith("2")),
                    frozenset(
                        parameters[parameter["$ref"].rpartition("/")[2]]["name"]
                        for parameter in operation["parameters"]
                    )
                    & CONDITIONS,
                )
    return found


OPERATIONS = read()
TASK_OPERATIONS = {name: operation for name, operation in OPERATIONS.items() if operation.needs_task}
WRITES = {name: operation for name, operation in OPERATIONS.items() if operation.method != "GET"}
CHANGES = {name: operation for name, operation in WRITES.items() if operation.needs_task}
