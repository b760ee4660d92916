"""The gradient controller of Envoy's adaptive concurrency filter, restated.

Sources: ``controller/gradient_controller.cc`` in
``source/extensions/filters/http/adaptive_concurrency`` of https://github.com/envoyproxy/envoy,
main branch, and the defaults in ``adaptive_concurrency.proto``: percentile 50, 50 requests and a
concurrency of 3 to measure the least round trip, jitter 15 %, buffer 25 %. The two intervals
have no defaults; they are those of the example in Envoy's documentation of the filter: 0.1 s and
60 s. It starts from that concurrency of 3 and has it as its lower bound, whatever the scenario
says: there is no other setting.

It listens to latency alone. Here a refused attempt gives it no latency, as a request that
never got an answer gives it none there: taken for a quick answer, it would do worse.
"""

from __future__ import annotations

import math
import random

from parallel_exec.limits.bounds import Bounded
from parallel_exec.limits.rule import Sample

__all__ = ["EnvoyGradient"]


class EnvoyGradient(Bounded):
    """Least latency over present latency, ten times a second."""

    UPDATE_S = 0.1
    MEASURE_EVERY_S = 60.0
    MEASURE_REQUESTS = 50
    JITTER = 0.15
    LEAST = 3
    BUFFER = 0.25
    AT_LEAST_TOO_OFTEN = 5

    def __init__(self, initial: int, minimum: int, maximum: int | None) -> None:
        super().__init__(self.LEAST, minimum, maximum)
        self._random = random.Random("Envoy")
        self._latencies: list[float] = []
        self._least_s = 0.0
        self._at_least = 0
        self._update_at = 0.0
        self._measure_at = 0.0
        self._measure(0.0)

    def update(self, sample: Sample) -> None:
        """Take one sample into account."""
        now = sample.ended_at
        if not self._measuring:
            if now >= self._measure_at:
                self._measure(now)
            elif now >= self._update_at:
                self._adjust(now)
        if sample.verdict == "overload" or sample.started_at < self._measured_from:
            return
        self._latencies.append(sample.latency_s)
        if self._measuring and len(self._latencies) >= self.MEASURE_REQUESTS:
            self._measured(now)

    def _measure(self, now: float) -> None:
        """Pin the limit, to see what the latency is without load."""
        self._measuring = True
        self._measured_from = now
        self._at_least = 0
        self._deferred = self._limit
        self._latencies.clear()
        self._set(self.LEAST, "measure")

    def _measured(self, now: float) -> None:
        self._least_s = self._median()
        self._measuring = False
        self._set(self._deferred, "measured")
        self._measure_at = now + self.MEASURE_EVERY_S * (1.0 + self._random.random() * self.JITTER)
        self._update_at = now + self.UPDATE_S

    def _adjust(self, now: float) -> None:
        while self._update_at <= now:
            self._update_at += self.UPDATE_S
        if not self._latencies:
            return
        gradient = self._least_s * (1.0 + self.BUFFER) / self._median()
        wanted = self._limit * max(0.5, min(2.0, gradient))
        before = self._limit
        self._set(max(self.LEAST, int(wanted + math.sqrt(wanted))), "gradient")
        stuck = before == self.LEAST and self._limit == self.LEAST
        self._at_least = self._at_least + 1 if stuck else 0
        if self._at_least >= self.AT_LEAST_TOO_OFTEN:
            self._measure_at = now

    def _median(self) -> float:
        latencies = sorted(self._latencies)
        self._latencies.clear()
        return latencies[len(latencies) // 2]

    def _set(self, limit: float, reason: str) -> None:
        # It has bounds of its own; the scenario's upper one holds as well.
        self._limit = min(float(limit), self._max_limit)
        self._reason = reason
