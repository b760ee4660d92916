"""Tests of progress: lines on a fake clock, bars on a real terminal of their own.

Long because both kinds, and the small terminal they are watched on, stand in one file as
they do in the package.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from typing import IO, Any

import pytest
import tqdm
from tqdm import TMonitor

from parallel_exec.engine.events import (
    Event,
    Listener,
    RunFinished,
    RunStarted,
    TaskFinished,
    TaskRetrying,
)
from parallel_exec.errors import ConfigError
from parallel_exec.observers.progress import ParallelProgress, VisualProgress, pick
from parallel_exec.values.outcome import Outcome, Status

COLUMNS = 80


class FakeClock:
    """Monotonic seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def finished(status: Status = "fulfilled", index: int = 0) -> TaskFinished:
    reason = None if status == "fulfilled" else ValueError("no")
    return TaskFinished(Outcome(index, "task", status, None, reason, 1, 0.1))


def retrying() -> TaskRetrying:
    return TaskRetrying(0, "task", 1, 0.5, ValueError("no"))


OVER = RunFinished(1.0, None)


def short_run(listener: Listener) -> None:
    """Let `listener` hear of a run of one task."""
    listener(RunStarted(1, "all"))
    listener(finished())
    listener(OVER)


class Lines:
    """A `ParallelProgress` on a fake clock, and what it has written."""

    def __init__(self, total: int | None = None, **options: Any) -> None:
        self.clock = FakeClock()
        self.file = io.StringIO()
        self.progress = ParallelProgress(total, file=self.file, clock=self.clock, **options)

    def hear(self, *events: Event, after: float = 0.0) -> Lines:
        for event in events:
            self.clock.now += after
            self.progress(event)
        return self

    @property
    def lines(self) -> list[str]:
        return self.file.getvalue().splitlines()


# Lines


def test_a_line_says_how_far_the_run_is() -> None:
    """Percentage, counts, failures, rate, elapsed and remaining time stand in one line."""
    run = Lines(min_interval=0).hear(RunStarted(100, "all"))
    run.hear(*[finished()] * 41, finished("rejected"), after=0.1)
    assert run.lines[-1] == (
        "Progress: 42.0% | Completed: 42/100 | Failed: 1 | Rate: 10.0/s | Elapsed: 4.2s | ETA: 5.8s"
    )


def test_without_an_interval_every_task_has_a_line() -> None:
    """With `min_interval=0` there is one line a task and no second one for the last."""
    run = Lines(min_interval=0).hear(RunStarted(3, "all"), *[finished()] * 3, OVER)
    assert [line.split(" | ")[1] for line in run.lines] == [
        "Completed: 1/3",
        "Completed: 2/3",
        "Completed: 3/3",
    ]


def test_lines_keep_their_distance() -> None:
    """A hundred tasks in ten seconds make nine lines a second apart, and the last."""
    run = Lines(min_interval=1).hear(RunStarted(100, "all"))
    run.hear(*[finished()] * 99, after=0.1).hear(finished(), OVER)
    elapsed = [float(re.findall(r"Elapsed: ([\d.]+)s", line)[0]) for line in run.lines]
    assert elapsed == pytest.approx([*range(1, 10), 9.9], abs=0.15)
    assert run.lines[-1].startswith("Progress: 100.0% | Completed: 100/100 |")


def test_the_last_line_has_the_final_counts() -> None:
    """However quick the run: what it came to is said."""
    run = Lines().hear(RunStarted(2, "all"), finished(), finished(), OVER)
    assert [line.split(" | ")[:2] for line in run.lines] == [["Progress: 100.0%", "Completed: 2/2"]]


def test_the_last_line_comes_after_an_error_too() -> None:
    """A run that stopped early ends with what was done, failed and never begun."""
    run = Lines().hear(RunStarted(10, "all"), after=0.0)
    run.hear(finished(), finished("rejected"), finished("cancelled"), after=1.0)
    run.hear(*[finished("skipped")] * 7, RunFinished(3.0, TimeoutError()))
    assert run.lines[-1] == (
        "Progress: 30.0% | Completed: 3/10 | Failed: 2 | Skipped: 7 | Rate: 1.0/s"
        " | Elapsed: 3.0s | ETA: 0.0s"
    )


