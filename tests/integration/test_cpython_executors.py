"""CPython's own tests of executors, on ours; what asyncio takes for a default executor."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import parallel_exec as px

SUITE = Path(__file__).with_name("cpython_executors.py")
MODULES = ("test_thread_pool", "test_init", "test_shutdown", "test_wait", "test_as_completed")


def _has_suite() -> bool:
    """Return whether this Python has its tests: many are installed without, and before 3.12
    they were one module, with the executors among its globals.
    """
    try:
        return importlib.util.find_spec("test.test_concurrent_futures.test_thread_pool") is not None
    except ImportError:
        return False


def _run(module: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(SUITE), module]
    return subprocess.run(words, capture_output=True, text=True, timeout=110)


if _has_suite():  # else there is nothing to collect: a skip would hide that it never runs

    def test_cpythons_own_tests_of_executors_pass() -> None:
        """`ParallelExecutor` is what `ThreadPoolExecutor` is, by the tests of that."""
        with ThreadPoolExecutor(len(MODULES)) as at_once:  # they mostly sleep
            done = list(at_once.map(_run, MODULES))
        assert [each.returncode for each in done] == [0] * len(MODULES), "\n".join(
            each.stderr for each in done if each.returncode
        )
        assert sum(int(each.stdout.split()[-1]) for each in done) > 30


def test_asyncio_takes_it_as_default_executor() -> None:
    """`loop.set_default_executor` insists on a ThreadPoolExecutor; `asyncio.to_thread` uses it."""

    async def main() -> str:
        pool = px.ParallelExecutor(2, thread_name_prefix="ours")
        asyncio.get_running_loop().set_default_executor(pool)
        return await asyncio.to_thread(lambda: threading.current_thread().name)

    assert asyncio.run(main()).startswith("ours")


class Value:
    """Something that can be referred to weakly."""


def test_a_value_is_not_kept_when_it_has_been_given_out() -> None:
    """Whoever drops the value that was asked for is the last to have it, however busy the pool."""
    kept = 0
    for _ in range(8):
        with px.ParallelExecutor(5) as pool:
            for value in pool.map(lambda _: Value(), range(10)):
                seen = weakref.ref(value)
                del value
                gc.collect()
                kept += seen() is not None
    assert kept == 0


def test_what_has_begun_is_not_cancelled_by_shutdown() -> None:
    """`cancel_futures` is about the calls that wait: what there is room for has begun."""
    release = threading.Event()
    with px.ParallelExecutor(2) as pool:
        futures = [pool.submit(release.wait) for _ in range(10)]
        pool.shutdown(wait=False, cancel_futures=True)
        release.set()
    assert [future.cancelled() for future in futures] == [False] * 2 + [True] * 8


def test_default_names_of_threads_are_those_of_the_class() -> None:
    """A class that is derived from it gives its threads its own name."""

    class Uploads(px.ParallelExecutor):
        """A pool of somebody."""

    with Uploads(1) as pool:
        assert pool.submit(lambda: threading.current_thread().name).result().startswith("Uploads-")


@pytest.mark.parametrize("number", [0, -1])
def test_max_workers_is_greater_than_zero(number: int) -> None:
    """The error has the words of ThreadPoolExecutor's, and the value."""
    with pytest.raises(ValueError, match=f"max_workers must be greater than 0, not {number}"):
        px.ParallelExecutor(number)
