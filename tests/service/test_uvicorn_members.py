"""What app/http uses of uvicorn although uvicorn promises nothing about it: its next release may not have it."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import app.http

MEMBERS = {
    "uvicorn.config": "STARTUP_FAILURE",
    "uvicorn.config:Config": "configure_logging workers",
    "uvicorn.lifespan.on:LifespanOn": "shutdown state",
    "uvicorn.protocols.http.flow_control": "FlowControl",
    "uvicorn.protocols.http.flow_control:FlowControl": "pause_reading read_paused resume_reading write_paused",
    "uvicorn.protocols.http.httptools_impl": "HttpToolsProtocol RequestResponseCycle STATUS_LINE",
    "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol": (
        "_should_upgrade _start_asgi_task access_logger app app_state connection_lost connection_made cycle"
        " data_received eof_received flow headers logger loop on_header on_headers_complete on_message_complete"
        " on_response_complete on_url parser pause_writing pipeline resume_writing scope server_state"
        " shutdown timeout_keep_alive transport url"
    ),
    "uvicorn.protocols.http.httptools_impl:RequestResponseCycle": (
        "__init__ chunked_encoding default_headers disconnected expected_content_length flow keep_alive message_event"
        " more_body response_complete response_started scope send transport waiting_for_100_continue"
    ),
    "uvicorn.server:Server": "__init__ config lifespan run server_state servers shutdown started startup",
    "uvicorn.server:ServerState": "default_headers",
}
"""Modules and their classes, each with the names that are used. The bound of uvicorn in pyproject.toml is for these."""

RECEIVERS = {
    "config": "uvicorn.config:Config",
    "cycle": "uvicorn.protocols.http.httptools_impl:RequestResponseCycle",
    "flow": "uvicorn.protocols.http.flow_control:FlowControl",
    "protocol": "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol",
    "lifespan": "uvicorn.lifespan.on:LifespanOn",
    "server": "uvicorn.server:Server",
    "server_state": "uvicorn.server:ServerState",
}
"""What the variables and attributes of these names hold, wherever they stand."""

SUBCLASSES = {
    "Cycle": "uvicorn.protocols.http.httptools_impl:RequestResponseCycle",
    "Messages": "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol",
    "Protocol": "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol",
    "Server": "uvicorn.server:Server",
}

SOURCES = sorted(Path(app.http.__file__).parent.glob("*.py"))


def test_uvicorn_has_all_that_is_used() -> None:
    gone = [f"{owner} {name}" for owner, names in MEMBERS.items() for name in names.split() if name not in has(owner)]

    assert gone == []


def test_all_that_is_used_is_listed() -> None:
    assert used(SOURCES) == {owner: names.split() for owner, names in MEMBERS.items()}


def has(owner: str) -> set[str]:
    """The names in a module, or in a class with those that its methods assign."""
    module, _, name = owner.partition(":")
    found = importlib.import_module(module)
    if not name:
        return set(dir(found))
    tree = ast.parse(inspect.getsource(getattr(found, name)))
    return set(dir(getattr(found, name))) | {
        attribute for receiver, attribute in attributes(tree) if receiver == "self"
    }


def used(sources: list[Path]) -> dict[str, list[str]]:
    """What these files use, by its owner."""
    names: defaultdict[str, set[str]] = defaultdict(set)
    for source in sources:
        tree = ast.parse(source.read_text())
        for receiver, attribute in attributes(tree):
            if receiver in RECEIVERS:
                names[RECEIVERS[receiver]].add(attribute)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("uvicorn."):
                names[node.module] |= {alias.name for alias in node.names}
            if isinstance(node, ast.ClassDef) and node.name in SUBCLASSES:
                owner = SUBCLASSES[node.name]
                touched = {attribute for receiver, attribute in attributes(node) if receiver in {"self", "super"}}
                # The rest is our own.
                names[owner] |= (touched | defined(node)) & has(owner)
    return {owner: sorted(found) for owner, found in sorted(names.items())}


def defined(class_: ast.ClassDef) -> set[str]:
    """The methods of a class, and what it assigns or declares."""
    return {
        node.name
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        else ast.unparse(node).removeprefix("self.")
        for node in ast.walk(class_)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store))
    }


def attributes(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Each access to an attribute: the last name of what has it, and its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            match node.value:
                case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Call(func=ast.Name(id=name)):
                    yield name, node.attr