def test_retries_are_shown() -> None:
    """Tries that are made again are counted, and are not failures."""
    run = Lines(min_interval=0).hear(RunStarted(2, "all"), retrying(), retrying())
    assert "Failed: 0 | Retried: 2 |" in run.lines[-1]


def test_an_unknown_total_shows_what_is_known() -> None:
    """Without a total there is no percentage and no remaining time, and all the rest."""
    run = Lines(min_interval=0).hear(RunStarted(None, "imap"), finished(), after=2.0)
    assert run.lines == [
        "Progress: ? | Completed: 1/? | Failed: 0 | Rate: 0.5/s | Elapsed: 2.0s | ETA: ?"
    ]


def test_a_given_total_stands_where_the_run_knows_none() -> None:
    """The total of the constructor is used, for one who knows how long an iterator is."""
    run = Lines(8, min_interval=0).hear(RunStarted(None, "imap"), finished(), after=1.0)
    assert run.lines[-1].startswith("Progress: 12.5% | Completed: 1/8 |")


def test_nothing_done_divides_by_nothing() -> None:
    """No tasks, and no time passed, are no error."""
    run = Lines().hear(RunStarted(0, "all"), OVER)
    assert run.lines[-1] == (
        "Progress: 100.0% | Completed: 0/0 | Failed: 0 | Rate: 0.0/s | Elapsed: 0.0s | ETA: 0.0s"
    )
    run.hear(RunStarted(4, "all"), OVER)
    assert run.lines[-1].startswith("Progress: 0.0% | Completed: 0/4 |")
    assert run.lines[-1].endswith("ETA: ?")


def test_every_run_counts_from_zero() -> None:
    """One object serves one run after another, each with its own counts and time."""
    run = Lines()
    for total in (3, 2):
        run.hear(RunStarted(total, "all"), *[finished()] * total, OVER, after=1.0)
    assert run.lines[-1].startswith("Progress: 100.0% | Completed: 2/2 |")
    assert "Elapsed: 2.0s" in run.lines[-1]


def test_a_run_shorter_than_the_delay_writes_nothing() -> None:
    """With `delay` only what takes long is worth a line, then also its end."""
    run = Lines(delay=5.0, min_interval=1.0)
    run.hear(RunStarted(3, "all"), *[finished()] * 3, OVER, after=1.0)
    assert run.lines == []
    run.hear(RunStarted(3, "all"), *[finished()] * 3, after=2.0).hear(OVER)
    assert len(run.lines) == 1


def test_lines_go_to_standard_error_as_it_is_when_the_run_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stream that was exchanged after the object was made is respected."""
    progress = ParallelProgress()
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    progress(RunStarted(1, "all"))
    progress(OVER)
    assert stream.getvalue().startswith("Progress: 0.0%")


def test_without_standard_error_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program without a standard error (None) runs on."""
    monkeypatch.setattr(sys, "stderr", None)
    for progress in (ParallelProgress(), VisualProgress(enabled=True), pick()):
        short_run(progress)


def test_a_line_is_seen_at_once() -> None:
    """A line that waits in a buffer tells nobody anything."""
    read, write = os.pipe()
    with open(read, "rb") as reader, open(write, "w") as writer:
        progress = ParallelProgress(0, file=writer, min_interval=0)
        short_run(progress)
        assert os.read(reader.fileno(), 9) == b"Progress:"


def test_listening_may_begin_in_the_middle() -> None:
    """Events without a start before them are counted from the first."""
    run = Lines(min_interval=0).hear(finished())
    assert run.lines[-1].startswith("Progress: ? | Completed: 1/? |")


def test_a_run_that_replaces_another_ends_it() -> None:
    """A start before the end of the last run writes the last counts of that one."""
    run = Lines().hear(RunStarted(2, "all"), finished(), RunStarted(9, "all"))
    assert [line.split(" | ")[1] for line in run.lines] == ["Completed: 1/2"]


# The terminal


