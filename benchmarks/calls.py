"""What the machinery costs around a function that does nothing, in time and in memory."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import parallel_exec as px
from benchmarks import fresh
from benchmarks.harness import OURS, Bar, Comparison, Figures, Side

POOL = "ThreadPoolExecutor.map"


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Yield one comparison for each number of workers, and the lazy map's memory."""
    count = 5_000 if quick else 20_000
    for workers in (1, 5, 16):
        yield Comparison(
            f"Items a second of a function that does nothing, workers: {workers}",
            (
                Side(OURS, functools.partial(ours, count, workers)),
                Side(POOL, functools.partial(theirs, count, workers)),
            ),
            (Bar(f"times {POOL}", "rate_per_s", POOL, at_least=1.5),),
            rounds=9,
        )
    items = 100_000 if quick else 1_000_000
    yield Comparison(
        f"parallel_imap over {items:,} items",
        (Side(OURS, functools.partial(fresh.run, lazy, items)),),
        (Bar("MB that memory grows", "growth_mb", at_most=20),),
        rounds=1,
    )


def nothing(item: int) -> int:
    """Return `item`."""
    return item


def ours(count: int, workers: int) -> Figures:
    """Map by `px.parallel_map`, which starts its threads within the time measured."""
    start = time.perf_counter()
    answers = px.parallel_map(nothing, range(count), workers)
    wall = time.perf_counter() - start
    assert answers == list(range(count))
    return {"rate_per_s": count / wall}


def theirs(count: int, workers: int) -> Figures:
    """Map by a pool whose threads are there before the time is taken: its best case."""
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(time.sleep, [0.01] * workers))
        start = time.perf_counter()
        answers = list(pool.map(nothing, range(count)))
        wall = time.perf_counter() - start
    assert answers == list(range(count))
    return {"rate_per_s": count / wall}


def lazy(items: int) -> Figures:
    """Map many items by `px.parallel_imap` and keep none."""
    list(px.parallel_imap(nothing, range(100), concurrency=16))  # so that all is imported
    with fresh.Gauge() as gauge:
        for expected, answer in enumerate(px.parallel_imap(nothing, range(items), concurrency=16)):
            assert answer == expected
    assert expected == items - 1
    return {"rate_per_s": items / gauge.figures["wall_s"], **gauge.figures}
