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
stays equally so. And where durations span orders of magnitude, it takes the slow ones that
come back late for a slowdown once or twice, and loses the throughput of the time that it
takes to see that they are none.
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

CONFIDENCE = 4.0
"""Standard errors beyond which slowness is no chance; it is looked for at every sample."""

MOVED = 1.25
"""A window is complete, too, when the limit has grown by this: it would blur what it sees."""

MOST = 100
"""After this many times the least number of samples in which nothing speaks for the contrary,
a cut helped."""

SETTLED = 1.5
"""After a cut, judge from this many times the longest duration on."""

HELPED = 0.75
"""A cut helped if less than this part of the excess is left."""

DOUBT = 3.0
"""Standard errors beyond which it is clear, before the window is complete, that it did not."""


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


Judgement = Literal["too slow", "helped", "in vain"]


class LatencySignal:
    """Watches latencies for one rule. Constant time and memory a sample.

    Attributes:
        ratio: How many times as long as at best tasks took, at the last judgement.
        rough: Whether that is known only roughly.
    """

    def __init__(self, policy: Latency) -> None:
        self.ratio = 1.0
        self.rough = True
        self._samples = policy.samples
        self._tolerated = math.log(policy.multiple)
        self._sharp = self._tolerated / SHARPNESS
        # The best window's mean logarithm, and its standard error.
        self._best = float("inf")
        self._best_error = float("inf")
        # The excess that led to a cut of which it is not known yet whether it helped.
        self._cut_for: float | None = None
        self._cut_at = 0.0
        self._settling = False
        self._longest_s = 0.0
        self._looked = False
        # The window: how many samples, their mean logarithm, the sum of squares around it,
        # and the limit when it began.
        self._count = 0
        self._mean = 0.0
        self._squares = 0.0
        self._opened_at = 0.0

    @property
    def undecided(self) -> bool:
        """Whether there was a cut of which it is not known yet whether it helped."""
        return self._cut_for is not None

    def forget_cut(self) -> None:
        """Do not ask whether the last cut helped: something else has cut since."""
        self._cut_for = None
        self._settling = False
        self._count = 0

    def judge(self, sample: Sample, limit: float) -> Judgement | None:
        """Take a success into account, that of a task started after the last cut.

        Returns:
            "too slow": the limit is to be cut by `ratio`. "helped", "in vain": what came of
            the last such cut. None: nothing can be said.
        """
        latency_s = max(sample.latency_s, 1e-9)
        if self._settling:
            # What was admitted too much slows down what comes after it, until it has drained.
            self._longest_s = max(self._longest_s, latency_s)
            self._settling = sample.ended_at - self._cut_at < SETTLED * self._longest_s
            return None
        self._add(latency_s, limit)
        if self._count < self._samples:
            return None
        variance = self._squares / (self._count - 1)
        error = math.sqrt(variance / self._count)
        if self._best == float("inf"):
            self._take(error)
            return None
        excess = self._mean - self._best
        sharp = error <= self._sharp
        complete = sharp or limit > MOVED * self._opened_at
        if self._cut_for is not None:
            left = excess - HELPED * self._cut_for
            if left > (0.0 if complete else DOUBT * error):
                # The load does not change it: what is measured now is the best there is.
                self._cut_for = None
                self._take(error)
                return "in vain"
            if complete or self._count >= MOST * self._samples:
                self._helped(error)
                return "helped"
            return None
        self.rough = not sharp or self._best_error > self._sharp
        chance = CONFIDENCE * math.hypot(error, self._best_error) if self.rough else 0.0
        if excess > self._tolerated + chance:
            self.ratio = math.exp(excess)
            self._cut_for, self._cut_at = excess, sample.ended_at
            self._settling, self._longest_s = True, 0.0
            self._count = 0
            return "too slow"
        if complete:
            if sharp and self._best_error > self._sharp:
                better = excess <= self._tolerated
            else:
                # A lucky window of few samples must not be the measure of the others.
                better = excess < CONFIDENCE * min(0.0, self._best_error - error)
            if better:
                self._take(error)
            self._count = 0
        return None

    def _helped(self, error: float) -> None:
        self._cut_for = None
        # In the calm after the first cut is the first good look.
        if not self._looked or self._mean < self._best:
            self._take(error)
        self._looked = True
        self._count = 0

    def _take(self, error: float) -> None:
        """Make this window the best."""
        self._best, self._best_error = self._mean, error
        self._count = 0

    def _add(self, latency_s: float, limit: float) -> None:
        if not self._count:
            self._opened_at = limit
            self._mean = self._squares = 0.0
        logarithm = math.log(latency_s)
        self._count += 1
        before = logarithm - self._mean
        self._mean += before / self._count
        self._squares += before * (logarithm - self._mean)
