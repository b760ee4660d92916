"""Limits that move, rates and limits by key, combined, whatever is asked of them."""

from __future__ import annotations

from typing import Any

from hypothesis import settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from parallel_exec.limits import base
from parallel_exec.limits.adaptive import AIMDController
from parallel_exec.limits.base import Limit, Limiter
from parallel_exec.limits.composed import AllOf
from parallel_exec.limits.fixed import ConcurrencyLimiter
from parallel_exec.limits.keyed import PerKey
from parallel_exec.limits.rate import RateLimiter
from parallel_exec.limits.rule import Verdict
from parallel_exec.testing import FakeClock
from tests.property.asked import Asked

VERDICTS: st.SearchStrategy[Verdict] = st.sampled_from(["success", "overload", "neither"])
PER_S = 10.0


class AdaptiveMachine(RuleBasedStateMachine):
    """An adaptive limit, a rate and limits by key, of which none is kept in vain."""

    requests: Bundle[Asked] = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock(100.0)
        self.adaptive = AIMDController(3, 1, 6)
        self.rate = RateLimiter(2, per=PER_S, clock=self.clock)
        self.keyed = PerKey(lambda key: ConcurrencyLimiter(1), keep=0)
        self.keyed_rate = PerKey(lambda key: RateLimiter(1, per=PER_S, clock=self.clock), keep=0)
        self.limits: list[Limit] = [
            self.adaptive,
            AllOf(self.adaptive, self.rate),
            AllOf(self.rate, self.adaptive),
            AllOf(self.adaptive, self.keyed),
            AllOf(self.keyed, self.keyed_rate, self.adaptive),
        ]
        self.waiting: list[Asked] = []
        self.held: list[Asked] = []
        self.begun: list[tuple[float, object]] = []  # under the rate of which key; None: of all
        self.count = 0

    def has_been_granted(self, request: Asked) -> None:
        """Check that its turn had come, and that there was room for it."""
        rivals = [
            other
            for other in self.waiting
            if other is not request
            and other.parts == request.parts
            and (-other.priority, other.number) < (-request.priority, request.number)
        ]
        assert not rivals, f"{request} passed {rivals}"
        assert self.adaptive.in_flight <= self.adaptive.limit or self.adaptive.in_flight == 1
        self.waiting.remove(request)
        self.held.append(request)
        if self.rate in request.parts:
            self.begun.append((self.clock.now(), None))
        elif any(isinstance(part, RateLimiter) for part in request.parts):
            self.begun.append((self.clock.now(), request.key))

    @rule(
        target=requests,
        which=st.sampled_from([0, 1, 1, 2, 3, 4, 4]),
        priority=st.integers(-1, 1),
        key=st.sampled_from("ab"),
    )
    def asks(self, which: int, priority: int, key: str) -> Asked:
        """Somebody asks for a place."""
        request = Asked(self.has_been_granted, self.count)
        self.count += 1
        request.priority, request.key = priority, key
        self.waiting.append(request)
        if base.acquire(request, self.limits[which]):
            request.granted()
        return request

    @rule(request=consumes(requests), verdict=VERDICTS)
    def ends(self, request: Asked, verdict: Verdict) -> None:
        """A task ends, or whoever waits gives up."""
        if request.held:
            self.held.remove(request)
            base.tell(base.release(request, {self.adaptive: verdict}))
        else:
            waited, granted = base.withdraw(request)
            assert waited
            self.waiting.remove(request)
            base.tell(granted)

    @rule(seconds=st.sampled_from([0.1, 0.95 * PER_S, PER_S]))
    def time_goes_on(self, seconds: float) -> None:
        """Room comes by time alone."""
        self.clock.advance(seconds)

    @rule(least=st.integers(1, 4), more=st.integers(0, 4))
    def bounds_are_moved(self, least: int, more: int) -> None:
        """The user changes the bounds."""
        self.adaptive.set_bounds(least, least + more)

    @rule(pause=st.booleans(), which=st.booleans())
    def is_paused_or_resumed(self, pause: bool, which: bool) -> None:
        """The user stops a limit, or lets it go on."""
        limiter: Limiter = self.adaptive if which else self.rate
        limiter.pause() if pause else limiter.resume()

    @invariant()
    def counts_are_true(self) -> None:
        """No place leaks, and the limit stays within its bounds."""
        assert self.adaptive.in_flight == len(self.held)
        assert self.adaptive.min_limit <= self.adaptive.limit
        assert self.adaptive.max_limit is not None
        assert self.adaptive.limit <= self.adaptive.max_limit

    @invariant()
    def keys_run_one_at_a_time(self) -> None:
        """A key has one limit, although limits are forgotten."""
        limited = [r.key for r in self.held if len(r.parts) > 1 and self.rate not in r.parts]
        assert len(limited) == len(set(limited))

    @invariant()
    def rates_hold(self) -> None:
        """In no stretch of time does more begin than allowed."""
        for start, key in self.begun:
            within = [
                when
                for when, other in self.begun
                if other == key and start <= when < start + PER_S - 1e-9
            ]
            assert len(within) <= (2 if key is None else 1)

    @invariant()
    def states_agree(self) -> None:
        """Who waits holds nothing."""
        assert not any(request.held for request in self.waiting)
        assert all(request.held for request in self.held)

    def teardown(self) -> None:
        """In the end everybody gets a place, and nothing is left."""
        self.adaptive.resume()
        self.rate.resume()
        for _ in range(self.count + 1):
            while self.held:
                self.ends(self.held[0], "success")
            self.clock.advance(PER_S)
        assert self.waiting == [], "a deadlock: nobody holds a place, and these wait"
        assert self.adaptive.in_flight == 0


TestAdaptiveLimits: Any = AdaptiveMachine.TestCase
TestAdaptiveLimits.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
