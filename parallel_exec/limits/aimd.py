"""Additive increase, multiplicative decrease: the default rule.

The limit is a float. Until the first cut it doubles in every window (slow start). A cut
leaves `decrease` of it. After that:

- below the level at which it was cut it grows by `increase` / limit for every success, that
  is by `increase` in every window, a window being as many successes as the limit admits;
- at that level it probes (`Probing`): slowly at first, since that is where it hurt, and
  faster the longer nothing happens, since then the capacity must have grown.

The first is the rule of D. Chiu and R. Jain (Analysis of the Increase and Decrease Algorithms
for Congestion Avoidance in Computer Networks, 1989), under which those who share a service
come to equal shares. The second has its idea from H-TCP (D. Leith, R. Shorten: H-TCP: TCP for
High-Speed and Long-Distance Networks, 2004): the increase depends on how long ago the last cut
was. See `epochs` for when a cut is made and how deep it goes.
"""

from __future__ import annotations

from dataclasses import dataclass

from parallel_exec.limits.epochs import Epochs
from parallel_exec.limits.latency import Latency
from parallel_exec.limits.rule import Sample
from parallel_exec.values import checks

__all__ = ["AIMD", "Probing"]


@dataclass(frozen=True, slots=True)
class Probing:
    """How a limit grows past the level at which it was last cut.

    Its clock is a tick: one window, but never shorter than `tick_s`. The shortest tick makes
    those near a service and those far away probe it equally often, so that distance does not
    decide who gets how much of it; and it keeps a limit for tasks of a millisecond from
    probing a hundred times a second.

    Args:
        step: Places in a tick, at first.
        patience: Ticks until the growth accelerates.
        acceleration: Every further tick adds this many times as much as the one before.
        tick_s: The shortest tick in seconds.
    """

    step: float = 0.2
    patience: float = 3.0
    acceleration: float = 1.35
    tick_s: float = 0.2

    def __post_init__(self) -> None:
        checks.number("step", self.step)
        checks.number("patience", self.patience, allow_minimum=True)
        checks.number("acceleration", self.acceleration, minimum=1.0, allow_minimum=True)
        checks.seconds("tick_s", self.tick_s)


class AIMD(Epochs):
    """Additive increase, multiplicative decrease, one cut an epoch.

    Args:
        initial: The limit to start from.
        min_limit: The lowest limit.
        max_limit: The highest limit; None: no bound.
        increase: Places a window adds, below the level of the last cut.
        decrease: What a cut leaves of the limit, between 0 and 1. A cut takes at least one
            place.
        slow_start: Whether to double in every window until the first cut.
        probing: How to grow past the level of the last cut.
        latency: Whether slowness counts as overload too, and when; None: it does not.
    """

    def __init__(
        self,
        initial: int = 5,
        min_limit: int = 1,
        max_limit: int | None = 10,
        *,
        increase: float = 1.0,
        decrease: float = 0.95,
        slow_start: bool = True,
        probing: Probing = Probing(),  # frozen
        latency: Latency | None = None,
    ) -> None:
        super().__init__(
            initial,
            min_limit,
            max_limit,
            decrease=decrease,
            slow_start=slow_start,
            latency=latency,
        )
        self._increase = checks.number("increase", increase)
        self._probing = probing
        # Since the ceiling was reached: when that was, windows and ticks gone by, and the
        # growth that is still to come for them.
        self._reached_at = 0.0
        self._windows = 0.0
        self._ticks = 0.0
        self._due = 0.0

    def _grow(self, sample: Sample) -> None:
        limit = self._limit
        if limit < self._ceiling:
            self._move(min(self._ceiling, limit + self._increase / limit), "growth")
            self._restart(sample.ended_at)
            return
        probing = self._probing
        self._windows += 1.0 / limit
        ticks = min(self._windows, (sample.ended_at - self._reached_at) / probing.tick_s)
        if ticks > self._ticks:
            step = probing.step * probing.acceleration ** max(0.0, ticks - probing.patience)
            self._due += step * (ticks - self._ticks)
            self._ticks = ticks
        # Never faster than slow start: what is due is given a place a success.
        gained = min(1.0, self._due)
        if gained > 0.0:
            self._due -= gained
            self._move(limit + gained, "probe")

    def _after_cut(self, now: float) -> None:
        self._restart(now)

    def _restart(self, now: float) -> None:
        self._reached_at = now
        self._windows = 0.0
        self._ticks = 0.0
        self._due = 0.0
