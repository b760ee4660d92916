"""Slowness as a sign of overload, where it is asked for."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

import pytest

from parallel_exec.limits.aimd import AIMD
from parallel_exec.limits.cubic import Cubic
from parallel_exec.limits.epochs import Epochs
from parallel_exec.limits.latency import Latency
from parallel_exec.limits.rule import Sample
from tests.unit.limits.samples import Driver

RULES: list[Callable[..., Epochs]] = [AIMD, Cubic]


class SlowService:
    """Serves all that is admitted, more slowly the further that is past the knee.

    The limit is kept full: whatever ends is followed at once by what waits.
    """

    def __init__(self, rule: Epochs, knee: int, base_s: float = 0.1) -> None:
        self.rule = rule
        self.knee = knee
        self.base_s = base_s
        self.now = 10.0
        self.random = random.Random(1)
        self.running: list[tuple[float, float]] = []

    def serve(self, seconds: float) -> list[float]:
        """Go on for so long; return the limit after each task that ended."""
        limits = []
        until = self.now + seconds
        while self.now < until:
            while len(self.running) < int(self.rule.limit):
                slowdown = max(1.0, len(self.running) / self.knee)
                duration_s = self.base_s * self.random.uniform(0.5, 1.5) * slowdown
                heapq.heappush(self.running, (self.now + duration_s, self.now + 1e-5))
            in_flight = len(self.running)
            self.now, started_at = heapq.heappop(self.running)
            self.rule.update(Sample("success", started_at, self.now, in_flight, True))
            limits.append(self.rule.limit)
        return limits


@pytest.mark.parametrize("make", RULES)
def test_it_stays_near_the_knee(make: Callable[..., Epochs]) -> None:
    """Nothing fails, and yet the limit does not go where tasks take twice as long."""
    rule = make(5, 1, 10_000, latency=Latency())
    service = SlowService(rule, knee=100)
    service.serve(5.0)
    limits = service.serve(30.0)
    assert max(limits) < 200
    assert sum(limits) / len(limits) > 80


@pytest.mark.parametrize("make", RULES)
def test_it_is_off_unless_asked_for(make: Callable[..., Epochs]) -> None:
    """Durations mean nothing by default."""
    rule = make(5, 1, 2000)
    SlowService(rule, knee=20).serve(20.0)
    assert rule.limit > 500


def test_tasks_that_take_no_time_are_no_error() -> None:
    """A clock may not have moved between the start and the end."""
    rule = AIMD(5, 1, 100, latency=Latency())
    driver = Driver(rule)
    for _ in range(200):
        driver.tell("success", started_at=driver.now + 0.002)
    assert rule.limit == 100.0


def test_a_service_that_became_slower_for_good_does_not_stop_the_limit() -> None:
    """A cut that does not help shows that load is not the cause, and is taken back."""
    rule = AIMD(5, 1, 100, latency=Latency())
    service = SlowService(rule, knee=10_000)
    service.serve(5.0)
    assert rule.limit == 100.0
    service.base_s = 0.3
    limits = service.serve(60.0)
    assert min(limits) < 60
    assert limits[-1] == 100.0
    assert sum(limits) / len(limits) > 80


def test_a_refusal_ends_the_question_whether_a_cut_for_latency_helped() -> None:
    """The limit is not brought back to where it was when there is another reason to be low."""
    rule = AIMD(5, 1, 100, latency=Latency())
    service = SlowService(rule, knee=10_000)
    service.serve(5.0)
    service.base_s = 0.3
    while rule.reason != "latency":
        service.serve(0.01)
    cut = rule.limit
    rule.update(Sample("overload", service.now, service.now + 0.01, int(rule.limit), True))
    assert rule.limit < cut
    assert max(service.serve(2.0)) < 75


def test_durations_over_three_orders_of_magnitude_do_not_bring_the_limit_down_for_good() -> None:
    """What differs is the tasks, not the load."""
    rule = AIMD(50, 1, 50, latency=Latency(multiple=2.0))
    random_ = random.Random(2)
    now, limits = 0.0, []
    for _ in range(20_000):
        now += 0.01
        duration_s = 10 ** random_.uniform(-2.0, 1.0)
        rule.update(Sample("success", now - duration_s, now, int(rule.limit), True))
        limits.append(rule.limit)
    assert limits[-1] == 50.0
    assert sum(limits) / len(limits) > 40
