"""Overload by slowness: tasks take a multiple of the best that was seen.

Nothing fails in a service that queues, swaps or shares too few cores; it slows down. This
signal notices, if asked for. What makes it more than a comparison of two numbers:

**Mixed durations.** One task may take a thousand times as long as another, whatever the
load. So logarithms of durations are averaged, on which a slowdown of everything by a factor
is the same shift whatever the mix is, and a window of samples lasts until their mean is
known well enough to tell the multiple from chance: some tens of samples of tasks alike,
hundreds of tasks that are not.

**The beginning.** Short tasks come back first, and while the limit doubles every latency is
half a limit old. So the first cut of all is deep, to half, and the best is measured anew in
the calm after it.

**Growing stale.** The best that was seen may have become unreachable: other work, a slower
disk. Then a cut does not help, and that is how it shows: if latency stays where it was
although the limit was cut, load was not the cause. What is measured now becomes the best,
and the limit comes back to where it was.

What it cannot do: know that a service is overloaded which was so from the first task on and
stays equally so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from parallel_exec.limits.rule import Sample
from parallel_exec.values import checks

__all__ = ["Latency", "LatencySignal"]

SHARPNESS = 12.0
"""A window is complete when its mean is known to this part of the multiple's logarithm."""

CONFIDENCE = 3.0
"""Standard errors beyond which something is no chance."""

MOVED = 1.25
"""A window is complete, too, when the limit has grown by this: it would blur what it sees."""

SETTLED = 2.0
"""After a cut, judge from this many times the longest duration on."""

HELPED = 0.75
"""A cut helped if less than this part of the excess is left."""


@dataclass(frozen=True, slots=True)
class Latency:
    """When slowness is overload.

    Args:
        multiple: Overload begins where tasks take this many times as long as at best.
        samples: A window has at least this many.
    """

    multiple: float = 1.25  # the buffer that Envoy's gradient controller allows
    samples: int = 20

    def __post_init__(self) -> None:
        checks.number("multiple", self.multiple, minimum=1.0)
        checks.count("samples", self.samples, minimum=2)


Judgement = Literal["too slow", "in vain"]


class LatencySignal:
    """Watches latencies for one rule. Constant time and memory a sample.

    Attributes:
        ratio: How many times as long as at best tasks took, at the last judgement.
    """

    def __init__(self, policy: Latency) -> None:
        self.ratio = 1.0
        self._samples = policy.samples
        self._tolerated = math.log(policy.multiple)
        self._sharp = self._tolerated / SHARPNESS
        # The best window's mean logarithm, and its standard error.
        self._best = float("inf")
        self._best_error = float("inf")
        # The excess that led to a cut of which it is not known yet whether it helped.
        self._cut_for: float | None = None
        self._since = float("-inf")
        self._longest_s = 0.0
        # What is measured while the limit doubles is rough: it lags behind.
        self._rough = True
        self._open(0.0)

    @property
    def undecided(self) -> bool:
        """Whether there was a cut of which it is not known yet whether it helped."""
        return self._cut_for is not None

    def forget_cut(self) -> None:
        """Do not ask whether the last cut helped: something else has cut since."""
        self._cut_for = None
        self._count = 0

    def judge(self, sample: Sample, limit: float) -> Judgement | None:
        """Take a success into account, that of a task started after the last cut.

        Returns:
            "too slow": the limit is to be cut by `ratio`. "in vain": the last such cut did
            not help. None: neither can be said.
        """
        latency_s = max(sample.latency_s, 1e-9)
        # What was admitted too much slows down what comes after it, until it has drained.
        self._longest_s = max(self._longest_s, latency_s)
        if sample.ended_at - self._since < SETTLED * self._longest_s:
            return None
        if not self._count:
            self._open(limit)
        logarithm = math.log(latency_s)
        self._count += 1
        before = logarithm - self._mean
        self._mean += before / self._count
        self._squares += before * (logarithm - self._mean)
        if self._count < self._samples:
            return None
        error = math.sqrt(self._squares / (self._count - 1) / self._count)
        sharp = error <= self._sharp
        if self._best == float("inf"):
            return self._complete(error, sharp)
        excess = self._mean - self._best
        chance = CONFIDENCE * math.hypot(error, self._best_error)
        if sharp and self._best_error <= self._sharp:
            chance = 0.0
        if excess > self._tolerated + chance:
            return self._overload(excess, error, sample.ended_at)
        if sharp or limit > MOVED * self._opened_at:
            return self._complete(error, sharp)
        return None

    def _overload(self, excess: float, error: float, now: float) -> Judgement:
        if self._cut_for is not None and excess > HELPED * self._cut_for:
            return self._in_vain(error)
        self.ratio = math.exp(excess)
        self._cut_for = excess
        self._since = now
        self._longest_s = 0.0
        self._count = 0
        return "too slow"

    def _complete(self, error: float, sharp: bool) -> Judgement | None:
        excess = self._mean - self._best
        if self._cut_for is not None and excess > HELPED * self._cut_for:
            return self._in_vain(error)
        if self._rough and self._cut_for is not None:
            # In the calm after the first cut is the first good look.
            better, self._rough = True, False
        elif sharp and self._best_error > self._sharp:
            better = excess <= self._tolerated
        else:
            # A window of few samples that was lucky must not be the measure of the others.
            better = excess < CONFIDENCE * min(0.0, self._best_error - error)
        if better:
            self._best, self._best_error = self._mean, error
        self._cut_for = None
        self._count = 0
        return None

    def _in_vain(self, error: float) -> Judgement:
        """Take what is measured now for the best, since a cut did not change it."""
        self._best, self._best_error = self._mean, error
        self._cut_for = None
        self._count = 0
        return "in vain"

    def _open(self, limit: float) -> None:
        self._opened_at = limit
        self._count = 0
        self._mean = 0.0
        self._squares = 0.0
