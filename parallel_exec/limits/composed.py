"""Several limits at once: a task needs a place in each."""

from __future__ import annotations

from typing import TypeGuard

from parallel_exec.limits.base import Limit, Limiter, Request
from parallel_exec.limits.fixed import ConcurrencyLimiter
from parallel_exec.values import checks

__all__ = ["AllOf", "is_idle", "is_limit"]


def is_limit(thing: object) -> TypeGuard[Limit]:
    """Return whether `thing` is a limit, and not the class of one."""
    return callable(getattr(thing, "parts", None)) and not isinstance(thing, type)


def _count(limit: object) -> int:
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise checks.refuse("limits", limit, "made of limits and whole numbers of at least 1")
    return limit


def is_idle(limit: Limit) -> bool:
    """Return whether a limit, in which nobody has or awaits a place, is as good as new."""
    return not getattr(limit, "paused", False) and getattr(limit, "idle", True)


class AllOf:
    """A limit that holds only what every one of `limits` holds.

    A task takes its places in all of them in one step, or waits and holds none.

    Args:
        *limits: Limits, which may also be used elsewhere; a number n stands for
            ``ConcurrencyLimiter(n)``.

    Raises:
        ConfigError: One of them is neither.
    """

    def __init__(self, *limits: Limit | int) -> None:
        self._limits = tuple(
            limit if is_limit(limit) else ConcurrencyLimiter(_count(limit)) for limit in limits
        )

    def parts(self, request: Request) -> tuple[Limiter, ...]:
        """See `Limit.parts`."""
        parts = dict.fromkeys(part for limit in self._limits for part in limit.parts(request))
        return tuple(parts)

    @property
    def idle(self) -> bool:
        """Whether every one of the limits is; see `is_idle`."""
        return all(is_idle(limit) for limit in self._limits)

    @property
    def limit(self) -> float:
        """The smallest of the limits; those that have no number of their own left aside.

        Raises:
            AttributeError: None of them has one.
        """
        limits = [limit.limit for limit in self._limits if hasattr(limit, "limit")]
        if not limits:
            raise AttributeError("none of the limits has a number")
        return float(min(limits))
