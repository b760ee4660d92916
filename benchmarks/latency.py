"""What one command costs, one after the other: `px.run` against `subprocess.run`.

No bar: a figure to watch. Our command gets a session of its own and a watchdog.
"""

from __future__ import annotations

import functools
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator

import parallel_exec as px
from benchmarks.harness import OURS, Comparison, Figures, Side


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Yield the one comparison."""
    count = 50 if quick else 200
    yield Comparison(
        "One command at a time (true)",
        (
            Side(OURS, functools.partial(median, ours, count)),
            Side("subprocess.run", functools.partial(median, theirs, count)),
        ),
        rounds=7,
    )


def ours() -> None:
    """Run one command by `px.run`."""
    assert px.run(["true"]).ok


def theirs() -> None:
    """Run one command by `subprocess.run`."""
    subprocess.run(["true"], capture_output=True, check=True)


def median(work: Callable[[], None], count: int) -> Figures:
    """Return the median time of `work` and, for the tail, its 95th percentile."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1e6)
    return {"median_us": statistics.median(times), "p95_us": statistics.quantiles(times, n=20)[-1]}
