"""A task that waits for others of its own full pool lends them its place, however it waits."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future

import pytest

import parallel_exec as px
from parallel_exec.limits import base
from tests.integration.processes import PATIENCE_S

WAYS: dict[str, Callable[[px.ParallelExecutor, list[Future[int]]], object]] = {
    "result": lambda pool, futures: [future.result() for future in futures],
    "exception": lambda pool, futures: [future.exception() for future in futures],
    "wait": lambda pool, futures: concurrent.futures.wait(futures),
    "wait for the first": lambda pool, futures: concurrent.futures.wait(
        futures, return_when=FIRST_COMPLETED
    ),
    "wait for a failure": lambda pool, futures: concurrent.futures.wait(
        futures, return_when=FIRST_EXCEPTION
    ),
    "wait for some time": lambda pool, futures: concurrent.futures.wait(futures, PATIENCE_S).done,
    "as_completed": lambda pool, futures: list(concurrent.futures.as_completed(futures)),
    "px.all": lambda pool, futures: px.all(futures),
    "map of the pool": lambda pool, futures: list(pool.map(abs, range(3))),
    "map on the pool": lambda pool, futures: px.parallel_map(abs, range(3), executor=pool),
    "map under its limit": lambda pool, futures: pool.execute_with_errors([lambda: 1, "true"]),
    "map, two deep": lambda pool, futures: px.parallel_map(
        lambda item: px.parallel_map(abs, range(2), executor=pool), range(2), executor=pool
    ),
}


@pytest.mark.parametrize("ahead", [0, 5], ids=["alone", "others in line"])
@pytest.mark.parametrize("way", WAYS)
def test_whoever_waits_inside_of_a_full_pool_lends_its_place(way: str, ahead: int) -> None:
    """Also while tasks from outside stand in line for it."""
    with px.ParallelExecutor(1) as pool:
        begun, hold = threading.Event(), threading.Event()

        def outer() -> bool:
            begun.set()
            assert hold.wait(PATIENCE_S)
            WAYS[way](pool, [pool.submit(abs, number) for number in range(3)])
            return True

        future = pool.submit(outer)
        assert begun.wait(PATIENCE_S)
        others = [pool.submit(abs, number) for number in range(ahead)]
        hold.set()
        assert future.result(PATIENCE_S) is True
        assert [other.result(PATIENCE_S) for other in others] == list(range(ahead))


def test_a_place_is_lent_only_while_its_task_waits() -> None:
    """What goes on computing between two results of `as_completed` uses its place itself."""
    with px.ParallelExecutor(1) as pool:

        def outer() -> list[int]:
            futures = [pool.submit(abs, number) for number in range(5)]
            place = base.current.get()
            assert place is not None
            return [place._lending for _ in concurrent.futures.as_completed(futures)]

        assert pool.submit(outer).result(PATIENCE_S) == [0] * 5


def test_futures_of_others_are_waited_for_together_with_ours() -> None:
    """A mixture of futures, some done, is what it is for the standard library."""
    theirs: Future[int] = Future()
    with px.ParallelExecutor(1) as pool:

        def outer() -> int:
            mine = [pool.submit(abs, -1), pool.submit(abs, -2)]
            mine[0].result()
            theirs.set_result(3)
            done, left = concurrent.futures.wait([theirs, *mine])
            assert not left
            return sum(future.result() for future in done)

        assert pool.submit(outer).result(PATIENCE_S) == 6
