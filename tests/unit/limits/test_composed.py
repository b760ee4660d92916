"""Several limits at once; limits by key and by host."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest

import parallel_exec as px
from parallel_exec.errors import ConfigError
from parallel_exec.limits import base
from parallel_exec.limits.base import Limit, Limiter, Request
from parallel_exec.testing import FakeClock
from tests.unit.limits.asking import Asker


def test_a_task_needs_a_place_in_each() -> None:
    """The tightest limit decides."""
    asker, wide, tight = Asker(), px.ConcurrencyLimiter(3), px.ConcurrencyLimiter(1)
    for name in "ab":
        asker.ask(name, px.AllOf(wide, tight))
    assert (asker.granted, wide.in_flight, tight.in_flight) == (["a"], 1, 1)


def test_a_task_that_waits_holds_nothing() -> None:
    """Waiting for one limit leaves the places of the other to others."""
    asker, first, second = Asker(), px.ConcurrencyLimiter(1), px.ConcurrencyLimiter(1)
    holder = asker.ask("holder", second)
    asker.ask("both", px.AllOf(first, second))
    assert first.in_flight == 0
    user = asker.ask("user", first)
    base.tell(base.release(holder))  # now the other place is missing
    assert (asker.granted, second.in_flight) == (["holder", "user"], 0)
    base.tell(base.release(user))
    assert asker.granted == ["holder", "user", "both"]


def test_who_has_to_wait_twice_keeps_the_time_of_arrival() -> None:
    """Moving from one line to another does not send a task to the end."""
    asker, first, second = Asker(), px.ConcurrencyLimiter(1), px.ConcurrencyLimiter(1)
    in_first = asker.ask("in first", first)
    in_second = asker.ask("in second", second)
    asker.ask("early", px.AllOf(first, second))  # waits for the first
    asker.ask("late", second)
    base.tell(base.release(in_first))  # "early" moves to the second line
    base.tell(base.release(in_second))
    assert asker.granted == ["in first", "in second", "early"]


def test_opposite_orders_do_not_deadlock() -> None:
    """Two tasks that name the same limits in opposite orders both get through."""
    asker, first, second = Asker(), px.ConcurrencyLimiter(1), px.ConcurrencyLimiter(1)
    one = asker.ask("one", px.AllOf(first, second))
    two = asker.ask("two", px.AllOf(second, first))
    base.tell(base.release(one))
    base.tell(base.release(two))
    assert asker.granted == ["one", "two"]


def test_each_key_has_a_limit_of_its_own() -> None:
    """Tasks with one key do not take the places of another; those without are free."""
    asker, made = Asker(), []

    def make(key: str) -> px.ConcurrencyLimiter:
        made.append(key)
        return px.ConcurrencyLimiter(1)

    limit = px.PerKey(make)
    for name, key in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("none", None), ("none 2", None)]:
        asker.ask(name, limit, key=key)
    assert asker.granted == ["a1", "b1", "none", "none 2"]
    assert made == ["a", "b"]
    assert limit.of("a").waiting == 1  # type: ignore[attr-defined]


def test_a_blocked_key_does_not_hold_up_the_whole() -> None:
    """Under a limit for all and one by key, a full key lets the others pass."""
    asker, whole = Asker(), px.ConcurrencyLimiter(2)
    limit = px.AllOf(whole, px.PerKey(lambda key: px.ConcurrencyLimiter(1)))
    asker.ask("a1", limit, key="a")
    asker.ask("a2", limit, key="a")
    asker.ask("b1", limit, key="b")
    assert (asker.granted, whole.in_flight) == (["a1", "b1"], 2)


def one(key: str) -> px.ConcurrencyLimiter:
    """Return a limit of a single place."""
    return px.ConcurrencyLimiter(1)


def several(key: str) -> px.AllOf:
    """Return the same, made of two limits."""
    return px.AllOf(px.ConcurrencyLimiter(1), px.ConcurrencyLimiter(2))


@pytest.mark.parametrize("make", [one, several])
def test_limits_of_keys_that_are_gone_are_forgotten(make: Callable[[str], Limit]) -> None:
    """However many keys there are, only those used last are kept."""
    made: list[weakref.ref[Limit]] = []

    def remembered(key: str) -> Limit:
        limit = make(key)
        made.append(weakref.ref(limit))
        return limit

    asker, limit = Asker(), px.PerKey(remembered, keep=10)
    for number in range(200):
        base.release(asker.ask("a", limit, key=f"k{number}"))
    kept = limit.of("k199")
    gc.collect()
    assert sum(ref() is not None for ref in made) == 10
    assert limit.of("k199") is kept
    assert len(made) == 200
    limit.of("k0")
    assert len(made) == 201


@pytest.mark.parametrize("make", [one, several])
def test_a_limit_that_is_in_use_is_not_forgotten(make: Callable[[str], Limit]) -> None:
    """Held or awaited, a key has one limit, though none is kept for later."""
    asker, limit = Asker(), px.PerKey(make, keep=0)
    holder = asker.ask("holder", limit, key="a")
    for number in range(20):
        base.release(asker.ask("other", limit, key=f"k{number}"))
    gc.collect()
    waiter = asker.ask("waiter", limit, key="a")
    asker.granted.clear()
    base.tell(base.release(holder))
    del holder
    gc.collect()
    asker.ask("last", limit, key="a")
    assert asker.granted == ["waiter"]
    base.tell(base.release(waiter))
    assert asker.granted == ["waiter", "last"]


def test_a_rate_that_is_used_up_and_a_pause_are_not_forgotten() -> None:
    """A new limit would let through what the old one holds back."""
    clock, asker = FakeClock(100.0), Asker()
    limits = {"rate": px.RateLimiter(1, per=10, clock=clock), "paused": px.ConcurrencyLimiter(1)}
    limits["paused"].pause()
    limit = px.PerKey(limits.pop, keep=0)
    base.release(asker.ask("first", limit, key="rate"))
    limit.of("paused")
    gc.collect()
    asker.ask("second", limit, key="rate")
    asker.ask("third", limit, key="paused")
    assert asker.granted == ["first"]
    clock.advance(10)
    assert asker.granted == ["first", "second"]


def test_an_empty_rate_is_forgotten() -> None:
    """When its window has passed, a new one would do as well."""
    clock, asker, made = FakeClock(100.0), Asker(), []

    def make(key: str) -> px.AllOf:
        made.append(key)
        return px.AllOf(px.RateLimiter(1, per=10, clock=clock))

    limit = px.PerKey(make, keep=0)
    for _ in range(2):
        base.release(asker.ask("a", limit, key="a"))
        clock.advance(11)
        gc.collect()
        base.release(asker.ask("b", limit, key="b"))  # a moment to look for what is idle
        clock.advance(11)
        gc.collect()
    assert made == ["a", "b", "a", "b"]


def test_keys_of_tasks_reach_the_limit() -> None:
    """`Task(key=)` is what `PerKey` sees, and every task is run."""
    seen = set()

    def make(key: str) -> px.ConcurrencyLimiter:
        seen.add(key)
        return px.ConcurrencyLimiter(1)

    tasks = [px.Task(lambda: 1, key=f"k{number % 3}") for number in range(30)]
    limit = px.AllOf(px.ConcurrencyLimiter(5), px.PerKey(make))
    assert px.all(tasks, concurrency=limit) == [1] * 30
    assert seen == {"k0", "k1", "k2"}


def test_a_limit_that_cannot_be_made_costs_its_tasks_alone() -> None:
    """They fail with the reason; others run. Where a failure stops the rest, so does this."""

    def make(key: str) -> px.ConcurrencyLimiter:
        if key == "bad":
            raise ZeroDivisionError
        return px.ConcurrencyLimiter(1) if key == "good" else None  # type: ignore[return-value]

    limit = px.PerKey(make)
    tasks = [px.Task(lambda: 1, key=key) for key in ("good", "bad", "worse", "good")]
    outcomes = px.all_settled(tasks, concurrency=limit)
    assert [outcome.status for outcome in outcomes] == [
        "fulfilled", "rejected", "rejected", "fulfilled",
    ]  # fmt: skip
    assert isinstance(outcomes[1].reason, ZeroDivisionError)
    assert isinstance(outcomes[2].reason, ConfigError)
    assert outcomes[1].attempts == 0
    with pytest.raises(ZeroDivisionError):
        px.all(tasks, concurrency=limit)


def test_a_limit_that_fails_between_two_tries_ends_the_task() -> None:
    """It has run once, and is not left waiting."""

    class Once:
        """Has no places for a second try."""

        def parts(self, request: Request) -> tuple[Limiter, ...]:
            if calls:
                raise ZeroDivisionError
            return ()

    def task() -> None:
        calls.append(1)
        raise ValueError

    calls: list[int] = []
    (outcome,) = px.all_settled([task], concurrency=Once(), retry=px.Retry(3, wait=0))
    assert isinstance(outcome.reason, ZeroDivisionError)
    assert (outcome.attempts, calls) == (1, [1])


def test_hosts_are_told_apart_by_the_names_of_environments() -> None:
    """`PerHost` limits commands by where they run, and functions not at all."""
    seen = []

    def make(host: str) -> px.ConcurrencyLimiter:
        seen.append(host)
        return px.ConcurrencyLimiter(1)

    px.all(["true", px.Local().command("true"), lambda: None], concurrency=px.PerHost(make))
    assert seen == ["local"]


def test_what_makes_no_limits_is_refused() -> None:
    """The message names the argument."""
    with pytest.raises(ConfigError, match="make must be a function of a key"):
        px.PerKey(3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="keep must be a whole number of at least 0, not -1"):
        px.PerKey(one, keep=-1)
    with pytest.raises(ConfigError, match="make must be a function that gives a limit, not 3"):
        px.PerKey(lambda key: 3).of("a")  # type: ignore[return-value,arg-type]
    for wrong in (3.5, 0, True, px.RateLimiter):
        with pytest.raises(ConfigError, match="limits must be made of limits and whole numbers"):
            px.AllOf(wrong)  # type: ignore[arg-type]


def test_a_window_of_the_smallest_number_is_read() -> None:
    """The smallest number counts; limits without one are left aside."""
    keyed = px.PerKey(lambda key: px.ConcurrencyLimiter(1))
    assert px.AllOf(px.ConcurrencyLimiter(7), keyed, px.ConcurrencyLimiter(3)).limit == 3
    assert not hasattr(px.AllOf(keyed), "limit")
