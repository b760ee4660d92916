"""The decision of an adaptive limit: a pure function of samples, without locks or clocks.

**What a limiter owes a rule.** One sample for every place given back, in the order in which
they are given back, under the limiter's lock, the limit read anew after each:

- `started_at` is when the task took its place, not when it was submitted or began to wait,
  and `ended_at` when it gave it back, on one monotonic clock. A try that is made again takes
  a place again and is a sample of its own; no place is held, and nothing is sampled, between
  two tries. A place taken because the limit grew, or because another fell free, is taken
  after the `update` that made room for it, hence not before that sample's `ended_at`.
- `in_flight` counts the places taken just before this one is given back, its own included:
  it is 1 when nothing else runs. After a cut it may exceed the limit.
- `waiting` is true if, at any moment since the sample before, somebody was refused a place
  because the limit was reached, or was still waiting for that reason. A task that waits for
  something else (another limit, a rate, its turn to be retried) is not waiting here, and nor
  is input that nobody has asked a place for. It is what tells a limit that is too low from
  one that is not needed.
- A verdict of "overload" may come early, for a task that runs on: then the end of that task
  is a sample too, and does no harm.

Rules keep the limit within the bounds; enforcing ``int(limit)`` is the limiter's. Tasks that
are running when the limit is cut are left alone.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

__all__ = ["Rule", "Sample", "Verdict"]

Verdict = Literal["success", "overload", "neither"]


class Sample(NamedTuple):
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

    def set_bounds(self, minimum: int, maximum: int | None) -> None:
        """Move the bounds, of which the upper may be none; the limit is brought between them."""
