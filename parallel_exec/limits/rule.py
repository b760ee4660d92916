"""The decision of an adaptive limit: a pure function of samples, without locks or clocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = ["Rule", "Sample", "Verdict"]

Verdict = Literal["success", "overload", "neither"]


@dataclass(frozen=True, slots=True)
class Sample:
    """What one finished task says about the load.

    Attributes:
        verdict: "success", "overload", or "neither": it says nothing.
        started_at: When the task took its place, in monotonic seconds.
        ended_at: When it gave it back.
        in_flight: How many places were taken when it ended, its own included.
        waiting: Whether others were waiting for a place since the last sample: a
            limit that is not reached must not grow.
    """

    verdict: Verdict
    started_at: float
    ended_at: float
    in_flight: int
    waiting: bool

    @property
    def latency_s(self) -> float:
        """Seconds the task held its place."""
        return self.ended_at - self.started_at


class Rule(Protocol):
    """Picks the limit. Not thread-safe: its limiter calls it under a lock."""

    @property
    def limit(self) -> float:
        """The limit now; the limiter enforces ``int(limit)``."""

    @property
    def reason(self) -> str:
        """Why the limit is what it is: "initial", "slow start", "growth", "cut", ..."""

    def update(self, sample: Sample) -> None:
        """Take one sample into account. Cost: constant time and memory."""

    def set_bounds(self, minimum: int, maximum: int) -> None:
        """Move the bounds; the limit is brought between them."""
