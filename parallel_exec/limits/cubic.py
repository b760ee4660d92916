"""CUBIC growth: fast back to where it was cut, slow around there, fast beyond.

The limit after a cut is W(t) = C (t - K)^3 + W_max, where W_max is the level to come back to
and K is chosen so that W(0) is the limit right after the cut: I. Rhee and L. Xu, CUBIC: a new
TCP-friendly high-speed TCP variant, 2005; RFC 9438. Unlike there, t does not count seconds
but ticks: windows, each of `tick_s` at least, so that tasks of an hour and of a millisecond
are both served. See `epochs` for when a cut is made and how deep it goes.
"""

from __future__ import annotations

import math

from parallel_exec.limits.epochs import Epochs
from parallel_exec.limits.latency import Latency
from parallel_exec.limits.rule import Sample
from parallel_exec.values import checks

__all__ = ["Cubic"]


class Cubic(Epochs):
    """CUBIC growth, one cut an epoch.

    Args:
        initial: The limit to start from.
        min_limit: The lowest limit.
        max_limit: The highest limit; None: no bound.
        scale: C above, in places a tick cubed.
        decrease: What a cut leaves of the limit, between 0 and 1. A cut takes at least one
            place.
        slow_start: Whether to double in every window until the first cut.
        tick_s: The shortest tick in seconds.
        latency: Whether slowness counts as overload too, and when; None: it does not.
    """

    def __init__(
        self,
        initial: int = 5,
        min_limit: int = 1,
        max_limit: int | None = 10,
        *,
        scale: float = 0.05,
        decrease: float = 0.95,
        slow_start: bool = True,
        tick_s: float = 0.2,
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
        self._scale = checks.number("scale", scale)
        self._tick_s = checks.seconds("tick_s", tick_s)
        # Since the last cut: where it left the limit, windows and ticks gone by, and where
        # the limit should be by now.
        self._bottom = self._goal = self._limit
        self._windows = 0.0
        self._ticks = 0.0

    def _grow(self, sample: Sample) -> None:
        self._windows += 1.0 / self._limit
        ticks = min(self._windows, (sample.ended_at - self._cut_at) / self._tick_s)
        if ticks > self._ticks:
            self._ticks = ticks
            depth = max(0.0, self._ceiling - self._bottom)
            since_there = ticks - math.cbrt(depth / self._scale)
            self._goal = self._bottom + depth + self._scale * since_there**3
        if self._goal > self._limit:
            # Never faster than slow start: a place a success.
            self._move(min(self._goal, self._limit + 1.0), "growth")

    def _after_cut(self, now: float) -> None:
        self._bottom = self._goal = self._limit
        self._windows = 0.0
        self._ticks = 0.0
