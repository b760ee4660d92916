"""A task together with what is to be known of it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from typing import Any

from parallel_exec.errors import ConfigError
from parallel_exec.values import checks

__all__ = ["Task"]


@dataclass(frozen=True, slots=True)
class Task:
    """A task with its priority, weight and the like; wherever tasks are given.

        px.all([px.Task("make docs", priority=1), px.Task(build, weight=4), "ls"])

    Args:
        what: The task itself: a command, a function without arguments, a future.
        priority: Who is served first by a limit; higher is earlier, equals in order of
            arrival. A list is also begun in this order; an iterator is in its own order,
            read no further than is needed.
        weight: How much room it takes under a limit.
        key: What `PerKey` limits by.
        label: How reports and errors call it. None: its own name.
        timeout: Seconds for each try, over that of the call and of the command. None:
            those.
        safe_to_repeat: Whether running it twice does no harm. Then it is tried again by
            an adaptive limit, or by another worker of a `LoadBalancer`, even where it may
            have run already.

    Raises:
        ConfigError: A value cannot be used; the message names it.
    """

    what: Any
    _: KW_ONLY
    priority: float = 0
    weight: float = 1
    key: Hashable = None
    label: str | None = None
    timeout: float | timedelta | None = None
    safe_to_repeat: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.what, Task):
            raise ConfigError(f"what must be a task itself, not {self.what!r}")
        checks.number("priority", self.priority, minimum=-float("inf"))
        checks.number("weight", self.weight)
        try:
            hash(self.key)
        except TypeError:
            raise checks.refuse("key", self.key, "hashable") from None
        if self.label is not None and not isinstance(self.label, str):
            raise checks.refuse("label", self.label, "a string")
        if self.timeout is not None:
            object.__setattr__(self, "timeout", checks.seconds("timeout", self.timeout))
        if not isinstance(self.safe_to_repeat, bool):
            raise checks.refuse("safe_to_repeat", self.safe_to_repeat, "True or False")
