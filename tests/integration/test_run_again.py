"""`Outcome.task`: what was given can be run again."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import parallel_exec as px


def test_the_rest_is_run_again(tmp_path: Path) -> None:
    """Whatever was given: commands, functions, tasks with a priority."""
    flag = tmp_path / "flag"

    def function() -> bool:
        if not flag.exists():
            raise ValueError
        return True

    command = px.Command(f"test -e {flag}", label="mine")
    tasks: list[Any] = ["true", command, function, px.Task(f"test -e {flag} || exit 3", priority=2)]
    outcomes = px.all_settled(tasks)
    assert [outcome.task for outcome in outcomes] == tasks
    left = [outcome.task for outcome in outcomes if not outcome.ok]
    assert left == tasks[1:]
    flag.touch()
    assert px.all_settled(left).ok


def test_skipped_tasks_are_there_as_well() -> None:
    """They are what is usually run again."""
    outcomes = px.all_settled(["exit 1", "echo 2", "echo 3"], concurrency=1, max_failures=0)
    assert [outcome.task for outcome in outcomes.skipped] == ["echo 2", "echo 3"]


def test_outcomes_with_functions_can_be_pickled() -> None:
    """The task is left out: a function often cannot be."""
    (outcome,) = px.all_settled([lambda: 3])
    copy = pickle.loads(pickle.dumps(outcome))
    assert copy == outcome
    assert copy.task is None
