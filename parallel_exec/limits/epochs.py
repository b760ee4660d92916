"""Slow start, one cut an epoch, growth only under pressure: what AIMD and CUBIC share.

**Epochs.** A task that was already running when the limit was cut ran under the old limit,
so whatever becomes of it says nothing about the new one. Such a task neither cuts the limit
nor makes it grow. The epoch of a cut is over, task by task, as soon as a task ends that was
started after the cut. TCP does the same (RFC 6582, section 3.2: one reduction a window).

**Evidence.** What became of an epoch's tasks is counted all the same. If k of the n tasks in
flight at a cut were refused, then n - k fitted. A further cut that follows while that count
is fresh goes down to it at once, instead of by a small step again and again; and the level
to come back to is lowered by it.

**Proof.** A first cut halves if the limit was never proven, that is if fewer tasks succeeded
than half the limit admits: a limit that was set far too high is not worth a small step.

**Slow start.** Until the first cut every success adds one, which doubles the limit in each
window. It begins anew when everything in flight at a cut was refused: then the service was
away, and how much it holds when it is back is as unknown as it was at first.
"""

from __future__ import annotations

from parallel_exec.limits.bounds import Bounded, fraction
from parallel_exec.limits.latency import Latency, LatencySignal
from parallel_exec.limits.rule import Sample

__all__ = ["Epochs"]

UNPROVEN = 0.5
"""What a first cut leaves of a limit of which nothing is known."""

FRESH = 2.0
"""Evidence holds until as many tasks have succeeded as fill the limit this many times."""

AWAY = 4
"""As many refused, and none let through: the service was away."""

WAY_BACK = 0.7
"""How far a cut for latency goes back to the limit that had the best, in logarithms."""

WAY_UP = 0.4
"""How far up from there growth is as usual, before it is careful."""

NEVER = float("-inf")
UNKNOWN = float("inf")
NOWHERE = float("inf")


class Epochs(Bounded):
    """A rule without its growth: that is for the classes below it.

    Args:
        initial: The limit to start from.
        min_limit: The lowest limit.
        max_limit: The highest limit; None: no bound.
        decrease: What a cut leaves of the limit, between 0 and 1. A cut takes at least one
            place.
        slow_start: Whether to double in every window until the first cut.
        latency: Whether slowness counts as overload too, and when; None: it does not.
    """

    def __init__(
        self,
        initial: int,
        min_limit: int,
        max_limit: int | None,
        *,
        decrease: float,
        slow_start: bool,
        latency: Latency | None,
    ) -> None:
        super().__init__(initial, min_limit, max_limit)
        self._decrease = fraction("decrease", decrease)
        self._slow = slow_start
        self._slow_until = NOWHERE
        self._latency = LatencySignal(latency) if latency is not None else None
        self._cut_at = NEVER
        # The highest limit that is known to have fitted at the last cut.
        self._ceiling = float("inf")
        # Before the last cut for latency: the limit, and whether it was in slow start.
        self._before = 0.0, False
        # Of the tasks in flight at the last cut: how many, and how many were refused.
        self._epoch_size: float = UNKNOWN
        self._epoch_refused = 0
        # Tasks started after the last cut that succeeded.
        self._proven = 0

    def update(self, sample: Sample) -> None:
        """Take one sample into account."""
        if sample.verdict == "neither":
            return
        # A task that took its place at the very instant of the cut counts as in flight.
        of_old = sample.started_at <= self._cut_at
        if sample.verdict == "overload":
            if of_old:
                self._epoch_refused += 1
                self._ceiling = max(self._limit, self._ceiling - 1.0)
            else:
                self._refused(sample)
        elif not of_old:
            self._proven += 1
            self._succeeded(sample)

    def _succeeded(self, sample: Sample) -> None:
        if self._latency is not None and self._slowed(sample, self._latency):
            return
        # `waiting` alone would let the limit run away from a limiter whose tasks start
        # more slowly than they end.
        if not sample.waiting or 2 * sample.in_flight < self._limit:
            return
        if self._slow:
            self._move(min(self._limit + 1.0, self._slow_until), "slow start")
            self._slow = self._limit < self._slow_until
        else:
            self._grow(sample)

    def _refused(self, sample: Sample) -> None:
        """Cut because a task was refused."""
        level = self._limit
        target = min(level * self._decrease, level - 1.0)
        slow = False
        if self._cut_at == NEVER:
            if self._proven * 2 < level:
                target = min(target, level * UNPROVEN)
        elif self._proven < FRESH * level:
            fitted = self._epoch_size - self._epoch_refused
            target = min(target, fitted)
            # Until something fits, it is still away.
            slow = fitted <= 0 and (self._slow or self._epoch_refused >= AWAY)
        self._cut(sample, target, "cut")
        # How much of a limit fitted that was not filled, nobody knows.
        filled = 2 * sample.in_flight >= level
        self._epoch_size = sample.in_flight if filled else UNKNOWN
        self._epoch_refused = 1
        self._slow, self._slow_until = slow, NOWHERE
        if self._latency is not None:
            self._latency.forget_cut()

    def _slowed(self, sample: Sample, signal: LatencySignal) -> bool:
        """Cut if tasks take too long; return whether the limit must not grow now."""
        judgement = signal.judge(sample, self._limit)
        level = self._limit
        if judgement == "too slow":
            self._before = level, self._slow
            # By Little's law, limit / ratio gives this throughput at the best latency. But the
            # service could give more than this throughput, so not all the way.
            keep = signal.ratio ** -(1.0 if signal.rough else WAY_BACK)
            if self._slow:
                # What is measured now began when the limit was half as high.
                keep *= UNPROVEN
            keep = min(keep, self._decrease)
            self._cut(sample, level * keep, "latency")
            # What fits lies somewhere between the two.
            self._ceiling = self._limit + (level - self._limit) * WAY_UP
            self._epoch_size, self._epoch_refused = UNKNOWN, 0
            self._slow = False
        elif judgement == "helped":
            level, self._slow = self._before
            self._slow_until = level * UNPROVEN
        elif judgement == "in vain":
            level, self._slow = self._before
            self._slow_until = NOWHERE
            self._ceiling = max(self._ceiling, level)
            self._move(max(self._limit, level), "latency")
        return judgement is not None or signal.undecided

    def _cut(self, sample: Sample, target: float, reason: str) -> None:
        level = self._limit
        self._move(target, reason)
        self._ceiling = max(self._limit, level - 1.0)
        self._cut_at = sample.ended_at
        self._proven = 0
        self._after_cut(sample.ended_at)

    def _grow(self, sample: Sample) -> None:
        """Grow, by a success under pressure."""
        raise NotImplementedError

    def _after_cut(self, now: float) -> None:
        """Begin to grow anew, from the limit as it is now."""
        raise NotImplementedError
