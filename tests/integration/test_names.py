"""Mappings of names to tasks, and outcomes by their labels."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future
from types import MappingProxyType
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.errors import CommandFailedError, ConfigError

TASKS: dict[str, Any] = {
    "words": ["echo", "words"],
    "script": "echo script",
    "command": px.Command("echo command", label="its own"),
    "function": lambda: "function",
    "task": px.Task("echo task", priority=-1, label="its own"),
}


@pytest.mark.parametrize("run", [px.all, px.fast_fail])
def test_values_come_by_name(run: Any) -> None:
    """A dict with the same names in the same order; the names are run by nobody."""
    values = run(TASKS)
    assert list(values) == list(TASKS)
    texts = {name: getattr(value, "text", lambda v=value: v)() for name, value in values.items()}
    assert texts == {
        "words": "words\n",
        "script": "script\n",
        "command": "command\n",
        "function": "function",
        "task": "task\n",
    }


@pytest.mark.parametrize("make", [dict, OrderedDict, MappingProxyType])
def test_any_mapping_will_do(make: Any) -> None:
    """Whatever class it is of."""
    assert px.all(make({"a": lambda: 1, "b": lambda: 2})) == {"a": 1, "b": 2}


@pytest.mark.parametrize("run", [px.all_settled, px.fail_safe])
def test_outcomes_are_found_by_name(run: Any) -> None:
    """Names are labels; each outcome has what was given."""
    outcomes = run({**TASKS, "fails": "exit 3"})
    assert [outcome.label for outcome in outcomes] == [*TASKS, "fails"]
    assert outcomes["script"].value.text() == "script\n"
    assert outcomes["fails"].status == "rejected"
    assert "fails" in outcomes
    assert "nobody" not in outcomes
    assert outcomes["task"].task is TASKS["task"]
    assert outcomes["words"].task == ["echo", "words"]
    with pytest.raises(KeyError, match="no outcomes have the label 'nobody'"):
        outcomes["nobody"]


def test_a_label_of_several_finds_none() -> None:
    """Which one was meant is not known."""
    outcomes = px.all_settled(["true", "true", "echo one"])
    assert outcomes["echo one"].index == 2
    with pytest.raises(KeyError, match="2 outcomes have the label 'true'"):
        outcomes["true"]


def test_an_error_speaks_of_the_name() -> None:
    """The note of the first failure has it."""
    with pytest.raises(CommandFailedError) as caught:
        px.all({"build": "exit 3", "docs": "true"})
    assert "build" in caught.value.__notes__[0]


def test_others_take_mappings_as_well() -> None:
    """`any`, `race`, `as_completed`, executors, progress and balancers."""
    assert px.any({"a": "exit 1", "b": "echo b"}).text() == "b\n"
    assert px.race({"a": lambda: 7}) == 7  # type: ignore[comparison-overlap]
    assert {each.label for each in px.as_completed({"a": "true", "b": "exit 1"})} == {"a", "b"}
    done: Future[int] = Future()
    done.set_result(3)
    assert px.all({"future": done}) == {"future": 3}
    with px.ParallelExecutor() as pool:
        pair = pool.execute_with_errors({"a": lambda: 1, "b": "exit 1"})
        assert (pair.successes, [failure.index for failure in pair.failures]) == ([1], [1])
    balancer = px.LoadBalancer([lambda task: task])
    outcomes = balancer.execute_many_settled({"a": {"command": 1, "weight": 2}, "b": (2, 3)})
    assert [(each.label, each.result().result) for each in outcomes] == [("a", 1), ("b", 2)]
    dealt = px.RoundRobinDistributor([str.upper]).distribute({"x": "a", "y": "b"})
    assert dealt[0].results == ["A", "B"]


@pytest.mark.parametrize("tasks", [{1: "true"}, {("a",): "true"}, {None: "true"}, {b"a": "true"}])
def test_keys_that_are_no_names_are_refused(tasks: Any) -> None:
    """The error shows the key, and nothing runs."""
    with pytest.raises(ConfigError, match="tasks must be a mapping of names") as caught:
        px.all_settled(tasks)
    assert repr(next(iter(tasks))) in str(caught.value)


def test_an_empty_mapping() -> None:
    """As an empty list."""
    assert px.all({}) == {}
    with pytest.raises(ConfigError, match="tasks must not be empty"):
        px.any({})


def test_a_set_is_a_set_of_tasks() -> None:
    """Its members are run."""
    values = px.all({"echo a", "echo b"})
    assert sorted(value.text() for value in values) == ["a\n", "b\n"]


def test_map_settled_gives_an_outcome_for_each_item() -> None:
    """In item order, labelled by item, whatever happens to any of them."""
    outcomes = px.parallel_map_settled(lambda n: 12 // n, [3, 0, 4])
    assert [outcome.status for outcome in outcomes] == ["fulfilled", "rejected", "fulfilled"]
    assert [outcome.task for outcome in outcomes] == [3, 0, 4]
    assert all(
        f"({item})" in outcome.label for item, outcome in zip([3, 0, 4], outcomes, strict=True)
    )
    assert outcomes.values() == [4, 3]
    stopped = px.parallel_map_settled(lambda n: 12 // n, [0, 1, 2], 1, max_failures=0)
    assert [outcome.status for outcome in stopped] == ["rejected", "skipped", "skipped"]
