"""What every rule has: a limit, bounds around it, and a reason for where it is."""

from __future__ import annotations

from parallel_exec.values import checks

__all__ = ["Bounded", "fraction"]


class Bounded:
    """A float limit that never leaves its bounds.

    Args:
        initial: The limit to start from.
        min_limit: The lowest it may become, at least 1: a limit of nothing gets no more
            samples, so it could never grow again.
        max_limit: The highest it may become; None: no bound.

    Raises:
        ConfigError: A number is out of range, or `initial` lies outside the bounds.
    """

    def __init__(self, initial: int, min_limit: int, max_limit: int | None) -> None:
        self._min_limit, self._max_limit = _bounds(min_limit, max_limit)
        self._limit = float(checks.count("initial", initial))
        if not self._min_limit <= initial <= self._max_limit:
            wanted = f"between min_limit ({min_limit}) and max_limit ({max_limit})"
            raise checks.refuse("initial", initial, wanted)
        self._reason = "initial"

    @property
    def limit(self) -> float:
        """The limit now; the limiter enforces ``int(limit)``."""
        return self._limit

    @property
    def reason(self) -> str:
        """Why the limit was last moved; "initial" if it never was."""
        return self._reason

    def set_bounds(self, min_limit: int, max_limit: int | None) -> None:
        """Move the bounds; the limit is brought between them."""
        self._min_limit, self._max_limit = _bounds(min_limit, max_limit)
        if not self._min_limit <= self._limit <= self._max_limit:
            self._move(self._limit, "bounds")

    def _move(self, limit: float, reason: str) -> None:
        """Set the limit to the nearest one that the bounds allow."""
        limit = min(max(limit, self._min_limit), self._max_limit)
        if limit != self._limit:
            self._limit = limit
            self._reason = reason


def fraction(name: str, value: object) -> float:
    """Return `value` as a number between 0 and 1, both excluded."""
    answer = checks.number(name, value)
    if answer >= 1.0:
        raise checks.refuse(name, value, "a number between 0 and 1, both excluded")
    return answer


def _bounds(min_limit: int, max_limit: int | None) -> tuple[float, float]:
    low = checks.count("min_limit", min_limit)
    if max_limit is None:
        return float(low), float("inf")
    return float(low), float(checks.count("max_limit", max_limit, minimum=low))
