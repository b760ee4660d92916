"""What the log says of a run: a first and a last line, true, that name the function and what it
was called with; and a word when an end takes its time.
"""

from __future__ import annotations

import logging
import re
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import parallel_exec as px
from tests.integration.processes import PATIENCE_S


def double(item: int) -> int:
    return 2 * item


def fail(*_: object) -> None:
    raise LookupError("no")


def left() -> None:
    values = px.parallel_imap(double, range(100), 1)
    next(values)
    values.close()


def left_at_its_end() -> None:
    with px.as_completed([lambda: 1]) as outcomes:
        next(outcomes)


def failing(call: Callable[[], object]) -> Callable[[], None]:
    def caught() -> None:
        with pytest.raises((LookupError, px.errors.ParallelExecError)):
            call()

    return caught


CALLS: dict[str, tuple[Callable[[], object], str, str]] = {
    "run": (lambda: px.run("true"), "run started: true, 1 task", "run ended: true, 1 fulfilled"),
    "run with a label": (
        lambda: px.run("true", label="deploy"),
        "run started: deploy, 1 task",
        "run ended: deploy, 1 fulfilled",
    ),
    "run that fails": (
        failing(lambda: px.run("false")),
        "run started: false, 1 task",
        "run ended: false, 1 rejected",
    ),
    "submit": (
        lambda: px.submit("true").result(),
        "submit started: true, 1 task",
        "submit ended: true, 1 fulfilled",
    ),
    "submit that fails": (
        failing(lambda: px.submit("exit 3").result()),
        "submit started: exit 3, 1 task",
        "submit ended: exit 3, 1 rejected",
    ),
    "all": (lambda: px.all(["true", int]), "all started, 2 tasks", "all ended, 2 fulfilled"),
    "all that fails": (
        failing(lambda: px.all([fail, "sleep 60"], concurrency=1)),
        "all started, 2 tasks",
        "all ended, 1 rejected, 1 skipped",
    ),
    "any": (
        lambda: px.any([int, "sleep 60"], concurrency=1),
        "any started, 2 tasks",
        "any ended, 1 fulfilled, 1 skipped",
    ),
    "map": (
        lambda: px.parallel_map(double, [1, 2]),
        "parallel_map started: double, 2 tasks",
        "parallel_map ended: double, 2 fulfilled",
    ),
    "imap": (
        lambda: list(px.parallel_imap(double, iter([1, 2]))),
        "parallel_imap started: double",
        "parallel_imap ended: double, 2 fulfilled",
    ),
    "imap that is left": (
        left,
        "parallel_imap started: double, 100 tasks",
        "parallel_imap ended: double, ... (it was left)",
    ),
    "as_completed, left at its end": (
        left_at_its_end,
        "as_completed started, 1 task",
        "as_completed ended, 1 fulfilled",
    ),
    "deadline": (
        failing(lambda: px.all(["sleep 60"], deadline=0.05)),
        "all started, 1 task",
        "all ended, 1 cancelled (DeadlineExceededError: the run was over its deadline of 0.05 s)",
    ),
    "no tasks": (lambda: px.all([]), "all started, 0 tasks", "all ended, no tasks"),
}


class Lines(logging.Handler):
    """Keeps what is logged, and tells when a run has ended."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        self.over = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        line = re.sub(r" after [\d.e-]+ s", "", record.getMessage())
        self.lines.append(re.sub(r", \d+ \w+(, \d+ \w+)* \(it", ", ... (it", line))
        if " ended" in line:
            self.over.set()


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Return what a program hears that wants to know of runs."""
    logger, handler = logging.getLogger("parallel_exec"), Lines()
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


@pytest.mark.parametrize("name", CALLS)
def test_a_run_has_a_first_and_a_last_line_that_are_true(name: str, lines: Lines) -> None:
    """Each names the function, and the command or the function that it was called with."""
    call, first, last = CALLS[name]
    call()
    assert lines.over.wait(PATIENCE_S)
    assert lines.lines == [first, last]


def test_a_retry_of_a_submitted_command_is_a_warning(lines: Lines) -> None:
    """As it is of one that is run."""
    retry = px.Retry(2, wait=0, on=px.errors.CommandFailedError)
    assert px.submit("false", retry=retry).exception() is not None
    assert lines.over.wait(PATIENCE_S)
    assert "task 0 failed in try 1" in lines.lines[1]


def test_events_of_a_run_say_how_it_ended() -> None:
    """A listener needs not count."""
    seen: list[px.Event] = []
    px.all_settled([int, fail], on_event=seen.append)
    ended = seen[-1]
    assert isinstance(ended, px.RunFinished)
    assert (ended.label, ended.counts, ended.error) == (
        "all_settled",
        {"fulfilled": 1, "rejected": 1},
        None,
    )


def test_an_interrupt_that_waits_for_functions_says_so() -> None:
    """After a second the log names what is waited for, and how long it may take."""
    said = threading.Event()
    records: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno == logging.WARNING:
                records.append(record.getMessage())
                said.set()

    def stubborn() -> None:
        main: Any = threading.main_thread().ident
        signal.pthread_kill(main, signal.SIGINT)
        said.wait(PATIENCE_S)

    logger, handler = logging.getLogger("parallel_exec"), Handler()
    logger.addHandler(handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            px.all([stubborn], kill_after=PATIENCE_S)
    finally:
        logger.removeHandler(handler)
    (line,) = records
    assert "all waits for what still runs: " in line
    assert "stubborn" in line
    assert "kill_after" in line
