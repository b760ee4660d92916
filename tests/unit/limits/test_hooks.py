"""The hooks of a limiter of one's own are called whichever way a place is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.limits.base import Request
from parallel_exec.limits.rule import Verdict


class Counting(px.ConcurrencyLimiter):
    """Counts what its hooks are told; refuses while it is shut."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.fits = self.taken = self.returned = 0
        self.most = 0.0

    def _fits(self, request: Request) -> bool:
        self.fits += 1
        return self.in_flight < 1 and super()._fits(request)

    def _taken(self, request: Request) -> None:
        self.taken += 1
        self.most = max(self.most, self.in_flight)

    def _returned(self, request: Request, verdict: Verdict, now: float) -> None:
        self.returned += 1
        super()._returned(request, verdict, now)


class CountingReturns(px.ConcurrencyLimiter):
    """Overrides one hook alone."""

    returned = 0

    def _returned(self, request: Request, verdict: Verdict, now: float) -> None:
        self.returned += 1


def with_statement(limiter: Any) -> None:
    with limiter:
        pass


def run(limiter: Any) -> None:
    limiter.run(lambda: None)


def decorator(limiter: Any) -> None:
    limiter(lambda: None)()


def one_of_many(limiter: Any) -> None:
    px.all([lambda: None], concurrency=limiter)


def a_command(limiter: Any) -> None:
    px.all(["true"], concurrency=limiter)


def composed(limiter: Any) -> None:
    px.all([lambda: None], concurrency=px.AllOf(limiter, 3))


def nested(limiter: Any) -> None:
    limiter.run(lambda: None, weight=1, priority=1)


WAYS = [with_statement, run, decorator, one_of_many, a_command, composed, nested]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_hooks_are_called_whichever_way_a_place_is_taken(way: Callable[[Any], None]) -> None:
    """Each place is asked for, taken and returned once."""
    limiter = Counting(4)
    for times in (1, 2, 3):
        way(limiter)
        assert limiter.fits >= times
        assert (limiter.taken, limiter.returned) == (times, times)
    assert limiter.in_flight == 0
    one = CountingReturns(4)
    way(one)
    assert one.returned == 1


def test_what_the_hook_refuses_waits() -> None:
    """Its answer holds for threads that enter it directly and for tasks alike."""
    limiter = Counting(4)

    def enter() -> None:
        with limiter:
            assert limiter.in_flight == 1

    px.all([enter] * 8 + ["true"] * 2, concurrency=px.ConcurrencyLimiter(8))
    px.all([lambda: None] * 8, concurrency=limiter)
    assert (limiter.most, limiter.taken, limiter.returned) == (1, 16, 16)