class Terminal:
    """A pseudo-terminal: what is written to `file` can be read, and seen as a screen."""

    def __init__(self) -> None:
        self._master, slave = os.openpty()
        os.set_blocking(self._master, False)
        self.file: IO[str] = os.fdopen(slave, "w", encoding="utf-8")
        self._bytes = b""
        self.resize(COLUMNS)

    def resize(self, columns: int) -> None:
        """Give the terminal this width."""
        fcntl.ioctl(
            self.file, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0)
        )

    def text(self) -> str:
        """Return everything written so far."""
        self.file.flush()
        while True:
            try:
                self._bytes += os.read(self._master, 65536)
            except BlockingIOError:
                return self._bytes.decode()

    def screen(self) -> list[str]:
        """Return the lines as a terminal shows them, without those that are empty at the end."""
        rows, row, column = [""], 0, 0
        for piece in re.findall(r"\x1b\[\w|[^\x1b]", self.text()):
            if piece == "\r":
                column = 0
            elif piece == "\n":
                row += 1
                rows += [""] * (row + 1 - len(rows))
            elif piece == "\x1b[A":
                row -= 1
            else:
                assert len(piece) == 1, f"an escape this test does not know: {piece!r}"
                line = rows[row].ljust(column)
                rows[row] = line[:column] + piece + line[column + 1 :]
                column += 1
        self.column = column
        shown = [line.rstrip() for line in rows]
        while shown and not shown[-1]:
            shown.pop()
        return shown

    def close(self) -> None:
        """Give both ends back."""
        self.file.close()
        os.close(self._master)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    yield terminal
    terminal.close()


# Bars


def test_a_bar_shows_how_far_the_run_is(terminal: Terminal) -> None:
    """Name, percentage, counts, elapsed and remaining time, rate and failures stand on it."""
    clock = FakeClock()
    bar = VisualProgress(file=terminal.file, clock=clock)
    bar(RunStarted(100, "fail_safe"))
    for _ in range(41):
        bar(finished())
    clock.now += 4.1
    bar(finished("rejected"))
    bar(retrying())
    (line,) = terminal.screen()
    assert re.fullmatch(
        r"fail_safe:  42%\|█+.* *\| 42/100 \[00:04<00:05, 10\.24task/s, 1 failed, 1 retried\]", line
    )
    bar(OVER)


def test_a_bar_leaves_the_terminal_clean(terminal: Terminal) -> None:
    """At the end the bar stands with its final counts and the cursor on a fresh line."""
    bar = VisualProgress(file=terminal.file)
    for event in (RunStarted(3, "all"), finished(), finished(), finished(), OVER):
        bar(event)
    (line,) = terminal.screen()
    assert "100%" in line
    assert "3/3" in line
    assert terminal.text().endswith("\n")


def test_a_bar_leaves_the_terminal_clean_after_an_error(terminal: Terminal) -> None:
    """A run that stopped early shows what was done, and no remaining time it will not take."""
    clock = FakeClock()
    bar = VisualProgress(file=terminal.file, clock=clock)
    bar(RunStarted(10, "all"))
    clock.now += 2.0
    for event in (finished(), finished("rejected"), *[finished("skipped")] * 8):
        bar(event)
    bar(RunFinished(2.0, KeyboardInterrupt()))
    (line,) = terminal.screen()
    assert line.endswith("| 2/10 [00:02,  1.00task/s, 1 failed, 8 skipped]")
    assert terminal.text().endswith("\n")


def test_closing_a_bar_early_is_the_end_of_it(terminal: Terminal) -> None:
    """`close` leaves the terminal clean, twice is the same as once."""
    bar = VisualProgress(file=terminal.file)
    bar(RunStarted(3, "all"))
    bar.close()
    text = terminal.text()
    bar.close()
    assert terminal.text() == text
    assert text.endswith("\n")


def test_an_unknown_total_has_counts_and_no_bar(terminal: Terminal) -> None:
    """Without a total there is still a count, a time and a rate."""
    clock = FakeClock()
    bar = VisualProgress(file=terminal.file, clock=clock, label="pages")
    bar(RunStarted(None, "imap"))
    clock.now += 2.0
    bar(finished())
    bar(OVER)
    assert terminal.screen() == ["pages: 1task [00:02,  2.00s/task]"]


