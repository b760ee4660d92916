"""What is used of paramiko's internals is listed, and is there."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest

import parallel_exec
from parallel_exec.environments.ssh import border

FOLDER = Path(parallel_exec.__file__).parent / "environments" / "ssh"
CLASSES = {
    "Packetizer": border.packet.Packetizer,
    "Transport": border.paramiko.Transport,
    "Channel": border.paramiko.Channel,
    "AuthHandler": border.auth_handler.AuthHandler,
}
USERS = {
    "packets": ["Packetizer"],
    "connection": ["Transport", "Channel"],
    "sending": ["Transport"],
    "pool": ["Transport"],
    "channel": ["Channel"],
    "userauth": ["AuthHandler"],
}


def private(kind: Any) -> set[str]:
    """Return the private names that a class of paramiko has, its objects' included."""
    (tree,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(tree, ast.ClassDef)
    names: set[str] = set()
    for part in tree.body:
        if isinstance(part, ast.FunctionDef):
            names.add(part.name)
        elif isinstance(part, ast.Assign):
            names.update(target.id for target in part.targets if isinstance(target, ast.Name))
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            names.add(node.attr)
    mangled = {f"_{kind.__name__}{name}" if name.startswith("__") else name for name in names}
    return {name for name in mangled if name.startswith("_") and not name.endswith("__")}


def used(module: str) -> set[str]:
    """Return the private names that a module speaks of or defines."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((FOLDER / f"{module}.py").read_text())):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


@pytest.mark.parametrize("name", border.INTERNALS)
def test_what_is_listed_is_there(name: str) -> None:
    """In the paramiko that is installed, whichever it is."""
    assert set(border.INTERNALS[name]) <= private(CLASSES[name])


@pytest.mark.parametrize("module", USERS)
def test_what_is_used_is_listed(module: str) -> None:
    """Whoever wants to know what a new paramiko may break need look at one place."""
    for name in USERS[module]:
        taken = used(module) & private(CLASSES[name])
        assert taken <= set(border.INTERNALS[name]), (module, name)


def test_nothing_is_listed_in_vain() -> None:
    """Each name is used somewhere."""
    for name, listed in border.INTERNALS.items():
        modules = [module for module, names in USERS.items() if name in names]
        assert set(listed) <= set().union(*map(used, modules)), name
