"""Tests of progress that runs the tasks itself, and of `progress=`."""

from __future__ import annotations

import io
import re
import sys
import threading
from typing import Any

import pytest

import parallel_exec as px


def fail() -> None:
    raise LookupError("this one")


def progress_of(kind: str, file: io.StringIO, total: int | None = None) -> Any:
    if kind == "lines":
        return px.ParallelProgress(total, file=file, min_interval=0)
    return px.VisualProgress(total, file=file, enabled=True)


@pytest.mark.parametrize("kind", ["lines", "bar"])
def test_execute_gives_the_values_in_task_order(kind: str) -> None:
    """However the tasks end, the values stand as the tasks do, and all are counted."""
    file = io.StringIO()
    first_may_end = threading.Event()

    def first() -> int:
        assert first_may_end.wait(10)
        return 0

    def second() -> int:
        first_may_end.set()
        return 1

    progress = progress_of(kind, file, 3)
    assert progress.execute([first, second, lambda: 2], concurrency=2) == [0, 1, 2]
    assert "3/3" in file.getvalue()
    assert file.getvalue().endswith("\n")


@pytest.mark.parametrize("kind", ["lines", "bar"])
def test_execute_raises_the_first_failure(kind: str) -> None:
    """The error itself is raised, and what is shown ends with the truth on a line of its own."""
    file = io.StringIO()
    with pytest.raises(LookupError, match="this one"):
        progress_of(kind, file).execute([fail, *[lambda: 1] * 5], 1)
    last = file.getvalue().splitlines()[-1]
    # One more may have been about to start: that one was cancelled.
    assert re.search(r"\b([12])/6\b", last)
    assert re.search(r"Failed: 1 \| Skipped: 5|Failed: 2 \| Skipped: 4", last) or re.search(
        r"1 failed, 5 skipped|2 failed, 4 skipped", last
    )
    assert file.getvalue().endswith("\n")


@pytest.mark.parametrize("kind", ["lines", "bar"])
def test_execute_serves_several_runs(kind: str) -> None:
    """The same object shows one run after another, each from zero."""
    file = io.StringIO()
    progress = progress_of(kind, file)
    assert progress.execute([int] * 3) == [0, 0, 0]
    with pytest.raises(LookupError):
        progress.execute([fail])
    assert progress.execute([int] * 2) == [0, 0]
    assert "2/2" in file.getvalue().splitlines()[-1]


def test_execute_runs_at_most_five_at_once_by_default() -> None:
    """The seed's default is five, and no more are ever in flight."""
    lock = threading.Lock()
    five = threading.Barrier(5)
    running = peak = 0

    def task() -> None:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        five.wait(10)
        with lock:
            running -= 1

    px.ParallelProgress(file=io.StringIO()).execute([task] * 10)
    assert peak == 5


def test_progress_of_an_endless_input_needs_no_total() -> None:
    """What is mapped lazily is counted without a percentage."""
    file = io.StringIO()
    progress = px.ParallelProgress(file=file, min_interval=0)
    with px.parallel_imap(str, iter(int, 1), progress=progress) as values:
        assert next(iter(values)) == "0"
    assert re.search(r"Progress: \? \| Completed: \d+/\? \|", file.getvalue())


def test_a_nested_run_has_a_bar_of_its_own() -> None:
    """Runs inside of tasks draw from other threads, and leave only the outer bar."""
    file = io.StringIO()

    def inner() -> list[int]:
        return px.VisualProgress(file=file, enabled=True, label="inner").execute([int] * 3)

    outer = px.VisualProgress(file=file, enabled=True, label="outer")
    assert outer.execute([inner] * 4, concurrency=2) == [[0, 0, 0]] * 4
    last = re.split(r"[\r\n]+", file.getvalue().strip())[-1]
    assert last.startswith("outer: 100%")
    assert "inner: 100%" in file.getvalue()


def test_progress_true_is_quiet_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short run in a log leaves no trace there."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    assert px.all([int, int], progress=True) == [0, 0]
    assert stream.getvalue() == ""


def test_a_stream_that_breaks_loses_no_task() -> None:
    """Progress that cannot be written any more is logged, and the run goes on."""

    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    for progress in (
        px.ParallelProgress(file=Broken(), min_interval=0),
        px.VisualProgress(file=Broken(), enabled=True),
    ):
        assert px.all([int] * 3, progress=progress) == [0, 0, 0]
