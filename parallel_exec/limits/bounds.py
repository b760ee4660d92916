"""What every rule has: a limit, bounds around it, and a reason for where it is."""

from __future__ import annotations

from parallel_exec.values import checks

__all__ = ["Bounded", "fraction"]


class Bounded:
    """A float limit that never leaves its bounds.

    Args:
        initial: The limit to start from.
        minimum: The lowest it may become, at least 1: a limit of nothing gets no more
            samples, so it could never grow again.
        maximum: The highest it may become; None: no bound.

    Raises:
        ConfigError: A number is out of range, or `initial` lies outside the bounds.
    """

    def __init__(self, initial: int, minimum: int, maximum: int | None) -> None:
        self._minimum, self._maximum = _bounds(minimum, maximum)
        self._limit = float(checks.count("initial", initial))
        if not self._minimum <= initial <= self._maximum:
            wanted = f"between minimum ({minimum}) and maximum ({maximum})"
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

    def set_bounds(self, minimum: int, maximum: int | None) -> None:
        """Move the bounds; the limit is brought between them."""
        self._minimum, self._maximum = _bounds(minimum, maximum)
        if not self._minimum <= self._limit <= self._maximum:
            self._move(self._limit, "bounds")

    def _move(self, limit: float, reason: str) -> None:
        """Set the limit to the nearest one that the bounds allow."""
        limit = min(max(limit, self._minimum), self._maximum)
        if limit != self._limit:
            self._limit = limit
            self._reason = reason


def fraction(name: str, value: object) -> float:
    """Return `value` as a number between 0 and 1, both excluded."""
    answer = checks.number(name, value)
    if answer >= 1.0:
        raise checks.refuse(name, value, "a number between 0 and 1, both excluded")
    return answer


def _bounds(minimum: int, maximum: int | None) -> tuple[float, float]:
    low = checks.count("minimum", minimum)
    if maximum is None:
        return float(low), float("inf")
    return float(low), float(checks.count("maximum", maximum, minimum=low))
