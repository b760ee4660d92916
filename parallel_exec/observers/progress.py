"""How far a run is: lines of text, or tqdm's bar.

Both are listeners: called with the events of a run, one at a time, never two at once.
They serve one run after another, each counted from 0; a second that begins before the
first has ended takes its place. Two runs at the same time need two objects.

tqdm is imported when the first bar is drawn: it takes longer than the rest of the start.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any, Protocol

from parallel_exec.engine.events import Event, RunFinished, RunStarted, TaskFinished, TaskRetrying
from parallel_exec.errors import ConfigError
from parallel_exec.text import plain
from parallel_exec.values import checks
from parallel_exec.values.options import only_known
from parallel_exec.values.outcome import Outcome

__all__ = ["ParallelProgress", "Progress", "Stream", "VisualProgress", "pick"]

UNATTENDED_INTERVAL_S = 30.0
"""How often `progress=True` writes a line where nobody watches."""

BURST = 100
REDRAWS_PER_S = 10.0
# tqdm's own format, but for the time remaining: nothing more will be done.
ENDED_EARLY = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}, {rate_fmt}{postfix}]"


class Stream(Protocol):
    """Where progress is written: a text file."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...
    def isatty(self) -> bool: ...


class Tally:
    """The counts of one run.

    Attributes:
        finished: Tasks that came to an end, well or not.
        failed: Those of them that were rejected or cancelled.
        skipped: Tasks that never started. They are not finished.
        retries: Tries that failed and are made again.
    """

    def __init__(self, total: int | None, clock: Callable[[], float]) -> None:
        self.total = total
        self.finished = 0
        self.failed = 0
        self.skipped = 0
        self.retries = 0
        self._clock = clock
        self._began = clock()

    def count(self, outcome: Outcome[Any]) -> None:
        """Add a task that has its outcome."""
        if outcome.status == "skipped":
            self.skipped += 1
            return
        self.finished += 1
        if outcome.status != "fulfilled":
            self.failed += 1

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return self._clock() - self._began

    def rate(self, elapsed_s: float) -> float:
        """Return the finished tasks per second, over the whole time."""
        return self.finished / elapsed_s if elapsed_s > 0 else 0.0

    @property
    def extras(self) -> dict[str, int]:
        """What is only worth showing if there is some of it."""
        return {"Retried": self.retries, "Skipped": self.skipped}


class Progress:
    """What both have in common: they count, and say when there is something to show."""

    def __init__(self, total: int | None, file: Stream | None, clock: Callable[[], float]) -> None:
        self._total = None if total is None else checks.count("total", total, minimum=0)
        self._file = file
        self._clock = clock
        self._tally: Tally | None = None

    def __call__(self, event: Event) -> None:
        """Hear of an event."""
        if isinstance(event, RunStarted):
            self._begin(event.total, event.label)
        elif isinstance(event, TaskFinished):
            self._begun().count(event.outcome)
            self._show()
        elif isinstance(event, TaskRetrying):
            self._begun().retries += 1
            self._show()
        elif isinstance(event, RunFinished):
            self.close()

    def close(self) -> None:
        """Show the last state and leave the terminal clean. Idempotent.

        The end of a run does this.
        """
        tally, self._tally = self._tally, None
        if tally is not None:
            self._finish(tally)

    def _begin(self, total: int | None, label: str) -> Tally:
        self.close()
        self._tally = Tally(total if self._total is None else self._total, self._clock)
        self._start(self._tally, label)
        return self._tally

    def _begun(self) -> Tally:
        """Return the counts, also if this was made to listen in the middle of a run."""
        return self._tally or self._begin(None, "")

    def _show(self) -> None:
        raise NotImplementedError

    def _start(self, tally: Tally, label: str) -> None:
        raise NotImplementedError

    def _finish(self, tally: Tally) -> None:
        raise NotImplementedError


