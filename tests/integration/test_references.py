"""What a call gave or failed with is freed when its user lets go of it, not when the cycle
collector comes by.
"""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import parallel_exec as px


class Held:
    """Something that a function made."""


made: weakref.WeakSet[Held] = weakref.WeakSet()


def give(*_: object) -> Held:
    """Return a thing."""
    held = Held()
    made.add(held)
    return held


def fail(*_: object) -> Any:
    """Raise, with a thing in the frame."""
    held = Held()
    made.add(held)
    raise ValueError(id(held))


def slow(*_: object) -> Held:
    """Return a thing when the task is told to end."""
    px.CancelToken.current().wait(10)
    return give()


@pytest.fixture(autouse=True)
def _without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    made.clear()
    yield
    gc.enable()


def freed(call: Callable[[], object]) -> bool:
    """Make the call; return whether nothing is left of what its functions made, once the
    threads that called them have ended.
    """
    try:
        call()
    except (ValueError, px.errors.RunFailedError, px.errors.ParallelExecError):
        pass
    return eventually(lambda: not made)


def eventually(condition: Callable[[], bool]) -> bool:
    """Wait, within bounds, for the threads that are just letting go."""
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        threading.Event().wait(0.002)
    return condition()


def gone(held: weakref.ref[Held]) -> bool:
    """Return whether a thing has been freed."""
    return eventually(lambda: held() is None)


CALLS: dict[str, Callable[[], object]] = {
    "all": lambda: px.all([give] * 5),
    "all that fails": lambda: px.all([fail] * 5),
    "all, failures tolerated": lambda: px.all([fail] * 5, max_failures=9),
    "all_settled": lambda: px.all_settled([fail, give] * 3),
    "any": lambda: px.any([give, slow]),
    "any that fails": lambda: px.any([fail] * 3),
    "race": lambda: px.race([give, slow]),
    "race that fails": lambda: px.race([fail, slow]),
    "map": lambda: px.parallel_map(give, range(5)),
    "map that fails": lambda: px.parallel_map(fail, range(5)),
    "map of an iterator": lambda: px.parallel_map(fail, iter(range(5))),
    "filter that fails": lambda: px.parallel_filter(fail, range(5)),
    "reduce that fails": lambda: px.parallel_reduce(fail, range(5)),
    "imap that fails": lambda: list(px.parallel_imap(fail, range(5))),
    "imap, unordered, that fails": lambda: list(px.parallel_imap(fail, range(5), ordered=False)),
    "imap that is left": lambda: next(px.parallel_imap(give, range(50))),
    "as_completed": lambda: list(px.as_completed([give, fail] * 3)),
    "as_completed that is left": lambda: next(px.as_completed([give] * 50)),
    "retries": lambda: px.all_settled([fail] * 3, retry=px.Retry(2, wait=0)),
    "retries that fail": lambda: px.all([fail] * 3, retry=px.Retry(2, wait=0)),
    "timeout": lambda: px.all([slow], timeout=0.01),
    "deadline": lambda: px.all([slow, fail], deadline=0.05, max_failures=2),
    "nested": lambda: px.all([lambda: px.all([fail])]),
    "balancer": lambda: px.LoadBalancer([fail, fail]).execute(1),
    "distributor": lambda: px.RoundRobinDistributor([fail]).distribute([1]),
    "limiter": lambda: px.ConcurrencyLimiter(1).run(fail),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_is_over_keeps_nothing(name: str) -> None:
    """Neither values nor errors, frames, tasks are held in a circle."""
    assert freed(CALLS[name])


def test_an_executor_of_somebody_else_keeps_nothing() -> None:
    """What was raised there comes back without frames that hold its task."""
    with ThreadPoolExecutor(2) as pool:
        assert freed(lambda: px.all([fail] * 3, executor=pool))


def test_a_pool_keeps_neither_values_nor_errors() -> None:
    """Also while it lives and its threads wait for more."""

    def ask(pool: px.ParallelExecutor, fn: Callable[[], Any]) -> None:
        future = pool.submit(fn)
        try:
            future.result()
        finally:
            del future

    with px.ParallelExecutor(2) as pool:
        assert freed(lambda: ask(pool, give))
        assert freed(lambda: ask(pool, fail))
        for held in pool.map(give, range(10)):
            here = weakref.ref(held)
            del held
            assert gone(here)


@pytest.mark.parametrize(
    "iterate",
    [
        lambda: px.parallel_imap(give, range(5)),
        lambda: px.parallel_imap(give, range(5), ordered=False),
        lambda: px.parallel_imap(give, iter(range(5))),
        lambda: map(px.Outcome.result, px.as_completed([give] * 5)),
    ],
    ids=["imap", "unordered", "iterator", "as_completed"],
)
def test_an_iterator_keeps_no_value_that_it_has_given(
    iterate: Callable[[], Iterator[Held]],
) -> None:
    """A value that was let go is freed before the next is asked for."""
    for held in iterate():
        here = weakref.ref(held)
        del held
        assert gone(here)


def test_the_time_to_end_is_not_kept_longer_than_the_task() -> None:
    """A timer for what has ended holds it no longer, long as `kill_after` may be."""
    assert freed(lambda: px.all([slow, fail], kill_after=1000))
