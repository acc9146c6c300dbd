"""A contract that changed since its last release has the version number that its changes require."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import yaml

from contract.compatibility import Level, changes, objections, version
from support.paths import CONTRACT

RELEASES = sorted(
    (CONTRACT.parent / "released").glob("*.yaml"), key=lambda path: [int(part) for part in path.stem.split(".")]
)
RELEASED = yaml.safe_load(RELEASES[-1].read_text())

TASKS = "/api/{user_id}/tasks"
TASK = f"{TASKS}/{{task_id}}"

Mutation = Callable[[dict[str, Any]], object]


def components(contract: dict[str, Any], kind: str, name: str) -> Any:
    return contract["components"][kind][name]


def schema(contract: dict[str, Any], name: str) -> Any:
    return components(contract, "schemas", name)


def put(node: dict[str, Any], **members: object) -> None:
    node.update(members)


BREAKING = {
    "removed-path": (
        lambda c: c["paths"].pop(f"{TASK}/complete"),
        "operations: PATCH /api/{user_id}/tasks/{task_id}/complete was removed",
    ),
    "removed-operation": (
        lambda c: c["paths"][TASK].pop("put"),
        "operations: PUT /api/{user_id}/tasks/{task_id} was removed",
    ),
    "lowered-maximum": (
        lambda c: put(components(c, "parameters", "Limit")["schema"], maximum=50),
        "GET /api/{user_id}/tasks query parameter limit: maximum was 100, is 50",
    ),
    "new-required-member": (
        lambda c: (
            put(schema(c, "TaskCreate")["properties"], due={"type": "string"}),
            schema(c, "TaskCreate")["required"].append("due"),
        ),
        "POST /api/{user_id}/tasks request body application/json/due: was added, and is required",
    ),
    "optional-parameter-made-required": (
        lambda c: put(components(c, "parameters", "CompletedFilter"), required=True),
        "GET /api/{user_id}/tasks query parameter completed: became required",
    ),
    "removed-response-member": (
        lambda c: (
            schema(c, "Task")["properties"].pop("updated_at"),
            schema(c, "Task")["required"].remove("updated_at"),
        ),
        "GET /api/{user_id}/tasks/{task_id} 200 application/json/updated_at: was removed",
    ),
    "closed-enum": (
        lambda c: put(schema(c, "Title"), enum=["Buy oat milk"]),
        "POST /api/{user_id}/tasks request body application/json/title: enum was",
    ),
    "removed-media-type": (
        lambda c: c["paths"][TASK]["patch"]["requestBody"]["content"].pop("application/json"),
        "PATCH /api/{user_id}/tasks/{task_id} request body media types: application/json was removed",
    ),
    "changed-type": (
        lambda c: put(schema(c, "Completed"), type="string"),
        "PUT /api/{user_id}/tasks/{task_id} request body application/json/completed: type was boolean, is string",
    ),
    "removed-status": (
        lambda c: c["paths"][TASK]["get"]["responses"].pop("304"),
        "GET /api/{user_id}/tasks/{task_id} responses: 304 was removed",
    ),
}

HARMLESS = {
    "added-optional-member": (
        lambda c: put(schema(c, "TaskCreate")["properties"], due={"type": "string"}),
        "POST /api/{user_id}/tasks request body application/json/due: was added",
    ),
    "added-operation": (
        lambda c: put(
            c["paths"], **{f"{TASK}/copies": {"post": c["paths"][TASK]["get"] | {"operationId": "copy_task"}}}
        ),
        "operations: POST /api/{user_id}/tasks/{task_id}/copies was added",
    ),
    "wider-maximum": (
        lambda c: put(schema(c, "Title"), maxLength=300),
        "POST /api/{user_id}/tasks request body application/json/title: maxLength was 200, is 300",
    ),
    "added-optional-parameter": (
        lambda c: c["paths"][TASKS]["get"]["parameters"].append(
            {"name": "due", "in": "query", "schema": {"type": "string"}}
        ),
        "GET /api/{user_id}/tasks query parameter due: was added",
    ),
    "added-response-member": (
        lambda c: (
            put(schema(c, "Task")["properties"], due={"type": "string"}),
            schema(c, "Task")["required"].append("due"),
        ),
        "GET /api/{user_id}/tasks/{task_id} 200 application/json/due: was added",
    ),
    "added-media-type": (
        lambda c: put(
            c["paths"][TASKS]["post"]["requestBody"]["content"],
            **{"application/vnd.api+json": {"schema": {"type": "object"}}},
        ),
        "POST /api/{user_id}/tasks request body media types: application/vnd.api+json was added",
    ),
    "added-response-header": (
        lambda c: put(c["paths"][TASKS]["get"]["responses"]["200"]["headers"], Age={"schema": {"type": "string"}}),
        "GET /api/{user_id}/tasks 200 headers: Age was added",
    ),
    "required-member-made-optional": (
        lambda c: schema(c, "TaskReplace").pop("required"),
        "PUT /api/{user_id}/tasks/{task_id} request body application/json/title: became optional",
    ),
    "other-description-and-summary": (
        lambda c: (
            put(c["info"], description="Tasks."),
            put(c["paths"][TASK]["get"], summary="Get one", description="One task."),
            put(schema(c, "Title"), description="In a few words."),
            put(components(c, "parameters", "Limit"), description="At most so many."),
        ),
        None,
    ),
    "added-response-example": (
        lambda c: put(
            c["paths"][TASK]["get"]["responses"]["200"]["content"]["application/json"]["examples"],
            another={"$ref": "#/components/examples/NewTask"},
        ),
        None,
    ),
}


def mutated(mutation: Mutation, *, level: Level | None = None) -> dict[str, Any]:
    """The released contract, changed, with that place of its version number raised; without one, the last."""
    contract = deepcopy(RELEASED)
    mutation(contract)
    numbers = list(version(contract))
    place = 2 if level is None else level
    numbers[place:] = [numbers[place] + 1] + [0] * (2 - place)
    contract["info"]["version"] = ".".join(map(str, numbers))
    return contract


@pytest.mark.requirement("SC-05")
def test_the_contract_has_the_version_that_its_changes_since_the_last_release_ask_for() -> None:
    assert objections(RELEASED, yaml.safe_load(CONTRACT.read_text())) == []


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.stem)
def test_a_release_is_named_by_its_version(release: Any) -> None:
    assert yaml.safe_load(release.read_text())["info"]["version"] == release.stem


def test_a_contract_with_the_version_of_a_release_is_that_release() -> None:
    number = yaml.safe_load(CONTRACT.read_text())["info"]["version"]
    release = CONTRACT.parent / "released" / f"{number}.yaml"

    assert not release.exists() or release.read_bytes() == CONTRACT.read_bytes(), (
        f"openapi.yaml says that it is {number}, and differs from the {number} that was released: give it a new version"
    )


@pytest.mark.parametrize(("mutation", "named"), BREAKING.values(), ids=BREAKING)
def test_a_breaking_change_wants_a_new_major_version_and_is_named(mutation: Mutation, named: str) -> None:
    for level in (None, Level.MINOR):
        assert [why for why in objections(RELEASED, mutated(mutation, level=level)) if named in why] != []
    assert objections(RELEASED, mutated(mutation, level=Level.MAJOR)) == []


@pytest.mark.parametrize(("mutation", "named"), HARMLESS.values(), ids=HARMLESS)
def test_a_harmless_change_wants_a_new_minor_version_or_if_nobody_notices_it_none(
    mutation: Mutation, named: str | None
) -> None:
    refused = objections(RELEASED, mutated(mutation))

    assert [why for why in refused if named and named in why] != [] if named else refused == []
    assert objections(RELEASED, mutated(mutation, level=Level.MINOR)) == []


def test_a_version_that_goes_back_is_refused() -> None:
    assert objections(mutated(lambda _: None), RELEASED) != []


@pytest.mark.parametrize(
    ("old", "new", "request_level", "answer_level"),
    [
        pytest.param({"enum": ["a"]}, {"enum": ["a", "b"]}, Level.MINOR, Level.MAJOR, id="wider-enum"),
        pytest.param({"enum": ["a", "b"]}, {"enum": ["a"]}, Level.MAJOR, Level.MAJOR, id="narrower-enum"),
        pytest.param({"type": "integer"}, {"type": "number"}, Level.MINOR, Level.MAJOR, id="any-number"),
        pytest.param({"type": "number"}, {"type": "integer"}, Level.MAJOR, Level.MINOR, id="whole-numbers"),
        pytest.param({"type": "string"}, {"type": "string", "nullable": True}, Level.MINOR, Level.MAJOR, id="nullable"),
        pytest.param({"type": "string"}, {"type": "string", "format": "uuid"}, Level.MAJOR, Level.MINOR, id="format"),
        pytest.param({"pattern": "^a$"}, {"pattern": "^b$"}, Level.MAJOR, Level.MINOR, id="another-pattern"),
        pytest.param({"minimum": 1}, {"minimum": 0}, Level.MINOR, Level.MINOR, id="lower-minimum"),
        pytest.param({"minimum": 1}, {"minimum": 2}, Level.MAJOR, Level.MINOR, id="higher-minimum"),
        pytest.param(
            {"maximum": 1}, {"maximum": 1, "exclusiveMaximum": True}, Level.MAJOR, Level.MINOR, id="exclusive"
        ),
        pytest.param({"default": 1}, {"default": 2}, Level.MAJOR, None, id="another-default"),
        pytest.param(
            {"additionalProperties": False}, {"additionalProperties": True}, Level.MINOR, Level.MAJOR, id="opened"
        ),
        pytest.param({}, {"additionalProperties": False}, Level.MAJOR, Level.MINOR, id="closed"),
        pytest.param(
            {"items": {"maxLength": 9}}, {"items": {"maxLength": 8}}, Level.MAJOR, Level.MINOR, id="shorter-items"
        ),
    ],
)
def test_what_a_request_may_no_longer_say_breaks_and_what_an_answer_may_newly_say(
    old: dict[str, Any], new: dict[str, Any], request_level: Level | None, answer_level: Level | None
) -> None:
    def contract(sent: dict[str, Any], answered: dict[str, Any]) -> dict[str, Any]:
        operation = {
            "operationId": "do_it",
            "requestBody": {"required": True, "content": {"application/json": {"schema": sent}}},
            "responses": {"200": {"content": {"application/json": {"schema": answered}}}},
        }
        return {"servers": [], "paths": {"/": {"post": operation}}}

    assert [change.level for change in changes(contract(old, old), contract(new, old))] == [request_level]
    assert [change.level for change in changes(contract(old, old), contract(old, new))] == [answer_level] * (
        answer_level is not None
    )
