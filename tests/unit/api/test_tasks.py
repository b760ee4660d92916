"""Tasks that say more about themselves."""

from __future__ import annotations

import threading
from functools import partial

import pytest

import parallel_exec as px
from parallel_exec.errors import ConfigError, TaskTimeoutError


def test_a_list_begins_by_priority() -> None:
    """The most urgent of a list begins first, equals in their order; outcomes keep theirs."""
    begun: list[str] = []

    def begin(name: str) -> str:
        begun.append(name)
        return name

    tasks = [
        px.Task(partial(begin, name), priority=priority)
        for name, priority in [("a", 0), ("b", 2), ("c", 1), ("d", 2)]
    ]
    assert px.all(tasks, concurrency=1) == ["a", "b", "c", "d"]
    assert begun == ["b", "d", "c", "a"]


def test_weights_share_the_limit() -> None:
    """Heavy tasks take the room of several."""
    lock = threading.Lock()
    inside = most = 0

    def work() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        with lock:
            inside -= 1

    px.all([px.Task(work, weight=2) for _ in range(40)], concurrency=px.ConcurrencyLimiter(4))
    assert 1 <= most <= 2


def test_labels_and_timeouts_are_those_of_the_task() -> None:
    """They override those of the command, and name functions."""
    outcomes = px.all_settled(
        [
            px.Task("sleep 5", label="nap", timeout=0.01),
            px.Task(lambda: None, label="nothing"),
            px.Task(["echo", "hello"], label="greeting"),
        ],
        kill_after=0,
    )
    assert [outcome.label for outcome in outcomes] == ["nap", "nothing", "greeting"]
    assert isinstance(outcomes[0].reason, TaskTimeoutError)
    assert [outcome.ok for outcome in outcomes] == [False, True, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"priority": "high"}, "priority must be a number"),
        ({"priority": float("nan")}, "priority must be"),
        ({"weight": 0}, "weight must be"),
        ({"key": []}, "key must be hashable"),
        ({"label": 3}, "label must be a string"),
        ({"timeout": -1}, "timeout must be"),
        ({"safe_to_repeat": 1}, "safe_to_repeat must be"),
    ],
)
def test_unusable_values_are_refused(arguments: dict[str, object], message: str) -> None:
    """The message names the parameter."""
    with pytest.raises(ConfigError, match=message):
        px.Task("ls", **arguments)  # type: ignore[arg-type]


def test_a_task_in_a_task_is_refused() -> None:
    """There would be two answers to every question."""
    with pytest.raises(ConfigError, match="what must be a task itself"):
        px.Task(px.Task("ls"))
