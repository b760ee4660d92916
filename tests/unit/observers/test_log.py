"""Tests of the log of events."""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from parallel_exec.engine.events import (
    Event,
    RunFinished,
    RunStarted,
    TaskFinished,
    TaskRetrying,
    TaskStarted,
)
from parallel_exec.errors import ConnectError
from parallel_exec.observers import log
from parallel_exec.values.command import Command, sh
from parallel_exec.values.outcome import Outcome
from parallel_exec.values.result import Result
from parallel_exec.values.secret import Secret

EVENTS: list[Event] = [
    RunStarted(2, "all"),
    TaskStarted(0, "fetch", 1),
    TaskRetrying(0, "fetch", 1, 0.25, ConnectError("no route")),
    TaskStarted(0, "fetch", 2),
    TaskFinished(Outcome(0, "fetch", "fulfilled", 7, None, 2, 1.5)),
    TaskFinished(Outcome(1, "store", "rejected", None, ValueError("full"), 1, 0.5)),
    RunFinished(2.0, TimeoutError("too long"), "all", "", {"fulfilled": 1, "rejected": 1}),
]


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """Return the library's logger, cut off from the root and without a level of its own."""
    logger = logging.getLogger("parallel_exec")
    kept = logger.level, logger.propagate, list(logger.handlers)
    logger.propagate = False
    yield logger
    logger.setLevel(kept[0])
    logger.propagate = kept[1]
    logger.handlers[:] = kept[2]


def test_every_event_is_logged_at_its_level(caplog: pytest.LogCaptureFixture) -> None:
    """Runs are told, tries are detail, a try made again is a warning."""
    caplog.set_level(logging.DEBUG, "parallel_exec")
    for event in EVENTS:
        log.listen(event)
    assert caplog.record_tuples == [
        ("parallel_exec", logging.INFO, "all started, 2 tasks"),
        ("parallel_exec", logging.DEBUG, "task 0 started: fetch"),
        (
            "parallel_exec",
            logging.WARNING,
            "task 0 failed in try 1, again in 0.25 s: fetch (ConnectError: no route)",
        ),
        ("parallel_exec", logging.DEBUG, "task 0 started (try 2): fetch"),
        ("parallel_exec", logging.DEBUG, "task 0 fulfilled after 1.5 s: fetch"),
        ("parallel_exec", logging.DEBUG, "task 1 rejected after 0.5 s: store (ValueError: full)"),
        (
            "parallel_exec",
            logging.INFO,
            "all ended after 2 s, 1 fulfilled, 1 rejected (TimeoutError: too long)",
        ),
    ]


def test_an_unknown_total_is_not_made_up(caplog: pytest.LogCaptureFixture) -> None:
    """A run that does not know how many tasks it has says nothing of it."""
    caplog.set_level(logging.INFO, "parallel_exec")
    log.listen(RunStarted(None, "parallel_imap"))
    log.listen(RunFinished(0.5, None, "parallel_imap"))
    assert caplog.messages == [
        "parallel_imap started",
        "parallel_imap ended after 0.5 s, no tasks",
    ]


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR])
def test_what_is_wanted_is_exactly_what_is_logged(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture, level: int
) -> None:
    """An event that the engine may leave out is one that would not have been logged."""
    logger.addHandler(caplog.handler)
    logger.setLevel(level)
    for event in EVENTS:
        caplog.clear()
        log.listen(event)
        assert log.wanted(type(event)) is bool(caplog.records)
    assert log.wanted() is (level <= logging.WARNING)


def test_nothing_is_wanted_where_nobody_listens(logger: logging.Logger) -> None:
    """Without a handler but the NullHandler, no event need be made."""
    logger.handlers[:] = [logging.NullHandler()]
    logger.setLevel(logging.DEBUG)
    assert not log.wanted()
    assert not log.wanted(TaskStarted)
    logger.addHandler(logging.StreamHandler())
    assert log.wanted(TaskStarted)


def test_a_handler_of_the_root_logger_counts(logger: logging.Logger) -> None:
    """Applications put their handlers on the root logger, unless propagation is off."""
    logger.handlers[:] = [logging.NullHandler()]
    root = logging.getLogger()
    handler = logging.StreamHandler()
    root.addHandler(handler)
    try:
        assert not log.wanted()
        logger.propagate = True
        assert log.wanted()
    finally:
        root.removeHandler(handler)


def test_the_library_is_silent_by_itself() -> None:
    """In a program that has not set logging up nothing is printed, nor is anything wanted."""
    script = (
        "from parallel_exec.observers import log\n"
        "from parallel_exec.engine.events import TaskRetrying\n"
        "log.listen(TaskRetrying(0, 'task', 1, 0.5, ValueError('no')))\n"
        "assert not log.wanted()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_a_second_import_adds_no_second_handler() -> None:
    """The NullHandler is installed once."""
    importlib.reload(log)
    handlers = logging.getLogger("parallel_exec").handlers
    assert sum(isinstance(handler, logging.NullHandler) for handler in handlers) == 1


@pytest.mark.parametrize(
    "command",
    [
        Command.of(["login", "--password", Secret("hunter2")], env={"TOKEN": Secret("hunter2")}),
        Command.of(["login", "--password=" + Secret("hunter2")]),
        Command.of(["login"], input=Secret("hunter2")),
        sh("login {} < {}", Secret("hunter2"), "file"),
    ],
)
def test_secrets_do_not_reach_the_log(command: Command, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever happens to a command with a secret, no record holds it in any form."""
    caplog.set_level(logging.DEBUG, "parallel_exec")
    result = Result(
        command=command,
        environment="local",
        stdout=b"",
        stderr=b"",
        exit_code=1,
        signal=None,
        stopped=None,
        started_at=0.0,
        duration_s=1.0,
        queued_s=0.0,
        attempts=1,
    )
    error = result.error(check=True)
    assert error is not None
    label = str(command)
    for event in (
        RunStarted(1, label),
        TaskStarted(0, label, 1),
        TaskRetrying(0, label, 1, 0.5, error),
        TaskFinished(Outcome(0, label, "fulfilled", result, None, 2, 1.0)),
        TaskFinished(Outcome(0, label, "rejected", None, error, 2, 1.0, (error, error))),
        RunFinished(1.0, error),
    ):
        log.listen(event)
    assert len(caplog.records) == 6
    assert "login" in caplog.text
    assert "hunter2" not in caplog.text
    assert "hunter2" not in repr([vars(record) for record in caplog.records])
