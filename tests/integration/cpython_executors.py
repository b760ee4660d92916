"""Runs CPython's tests of executors with ours in the place of `ThreadPoolExecutor`.

    python cpython_executors.py test_wait

Ends with 0 if all passed. A line `ran N` on stdout says how many there were.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.thread
import sys
import unittest
from collections.abc import Iterator

import parallel_exec as px

# Tests that cannot pass by their name, each with its reason.
EXEMPT = {
    # It expects a TypeError. Whatever is wrong with an argument here is a `ConfigError`, which
    # is a ValueError (Python 3.14 and newer have this test).
    "test_map_buffersize_type_validation",
    # It expects the wording of an error, which names the parameter and the value here.
    "test_map_buffersize_value_validation",
}
# Not told apart by name: tests that run a bare interpreter, which imports `ThreadPoolExecutor`
# from the standard library by its name, pass with that one and say nothing about ours.


class ThreadPoolExecutor(px.ParallelExecutor):
    """Ours, by the name that the tests look for in the names of threads."""


def flat(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """Yield the tests of a suite."""
    for each in suite:
        if isinstance(each, unittest.TestSuite):
            yield from flat(each)
        else:
            yield each


def main(module: str) -> int:
    """Run what is about thread pools in a module: the rest is about processes."""
    setattr(concurrent.futures, "ThreadPoolExecutor", ThreadPoolExecutor)  # noqa: B010
    setattr(concurrent.futures.thread, "ThreadPoolExecutor", ThreadPoolExecutor)  # noqa: B010
    name = f"test.test_concurrent_futures.{module}"
    found = flat(unittest.defaultTestLoader.loadTestsFromName(name))
    wanted = [
        test
        for test in found
        if "ThreadPool" in type(test).__name__ and test.id().rpartition(".")[2] not in EXEMPT
    ]
    result = unittest.TextTestRunner(verbosity=2).run(unittest.TestSuite(wanted))
    sys.stdout.write(f"ran {result.testsRun}\n")
    return 0 if result.wasSuccessful() and result.testsRun else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
