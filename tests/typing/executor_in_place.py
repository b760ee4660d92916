"""A user's program that was written for `ThreadPoolExecutor`, with another one in its place."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import Executor, Future, as_completed, wait
from pathlib import Path

import parallel_exec as px


def count(path: Path) -> int:
    """Return how many lines a file has."""
    with path.open("rb") as file:
        return sum(1 for _ in file)


def count_all(pool: Executor, paths: list[Path]) -> dict[Path, int]:
    """Return how many lines each has, with whatever executor there is."""
    futures: dict[Future[int], Path] = {pool.submit(count, path): path for path in paths}
    return {futures[future]: future.result() for future in as_completed(futures)}


async def from_asyncio(pool: px.ParallelExecutor, paths: list[Path]) -> int:
    """Use it below asyncio."""
    loop = asyncio.get_running_loop()
    counts = await asyncio.gather(*(loop.run_in_executor(pool, count, path) for path in paths))
    listing = await asyncio.wrap_future(px.submit(["ls", *paths], timeout=5))
    return sum(counts) + len(listing.lines())


def main(paths: list[Path]) -> int:
    """Count, in each way."""
    with px.ParallelExecutor(max_workers=8, thread_name_prefix="count", max_pending=100) as pool:
        counts = count_all(pool, paths)
        in_order = list(pool.map(count, paths, timeout=30))
        assert sum(counts.values()) == sum(in_order)
        done, _ = wait([pool.submit(count, path) for path in paths], timeout=30)
        assert all(future.done() for future in done)
        successes, failures = pool.execute_with_errors([lambda: count(paths[0])], deadline=10)
        for failure in failures:
            sys.stderr.write(f"{failure.index}: {failure.error}\n")
        return len(successes) + asyncio.run(from_asyncio(pool, paths))


if __name__ == "__main__":
    sys.stdout.write(f"{main([Path(word) for word in sys.argv[1:]])}\n")
