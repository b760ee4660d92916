"""A service with places, in steps instead of time, to drive a rule with."""

from __future__ import annotations

from parallel_exec.limits.rule import Rule, Sample, Verdict

__all__ = ["Driver"]


class Driver:
    """Keeps a rule's limit full, or tells it what one likes.

    Attributes:
        now: The time.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.now = 100.0

    def tell(
        self,
        verdict: Verdict,
        *,
        started_at: float | None = None,
        in_flight: int | None = None,
        waiting: bool = True,
    ) -> None:
        """Tell of one task that ends a moment later, started a moment ago if not said."""
        if started_at is None:
            started_at = self.now + 0.001
        self.now += 0.002
        if in_flight is None:
            in_flight = int(self.rule.limit)
        self.rule.update(Sample(verdict, started_at, self.now, in_flight, waiting))

    def window(self, capacity: int, latency_s: float = 0.1) -> int:
        """Fill the limit once, with tasks of one duration; return how many were refused.

        A place that falls free is taken at once, so all are taken whenever a task ends.
        """
        running = int(self.rule.limit)
        refused = max(0, running - capacity)
        started_at = self.now
        self.now += 0.005
        for _ in range(refused):
            self.rule.update(Sample("overload", started_at, self.now, running, True))
        self.now += latency_s - 0.005
        for _ in range(running - refused):
            self.rule.update(Sample("success", started_at, self.now, running, True))
        # The next ones start after what these had to say.
        self.now += 0.0001
        return refused