def test_a_small_run_never_shows_less_than_the_truth(terminal: Terminal) -> None:
    """A burst of changes at one moment is drawn whole, for nothing else may come for long."""
    bar = VisualProgress(file=terminal.file, clock=FakeClock())
    bar(RunStarted(60, "all"))
    for done in range(1, 60):
        bar(finished())
        assert f" {done}/60 " in terminal.screen()[0]
    bar(OVER)


def test_a_large_run_is_not_drawn_for_every_task() -> None:
    """A hundred thousand tasks in ten seconds cost about two hundred drawings."""
    clock = FakeClock()
    file = io.StringIO()
    bar = VisualProgress(file=file, enabled=True, clock=clock)
    bar(RunStarted(100_000, "all"))
    for _ in range(100_000):
        clock.now += 1e-4
        bar(finished())
    bar(OVER)
    drawn = file.getvalue().count("\r")
    assert 150 < drawn < 250
    assert "100000/100000" in file.getvalue()


def test_a_burst_after_a_silence_is_not_drawn_for_every_task() -> None:
    """What was not drawn in an hour is not saved up for later."""
    clock = FakeClock()
    file = io.StringIO()
    bar = VisualProgress(file=file, enabled=True, clock=clock)
    bar(RunStarted(100_000, "all"))
    clock.now += 3600
    for _ in range(1000):
        bar(finished())
    bar(OVER)
    assert file.getvalue().count("\r") < 110


def test_a_bar_follows_the_width_of_its_terminal(terminal: Terminal) -> None:
    """A window that was made narrower has no broken lines."""
    bar = VisualProgress(file=terminal.file)
    bar(RunStarted(2, "all"))
    assert COLUMNS - 2 < len(terminal.screen()[0]) <= COLUMNS
    terminal.resize(columns=50)
    bar(finished())
    assert 48 < len(terminal.screen()[0]) <= 50
    bar(OVER)


def test_a_terminal_without_a_size_gets_a_bar(terminal: Terminal) -> None:
    """Pseudo-terminals of containers and CI often have no columns; the bar is then short."""
    terminal.resize(columns=0)
    bar = VisualProgress(file=terminal.file)
    short_run(bar)
    (line,) = terminal.screen()
    assert line.startswith("all: 100%|██████████| 1/1 [")


def test_every_run_gets_a_bar_of_its_own(terminal: Terminal) -> None:
    """One object serves one run after another."""
    bar = VisualProgress(file=terminal.file)
    for name in ("first", "second"):
        for event in (RunStarted(1, name), finished(), OVER):
            bar(event)
    assert [line.split(":")[0] for line in terminal.screen()] == ["first", "second"]


def test_nested_bars_do_not_fight(terminal: Terminal) -> None:
    """A run inside of a task has its bar below, which goes when it is over."""
    outer = VisualProgress(file=terminal.file)
    outer(RunStarted(2, "outer"))
    for _ in range(2):
        inner = VisualProgress(file=terminal.file)
        inner(RunStarted(3, "inner"))
        inner(finished())
        first, second = terminal.screen()
        assert first.startswith("outer:")
        assert second.startswith("inner:  33%")
        outer(retrying())
        assert [line.split(":")[0] for line in terminal.screen()] == ["outer", "inner"]
        inner(OVER)
        outer(finished())
        (line,) = terminal.screen()
        assert line.startswith("outer:")
    outer(OVER)
    (line,) = terminal.screen()
    assert line.startswith("outer: 100%")
    assert terminal.text().endswith("\n")


def test_bars_inside_of_a_users_own_bar_go_below_it(terminal: Terminal) -> None:
    """Each knows of the other, so a loop of the user's with a bar keeps its line."""
    with tqdm.tqdm(total=2, desc="mine", file=terminal.file, ncols=COLUMNS, mininterval=0) as mine:
        for _ in range(2):
            bar = VisualProgress(file=terminal.file)
            for event in (RunStarted(1, "all"), finished()):
                bar(event)
            assert [line.split(":")[0] for line in terminal.screen()] == ["mine", "all"]
            bar(OVER)
            mine.update()
    (line,) = terminal.screen()
    assert line.startswith("mine: 100%")
    assert tqdm.tqdm.monitor is not None
    tqdm.tqdm.monitor.exit()  # type: ignore[no-untyped-call]
    tqdm.tqdm.monitor = None


