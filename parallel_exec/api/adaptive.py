"""The adaptive limit that also runs tasks: `execute` is `all` under it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Unpack

from parallel_exec.api import many
from parallel_exec.api.many import ManyOptions, TaskLike
from parallel_exec.limits import adaptive

__all__ = ["AIMDController"]


class AIMDController(adaptive.AIMDController):
    __doc__ = adaptive.AIMDController.__doc__

    def execute(self, tasks: Iterable[TaskLike], **options: Unpack[ManyOptions]) -> list[Any]:
        """Run tasks under this limit; return their values, in task order.

        Args:
            tasks: As for `parallel_exec.all`.
            **options: See `ManyOptions`; `concurrency` is this limit.

        Raises:
            BaseException: The first failure that was not an overload tried again; the
                rest is stopped.
        """
        options["concurrency"] = self
        return many.all(tasks, **options)
