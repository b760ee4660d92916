"""2,000 commands that sleep, all at once: what a waiting command costs."""

from __future__ import annotations

import functools
import subprocess
import threading
from collections.abc import Iterator

import parallel_exec as px
from benchmarks import fresh
from benchmarks.harness import OURS, Bar, Comparison, Figures, Side

THREADS = "threads, subprocess.run"
FILES = 8  # more than the descriptors that one command takes


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Yield the one comparison."""
    count, seconds = (300, 1) if quick else (2_000, 3)
    yield Comparison(
        f"{count:,} commands at once that sleep {seconds} s",
        (
            Side(OURS, functools.partial(fresh.run, ours, count, seconds)),
            Side(THREADS, functools.partial(fresh.run, theirs, count, seconds)),
        ),
        (
            Bar("of the wall time of threads", "wall_s", THREADS, at_most=1),
            Bar("of their CPU time in Python", "cpu_s", THREADS, at_most=1 / 3),
            Bar("of their memory growth", "growth_mb", THREADS, at_most=1 / 3),
            Bar("threads", "threads", at_most=40),
        ),
        rounds=3,
    )


def ours(count: int, seconds: int) -> Figures:
    """Run them by `px.all`."""
    fresh.open_files(count * FILES)
    px.run(["true"])  # so that all is imported
    with fresh.Gauge() as gauge:
        results = px.all([["sleep", str(seconds)]] * count, concurrency=count)
    assert sum(result.ok for result in results) == count
    return gauge.figures


def theirs(count: int, seconds: int) -> Figures:
    """Run them by `subprocess.run` in a thread each."""
    fresh.open_files(count * FILES)
    codes = []

    def run() -> None:
        done = subprocess.run(["sleep", str(seconds)], capture_output=True, check=False)
        codes.append(done.returncode)

    subprocess.run(["true"], capture_output=True, check=True)
    with fresh.Gauge() as gauge:
        threads = [threading.Thread(target=run) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert codes == [0] * count
    return gauge.figures