def test_bars_of_several_threads_do_not_mix(terminal: Terminal) -> None:
    """Each bar stays in its line while runs in four threads draw at once."""
    outer = VisualProgress(file=terminal.file)
    outer(RunStarted(4, "outer"))
    all_at_once = threading.Barrier(4)

    def run(name: str) -> None:
        bar = VisualProgress(file=terminal.file)
        bar(RunStarted(50, name))
        all_at_once.wait()
        for _ in range(50):
            bar(finished())
        all_at_once.wait()
        bar(OVER)

    threads = [threading.Thread(target=run, args=(f"inner{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    # A terminal that nobody reads fills up, and writing to it waits.
    while any(thread.is_alive() for thread in threads):
        terminal.screen()
        threads[0].join(0.001)
    drawn = re.findall(r"(\w+): +(\d+)%\|[^|]*\| (\d+)/(\d+) \[", terminal.text())
    assert {name for name, *_ in drawn} == {"outer", *(f"inner{n}" for n in range(4))}
    assert all(int(percent) == 100 * int(done) // int(total) for _, percent, done, total in drawn)
    (line,) = terminal.screen()
    assert line.startswith("outer:")
    outer(OVER)


class Spying(io.StringIO):
    """A file that calls `spy` when it is written to."""

    spy: Callable[[], object] | None = None

    def write(self, text: str) -> int:
        if self.spy is not None:
            self.spy()
        return super().write(text)


@pytest.fixture
def is_free(monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Return a function that tells whether another thread could draw a bar now."""
    lock = threading.RLock()
    monkeypatch.setattr(tqdm.tqdm, "_lock", lock, raising=False)

    def is_free() -> bool:
        answers: list[bool] = []

        def look() -> None:
            answers.append(lock.acquire(blocking=False))
            if answers[0]:
                lock.release()

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        return answers[0]

    return is_free


def test_a_bar_is_drawn_while_no_other_is(is_free: Callable[[], bool]) -> None:
    """All bars of a process have one lock, and it is held as long as one of them draws."""
    file = Spying()
    bar = VisualProgress(file=file, enabled=True)
    bar(RunStarted(2, "all"))
    seen: list[bool] = []
    file.spy = lambda: seen.append(is_free())
    bar(finished())
    file.spy = None
    bar(OVER)
    assert set(seen) == {False}
    assert is_free()


@pytest.mark.parametrize("moment", [RunStarted(2, "all"), finished(), OVER])
@pytest.mark.parametrize("error", [KeyboardInterrupt, BrokenPipeError])
def test_a_drawing_that_fails_blocks_no_other_bar(
    is_free: Callable[[], bool], moment: Event, error: type[BaseException]
) -> None:
    """Whenever an interrupt or a broken stream ends a drawing, the lock of all bars is free."""

    def fail() -> None:
        file.spy = None
        raise error

    file = Spying()
    bar = VisualProgress(file=file, enabled=True)
    for event in (RunStarted(2, "all"), finished(), OVER):
        if type(event) is type(moment):
            file.spy = fail
            with pytest.raises(error):
                bar(event)
            assert file.spy is None
        else:
            bar(event)
        assert is_free()


def test_an_interrupt_while_the_last_line_is_written_ends_the_run() -> None:
    """The next run then begins as if nothing had been."""

    def interrupt() -> None:
        file.spy = None
        raise KeyboardInterrupt

    file = Spying()
    progress = ParallelProgress(file=file)
    progress(RunStarted(1, "all"))
    file.spy = interrupt
    with pytest.raises(KeyboardInterrupt):
        progress(OVER)
    progress(RunStarted(7, "all"))
    assert file.getvalue() == ""


def test_a_bar_takes_a_format_of_tqdm(terminal: Terminal) -> None:
    """The line is made up as the user says, to the end, an early one included."""
    bar = VisualProgress(file=terminal.file, bar_format="<{n_fmt} of {total_fmt}>", label="x")
    bar(RunStarted(2, "all"))
    bar(finished())
    bar(OVER)
    assert "<1 of 2>" in terminal.text()


@pytest.mark.parametrize("wrong", ["{nonsense}", "{", "{n!x}", 3])
def test_a_format_that_cannot_be_drawn_is_refused(wrong: Any) -> None:
    """Before anything runs; the error shows it."""
    with pytest.raises(ConfigError, match="bar_format"):
        VisualProgress(bar_format=wrong)


def test_a_bar_starts_no_thread(terminal: Terminal) -> None:
    """A monitor such as that of tqdm would outlive the run and draw from a thread of its own."""
    bar = VisualProgress(file=terminal.file)
    bar(RunStarted(1, "all"))
    assert [thread for thread in threading.enumerate() if isinstance(thread, TMonitor)] == []
    bar(OVER)


# Where a bar is drawn


def test_a_bar_is_silent_where_there_is_no_terminal() -> None:
    """A file gets no bar, unless it is asked for."""
    for enabled, silent in ((None, True), (False, True), (True, False)):
        file = io.StringIO()
        bar = VisualProgress(file=file, enabled=enabled)
        short_run(bar)
        assert (file.getvalue() == "") is silent


def test_a_bar_is_silent_on_a_terminal_if_told_to(terminal: Terminal) -> None:
    """`enabled=False` draws nothing anywhere."""
    bar = VisualProgress(file=terminal.file, enabled=False)
    short_run(bar)
    assert terminal.text() == ""


def test_a_bar_is_silent_on_a_dumb_terminal(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the cursor cannot be moved there is no bar, and `pick` writes lines."""
    monkeypatch.setenv("TERM", "dumb")
    bar = VisualProgress(file=terminal.file)
    short_run(bar)
    assert terminal.text() == ""
    assert isinstance(pick(terminal.file), ParallelProgress)


def test_pick_draws_a_bar_for_one_who_watches(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal `progress=True` is a bar, given or as standard error."""
    assert isinstance(pick(terminal.file), VisualProgress)
    monkeypatch.setattr(sys, "stderr", terminal.file)
    progress = pick()
    assert isinstance(progress, VisualProgress)
    short_run(progress)
    assert "1/1" in terminal.screen()[0]


def test_pick_is_quiet_in_a_log() -> None:
    """Elsewhere a short run is silent, and a long one has a line in 30 s and one at its end."""
    file = io.StringIO()
    clock = FakeClock()
    progress = pick(file)
    progress._clock = clock
    for total in (20, 100):
        assert file.getvalue() == ""
        progress(RunStarted(total, "all"))
        for _ in range(total):
            clock.now += 1.0
            progress(finished())
        progress(OVER)
    assert re.findall(r"Completed: (\d+)", file.getvalue()) == ["30", "60", "90", "100"]


def test_pick_takes_a_closed_stream_for_no_terminal() -> None:
    """A stream that was closed is no reason to fail before anything has started."""
    file = io.StringIO()
    file.close()
    assert isinstance(pick(file), ParallelProgress)


def test_the_switch_of_tqdm_is_respected() -> None:
    """Where the environment says that no bar of tqdm be drawn, none is."""
    script = (
        "from parallel_exec.engine.events import RunStarted, RunFinished, TaskRetrying\n"
        "from parallel_exec.observers.progress import VisualProgress\n"
        "progress = VisualProgress(enabled=True)\n"
        "progress(RunStarted(1, 'all'))\n"
        "progress(TaskRetrying(0, 'task', 1, 0.5, ValueError()))\n"
        "progress(RunFinished(1.0, None))\n"
    )
    drawn = [
        subprocess.run(
            [sys.executable, "-c", script],
            check=True,
            capture_output=True,
            env={**os.environ, "TQDM_DISABLE": disable},
        ).stderr
        for disable in ("", "1")
    ]
    assert b"0/1" in drawn[0]
    assert drawn[1] == b""


def test_tqdm_is_imported_only_for_a_bar() -> None:
    """The import of tqdm takes longer than that of all of this; most runs draw nothing."""
    script = (
        "import sys\n"
        "from parallel_exec.engine.events import RunStarted, RunFinished\n"
        "from parallel_exec.observers.progress import VisualProgress, pick\n"
        "for progress in (pick(), VisualProgress()):\n"
        "    progress(RunStarted(1, 'all')); progress(RunFinished(1.0, None))\n"
        "assert 'tqdm' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stderr=subprocess.DEVNULL)


# Notebooks: a real kernel, in a process that answers what a notebook would show


KERNEL = r"""
import json, sys
from jupyter_client.manager import start_new_kernel

manager, client = start_new_kernel(kernel_name="python3")
shown = []
def hear(message):
    if message["msg_type"] in ("stream", "display_data", "error"):
        shown.append([message["msg_type"], message["content"]])
reply = client.execute_interactive(sys.stdin.read(), timeout=60, output_hook=hear)
client.stop_channels()
manager.shutdown_kernel(now=True)
print(json.dumps({"status": reply["content"]["status"], "shown": shown}))
"""

STRICT = "import warnings\nwarnings.simplefilter('error')\n"

CELL = """
from parallel_exec.engine.events import RunFinished, RunStarted, TaskFinished
from parallel_exec.observers.progress import VisualProgress, pick
from parallel_exec.values.outcome import Outcome

outer = pick()
assert isinstance(outer, VisualProgress)
outer(RunStarted(2, "outer"))
inner = VisualProgress()
inner(RunStarted(1, "inner"))
inner(TaskFinished(Outcome(0, "task", "fulfilled", None, None, 1, 0.1)))
inner_closed = inner._bar
inner(RunFinished(1.0, None))
for index in range(2):
    outer(TaskFinished(Outcome(index, "task", "fulfilled", None, None, 1, 0.1)))
widget = getattr(outer._bar, "container", None)
outer(RunFinished(1.0, None))
"""


def show_in_notebook(cell: str) -> list[tuple[str, dict[str, Any]]]:
    """Run `cell` in a kernel; return the kinds and contents of what it shows."""
    done = subprocess.run(
        [sys.executable, "-Wignore", "-c", KERNEL],
        input=cell,
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert answer["status"] == "ok", answer["shown"]
    return [(kind, content) for kind, content in answer["shown"]]


def test_a_notebook_gets_a_widget() -> None:
    """Bars are widgets there; an inner one goes, the outer stays with its final counts."""
    shown = show_in_notebook(
        STRICT
        + CELL
        + "assert inner_closed.container.layout.visibility == 'hidden'\n"
        + "assert widget.children[1].value == 2 and widget.children[1].bar_style == 'success'\n"
        + "assert widget.layout.visibility != 'hidden'\n"
        + "assert '2/2' in widget.children[2].value\n"
    )
    assert [kind for kind, _ in shown] == ["display_data", "display_data"]
    assert all(
        "application/vnd.jupyter.widget-view+json" in content["data"] for _, content in shown
    )


def test_a_notebook_without_ipywidgets_gets_text_and_no_warning() -> None:
    """The bar is then text on standard output: no warning, nothing that looks like an alarm."""
    hidden = "import sys\nsys.modules['ipywidgets'] = None\n"
    shown = show_in_notebook(hidden + STRICT + CELL)
    assert {(kind, content["name"]) for kind, content in shown} == {("stream", "stdout")}
    text = "".join(content["text"] for _, content in shown)
    assert "outer: 100%" in text
    assert text.endswith("\n")


# Bad input


@pytest.mark.parametrize("value", [-1, 1.5, True, "9"])
@pytest.mark.parametrize("kind", [ParallelProgress, VisualProgress])
def test_a_bad_total_is_refused(kind: Any, value: Any) -> None:
    """The message names the parameter and the value."""
    with pytest.raises(ConfigError, match=rf"^total must be .*, not {value!r}$"):
        kind(value)


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), True, "1", None])
@pytest.mark.parametrize("name", ["min_interval", "delay"])
def test_a_bad_interval_is_refused(name: str, value: Any) -> None:
    """The message names the parameter."""
    with pytest.raises(ConfigError, match=rf"^{name} must be"):
        ParallelProgress(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("enabled", 1), ("label", b"bytes")])
def test_a_bad_option_of_a_bar_is_refused(name: str, value: Any) -> None:
    """The message names the parameter."""
    with pytest.raises(ConfigError, match=rf"^{name} must be"):
        VisualProgress(**{name: value})
