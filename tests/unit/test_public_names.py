"""What is public is what is exported, and the other way round."""

from __future__ import annotations

import builtins
import importlib
import importlib.metadata
import inspect
from types import ModuleType

import pytest

PUBLIC = ["parallel_exec", "parallel_exec.errors", "parallel_exec.testing"]


@pytest.fixture(params=PUBLIC)
def module(request: pytest.FixtureRequest) -> ModuleType:
    """Each public module."""
    return importlib.import_module(request.param)


def test_all_is_sorted(module: ModuleType) -> None:
    """`__all__` is in order, without doubles: constants, classes, then the rest."""

    def place(name: str) -> tuple[bool, bool, str]:
        return (not name.isupper(), not name[0].isupper(), name)

    assert list(module.__all__) == sorted(set(module.__all__), key=place)


def test_all_is_importable(module: ModuleType) -> None:
    """Every name in `__all__` exists."""
    namespace: dict[str, object] = {}
    exec(f"from {module.__name__} import *", namespace)
    assert set(module.__all__) <= namespace.keys()


def test_all_is_complete(module: ModuleType) -> None:
    """Whatever of ours has a public name in a public module is in its `__all__`.

    Except modules, since Python makes each an attribute of its parent when it is imported,
    and names that hide Python's own.
    """
    own = {
        name for name, value in vars(module).items() if not name.startswith("_") and _is_ours(value)
    }
    assert own - set(module.__all__) == own & set(dir(builtins))


def test_a_star_import_replaces_nothing_of_pythons_own(module: ModuleType) -> None:
    """After `from parallel_exec import *`, `all` and `any` are still the builtins."""
    assert set(module.__all__) & set(dir(builtins)) == set()


def test_the_version_is_that_of_the_package() -> None:
    """`px.__version__` is what was installed."""
    px = importlib.import_module("parallel_exec")
    assert px.__version__ == importlib.metadata.version("parallel_exec")


def test_face_shows_its_public_modules() -> None:
    """`px.errors` is reachable without an import of its own."""
    px = importlib.import_module("parallel_exec")
    assert "errors" in px.__all__


def test_every_public_name_says_what_it_is(module: ModuleType) -> None:
    """Every public class, function and module has a docstring."""
    silent = [
        name
        for name in module.__all__
        if (inspect.isclass(value := getattr(module, name)) or callable(value))
        and not inspect.getdoc(value)
    ]
    assert silent == []


def _is_ours(value: object) -> bool:
    home = getattr(value, "__module__", None)  # a module has none
    return isinstance(home, str) and home.split(".")[0] == "parallel_exec"
