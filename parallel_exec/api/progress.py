"""Progress that also runs the tasks: `execute` is `all` with the object as its listener."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from parallel_exec.api import many
from parallel_exec.observers import progress

__all__ = ["ParallelProgress", "VisualProgress"]


class _Executing(progress.Progress):
    def execute(self, tasks: Iterable[Any], concurrency: Any = 5) -> list[Any]:
        """Run `tasks` and show how far they are.

        Args:
            tasks: Commands, functions without arguments, or futures.
            concurrency: How many at once: a number or a limit; None: all.

        Returns:
            Their values, in task order.

        Raises:
            Exception: The first failure; the other tasks are ended.
        """
        return many.all(tasks, concurrency=concurrency, progress=self)


class ParallelProgress(progress.ParallelProgress, _Executing):
    __doc__ = progress.ParallelProgress.__doc__


class VisualProgress(progress.VisualProgress, _Executing):
    __doc__ = progress.VisualProgress.__doc__
