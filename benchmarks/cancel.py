"""Cancelling many running commands of which half ignore TERM: how long until all are gone?

"Gone" is what the process table says: no process with the run's own mark in its argv, and
no zombie among this process's children.
"""

from __future__ import annotations

import functools
import os
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import parallel_exec as px
from benchmarks import fresh
from benchmarks.harness import OURS, Bar, Comparison, Figures, Side

FILES = 8  # more than the descriptors that one command takes
PATIENCE_S = 60.0


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Yield the one comparison."""
    count, kill_after = (60 if quick else 500), 2.0
    yield Comparison(
        f"{count} running commands cancelled, TERM ignored by half, kill_after={kill_after:g}",
        (Side(OURS, functools.partial(fresh.run, measure, count, kill_after)),),
        (
            Bar("seconds until all are gone", "gone_s", at_most=kill_after + 1),
            Bar("seconds until the call returns", "returned_s", at_most=kill_after + 1),
        ),
        rounds=3,
    )


def measure(count: int, kill_after: float) -> Figures:
    """Start them all, cancel, and look until none is left."""
    fresh.open_files(count * FILES)
    # No number of seconds that anyone else sleeps; the stubborn are a shell and its child.
    mark = f"600.{secrets.randbelow(10**9):09}"
    polite, stubborn = f"exec sleep {mark}", f"trap '' TERM; sleep {mark}; :"
    commands = [polite if index % 2 else stubborn for index in range(count)]
    token = px.CancelToken()
    returned: list[float] = []
    statuses: list[str] = []

    def run() -> None:
        tasks = [px.Command(command, kill_after=kill_after) for command in commands]
        outcomes = px.all_settled(tasks, concurrency=count, cancel=token)
        returned.append(time.perf_counter())
        statuses.extend(outcome.status for outcome in outcomes)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    _wait_until(lambda: _sleeping(mark) == count)
    start = time.perf_counter()
    token.cancel()
    _wait_until(lambda: _left(mark) == 0)
    gone = time.perf_counter()
    thread.join(PATIENCE_S)
    assert returned, "the call did not return"
    assert statuses == ["cancelled"] * count, sorted(set(statuses))
    return {"gone_s": gone - start, "returned_s": returned[0] - start}


def _wait_until(condition: Callable[[], bool]) -> None:
    end = time.perf_counter() + PATIENCE_S
    while not condition():
        if time.perf_counter() > end:
            raise TimeoutError(f"still not so after {PATIENCE_S:g} s")
        time.sleep(0.02)


def _processes() -> list[tuple[int, str, str]]:
    """Return parent, state and argv of every process."""
    listing = subprocess.run(
        ["ps", "-A", "-o", "ppid=,stat=,args="], capture_output=True, text=True, check=True
    )
    rows = (line.split(None, 2) for line in listing.stdout.splitlines())
    return [(int(row[0]), row[1], row[2]) for row in rows if len(row) == 3]


def _sleeping(mark: str) -> int:
    """Return how many of the sleeps run."""
    return sum(argv == f"sleep {mark}" for _, _, argv in _processes())


def _left(mark: str) -> int:
    """Return how many processes of the run are left, zombies included."""
    return sum(
        mark in argv or (parent == os.getpid() and state.startswith("Z"))
        for parent, state, argv in _processes()
    )
