"""What tasks made of functions are called."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

import parallel_exec as px


def fetch(*args: object, **named: object) -> None:
    """Do nothing."""


class Hostile:
    """Cannot be shown."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def __repr__(self) -> str:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("task", "label"),
    [
        (fetch, "fetch"),
        (partial(fetch, "page", 3), "fetch('page', 3)"),
        (partial(fetch, depth=2), "fetch(depth=2)"),
        (partial(partial(fetch, 1, a=1), 2, a=2, b=3), "fetch(1, 2, a=2, b=3)"),
        (partial(fetch, *range(9)), "fetch(0, 1, 2, 3, 4, ...)"),
        (partial(fetch, Hostile(3)), "fetch(<Hostile instance at "),
    ],
)
def test_functions_are_told_apart(task: Any, label: str) -> None:
    """A partial is called by its function and its arguments."""
    (outcome,) = px.all_settled([task])
    assert outcome.label.startswith(label)
    assert len(outcome.label) <= len(label) + 20


@pytest.mark.parametrize(
    ("item", "shown"),
    [
        ("page", "'page'"),
        (Hostile(ValueError("no")), "<Hostile instance at 0x"),
        (Hostile(3), "<Hostile instance at 0x"),
        (partial, "<class 'functools.partial'>"),
    ],
)
def test_a_mapped_function_names_its_item(item: Any, shown: str) -> None:
    """The label is ``fn(item)``, in an error's note as well."""

    def fails(item: object) -> None:
        raise KeyError

    with pytest.raises(KeyError) as caught:
        px.parallel_map(fails, [item])
    assert f"fails({shown}" in caught.value.__notes__[0]


@pytest.mark.parametrize("item", ["x" * 10**6, list(range(10**6)), Hostile("y" * 10**6)])
def test_labels_are_short(item: Any) -> None:
    """Whatever the item, and whatever its repr."""
    with pytest.raises(ZeroDivisionError) as caught:
        px.parallel_map(lambda item: 1 / 0, [item])
    assert len(caught.value.__notes__[0]) < 300


def test_a_label_with_control_characters_is_escaped_where_it_is_shown() -> None:
    """A repr cannot write to the terminal through an error."""
    with pytest.raises(ZeroDivisionError) as caught:
        px.parallel_map(lambda item: 1 / 0, [Hostile("\x1b[2Jgone\nforged line")])
    assert "\x1b" not in caught.value.__notes__[0]
    assert "\n" not in caught.value.__notes__[0]
