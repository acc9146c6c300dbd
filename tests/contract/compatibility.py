"""What changed between two contracts, and which new version that asks for.

A change is `MAJOR` when a client of the old contract may fail with the new one, and `MINOR` when only a client of the
new one may fail with the old. A request may be refused where less is accepted, a client may fail where more is
answered, and what cannot be decided (one pattern or another) counts as `MAJOR`. Two cases are judged as people and
generated clients meet them: bounds and patterns of an answer are `MINOR` either way, since no client has them, and a
title that may be longer is longer in answers too; an answer's enumeration is `MAJOR` either way, since clients name
its values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import reduce
from math import inf
from typing import Any

Node = Mapping[str, Any]

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
LOWER_BOUNDS = {"minimum": -inf, "minLength": 0, "minItems": 0, "minProperties": 0}
UPPER_BOUNDS = dict.fromkeys(("maximum", "maxLength", "maxItems", "maxProperties"), inf)
FLAGS = ("exclusiveMinimum", "exclusiveMaximum", "uniqueItems")
OPAQUE = ("format", "multipleOf", "not", "allOf", "anyOf", "oneOf", "discriminator")


class Level(IntEnum):
    """The place of the version number that a change asks to be raised."""

    MAJOR = 0
    MINOR = 1


@dataclass(frozen=True, slots=True)
class Change:
    """One change, where it is, and what it asks for."""

    level: Level
    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


def objections(old: Node, new: Node) -> list[str]:
    """Why the new contract's version is too low for what changed since the old one; empty where it is not."""
    before, after = version(old), version(new)
    if after < before:
        return [f"info.version goes back, from {before} to {after}"]
    found = changes(old, new)
    return [
        f"{change} (wants a new {change.level.name} version)" for change in found if not raised(change, before, after)
    ]


def version(contract: Node) -> tuple[int, ...]:
    return tuple(map(int, contract["info"]["version"].split(".")))


