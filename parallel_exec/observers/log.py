"""The events of runs in the log, under the name ``parallel_exec``.

=====================  =======
event                  level
=====================  =======
a run begins or ends   INFO
a try starts           DEBUG
a task is finished     DEBUG
a try is made again    WARNING
=====================  =======

A failure is the caller's to handle, from the outcome or the error, so it is no warning
here; that something had to be tried again is seen nowhere else.

Secrets do not come here: events carry labels, and those are masked. Labels and errors are
cut at 200 and 4,000 characters, and every record of this logger is one line, in which what
cannot be printed is escaped (`parallel_exec.text`): nobody's words can forge another.
"""

from __future__ import annotations

import contextlib
import logging

from parallel_exec.engine.events import (
    Event,
    RunFinished,
    RunStarted,
    TaskFinished,
    TaskRetrying,
    TaskStarted,
)
from parallel_exec.reactor.mishaps import has_handler
from parallel_exec.text import MESSAGE, plain

__all__ = ["listen", "wanted", "wanted_each"]

logger = logging.getLogger("parallel_exec")
# As libraries do: without it an application that has not set logging up would see the
# warnings on standard error. A reload must not add a second.
if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
    logger.addHandler(logging.NullHandler())


def one_line(record: logging.LogRecord) -> bool:
    """Escape what a record says, and cut it; a traceback beside it stays as it is."""
    with contextlib.suppress(Exception):  # of a `__repr__`: who writes the record deals with it
        record.msg, record.args = plain(record.getMessage(), MESSAGE), None
    return True


# Names, paths and the words of others get into records all over the library: here is the
# one place that they all come by. A reload must not add a second.
if not any(getattr(each, "__name__", "") == one_line.__name__ for each in logger.filters):
    logger.addFilter(one_line)

LEVELS: dict[type[Event], int] = {
    RunStarted: logging.INFO,
    TaskStarted: logging.DEBUG,
    TaskRetrying: logging.WARNING,
    TaskFinished: logging.DEBUG,
    RunFinished: logging.INFO,
}


def wanted(kind: type[Event] | None = None) -> bool:
    """Return whether anybody would see events of this kind; None: of any kind.

    An application that has not set logging up sees none. To be asked once a run, so that
    events which nobody sees need not be made.
    """
    level = max(LEVELS.values()) if kind is None else LEVELS[kind]
    return logger.isEnabledFor(level) and has_handler()


def wanted_each() -> bool:
    """Return whether anybody would see the events that every task makes."""
    return wanted(TaskStarted) or wanted(TaskFinished)


def listen(event: Event) -> None:
    """Log an event."""
    if not logger.isEnabledFor(LEVELS[type(event)]):
        return
    if isinstance(event, TaskStarted):
        again = f" (try {event.attempt})" if event.attempt > 1 else ""
        logger.debug("task %d started%s: %s", event.index, again, plain(event.label))
    elif isinstance(event, TaskFinished):
        outcome = event.outcome
        logger.debug(
            "task %d %s after %.3g s: %s%s",
            outcome.index,
            outcome.status,
            outcome.duration_s,
            plain(outcome.label),
            _because(outcome.reason),
        )
    elif isinstance(event, TaskRetrying):
        logger.warning(
            "task %d failed in try %d, again in %.3g s: %s%s",
            event.index,
            event.attempt,
            event.delay_s,
            plain(event.label),
            _because(event.error),
        )
    elif isinstance(event, RunStarted):
        total = "" if event.total is None else f", {event.total} {_tasks(event.total)}"
        logger.info("%s started%s%s", plain(event.label), _of(event.subject), total)
    else:
        counts = ", ".join(f"{count} {status}" for status, count in event.counts.items())
        logger.info(
            "%s ended after %.3g s%s, %s%s",
            plain(event.label) or "the run",
            event.duration_s,
            _of(event.subject),
            counts or "no tasks",
            " (it was left)" if isinstance(event.error, GeneratorExit) else _because(event.error),
        )


def _of(subject: str) -> str:
    return f": {plain(subject)}" if subject else ""


def _tasks(count: int) -> str:
    return "task" if count == 1 else "tasks"


def _because(error: BaseException | None) -> str:
    return "" if error is None else f" ({type(error).__name__}: {plain(error, MESSAGE)})"
