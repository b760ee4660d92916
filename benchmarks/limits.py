"""What holding a limit costs: alone, and with many threads that want in."""

from __future__ import annotations

import functools
import gc
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import parallel_exec as px
from benchmarks.harness import OURS, Bar, Comparison, Figures, Side
from parallel_exec.limits.base import release, wait_for_place

SEMAPHORE = "threading.Semaphore"
WORK_S = 100e-6
THREADS = 64


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Yield one comparison without contention, some with it, and one of memory."""
    times = 20_000 if quick else 100_000
    yield Comparison(
        "Seconds for an acquire and release that nobody contends",
        (
            Side(OURS, functools.partial(alone, px.ConcurrencyLimiter, times)),
            Side(SEMAPHORE, functools.partial(alone, threading.Semaphore, times)),
            Side("AIMDController", functools.partial(alone, adaptive, times)),
            Side("RateLimiter", functools.partial(alone, rate, times)),
        ),
        (Bar(f"times {SEMAPHORE}", "each_us", SEMAPHORE, at_most=1.5),),
        rounds=9,
    )
    entries = 2_000 if quick else 10_000
    for limit in (1, 4, 16):
        for work, name in ((wait, "waits"), (spin, "computes")):
            yield Comparison(
                f"{THREADS} threads through a limit of {limit}, each {name} for 100 us",
                tuple(
                    Side(side, functools.partial(contended, make, limit, work, entries))
                    for side, make in (
                        (OURS, px.ConcurrencyLimiter),
                        (SEMAPHORE, threading.Semaphore),
                        ("AIMDController", standing),
                    )
                ),
                (Bar(f"times {SEMAPHORE}", "rate_per_s", SEMAPHORE, at_least=0.9),),
                rounds=5,
            )
    yield Comparison(
        f"Memory after {entries} entries",
        (Side(OURS, functools.partial(memory, entries)),),
        (
            Bar("KB that it grows from half of them to all", "growth_kb", at_most=16),
            Bar("the same, a limit for each of as many keys", "keys_growth_kb", at_most=16),
        ),
        rounds=1,
    )


def adaptive(limit: int) -> px.AIMDController:
    """Return an adaptive limit."""
    return px.AIMDController(limit, 1, 100)


def standing(limit: int) -> px.AIMDController:
    """Return an adaptive limit that stays where it is, so that it can be compared."""
    return px.AIMDController(limit, limit, limit)


def rate(limit: int) -> px.RateLimiter:
    """Return a rate that is not reached; its window holds a second's entries."""
    return px.RateLimiter(10_000_000, per=0.001)


def alone(make: Any, times: int) -> Figures:
    """Enter and leave, again and again."""
    limit: AbstractContextManager[object] = make(4)
    start = time.perf_counter()
    for _ in range(times):
        with limit:
            pass
    return {"each_us": (time.perf_counter() - start) / times * 1e6}


def wait() -> None:
    """Work that needs no processor: a device or a network."""
    time.sleep(WORK_S)


def spin() -> None:
    """Work that computes."""
    end = time.perf_counter() + WORK_S
    while time.perf_counter() < end:
        pass


def contended(make: Any, limit: int, work: Any, entries: int) -> Figures:
    """Have many threads work under one limit; count how often they get through."""
    guard: AbstractContextManager[object] = make(limit)
    begin = threading.Barrier(THREADS + 1)

    def body() -> None:
        begin.wait()
        for _ in range(entries // THREADS):
            with guard:
                work()

    threads = [threading.Thread(target=body) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    begin.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return {"rate_per_s": entries // THREADS * THREADS / (time.perf_counter() - start)}


def memory(entries: int) -> Figures:
    """Use a limit, and look what it keeps."""
    controller = px.AIMDController(4, 1, 8, history=10)
    keyed = px.PerKey(lambda key: px.ConcurrencyLimiter(4), keep=100)

    def enter(number: int) -> None:
        with controller:
            pass

    def enter_of_key(number: int) -> None:
        place = wait_for_place(keyed, key=number)
        assert place is not None
        release(place)

    return {"growth_kb": growth(enter, entries), "keys_growth_kb": growth(enter_of_key, entries)}


def growth(use: Callable[[int], object], entries: int) -> float:
    """Return how many KB more there are after all entries than after half of them."""
    tracemalloc.start()
    try:
        for number in range(entries):
            use(number)
            if number == entries // 2:
                gc.collect()
                before, _ = tracemalloc.get_traced_memory()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return (after - before) / 1024
