"""Limits, whatever is asked of them in whatever order."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from parallel_exec.limits import base
from parallel_exec.limits.base import Limit, Limiter, Place, Request
from parallel_exec.limits.composed import AllOf
from parallel_exec.limits.fixed import ConcurrencyLimiter
from parallel_exec.limits.keyed import PerKey
from parallel_exec.limits.rate import RateLimiter
from parallel_exec.testing import FakeClock
from tests.property.asked import Asked


class LimitsMachine(RuleBasedStateMachine):
    """Two limits, one by key, and combinations of them, used by tasks in any order."""

    requests: Bundle[Asked] = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.small = ConcurrencyLimiter(1)
        self.large = ConcurrencyLimiter(3)
        self.keyed = PerKey(lambda key: ConcurrencyLimiter(1))
        self.limits: list[Limit] = [
            self.small,
            self.large,
            AllOf(self.small, self.large),
            AllOf(self.large, self.small),
            AllOf(self.large, self.keyed),
            AllOf(self.keyed, self.small, self.large),
        ]
        self.waiting: list[Asked] = []
        self.held: list[Asked] = []
        self.lending: dict[Asked, list[Asked]] = {}
        self.count = 0

    @property
    def limiters(self) -> list[ConcurrencyLimiter]:
        """Every limiter there is."""
        keyed: Any = [self.keyed.of(key) for key in "ab"]
        return [self.small, self.large, *keyed]

    def has_been_granted(self, request: Asked) -> None:
        """Check that its turn had come."""
        rivals = [
            other
            for other in self.waiting
            if other is not request
            and other.parts == request.parts
            and other.parent is None
            and (-other.priority, other.number) < (-request.priority, request.number)
        ]
        assert request.parent is not None or not rivals, f"{request} passed {rivals}"
        self.waiting.remove(request)
        self.held.append(request)

    def ask(self, which: int, weight: int, priority: int, key: str, parent: Asked | None) -> Asked:
        """Ask for a place."""
        request = Asked(self.has_been_granted, self.count)
        self.count += 1
        request.weight, request.priority, request.key = weight, priority, key
        request.parent = parent
        self.waiting.append(request)
        if base.acquire(request, self.limits[which]):
            request.granted()
        return request

    @rule(
        target=requests,
        which=st.integers(0, 5),
        weight=st.sampled_from([1, 1, 1, 2, 4]),
        priority=st.integers(-1, 1),
        key=st.sampled_from("ab"),
    )
    def asks(self, which: int, weight: int, priority: int, key: str) -> Asked:
        """Somebody asks for a place."""
        return self.ask(which, weight, priority, key, None)

    @rule(target=requests, parent=requests, which=st.integers(0, 5), key=st.sampled_from("ab"))
    def asks_within(self, parent: Asked, which: int, key: str) -> Any:
        """Somebody who holds a place waits for a nested task."""
        if not parent.held:
            return multiple()
        base.lend(parent)
        paused = any(limiter.paused for limiter in self.limiters)
        child = self.ask(which, 1, 0, key, parent)
        self.lending.setdefault(parent, []).append(child)
        if not paused and set(child.parts) <= set(parent.parts) and not _lent(parent):
            assert child.held, "a nested task waits for its own caller"
        return child

    @rule(request=requests)
    def ends(self, request: Asked) -> None:
        """A task ends, or whoever waits gives up, if it waits for no nested task."""
        self.end(request)

    def end(self, request: Asked) -> None:
        """End a request, its nested ones first, as a blocking call does."""
        for child in self.lending.pop(request, []):
            self.end(child)
            base.lend_no_more(request)
        if request.held:
            self.held.remove(request)
            base.tell(base.release(request))
        elif request in self.waiting:
            waited, granted = base.withdraw(request)
            assert waited
            self.waiting.remove(request)
            base.tell(granted)

    @rule(limit=st.integers(1, 5))
    def is_resized(self, limit: int) -> None:
        """The user changes a limit."""
        self.large.limit = limit

    @rule(which=st.integers(0, 3))
    def is_paused(self, which: int) -> None:
        """The user pauses a limit."""
        self.limiters[which].pause()

    @rule(which=st.integers(0, 3))
    def is_resumed(self, which: int) -> None:
        """The user resumes a limit."""
        self.limiters[which].resume()

    @invariant()
    def counts_are_true(self) -> None:
        """What is in flight is what is held, less what is borrowed."""
        for limiter in self.limiters:
            taken = sum(
                request.weight - _borrowed(request, limiter)
                for request in self.held
                if limiter in request.parts
            )
            assert limiter.in_flight == taken
            assert limiter.waiting == sum(request._line is limiter for request in self.waiting)

    @invariant()
    def who_waits_has_to(self) -> None:
        """At the head of each line there is nobody for whom there is room."""
        for limiter in self.limiters:
            line = sorted(entry for entry in limiter._line if entry[2]._line is limiter)
            assert not line or not limiter._fits(line[0][2])

    @invariant()
    def states_agree(self) -> None:
        """A request holds everything, or waits in one line and holds nothing."""
        for request in self.waiting:
            assert not request.held
            assert request._line is not None
        for request in self.held:
            assert request.held
            assert request._line is None

    def teardown(self) -> None:
        """In the end everybody gets a place, and nothing is left."""
        for limiter in self.limiters:
            limiter.resume()
        while self.held:
            self.end(self.held[0])
        assert self.waiting == [], "a deadlock: nobody holds a place, and these wait"
        assert all(limiter.in_flight == 0 for limiter in self.limiters)


def _borrowed(request: Request, limiter: Limiter) -> float:
    return (request._borrowed or {}).get(limiter, (None, 0))[1]


def _lent(request: Request) -> bool:
    return any(loans for loans in (request._lent or {}).values())


class ExceedingMachine(RuleBasedStateMachine):
    """One limit without lending and resizing: the plain promise."""

    requests: Bundle[Asked] = Bundle("requests")

    @initialize(limit=st.integers(1, 4))
    def begins(self, limit: int) -> None:
        """There is a limit."""
        self.limiter = ConcurrencyLimiter(limit)
        self.held: list[Asked] = []

    def has_been_granted(self, request: Asked) -> None:
        """Remember it."""
        self.held.append(request)

    @rule(target=requests, priority=st.integers(0, 2))
    def asks(self, priority: int) -> Asked:
        """Somebody asks."""
        request = Asked(self.has_been_granted, 0)
        request.priority = priority
        if base.acquire(request, self.limiter):
            self.held.append(request)
        return request

    @rule(request=consumes(requests))
    def ends(self, request: Asked) -> None:
        """Somebody ends, or gives up."""
        if request in self.held:
            self.held.remove(request)
            base.tell(base.release(request))
        else:
            base.tell(base.withdraw(request)[1])

    @invariant()
    def the_limit_holds(self) -> None:
        """Never more than the limit hold a place."""
        if hasattr(self, "held"):
            assert len(self.held) <= self.limiter.limit


TestLimits = LimitsMachine.TestCase
TestLimits.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestExceeding = ExceedingMachine.TestCase
TestExceeding.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    n=st.integers(1, 4),
    burst=st.integers(1, 4),
    arrivals=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.0, 0.1, 0.5, 1.0, 3.0]),
            st.integers(1, 2),
            st.sampled_from([0.0, 0.0, 0.2, 0.9]),
        ),
        max_size=25,
    ),
)
def test_no_stretch_of_time_holds_more_than_the_rate(
    n: int, burst: int, arrivals: list[tuple[float, int, float]]
) -> None:
    """Wherever a window is laid, no more begins in it than allowed, and all begin, however long
    each is on its way from its place to its beginning.
    """
    clock = FakeClock(100.0)
    limiter = RateLimiter(n, per=1.0, burst=min(burst, n), clock=clock)
    begun: list[tuple[float, float]] = []

    class Arrival(Place):
        parent = None
        on_its_way = 0.0

        def granted(self) -> None:
            clock.call_at(clock.now() + self.on_its_way, self.begin)

        def begin(self) -> None:
            begun.append((clock.now(), self.weight))
            base.begin(self)

    for pause, weight, on_its_way in arrivals:
        clock.advance(pause)
        request = Arrival()
        request.on_its_way = on_its_way
        request.weight = min(weight, n)
        if base.acquire(request, limiter):
            request.granted()
    clock.advance(3.0 * len(arrivals) + 1)
    assert len(begun) == len(arrivals)
    for start, _ in begun:
        assert sum(weight for when, weight in begun if start <= when < start + 1.0 - 1e-9) <= n
