"""Three rules of Netflix's concurrency-limits, restated from its source.

https://github.com/Netflix/concurrency-limits, main branch, package
``com.netflix.concurrency.limits.limit`` of concurrency-limits-core: ``AIMDLimit``,
``VegasLimit`` with ``functions.Log10RootIntFunction``, ``Gradient2Limit`` with
``measurement.ExpAvgMeasurement``, and ``WindowedLimit`` with
``window.ImmutableAverageSampleWindow``, in which the project's README wraps Gradient2 and in
which any of them can be wrapped, so they are compared in both forms.

Every constant is the default there; only the first limit and the bounds are the scenario's,
as for all rules. (The default upper bound of AIMD and Gradient2 is 200, which happens to be the
capacity of most scenarios: with it they would be told what they are to find.)

They are fed as ``limiter.AbstractLimiter`` does it: a sample tells how many were in flight when
its task started, a refused task is a sample with its short latency, and a task that fails for
reasons of its own is none.
"""

from __future__ import annotations

import math
import random

from parallel_exec.limits.bounds import Bounded
from parallel_exec.limits.rule import Rule, Sample, Verdict

__all__ = ["Gradient2", "NetflixAIMD", "Vegas", "Windowed"]


class NetflixAIMD(Bounded):
    """``AIMDLimit``: times 0.9 for every drop, one more for every success."""

    BACKOFF = 0.9
    TIMEOUT_S = 5.0

    counts_at_start = True

    def update(self, sample: Sample) -> None:
        """Take one sample into account."""
        if sample.verdict == "neither":
            return
        if sample.verdict == "overload" or sample.latency_s > self.TIMEOUT_S:
            self._move(int(self._limit * self.BACKOFF), "cut")
        elif sample.in_flight * 2 >= self._limit:
            self._move(self._limit + 1, "growth")


class Vegas(Bounded):
    """``VegasLimit``: keeps an estimated queue between alpha and beta."""

    PROBE_MULTIPLIER = 30

    counts_at_start = True

    def __init__(self, initial: int, minimum: int, maximum: int | None) -> None:
        super().__init__(initial, minimum, maximum)
        self._random = random.Random("Vegas")
        self._idle_s = 0.0
        self._count = 0
        self._jitter = self._random.uniform(0.5, 1.0)

    def update(self, sample: Sample) -> None:
        """Take one sample into account."""
        if sample.verdict == "neither":
            return
        latency_s = sample.latency_s
        self._count += 1
        if self._jitter * self.PROBE_MULTIPLIER * self._limit <= self._count:
            self._jitter = self._random.uniform(0.5, 1.0)
            self._count = 0
            self._idle_s = latency_s
        elif self._idle_s == 0.0 or latency_s < self._idle_s:
            self._idle_s = latency_s
        else:
            self._adjust(sample)

    def _adjust(self, sample: Sample) -> None:
        limit = self._limit
        queue = math.ceil(limit * (1.0 - self._idle_s / sample.latency_s))
        unit = self._unit(int(limit))
        if sample.verdict == "overload":
            self._move(limit - unit, "cut")
        elif sample.in_flight * 2 < limit:
            return
        elif queue <= unit:
            self._move(limit + 6 * unit, "growth")
        elif queue < 3 * unit:
            self._move(limit + unit, "growth")
        elif queue > 6 * unit:
            self._move(limit - unit, "cut")

    @staticmethod
    def _unit(limit: int) -> int:
        return max(1, int(math.log10(limit)))


class Gradient2(Bounded):
    """``Gradient2Limit``: the limit times long-term over present latency."""

    SMOOTHING = 0.2
    QUEUE = 4
    TOLERANCE = 1.5
    DRIFT = 0.95
    LONG_WINDOW = 600
    WARM_UP = 10

    counts_at_start = True

    def __init__(self, initial: int, minimum: int, maximum: int | None) -> None:
        super().__init__(initial, minimum, maximum)
        self._long_s = 0.0
        self._long_sum = 0.0
        self._long_count = 0

    def update(self, sample: Sample) -> None:
        """Take one sample into account."""
        if sample.verdict == "neither":
            return
        short_s = sample.latency_s
        if self._long_count < self.WARM_UP:
            self._long_count += 1
            self._long_sum += short_s
            self._long_s = self._long_sum / self._long_count
        else:
            factor = 2.0 / (self.LONG_WINDOW + 1)
            self._long_s += (short_s - self._long_s) * factor
        long_s = self._long_s
        if long_s / short_s > 2.0:
            self._long_s *= self.DRIFT
        limit = self._limit
        if sample.in_flight < limit / 2:
            return
        gradient = max(0.5, min(1.0, self.TOLERANCE * long_s / short_s))
        wanted = limit * gradient + self.QUEUE
        self._move(limit * (1.0 - self.SMOOTHING) + wanted * self.SMOOTHING, "gradient")


class Windowed:
    """``WindowedLimit``: gives another rule the average of a second's samples as one."""

    WINDOW_S = 1.0
    SAMPLES = 10

    counts_at_start = True

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._update_at = 0.0
        self._sum_s = 0.0
        self._count = 0
        self._most_in_flight = 0
        self._dropped = False

    @property
    def limit(self) -> float:
        """The limit of the rule within."""
        return self._rule.limit

    @property
    def reason(self) -> str:
        """The reason of the rule within."""
        return self._rule.reason

    def set_bounds(self, minimum: int, maximum: int | None) -> None:
        """Move the bounds of the rule within."""
        self._rule.set_bounds(minimum, maximum)

    def update(self, sample: Sample) -> None:
        """Take one sample into account."""
        if sample.verdict == "neither":
            return
        now = sample.ended_at
        self._sum_s += sample.latency_s
        self._count += 1
        self._most_in_flight = max(self._most_in_flight, sample.in_flight)
        self._dropped = self._dropped or sample.verdict == "overload"
        if now <= self._update_at:
            return
        self._update_at = now + self.WINDOW_S
        if self._count >= self.SAMPLES:
            verdict: Verdict = "overload" if self._dropped else "success"
            start = now - self._sum_s / self._count
            self._rule.update(Sample(verdict, start, now, self._most_in_flight, sample.waiting))
        self._open()

    def _open(self) -> None:
        self._sum_s = 0.0
        self._count = 0
        self._most_in_flight = 0
        self._dropped = False
