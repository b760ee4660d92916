"""The adaptive limit that also runs tasks: `execute` is `all` under it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Unpack

from parallel_exec.api import many
from parallel_exec.api.many import DEFAULTS, ManyOptions, TaskLike
from parallel_exec.limits import adaptive
from parallel_exec.values import checks
from parallel_exec.values.options import takes

__all__ = ["AIMDController"]


class AIMDController(adaptive.AIMDController):
    __doc__ = adaptive.AIMDController.__doc__

    @takes(ManyOptions, **DEFAULTS)
    def execute(self, tasks: Iterable[TaskLike], **options: Unpack[ManyOptions]) -> list[Any]:
        """Run tasks under this limit; return their values, in task order.

        Args:
            tasks: As for `parallel_exec.all`.
            **options: See `ManyOptions`; all but `concurrency`, which is this limit.

        Raises:
            ConfigError: An argument cannot be used; nothing was started.
            BaseException: The first failure that was not an overload tried again; the
                rest is stopped.
        """
        if "concurrency" in options:
            wanted = "left out, since it is the controller"
            raise checks.refuse("concurrency", options["concurrency"], wanted)
        options["concurrency"] = self
        return many.all(tasks, **options)
