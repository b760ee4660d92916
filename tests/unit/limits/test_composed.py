"""Several limits at once; limits by key and by host."""

from __future__ import annotations

import pytest

import parallel_exec as px
from parallel_exec.errors import ConfigError
from parallel_exec.limits import base
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
    with pytest.raises(ConfigError, match="make must be a function that gives a limit, not 3"):
        px.PerKey(lambda key: 3).of("a")  # type: ignore[return-value,arg-type]
    with pytest.raises(ConfigError, match="limits must be made of limits, not 3"):
        px.AllOf(3)  # type: ignore[arg-type]


def test_a_window_of_the_smallest_number_is_read() -> None:
    """The smallest number counts; limits without one are left aside."""
    keyed = px.PerKey(lambda key: px.ConcurrencyLimiter(1))
    assert px.AllOf(px.ConcurrencyLimiter(7), keyed, px.ConcurrencyLimiter(3)).limit == 3
    assert not hasattr(px.AllOf(keyed), "limit")
