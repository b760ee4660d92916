"""Frozen dataclasses with an `__init__` of our own: as those of the standard library."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, replace
from typing import Any

import pytest

from parallel_exec.values.frozen import frozen


class Declared:
    """What both of the following are made of."""

    first: int
    second: str = "two"
    hidden: bool = field(default=False, init=False)
    third: Any = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", self.first > 1)


def declared(name: str) -> type[Any]:
    """Return a copy of the class, which each decorator may change."""
    members = {key: value for key, value in vars(Declared).items() if key != "__dict__"}
    members.pop("__weakref__", None)
    return type(name, (), {**members, "__qualname__": name})


Ours = frozen(declared("Ours"))
Theirs = dataclass(frozen=True, slots=True)(declared("Theirs"))


@pytest.mark.parametrize(
    ("args", "options"),
    [((1,), {}), ((2, "b"), {"third": 3}), ((), {"second": "c", "first": 0})],
)
def test_they_hold_the_same(args: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Positions, names and defaults, and what is set afterwards."""
    ours, theirs = Ours(*args, **options), Theirs(*args, **options)
    for name in ("first", "second", "hidden", "third"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
    assert ours == Ours(*args, **options)
    assert hash(ours) == hash(theirs)


@pytest.mark.parametrize(
    ("args", "options"), [((), {}), ((1, "b", 3), {}), ((1,), {"hidden": True}), ((1,), {"no": 1})]
)
def test_they_refuse_the_same(args: tuple[Any, ...], options: dict[str, Any]) -> None:
    """With the same words."""
    with pytest.raises(TypeError) as ours:
        Ours(*args, **options)
    with pytest.raises(TypeError) as theirs:
        Theirs(*args, **options)
    assert str(ours.value) == str(theirs.value).replace("Theirs", "Ours")


def test_they_look_the_same_and_stay_as_they_are() -> None:
    """To `inspect` and so to the documentation; nothing can be set or added; copies are equal."""
    assert inspect.signature(Ours) == inspect.signature(Theirs)
    ours = Ours(5, third="x")
    for name in ("first", "new"):
        with pytest.raises((FrozenInstanceError, TypeError)):
            setattr(ours, name, 1)
    assert not hasattr(ours, "__dict__")
    assert replace(ours, second="b") == Ours(5, "b", third="x")
    assert copy.copy(ours) == pickle.loads(pickle.dumps(ours)) == ours
