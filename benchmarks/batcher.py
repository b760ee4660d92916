"""What collecting items into batches costs, and how long an item waits."""

from __future__ import annotations

import functools
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future

import parallel_exec as px
from benchmarks.harness import OURS, Bar, Comparison, Figures, Side

BARE = "a loop that makes and resolves futures"
BATCH = 100


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Yield one comparison of cost, and one of delay."""
    items = 10_000 if quick else 50_000
    yield Comparison(
        f"{items} items in batches of {BATCH}",
        (
            Side(OURS, functools.partial(ours, items)),
            Side(BARE, functools.partial(bare, items)),
        ),
        (Bar(f"times {BARE}", "each_us", BARE, at_most=3),),
        rounds=9,
    )
    delay = 0.02
    yield Comparison(
        f"Items that come one by one, a delay of {delay * 1000:g} ms",
        (Side(OURS, functools.partial(delays, delay, 100 if quick else 500)),),
        (Bar("ms from add to the processor, p99", "p99_ms", at_most=delay * 1000 + 20),),
        rounds=1,
    )


def ours(items: int) -> Figures:
    """Add them all, and wait until all are processed."""
    start = time.perf_counter()
    with px.TaskBatcher[int, int](BATCH, 1.0, lambda batch: batch) as batcher:
        futures = [batcher.add(item) for item in range(items)]
    wall = time.perf_counter() - start
    assert [future.result() for future in futures] == list(range(items))
    return {"each_us": wall / items * 1e6}


def bare(items: int) -> Figures:
    """Do what cannot be avoided: a future for each item."""
    start = time.perf_counter()
    everything = []
    for first in range(0, items, BATCH):
        batch = range(first, first + BATCH)
        futures: list[Future[int]] = [Future() for _ in batch]
        for future, item in zip(futures, batch, strict=True):
            future.set_result(item)
        everything += futures
    wall = time.perf_counter() - start
    assert [future.result() for future in everything] == list(range(items))
    return {"each_us": wall / items * 1e6}


def delays(delay: float, items: int) -> Figures:
    """Add items now and then, as they come in life; see when the processor has them."""
    waited: list[float] = []

    def process(batch: list[float]) -> list[float]:
        now = time.perf_counter()
        waited.extend(now - added for added in batch)
        return batch

    pause = threading.Event()
    with px.TaskBatcher(BATCH, delay, process) as batcher:
        for number in range(items):
            batcher.add(time.perf_counter())
            pause.wait(0.0005 * (number % 7))
    assert len(waited) == items
    percentiles = statistics.quantiles(waited, n=100)
    return {"p50_ms": percentiles[49] * 1000, "p99_ms": percentiles[98] * 1000}
