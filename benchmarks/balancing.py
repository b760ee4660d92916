"""Mixed tasks over workers of different speeds, one of them dead or dying."""

from __future__ import annotations

import functools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import parallel_exec as px
from benchmarks.harness import OURS, Bar, Comparison, Figures, Side
from parallel_exec.errors import ConnectError

SPEEDS = (1, 1, 2, 4)
ROUND_ROBIN = "RoundRobinDistributor"


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Yield a comparison for workers that are all well, for a dead one and a dying one."""
    sizes = mixed(60 if quick else 200)
    yield Comparison(
        f"{len(sizes)} tasks of mixed sizes, 4 workers of speeds 1, 1, 2, 4",
        (
            Side(OURS, functools.partial(balance, sizes)),
            Side("pull, without the weights", functools.partial(balance, sizes, weighted=False)),
            Side(ROUND_ROBIN, functools.partial(deal, sizes)),
        ),
        (Bar("makespan / the best possible", "ratio", at_most=1.1),),
        rounds=3,
    )
    yield Comparison(
        "The same with one worker (speed 2) dead",
        (Side(OURS, functools.partial(balance, sizes, dead_from=0.0)),),
        (Bar("makespan / the best possible without it", "ratio", at_most=1.15),),
        rounds=3,
    )
    yield Comparison(
        "The same with one worker dying in the middle",
        (Side(OURS, functools.partial(balance, sizes, dead_from=0.5)),),
        (
            Bar("tasks lost", "lost", at_most=0),
            Bar("tasks run twice", "doubled", at_most=0),
        ),
        rounds=3,
    )


def mixed(count: int) -> list[float]:
    """Return sizes over two orders of magnitude, the same every time, 8 seconds together."""
    draw = random.Random(4)
    sizes = [draw.lognormvariate(0, 1) for _ in range(count)]
    return [size / sum(sizes) * 8 for size in sizes]


class Workers:
    """Functions that take as long as a worker of their speed would.

    Args:
        dead_from: Seconds after which the third is dead, or None.
    """

    def __init__(self, dead_from: float | None) -> None:
        self.done: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._dead_at = None if dead_from is None else time.monotonic() + dead_from
        self.functions = [functools.partial(self._work, place) for place in range(len(SPEEDS))]

    def _work(self, place: int, task: tuple[int, float]) -> int:
        number, size = task
        if place == 2 and self._dead_at is not None and time.monotonic() >= self._dead_at:
            raise ConnectError("the worker is dead")
        time.sleep(size / SPEEDS[place])
        with self._lock:
            self.done[number] += 1
        return number


def balance(
    sizes: Sequence[float], *, weighted: bool = True, dead_from: float | None = None
) -> Figures:
    """Have tasks pulled by the workers."""
    workers = Workers(dead_from)
    balancer = px.LoadBalancer(workers.functions, strategy="pull")
    tasks = [((number, size), size if weighted else 1.0) for number, size in enumerate(sizes)]
    return _measure(workers, sizes, lambda: balancer.execute_many(tasks), dead_from == 0)


def deal(sizes: Sequence[float]) -> Figures:
    """Have tasks dealt out in turn."""
    workers = Workers(None)
    distributor = px.RoundRobinDistributor(workers.functions, capacity=1)
    return _measure(workers, sizes, lambda: distributor.distribute(enumerate(sizes)), False)


def _measure(
    workers: Workers, sizes: Sequence[float], run: Callable[[], object], without_third: bool
) -> Figures:
    start = time.monotonic()
    run()
    makespan = time.monotonic() - start
    speeds = [speed for place, speed in enumerate(SPEEDS) if place != 2 or not without_third]
    # No schedule can beat all workers busy all the time, nor the largest task on the fastest.
    best = max(sum(sizes) / sum(speeds), max(sizes) / max(speeds))
    return {
        "makespan_s": makespan,
        "ratio": makespan / best,
        "lost": len(sizes) - len(workers.done),
        "doubled": sum(count > 1 for count in workers.done.values()),
    }