def raised(change: Change, before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    return before[: change.level + 1] < after[: change.level + 1]


def changes(old: Node, new: Node) -> list[Change]:
    """Every change that a client can notice."""
    return list(_contracts(resolve(old, old), resolve(new, new)))


def resolve(node: Any, root: Node) -> Any:
    """The node with every reference in it replaced by what it refers to."""
    if isinstance(node, dict):
        if "$ref" in node:
            return resolve(reduce(lambda at, key: at[key], node["$ref"].removeprefix("#/").split("/"), root), root)
        return {key: resolve(value, root) for key, value in node.items()}
    return [resolve(member, root) for member in node] if isinstance(node, list) else node


def _contracts(old: Node, new: Node) -> Iterator[Change]:
    yield from _names(
        "servers", [server["url"] for server in old["servers"]], [server["url"] for server in new["servers"]]
    )
    before, after = _operations(old), _operations(new)
    yield from _names("operations", before, after)
    for name in _common(before, after):
        yield from _operation(name, before[name], after[name])


def _operations(contract: Node) -> dict[str, dict[str, Any]]:
    """The operations by method and path, each with what it inherits from its path and from the root."""
    return {
        f"{method.upper()} {path}": {
            "security": contract.get("security", []),
            **operation,
            "parameters": {
                (parameter["in"], parameter["name"]): parameter
                for parameter in [*path_item.get("parameters", []), *operation.get("parameters", [])]
            },
        }
        for path, path_item in contract["paths"].items()
        for method, operation in path_item.items()
        if method in METHODS
    }


def _operation(place: str, old: Node, new: Node) -> Iterator[Change]:
    if old["operationId"] != new["operationId"]:
        yield Change(Level.MAJOR, place, f"operationId was {old['operationId']}, is {new['operationId']}")
    yield from _names(f"{place} security", _alternatives(old), _alternatives(new))
    before, after = old["parameters"], new["parameters"]
    for key in before.keys() | after.keys():
        yield from _optional(f"{place} {key[0]} parameter {key[1]}", before.get(key), after.get(key))
    yield from _optional(f"{place} request body", old.get("requestBody"), new.get("requestBody"))
    yield from _names(f"{place} responses", old["responses"], new["responses"])
    for status in _common(old["responses"], new["responses"]):
        yield from _response(f"{place} {status}", old["responses"][status], new["responses"][status])


def _alternatives(operation: Node) -> list[str]:
    return [" and ".join(sorted(alternative)) or "nothing" for alternative in operation["security"]]


def _optional(place: str, old: Node | None, new: Node | None) -> Iterator[Change]:
    """A parameter or request body, either of which may be absent from a contract, and optional in it."""
    if old is None and new is None:
        return
    if old is None or new is None:
        present = old or new or {}
        if old is None and not present.get("required", False):
            yield Change(Level.MINOR, place, "was added")
        else:
            yield Change(Level.MAJOR, place, "was added, and is required" if old is None else "was removed")
        return
    was, is_ = old.get("required", False), new.get("required", False)
    if was != is_:
        yield Change(Level.MAJOR if is_ else Level.MINOR, place, f"became {'required' if is_ else 'optional'}")
    for keyword in ("style", "explode", "allowReserved", "allowEmptyValue"):
        if old.get(keyword) != new.get(keyword):
            yield Change(Level.MAJOR, place, f"{keyword} was {old.get(keyword)}, is {new.get(keyword)}")
    if "schema" in old:
        yield from _schema(place, old["schema"], new["schema"], answered=False)
    yield from _contents(place, old, new, answered=False)


def _response(place: str, old: Node, new: Node) -> Iterator[Change]:
    before, after = old.get("headers", {}), new.get("headers", {})
    yield from _names(f"{place} headers", before, after)
    for name in _common(before, after):
        at = f"{place} header {name}"
        was, is_ = before[name].get("required", False), after[name].get("required", False)
        if was != is_:
            yield Change(Level.MAJOR if was else Level.MINOR, at, f"became {'required' if is_ else 'optional'}")
        yield from _schema(at, before[name]["schema"], after[name]["schema"], answered=True)
    yield from _contents(place, old, new, answered=True)


def _contents(place: str, old: Node, new: Node, *, answered: bool) -> Iterator[Change]:
    before, after = old.get("content", {}), new.get("content", {})
    yield from _names(f"{place} media types", before, after)
    for name in _common(before, after):
        at = f"{place} {name}"
        yield from _schema(at, before[name].get("schema", {}), after[name].get("schema", {}), answered=answered)


def _schema(place: str, old: Node, new: Node, *, answered: bool) -> Iterator[Change]:
    for keyword, less, more, was, is_ in _constraints(old, new):
        fatal = more if answered else less
        if answered and keyword in (*LOWER_BOUNDS, *UPPER_BOUNDS, "pattern"):
            fatal = False
        if answered and keyword == "enum":
            fatal = True
        yield Change(Level.MAJOR if fatal else Level.MINOR, place, f"{keyword} was {was}, is {is_}")
    if not answered and old.get("default") != new.get("default"):
        yield Change(Level.MAJOR, place, f"default was {old.get('default')}, is {new.get('default')}")
    yield from _members(place, old, new, answered=answered)
    if "items" in old and "items" in new:
        yield from _schema(f"{place}/*", old["items"], new["items"], answered=answered)


def _constraints(old: Node, new: Node) -> Iterator[tuple[str, bool, bool, object, object]]:
    """Each keyword that changed: its name, whether values were lost by that and whether some were won, old and new."""
    for keyword, absent in (LOWER_BOUNDS | UPPER_BOUNDS).items():
        was, is_ = old.get(keyword, absent), new.get(keyword, absent)
        if was != is_:
            less = is_ > was if keyword in LOWER_BOUNDS else is_ < was
            yield keyword, less, not less, was, is_
    for keyword in FLAGS:
        was, is_ = old.get(keyword, False), new.get(keyword, False)
        if was != is_:
            yield keyword, is_, was, was, is_
    was, is_ = old.get("nullable", False), new.get("nullable", False)
    if was != is_:
        yield "nullable", was, is_, was, is_
    was, is_ = old.get("type"), new.get("type")
    if was != is_:
        widened = is_ is None or (was, is_) == ("integer", "number")
        narrowed = was is None or (was, is_) == ("number", "integer")
        yield "type", not widened, not narrowed, was, is_
    was, is_ = old.get("enum"), new.get("enum")
    if was != is_ and (was is None or is_ is None or sorted(map(str, was)) != sorted(map(str, is_))):
        less = is_ is not None and (was is None or not set(was) <= set(is_))
        more = was is not None and (is_ is None or not set(is_) <= set(was))
        yield "enum", less, more, was, is_
    for keyword in ("pattern", *OPAQUE):
        was, is_ = old.get(keyword), new.get(keyword)
        if was != is_:
            yield keyword, is_ is not None, was is not None, was, is_


def _members(place: str, old: Node, new: Node, *, answered: bool) -> Iterator[Change]:
    before, after = old.get("properties", {}), new.get("properties", {})
    was_required, is_required = set(old.get("required", ())), set(new.get("required", ()))
    for name in before.keys() - after.keys():
        yield Change(Level.MAJOR, f"{place}/{name}", "was removed")
    for name in after.keys() - before.keys():
        fatal = not answered and name in is_required
        yield Change(
            Level.MAJOR if fatal else Level.MINOR, f"{place}/{name}", f"was added{', and is required' * fatal}"
        )
    for name in _common(before, after):
        at = f"{place}/{name}"
        if (name in was_required) != (name in is_required):
            fatal = (name in was_required) if answered else (name in is_required)
            became = "required" if name in is_required else "optional"
            yield Change(Level.MAJOR if fatal else Level.MINOR, at, f"became {became}")
        yield from _schema(at, before[name], after[name], answered=answered)
    was, is_ = old.get("additionalProperties", True), new.get("additionalProperties", True)
    if was != is_:
        fatal = (was is False) if answered else (is_ is not True)
        yield Change(Level.MAJOR if fatal else Level.MINOR, place, f"additionalProperties was {was}, is {is_}")


def _names(place: str, old: Any, new: Any) -> Iterator[Change]:
    for name in old:
        if name not in new:
            yield Change(Level.MAJOR, place, f"{name} was removed")
    for name in new:
        if name not in old:
            yield Change(Level.MINOR, place, f"{name} was added")


def _common(old: Any, new: Any) -> list[Any]:
    return [name for name in old if name in new]
