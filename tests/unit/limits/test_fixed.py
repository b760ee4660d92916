"""A fixed limit: who gets a place, who waits, who is next."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.errors import ConfigError
from parallel_exec.limits import base
from tests.unit.limits.asking import Asker


def test_no_more_than_the_limit_get_a_place() -> None:
    """Whoever comes when all places are taken waits until one is given back."""
    asker, limiter = Asker(), px.ConcurrencyLimiter(2)
    first = asker.ask("first", limiter)
    asker.ask("second", limiter)
    asker.ask("third", limiter)
    assert (asker.granted, limiter.in_flight, limiter.waiting) == (["first", "second"], 2, 1)
    base.tell(base.release(first))
    assert asker.granted == ["first", "second", "third"]
    assert (limiter.in_flight, limiter.waiting) == (2, 0)


def test_priority_goes_first_and_equals_in_order_of_arrival() -> None:
    """The line is ordered by priority, then by arrival."""
    asker, limiter = Asker(), px.ConcurrencyLimiter(1)
    holder = asker.ask("holder", limiter)
    waiting = {
        name: asker.ask(name, limiter, priority=priority)
        for name, priority in [("a", 0), ("b", 0), ("urgent", 5), ("late", -1), ("c", 0)]
    }
    for _ in range(5):
        base.tell(base.release(holder))
        holder = waiting[asker.granted[-1]]
    assert asker.granted == ["holder", "urgent", "a", "b", "c", "late"]


def test_nobody_overtakes_a_heavy_one_at_the_head() -> None:
    """A light request does not slip past a heavy one, or that one would wait forever."""
    asker, limiter = Asker(), px.ConcurrencyLimiter(3)
    holders = [asker.ask(f"holder {number}", limiter) for number in range(2)]
    asker.ask("heavy", limiter, weight=3)
    asker.ask("light", limiter)
    base.tell(base.release(holders[0]))
    assert "light" not in asker.granted
    base.tell(base.release(holders[1]))
    assert asker.granted[2:] == ["heavy"]


def test_who_gives_up_waiting_lets_the_next_pass() -> None:
    """A heavy request that is withdrawn holds up nobody any more."""
    asker, limiter = Asker(), px.ConcurrencyLimiter(2)
    asker.ask("holder", limiter)
    heavy = asker.ask("heavy", limiter, weight=2)
    asker.ask("light", limiter)
    waited, granted = base.withdraw(heavy)
    base.tell(granted)
    assert waited
    assert asker.granted == ["holder", "light"]


def test_a_larger_limit_serves_those_who_wait() -> None:
    """Raising the limit takes effect at once."""
    asker, limiter = Asker(), px.ConcurrencyLimiter(1)
    for name in "abc":
        asker.ask(name, limiter)
    limiter.limit = 3
    assert asker.granted == ["a", "b", "c"]


def test_a_smaller_limit_ends_nothing_and_admits_nothing() -> None:
    """Lowering the limit lets nothing begin until enough has ended."""
    asker, limiter = Asker(), px.ConcurrencyLimiter(2)
    holders = [asker.ask(name, limiter) for name in "ab"]
    limiter.limit = 1
    asker.ask("c", limiter)
    base.tell(base.release(holders[0]))
    assert asker.granted == ["a", "b"]
    base.tell(base.release(holders[1]))
    assert asker.granted == ["a", "b", "c"]


def test_a_paused_limit_admits_nobody_until_it_is_resumed() -> None:
    """While paused, nothing begins, not even where there is room."""
    asker, limiter = Asker(), px.ConcurrencyLimiter(2)
    holder = asker.ask("holder", limiter)
    limiter.pause()
    asker.ask("a", limiter)
    base.tell(base.release(holder))
    assert (limiter.paused, asker.granted) == (True, ["holder"])
    limiter.resume()
    assert (limiter.paused, asker.granted) == (False, ["holder", "a"])


def test_a_with_statement_waits_for_a_paused_limit() -> None:
    """The quick way in looks at the pause, too."""
    limiter = px.ConcurrencyLimiter(1)
    limiter.pause()
    entered = threading.Event()

    def enter() -> None:
        with limiter:
            entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    while not limiter.waiting:
        assert not entered.is_set()
    limiter.resume()
    thread.join()
    assert entered.is_set()


def test_run_with_and_decorator_give_the_place_back() -> None:
    """Each way of taking a place holds it for the code under it, and no longer."""
    limiter = px.ConcurrencyLimiter(2)
    assert limiter.run(lambda: limiter.in_flight) == 1

    @limiter
    def twice(number: int, *, plus: int = 0) -> float:
        return 2 * number + plus + limiter.in_flight

    assert twice(3, plus=1) == 8
    with limiter:
        assert limiter.in_flight == 1
    assert limiter.in_flight == 0


def test_an_error_gives_the_place_back() -> None:
    """What raises holds nothing afterwards."""
    limiter = px.ConcurrencyLimiter(1)
    with pytest.raises(ZeroDivisionError):
        limiter.run(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError), limiter:
        1 // 0  # noqa: B018
    assert limiter.in_flight == 0


def test_run_takes_weight_into_account() -> None:
    """A weight counts while the function runs, and one that can never fit is refused."""
    limiter = px.ConcurrencyLimiter(4)
    assert limiter.run(lambda: limiter.in_flight, weight=3) == 3
    with pytest.raises(ConfigError, match="weight must be at most the limit, 4, not 5"):
        limiter.run(lambda: None, weight=5)


def test_a_nested_call_borrows_the_place_around_it() -> None:
    """A call under the same limit does not wait for its own caller."""
    limiter = px.ConcurrencyLimiter(1)

    def outer() -> list[int]:
        values: list[int] = px.all([lambda: 1, lambda: limiter.run(lambda: 2)], concurrency=limiter)
        return values

    assert px.all([outer], concurrency=limiter) == [[1, 2]]
    assert limiter.in_flight == 0


def test_a_place_that_comes_back_to_its_lender_is_lent_again() -> None:
    """The next nested task gets it, even behind others that wait for a place of their own."""
    asker, limiter = Asker(), px.ConcurrencyLimiter(1)
    lender = asker.ask("lender", limiter)
    base.lend(lender)
    first = asker.ask("first", limiter, parent=lender)
    asker.ask("stranger", limiter)
    second = asker.ask("second", limiter, parent=lender)
    base.tell(base.release(first))
    assert asker.granted == ["lender", "first", "second"]
    base.tell(base.release(second))
    base.lend_no_more(lender)
    base.tell(base.release(lender))
    assert asker.granted == ["lender", "first", "second", "stranger"]


def test_a_lent_place_is_the_borrowers_when_the_lender_leaves() -> None:
    """A place that is lent stays taken if its lender ends before the borrower."""
    asker, limiter = Asker(), px.ConcurrencyLimiter(1)
    lender = asker.ask("lender", limiter)
    base.lend(lender)
    borrower = asker.ask("borrower", limiter, parent=lender)
    assert (asker.granted, limiter.in_flight) == (["lender", "borrower"], 1)
    base.lend_no_more(lender)
    base.tell(base.release(lender))
    asker.ask("third", limiter)
    assert (asker.granted, limiter.in_flight) == (["lender", "borrower"], 1)
    base.tell(base.release(borrower))
    assert asker.granted == ["lender", "borrower", "third"]


def adaptive(limit: int) -> px.AIMDController:
    """Return an adaptive limit that has nowhere to go."""
    return px.AIMDController(limit, limit, limit)


MAKE = pytest.mark.parametrize("make", [px.ConcurrencyLimiter, adaptive])


@MAKE
@pytest.mark.parametrize("limit", [1, 3])
def test_no_thread_is_forgotten_in_the_line(
    make: Callable[[int], px.ConcurrencyLimiter | px.AIMDController], limit: int
) -> None:
    """Threads whose work takes as long as waking up does all get their turns, beside tasks."""
    limiter = make(limit)
    done = []

    def work() -> None:
        sum(range(2000))
        done.append(1)

    def enter(_: int) -> None:
        with limiter:
            work()

    with ThreadPoolExecutor(32) as pool:
        entries = pool.map(enter, range(3000))
        px.all([work] * 500, concurrency=limiter)
        list(entries)
    assert len(done) == 3500
    assert (limiter.in_flight, limiter.waiting) == (0, 0)


def test_leaving_in_another_context_is_an_error() -> None:
    """A `with` that ends elsewhere than it began is told, not miscounted."""
    limiter = px.ConcurrencyLimiter(1)
    context = copy_context()
    context.run(limiter.__enter__)
    with pytest.raises(RuntimeError, match="in another context"):
        limiter.__exit__(None, None, None)
    context.run(limiter.__exit__, None, None, None)
    assert limiter.in_flight == 0


@MAKE
def test_threads_never_exceed_the_limit(
    make: Callable[[int], px.ConcurrencyLimiter | px.AIMDController],
) -> None:
    """Many threads through one limit: never more than it allows are inside."""
    limiter = make(3)
    lock = threading.Lock()
    inside = most = 0

    def enter(_: int) -> None:
        nonlocal inside, most
        with limiter:
            with lock:
                inside += 1
                most = max(most, inside)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(enter, range(2000)))
    assert most <= 3
    assert (limiter.in_flight, limiter.waiting) == (0, 0)


@pytest.mark.parametrize("priority", ["high", float("nan"), True])
def test_unusable_priorities_are_refused(priority: Any) -> None:
    """A priority is a number, so that those in line can be told apart."""
    with pytest.raises(ConfigError, match="priority must be a"):
        px.ConcurrencyLimiter(1).run(lambda: 1, priority=priority)


def test_a_coroutine_function_is_refused() -> None:
    """Its call returns before it has run: the limit would hold nothing."""

    async def coroutine() -> None:
        pass

    with pytest.raises(ConfigError, match="fn must be a function, and no coroutine function"):
        px.ConcurrencyLimiter(1)(coroutine)


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "3"])
def test_unusable_limits_are_refused(limit: object) -> None:
    """A limit is a whole number of at least 1."""
    with pytest.raises(ConfigError, match="limit must be a whole number of at least 1"):
        px.ConcurrencyLimiter(limit)  # type: ignore[arg-type]
