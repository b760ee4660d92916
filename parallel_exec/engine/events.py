"""What happens in a run, said once: progress, logs and callbacks listen here.

Events of one run arrive in order, never two at a time: in the calling thread where
there is one that waits (`all`, `parallel_map`, ...), else in a thread of the library's.
A listener that raises is logged; it disturbs neither the run nor other listeners.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from parallel_exec.values.outcome import Outcome, Status

__all__ = [
    "Event",
    "Listener",
    "RunFinished",
    "RunStarted",
    "TaskFinished",
    "TaskRetrying",
    "TaskStarted",
]


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run begins.

    Attributes:
        total: How many tasks it has; None if that is not known beforehand.
        label: What runs: the name of the function that was called.
        subject: What it was called with: the label of the one command, the name of the
            function that is mapped; "" where that is a list of tasks.
    """

    total: int | None
    label: str
    subject: str = ""


@dataclass(frozen=True, slots=True)
class TaskStarted:
    """A try of a task starts.

    Attributes:
        index: The task's place, from 0.
        label: The task's name.
        attempt: Which try, from 1.
    """

    index: int
    label: str
    attempt: int


@dataclass(frozen=True, slots=True)
class TaskRetrying:
    """A try failed and another follows.

    Attributes:
        index: The task's place, from 0.
        label: The task's name.
        attempt: The try that failed, from 1.
        delay_s: Seconds until the next.
        error: Why it failed.
    """

    index: int
    label: str
    attempt: int
    delay_s: float
    error: BaseException


@dataclass(frozen=True, slots=True)
class TaskFinished:
    """A task has its outcome."""

    outcome: Outcome[Any]


@dataclass(frozen=True, slots=True)
class RunFinished:
    """A run is over; every task it knew has its outcome.

    Attributes:
        duration_s: Seconds since `RunStarted`.
        error: What ended it early (a deadline, a cancel, an interrupt; a GeneratorExit where
            an iterator was left), or None.
        label: As in `RunStarted`.
        subject: As in `RunStarted`.
        counts: How many tasks ended with each status.
    """

    duration_s: float
    error: BaseException | None
    label: str = ""
    subject: str = ""
    counts: Mapping[Status, int] = field(default_factory=dict)


Event = RunStarted | TaskStarted | TaskRetrying | TaskFinished | RunFinished
Listener = Callable[[Event], object]
