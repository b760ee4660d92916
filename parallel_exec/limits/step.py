"""One more for every success, one less for every overload: the simplest rule there is.

It is what one writes first, and the reason for the other rules. It looks at every sample by
itself, so thirty tasks that one overload refused take thirty places away, and thirty that
succeeded give thirty: near a capacity of n it swings over a large part of n. Good for tests
and for a limit of a handful.
"""

from __future__ import annotations

from parallel_exec.limits.bounds import Bounded
from parallel_exec.limits.rule import Sample
from parallel_exec.values import checks

__all__ = ["Step"]


class Step(Bounded):
    """Adds `up` for a success while the limit is reached, takes `down` for an overload.

    Args:
        initial: The limit to start from.
        min_limit: The lowest limit.
        max_limit: The highest limit; None: no bound.
        up: Places for each success.
        down: Places for each overload.
    """

    def __init__(
        self,
        initial: int = 5,
        min_limit: int = 1,
        max_limit: int | None = 10,
        *,
        up: float = 1.0,
        down: float = 1.0,
    ) -> None:
        super().__init__(initial, min_limit, max_limit)
        self._up = checks.number("up", up)
        self._down = checks.number("down", down)

    def update(self, sample: Sample) -> None:
        """Take one sample into account."""
        if sample.verdict == "overload":
            self._move(self._limit - self._down, "cut")
        elif sample.verdict == "success" and sample.waiting:
            self._move(self._limit + self._up, "growth")
