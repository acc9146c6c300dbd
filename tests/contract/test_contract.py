"""The contract is valid, complete and true: every name in it leads somewhere, every example is one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import reduce
from typing import Any

import httpx
import pytest
import yaml
from connexion.utils import get_function_from_name
from openapi_spec_validator import validate

from db.statements import PAGE_LIMIT
from handlers.problems import PROBLEMS, TYPE_PREFIX
from openapi.schemas import compile_schema
from support.paths import CONTRACT

SPECIFICATION = yaml.safe_load(CONTRACT.read_text())
COMPONENTS = SPECIFICATION["components"]
METHODS = ("get", "put", "post", "delete", "patch")

OPERATIONS = {
    operation["operationId"]: operation
    for path_item in SPECIFICATION["paths"].values()
    for method, operation in path_item.items()
    if method in METHODS
}


def resolve(node: Any) -> Any:
    """The node with every reference in it replaced by what it refers to."""
    if isinstance(node, dict):
        if "$ref" in node:
            return resolve(reduce(lambda at, key: at[key], node["$ref"].removeprefix("#/").split("/"), SPECIFICATION))
        return {key: resolve(value) for key, value in node.items()}
    return [resolve(member) for member in node] if isinstance(node, list) else node


def walk(node: Any, pointer: str = "") -> Iterator[tuple[str, Any]]:
    yield pointer, node
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from walk(value, f"{pointer}/{key}")


def examples() -> Iterator[Any]:
    """Every schema that has examples, of its own or beside it, with each of them."""
    for pointer, node in walk(resolve(SPECIFICATION)):
        if not isinstance(node, dict) or pointer.startswith("/components/examples"):
            continue
        schema = node["schema"] if isinstance(node.get("schema"), dict) else node
        if "example" in node and ("schema" in node or "type" in node):
            yield pytest.param(schema, node["example"], id=pointer)
        if isinstance(node.get("examples"), dict) and "schema" in node:
            for name, example in node["examples"].items():
                yield pytest.param(schema, example["value"], id=f"{pointer}/{name}")


@pytest.mark.requirement("SC-05")
def test_the_contract_is_valid_openapi() -> None:
    validate(SPECIFICATION)


@pytest.mark.requirement("FR-06", "FR-07", "FR-08", "FR-09", "FR-10", "FR-11", "FR-12")
def test_the_contract_has_the_seven_operations() -> None:
    assert sorted(OPERATIONS) == [
        "create_task", "delete_task", "get_task", "list_tasks", "replace_task", "toggle_task_completion", "update_task",
    ]  # fmt: skip


@pytest.mark.requirement("SC-05")
@pytest.mark.parametrize(("schema", "example"), list(examples()))
def test_every_example_validates_against_its_schema(schema: dict[str, Any], example: object) -> None:
    assert compile_schema(schema, "").is_valid(json.loads(json.dumps(example)))


@pytest.mark.requirement("FR-07")
def test_the_database_reads_one_row_more_than_the_largest_page() -> None:
    """The contract's maximum and the statements' limit are written twice; the row more tells whether a page follows."""
    assert COMPONENTS["parameters"]["Limit"]["schema"]["maximum"] + 1 == PAGE_LIMIT


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_every_operation_names_a_handler(operation: dict[str, Any]) -> None:
    name = f"{operation['x-openapi-router-controller']}.{operation['operationId']}"

    assert callable(get_function_from_name(name))


@pytest.mark.parametrize("scheme", COMPONENTS["securitySchemes"].values(), ids=COMPONENTS["securitySchemes"])
def test_every_security_scheme_names_its_function(scheme: dict[str, Any]) -> None:
    assert callable(get_function_from_name(scheme["x-bearerInfoFunc"]))


@pytest.mark.requirement("SR-01")
def test_every_operation_inherits_the_security_of_the_root() -> None:
    assert SPECIFICATION["security"] == [{name: []} for name in COMPONENTS["securitySchemes"]]
    assert [name for name, operation in OPERATIONS.items() if "security" in operation] == []


@pytest.mark.parametrize("link", COMPONENTS["links"].values(), ids=COMPONENTS["links"])
def test_every_link_leads_to_an_operation_and_its_parameters(link: dict[str, Any]) -> None:
    path_item = next(
        path_item
        for path_item in SPECIFICATION["paths"].values()
        if link["operationId"] in [path_item[method]["operationId"] for method in METHODS if method in path_item]
    )
    parameters = [*path_item["parameters"], *OPERATIONS[link["operationId"]].get("parameters", [])]

    assert link["parameters"].keys() <= {resolve(parameter)["name"] for parameter in parameters}


def test_every_component_is_used() -> None:
    used = {node["$ref"] for _, node in walk(SPECIFICATION) if isinstance(node, dict) and "$ref" in node}
    declared = {
        f"#/components/{kind}/{name}"
        for kind, components in COMPONENTS.items()
        if kind != "securitySchemes"
        for name in components
    }

    assert declared - used == set()
    assert used - declared == set()


def test_paths_hold_bodies_and_answers_and_refer_to_all_else() -> None:
    """Some generators do not follow a reference to a request body or to a success; all follow the others."""
    for operation in OPERATIONS.values():
        assert all("$ref" in parameter for parameter in operation.get("parameters", ()))
        assert "$ref" not in operation.get("requestBody", {})
        for status, response in operation["responses"].items():
            assert ("$ref" in response) == (not status.startswith("2"))
    assert [at for at, node in walk(SPECIFICATION["paths"]) if isinstance(node, dict) and "type" in node] == []


def test_no_name_means_two_components() -> None:
    kinds = [kind for kind in COMPONENTS if kind not in ("examples", "headers", "links")]
    names = [name for kind in kinds for name in COMPONENTS[kind]]

    assert len(names) == len(set(names))


def test_what_generators_trip_over_is_not_there() -> None:
    for at, node in walk(SPECIFICATION):
        if isinstance(node, dict) and at.startswith(("/paths", "/components")):
            if node.get("format") in ("uuid", "date-time", "uri"):
                assert not node.keys() & {"maxLength", "minLength", "pattern"}, f"C# has no length of a Guid: {at}"
            if at.startswith("/components/headers"):
                assert "enum" not in node, f"typed-openapi and OCaml do not escape these: {at}"
            if "in" in node and "name" in node:
                assert node.get("required") or "example" not in node, f"Swagger UI would send this: {at}"


@pytest.mark.parametrize("name", COMPONENTS["schemas"])
def test_every_schema_is_titled_described_and_has_an_example_or_members_that_have(name: str) -> None:
    schema = COMPONENTS["schemas"][name]

    assert schema["title"] == name
    assert schema["description"]
    for member in schema.get("properties", {"": schema}).values():
        resolved = resolve(member)
        assert resolved["description"]
        assert "example" in resolved or resolved["type"] in ("array", "object")


@pytest.mark.parametrize("name", ["TaskCreate", "TaskReplace", "TaskPatch"])
def test_requests_are_closed(name: str) -> None:
    assert COMPONENTS["schemas"][name]["additionalProperties"] is False


def test_patterns_mean_the_same_in_every_language() -> None:
    patterns = [node["pattern"] for _, node in walk(SPECIFICATION) if isinstance(node, dict) and "pattern" in node]

    # Every dialect has these escapes. They mean little different things, in which ECMA-262 decides.
    assert [pattern for pattern in patterns if re.search(r"\\[^sS.?]", pattern)] == []
    assert [pattern for pattern in patterns if not re.fullmatch(r"\^.*\$", pattern)] == []


@pytest.mark.requirement("FR-19")
def test_the_problem_types_of_the_contract_are_those_of_the_table() -> None:
    schema = COMPONENTS["schemas"]["ProblemType"]
    declared = schema["x-extensible-enum"]

    statuses = {problem.name: str(problem.status) for problem in PROBLEMS.values()} | {"internal-error": "500"}
    assert sorted(declared) == sorted(TYPE_PREFIX + name for name in statuses)
    assert dict(re.findall(r"^\| `([a-z-]+)` \| ([0-9]{3}) \|", schema["description"], re.MULTILINE)) == statuses


@pytest.mark.requirement("FR-19")
def test_every_error_of_every_operation_is_a_problem() -> None:
    for operation in OPERATIONS.values():
        for status, response in resolve(operation["responses"]).items():
            if status >= "400":
                assert list(response["content"]) == ["application/problem+json"]


@pytest.mark.requirement("FR-18")
def test_the_contract_has_every_status_that_is_required() -> None:
    statuses = {status for operation in OPERATIONS.values() for status in operation["responses"]}

    assert statuses == {
        "200", "201", "204", "304", "401", "403", "404", "406",
        "412", "413", "415", "422", "429", "500", "503", "default",
    }  # fmt: skip
    assert all("default" in operation["responses"] for operation in OPERATIONS.values())


@pytest.mark.requirement("SC-01", "SC-07")
def test_the_service_hands_out_its_contract(service_url: str) -> None:
    written = httpx.get(f"{service_url}/openapi.yaml")
    as_json = httpx.get(f"{service_url}/openapi.json")

    internal = ("x-openapi-router-controller", "x-bearerInfoFunc", "x-requirements", "x-internal")

    def without_internal(node: Any) -> Any:
        match node:
            case dict():
                return {key: without_internal(value) for key, value in node.items() if key not in internal}
            case list():
                return [without_internal(member) for member in node]
        return node

    assert as_json.json() == without_internal(SPECIFICATION)
    assert yaml.safe_load(written.text) == as_json.json()
    assert set(written.text.splitlines()) <= set(CONTRACT.read_text().splitlines())