class ParallelProgress(Progress):
    """Writes how far a run is, a line at a time.

    ``Progress: 42.0% | Completed: 42/100 | Failed: 1 | Rate: 12.3/s | Elapsed: 3.4s | ETA: 4.7s``

    Completed are all tasks that came to an end, those that failed or were cancelled
    included; the percentage and the rate count the same. Tries made again and tasks that
    never started are added where there are some. What is not known shows as ``?``.

    The last line, with the final counts, is written when the run is over, also if an
    error ended it.

    Args:
        total: How many tasks there are. None: as the run says, if it knows.
        file: Where to write. None: standard error as it is when a run starts.
        min_interval: Seconds between two lines at least; 0 gives a line per task.
        delay: Seconds of a run before its first line; a shorter run writes nothing.
        clock: Monotonic seconds, for tests. None: `time.monotonic`.

    Thread safety: events come one at a time.

    Raises:
        ConfigError: A value cannot be used; the message names it.
    """

    @only_known
    def __init__(
        self,
        total: int | None = None,
        *,
        file: Stream | None = None,
        min_interval: float | timedelta = 1.0,
        delay: float | timedelta = 0.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(total, file, clock or time.monotonic)
        self._min_interval = checks.seconds("min_interval", min_interval, allow_zero=True)
        self._delay = checks.seconds("delay", delay, allow_zero=True)
        self._stream: Stream | None = None
        self._due = 0.0  # in seconds of the run
        self._changed = True

    def _start(self, tally: Tally, label: str) -> None:
        self._stream = sys.stderr if self._file is None else self._file
        self._due = max(self._delay, self._min_interval)
        self._changed = True

    def _show(self) -> None:
        self._changed = True
        tally = self._begun()
        elapsed_s = tally.elapsed_s
        if elapsed_s >= self._due:
            self._due = elapsed_s + self._min_interval
            self._write(tally, elapsed_s)

    def _finish(self, tally: Tally) -> None:
        elapsed_s = tally.elapsed_s
        if self._changed and elapsed_s >= self._delay:
            self._write(tally, elapsed_s)

    def _write(self, tally: Tally, elapsed_s: float) -> None:
        self._changed = False
        if self._stream is not None:
            self._stream.write(_line(tally, elapsed_s) + "\n")
            self._stream.flush()


def _line(tally: Tally, elapsed_s: float) -> str:
    total, finished, rate = tally.total, tally.finished, tally.rate(elapsed_s)
    percent = eta = "?"
    if total is not None:
        percent = f"{100 * finished / total if total else 100:.1f}%"
        left = max(0, total - finished - tally.skipped)
        if rate or not left:
            eta = f"{left / rate if rate else 0:.1f}s"
    parts = [
        f"Progress: {percent}",
        f"Completed: {finished}/{'?' if total is None else total}",
        f"Failed: {tally.failed}",
        *(f"{name}: {count}" for name, count in tally.extras.items() if count),
        f"Rate: {rate:.1f}/s",
        f"Elapsed: {elapsed_s:.1f}s",
        f"ETA: {eta}",
    ]
    return " | ".join(parts)


class VisualProgress(Progress):
    """Shows how far a run is as a bar, drawn by tqdm.

    In a notebook the bar is a widget, or text where ipywidgets is not installed. A bar
    that is drawn while another stands (a run inside of a task) gets a line below it and
    goes when its run is over; the bar of the outermost run stays.

    Tasks that failed, tries made again and tasks that never started are shown beside the
    bar where there are some. The first hundred changes are drawn at once, so that a small
    run never shows less than the truth; after that at most ten a second.

    Args:
        total: How many tasks there are. None: as the run says, if it knows; without a
            total there are counts and no bar.
        file: Where to draw. None: standard error, or the notebook.
        enabled: Whether to draw. None: if it is a terminal or a notebook.
        label: The words before the bar. None: what the run is called.
        bar_format: How the line is made up, as tqdm takes it: ``"{l_bar}{bar}{r_bar}"``,
            ``"{desc} {percentage:.0f}% {n_fmt}/{total_fmt} ETA {remaining}"``; the counts of
            failures and the like are its ``{postfix}``. None: tqdm's own.
        clock: Monotonic seconds, for tests. None: `time.monotonic`.

    Thread safety: events come one at a time; the bars of several threads do not mix.

    Raises:
        ConfigError: A value cannot be used; the message names it.
    """

    @only_known
    def __init__(
        self,
        total: int | None = None,
        *,
        file: Stream | None = None,
        enabled: bool | None = None,
        label: str | None = None,
        bar_format: str | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(total, file, clock or time.monotonic)
        if bar_format is not None:
            _check_format(bar_format)
        if enabled is not None and not isinstance(enabled, bool):
            raise checks.refuse("enabled", enabled, "True, False or None")
        if label is not None and not isinstance(label, str):
            raise checks.refuse("label", label, "a string")
        self._enabled = enabled
        self._label = label
        self._bar_format = bar_format
        self._bar: Any = None
        self._budget = 0.0
        self._filled = 0.0

    def _start(self, tally: Tally, label: str) -> None:
        notebook = self._file is None and _in_notebook()
        # A notebook shows what comes over standard error as an alarm.
        stream = self._file or (sys.stdout if notebook else sys.stderr)
        self._bar = None
        self._budget, self._filled = BURST, 0.0
        enabled = self._enabled
        if enabled is None:
            enabled = notebook or _is_terminal(stream)
        if enabled and stream is not None:
            self._bar = _bar_class(notebook)(
                total=tally.total,
                desc=plain(label if self._label is None else self._label) or None,
                file=stream,
                unit="task",
                bar_format=self._bar_format,
                leave=None,  # if it is the outermost
                dynamic_ncols=notebook,  # there: the whole width
            )
            self._bar.tally = tally
            if notebook:
                self._bar.leave = not self._bar.pos  # the widget does not know None

    def _show(self) -> None:
        if self._bar is None:
            return
        elapsed_s = self._begun().elapsed_s
        self._budget += (elapsed_s - self._filled) * REDRAWS_PER_S
        self._budget, self._filled = min(self._budget, BURST), elapsed_s
        if self._budget >= 1:
            self._budget -= 1
            self._draw()

    def _finish(self, tally: Tally) -> None:
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.n = tally.finished
            ended_early = tally.total is not None and tally.finished < tally.total
            if ended_early and self._bar_format is None:
                bar.bar_format = ENDED_EARLY
            bar.close()

    def _draw(self) -> None:
        self._bar.n = self._begun().finished
        self._bar.refresh()


def _check_format(bar_format: object) -> None:
    """Refuse what tqdm could not draw, before anything runs."""
    if not isinstance(bar_format, str):
        raise checks.refuse("bar_format", bar_format, "a string as tqdm takes it")
    from tqdm import std

    try:
        std.tqdm.format_meter(0, 1, 1.0, bar_format=bar_format)
    except Exception as error:
        raise ConfigError(
            f"bar_format {bar_format!r} cannot be drawn: {type(error).__name__}: {error}"
        ) from error


@functools.cache
def _bar_class(notebook: bool) -> Any:
    """Return the class of bars, which takes its figures from a `Tally`."""
    from tqdm import std

    # Inherited, so that the bars of all classes, those of the user included, have the same. A
    # lock of threads: tqdm's own has one of processes in it, for which `multiprocessing` starts
    # a process of its own where it forks no more (Python 3.14). One that is there is kept.
    if not hasattr(std.tqdm, "_lock"):
        std.tqdm.set_lock(threading.RLock())
    base: Any = std.tqdm
    if notebook:
        with warnings.catch_warnings():
            # One for being experimental, one if ipywidgets is missing: then it is text.
            warnings.simplefilter("ignore")
            from tqdm.autonotebook import tqdm as base

    class Bar(base):  # type: ignore[misc]
        monitor_interval = 0  # no thread: it would draw what no event has changed
        tally: Tally | None = None
        # Older tqdm sets these after the first drawing. If that drawing fails, `close` reads
        # them: a bar that was never drawn.
        last_print_t, start_t = -1.0, 0.0

        @property
        def format_dict(self) -> MutableMapping[str, Any]:
            shown: MutableMapping[str, Any] = super().format_dict
            tally = self.tally
            if tally is not None:
                counts = {"Failed": tally.failed, **tally.extras}
                shown["elapsed"] = tally.elapsed_s  # the rate follows from it
                shown["postfix"] = ", ".join(
                    f"{count} {name.lower()}" for name, count in counts.items() if count
                )
            return shown

        def refresh(self, nolock: bool = False, lock_args: object = None) -> None:
            # tqdm's own keeps the lock if drawing is interrupted or fails: the bars of
            # other threads would wait forever.
            if self.disable:
                return
            if not notebook:
                self.ncols, self.nrows = _size(self.fp)
            with nullcontext() if nolock else self.get_lock():
                self.display()

    return Bar


def pick(stream: Stream | None = None) -> ParallelProgress | VisualProgress:
    """Return what ``progress=True`` means.

    Where somebody watches, in a terminal or a notebook, that is a bar. Elsewhere (a log,
    a pipe, a scheduled job) it is a line every 30 seconds and one at the end, and nothing
    at all for a run that takes less.

    Args:
        stream: Where to write. None: standard error.
    """
    if _is_terminal(sys.stderr if stream is None else stream) or (
        stream is None and _in_notebook()
    ):
        return VisualProgress(file=stream)
    return ParallelProgress(
        file=stream, min_interval=UNATTENDED_INTERVAL_S, delay=UNATTENDED_INTERVAL_S
    )


@contextmanager
def beside_bars(stream: Any) -> Iterator[None]:
    """Take the bars away while something else is written, and draw them again below it."""
    tqdm = sys.modules.get("tqdm")
    if tqdm is None or not getattr(tqdm.tqdm, "_instances", None):
        yield
        return
    with tqdm.tqdm.external_write_mode(file=stream):
        yield


def _is_terminal(stream: Stream | None) -> bool:
    """Return whether a bar can be drawn on `stream`."""
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:  # it is closed
        return False


def _size(stream: Any) -> tuple[int | None, int | None]:
    """Return the columns and rows that can be used, each None if that is not known.

    tqdm takes the 0 by 0 of many a pseudo-terminal for its size, and draws nothing.
    """
    try:
        size = os.get_terminal_size(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return None, None
    # One is left free: the cursor that follows would begin a new line.
    return (
        size.columns - 1 if size.columns > 1 else None,
        size.lines - 1 if size.lines > 1 else None,
    )


def _in_notebook() -> bool:
    """Return whether a Jupyter kernel shows what is written."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
