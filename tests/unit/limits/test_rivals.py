"""The rivals of the simulator do what their sources say, on samples worked out by hand."""

from __future__ import annotations

import pytest

from benchmarks.simulator.envoy import EnvoyGradient
from benchmarks.simulator.netflix import Gradient2, NetflixAIMD, Vegas, Windowed
from parallel_exec.limits.rule import Rule, Sample, Verdict


def tell(
    rule: Rule,
    latency_s: float,
    verdict: Verdict = "success",
    *,
    at: float = 1.0,
    beside: int = 100,
) -> float:
    """Give a rule one sample; return its limit."""
    rule.update(Sample(verdict, at - latency_s, at, beside, True))
    return rule.limit


def test_netflix_aimd() -> None:
    """Times 0.9 and rounded down for a drop or 5 seconds; one more if half of it is in use."""
    rule = NetflixAIMD(105, 1, 1000)
    assert tell(rule, 0.1, "overload") == 94
    assert tell(rule, 5.1) == 84
    assert tell(rule, 0.1, beside=42) == 85
    assert tell(rule, 0.1, beside=42) == 85
    assert tell(rule, 0.1, "neither") == 85


def test_netflix_vegas() -> None:
    """The queue is the limit times 1 - least / present, and steps are the limit's logarithm."""
    assert [Vegas._unit(limit) for limit in (1, 99, 100, 999, 1000)] == [1, 1, 2, 2, 3]
    rule = Vegas(100, 1, 1000)
    assert tell(rule, 0.1) == 100  # the first is the least
    assert tell(rule, 0.102) == 112  # a queue of 2 of at most 2: plus 6 times 2
    assert tell(rule, 0.104) == 114  # 5 of less than 6: plus 2
    assert tell(rule, 0.108) == 114  # 9: between 6 and 12
    assert tell(rule, 0.120) == 112  # 19 of more than 12: minus 2
    assert tell(rule, 0.120, beside=55) == 112  # not half of it in use
    assert tell(rule, 0.120, "overload", beside=55) == 110
    assert tell(rule, 0.005, "overload") == 110  # a quick refusal is the new least


def test_netflix_vegas_looks_for_the_least_anew() -> None:
    """Now and then what is measured becomes the least."""
    rule = Vegas(10, 1, 10)
    tell(rule, 0.001)
    for _ in range(300):
        tell(rule, 1.0)
    assert rule.limit > 1


def test_netflix_gradient2() -> None:
    """Half as slow again is tolerated; the limit moves a fifth of the way."""
    rule = Gradient2(100, 1, 1000)
    for _ in range(10):
        tell(rule, 0.1, beside=40)  # warm-up; the limit is not in use
    assert rule.limit == 100
    assert tell(rule, 0.1) == pytest.approx(100 * 0.8 + (100 + 4) * 0.2)
    long_s = 0.1 + 0.2 * 2 / 601
    limit = 100.8 * 0.8 + (100.8 * 1.5 * long_s / 0.3 + 4) * 0.2
    assert tell(rule, 0.3) == pytest.approx(limit)
    long_s += (10.0 - long_s) * 2 / 601
    limit = limit * 0.8 + (limit * 0.5 + 4) * 0.2
    assert tell(rule, 10.0) == pytest.approx(limit)
    long_s += (0.01 - long_s) * 2 / 601
    limit = limit * 0.8 + (limit + 4) * 0.2
    assert tell(rule, 0.01) == pytest.approx(limit)
    assert rule._long_s == pytest.approx(long_s * 0.95)  # more than twice as long as now


def test_netflix_windows() -> None:
    """A second's samples are one: their mean latency, the most in flight, any drop."""
    rule = Windowed(NetflixAIMD(100, 1, 1000))
    tell(rule, 0.1, "overload", at=10.0)  # a window of one is too small
    assert rule.limit == 100
    for _ in range(8):
        tell(rule, 0.1, at=10.5, beside=1)
    tell(rule, 0.1, "overload", at=11.0, beside=1)  # not after the end of the window
    assert rule.limit == 100
    tell(rule, 0.1, at=11.1, beside=1)
    assert rule.limit == 90
    for _ in range(9):
        tell(rule, 0.1, at=12.0, beside=45)
    tell(rule, 0.1, at=12.2, beside=1)
    assert rule.limit == 91
    for _ in range(9):
        tell(rule, 0.1, at=13.3)  # the first of these closes a window of one
    tell(rule, 0.1, at=14.4)  # nine are too few
    assert rule.limit == 91


def test_envoy() -> None:
    """Three at once until 50 latencies are known; a quarter more than their median is aimed at."""
    rule = EnvoyGradient(500, 1, 1000)
    assert rule.limit == 3
    for _ in range(50):
        tell(rule, 0.1, at=1.0)
    assert rule.limit == 3
    tell(rule, 0.25, at=1.05)
    tell(rule, 0.001, "overload", at=1.05)  # says nothing
    assert rule.limit == 3
    tell(rule, 0.25, at=1.11)  # 3 times 1.25 * 0.1 / 0.25 is 1.5, plus its root; 3 at least
    assert rule.limit == 3
    tell(rule, 0.1, at=1.21)
    tell(rule, 0.1, at=1.31)  # 3 times 1.25 is 3.75, plus 1.9
    assert rule.limit == 5
    tell(rule, 0.01, at=1.32)
    tell(rule, 0.01, at=1.33)
    tell(rule, 0.01, at=1.41)  # twice at most: 10 plus 3.2
    assert rule.limit == 13
    tell(rule, 0.1, at=1.42)
    tell(rule, 0.1, at=1.51)  # 16.25 plus 4.03
    assert rule.limit == 20


def test_envoy_measures_again_when_it_is_stuck() -> None:
    """Five updates in a row at the least limit; what began before that does not count."""
    rule = EnvoyGradient(500, 1, 1000)
    for _ in range(50):
        tell(rule, 0.1, at=1.0)
    now = 1.0
    for _ in range(7):
        now += 0.11
        tell(rule, 9.0 if now > 10 else 0.9, at=now)
    assert rule.reason == "measure"
    for _ in range(50):
        tell(rule, 0.9, at=now)  # began before
    assert rule.reason == "measure"
    for _ in range(50):
        tell(rule, 0.05, at=now + 0.1)
    assert rule.reason == "measured"
