"""A rate: how much may begin in any stretch of time."""

from __future__ import annotations

from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.errors import ConfigError
from parallel_exec.limits import base
from parallel_exec.limits.base import Place
from parallel_exec.limits.rate import RateLimiter
from parallel_exec.testing import FakeClock
from tests.unit.limits.asking import Asker


def test_n_begin_at_once_and_the_next_when_the_window_has_passed() -> None:
    """The window slides: a place comes back exactly `per` after it was used."""
    clock, asker = FakeClock(100.0), Asker()
    limiter = RateLimiter(2, per=10, clock=clock)
    asker.ask("a", limiter)
    clock.advance(4)
    asker.ask("b", limiter)
    asker.ask("c", limiter)
    asker.ask("d", limiter)
    clock.advance(5.5)
    assert asker.granted == ["a", "b"]
    clock.advance(0.5)
    assert asker.granted == ["a", "b", "c"]
    clock.advance(3.5)
    assert asker.granted == ["a", "b", "c"]
    clock.advance(0.5)
    assert asker.granted == ["a", "b", "c", "d"]


def test_ending_early_gives_nothing_back() -> None:
    """It is beginnings that are counted, not what runs."""
    clock, asker = FakeClock(100.0), Asker()
    limiter = RateLimiter(1, per=10, clock=clock)
    base.tell(base.release(asker.ask("a", limiter)))
    asker.ask("b", limiter)
    assert (asker.granted, limiter.in_flight) == (["a"], 0)


def test_a_burst_of_one_spreads_the_work() -> None:
    """With `burst` 1 tasks begin `per` / `n` apart."""
    clock, asker = FakeClock(100.0), Asker()
    limiter = RateLimiter(4, per=8, burst=1, clock=clock)
    for name in "abc":
        asker.ask(name, limiter)
    counts = []
    for _ in range(5):
        counts.append(len(asker.granted))
        clock.advance(1)
    assert counts == [1, 1, 2, 2, 3]


def test_weights_use_up_the_window() -> None:
    """A heavy task counts as many light ones."""
    clock, asker = FakeClock(100.0), Asker()
    limiter = RateLimiter(5, per=10, clock=clock)
    asker.ask("heavy", limiter, weight=4)
    asker.ask("light", limiter)
    asker.ask("more", limiter, weight=2)
    assert asker.granted == ["heavy", "light"]
    clock.advance(10)
    assert asker.granted == ["heavy", "light", "more"]


def test_the_urgent_is_served_first_when_time_has_come() -> None:
    """Priority holds among those who wait for time to pass."""
    clock, asker = FakeClock(100.0), Asker()
    limiter = RateLimiter(1, per=10, clock=clock)
    for name, priority in [("a", 0), ("b", 0), ("urgent", 1)]:
        asker.ask(name, limiter, priority=priority)
    clock.advance(20)
    assert asker.granted == ["a", "urgent", "b"]


def test_a_pause_outlasts_the_window() -> None:
    """Nothing begins while the limit is paused; what is due begins when it is resumed."""
    clock, asker = FakeClock(100.0), Asker()
    limiter = RateLimiter(1, per=10, clock=clock)
    asker.ask("a", limiter)
    asker.ask("b", limiter)
    limiter.pause()
    clock.advance(100)
    assert asker.granted == ["a"]
    limiter.resume()
    assert asker.granted == ["a", "b"]


def test_a_nested_call_counts_like_any_other() -> None:
    """A rate is never lent."""
    clock, asker = FakeClock(100.0), Asker()
    limiter = RateLimiter(1, per=10, clock=clock)
    outer = asker.ask("outer", limiter)
    base.lend(outer)
    asker.ask("inner", limiter, parent=outer)
    assert asker.granted == ["outer"]
    clock.advance(10)
    assert asker.granted == ["outer", "inner"]
    base.lend_no_more(outer)


def test_who_waits_for_time_holds_no_place_elsewhere() -> None:
    """Together with another limit, a task that must wait leaves the other one free."""
    clock, asker = FakeClock(100.0), Asker()
    rate, places = RateLimiter(1, per=10, clock=clock), px.ConcurrencyLimiter(1)
    both = px.AllOf(places, rate)
    base.tell(base.release(asker.ask("a", both)))
    asker.ask("b", both)
    assert places.in_flight == 0
    base.tell(base.release(asker.ask("other", places)))
    clock.advance(10)
    assert asker.granted == ["a", "other", "b"]
    assert places.in_flight == 1


def test_it_limits_a_run() -> None:
    """As `concurrency=` it lets no task be lost."""
    assert px.all([lambda: 1] * 30, concurrency=px.RateLimiter(10, per=0.01)) == [1] * 30


def test_it_works_as_with_and_decorator() -> None:
    """Each entry is one beginning."""
    clock = FakeClock(100.0)
    limiter = RateLimiter(2, per=10, clock=clock)
    with limiter:
        assert limiter(lambda: limiter.in_flight)() == 2
    asker = Asker()
    asker.ask("third", limiter)
    assert asker.granted == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n must be"),
        ({"n": 2, "per": 0}, "per must be"),
        ({"n": 2, "per": float("nan")}, "per must be"),
        ({"n": 2, "burst": 0}, "burst must be"),
        ({"n": 2, "burst": 3}, "burst must be at most n, 2"),
    ],
)
def test_unusable_arguments_are_refused(arguments: dict[str, float], message: str) -> None:
    """The message names the parameter."""
    with pytest.raises(ConfigError, match=message):
        RateLimiter(**arguments)  # type: ignore[arg-type]


def test_what_counts_is_when_a_task_begins() -> None:
    """Not when it is granted its place: until it has begun, it counts at every moment."""
    clock = FakeClock(100.0)
    limiter = RateLimiter(1, per=10, clock=clock)
    asker, first = Asker(), Place()
    assert base.acquire(first, limiter)
    asker.ask("second", limiter)
    clock.advance(1000)
    assert asker.granted == []
    base.begin(first)
    clock.advance(9.5)
    assert asker.granted == []
    clock.advance(0.5)
    assert asker.granted == ["second"]


def test_what_is_given_back_has_begun_at_the_latest_then() -> None:
    """An environment that does not tell of beginnings keeps nobody waiting for ever."""
    clock, asker = FakeClock(100.0), Asker()
    limiter = RateLimiter(1, per=10, clock=clock)
    silent = Place()
    assert base.acquire(silent, limiter)
    asker.ask("next", limiter)
    clock.advance(50)
    base.tell(base.release(silent))
    clock.advance(9.5)
    assert asker.granted == []
    clock.advance(0.5)
    assert asker.granted == ["next"]


@pytest.mark.parametrize("task", ["true", lambda: None])
def test_tasks_begin(task: Any) -> None:
    """Commands and functions tell of it: a rate that many have used up is idle in time."""
    clock = FakeClock(100.0)
    limiter = RateLimiter(5, per=10, clock=clock)
    px.all([task] * 5, concurrency=limiter)
    assert not limiter.idle
    clock.advance(10)
    assert limiter.idle
