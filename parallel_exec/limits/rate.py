"""So many in any stretch of time: a strict sliding window.

A window remembers when its last tasks began, and lets another begin only if, counted over
the stretch of time that ends now, there are fewer than allowed. So no stretch of that
length, wherever it is laid, holds more: a bucket that fills up again and a window that
jumps would both let twice as many pass at the seam.

What counts is when a task begins, not when it is granted its place: in between it may wait
for a thread, a descriptor or a connection. Until a granted task has begun it counts as if
it began at each moment anew.
"""

from __future__ import annotations

import math
from collections import deque
from datetime import timedelta

from parallel_exec.limits import base
from parallel_exec.limits.base import Request
from parallel_exec.limits.rule import Verdict
from parallel_exec.limits.timed import TimedLimiter
from parallel_exec.reactor import Clock
from parallel_exec.values import checks
from parallel_exec.values.options import only_known

__all__ = ["RateLimiter"]


class Window:
    """At most `amount` of weight in any `seconds`. Not thread-safe."""

    __slots__ = ("_begun", "_total", "amount", "granted", "seconds")

    def __init__(self, amount: float, seconds: float) -> None:
        self.amount = amount
        self.seconds = seconds
        self.granted = 0.0  # what has its place and has not begun
        self._begun: deque[tuple[float, float]] = deque()  # when, how heavy
        self._total = 0.0

    def free_at(self, weight: float, now: float) -> float:
        """Return when `weight` may begin: `now` or earlier, if it may at once; infinity, if
        that hangs on what has been granted and has not begun.

        What is heavier than `amount` waits until the window is empty.
        """
        begun = self._begun
        while begun and begun[0][0] + self.seconds <= now:
            self._total -= begun.popleft()[1]
        if not begun:
            self._total = 0.0  # whatever rounding has left
        excess = self._total + self.granted + weight - self.amount
        if excess <= 0:
            return now
        when = now
        for began, heavy in begun:
            if excess <= 0:
                break
            when = began + self.seconds
            excess -= heavy
        return when if excess <= 0 or not self.granted else math.inf

    def is_empty(self, now: float) -> bool:
        """Return whether nothing that has been granted or has begun counts any more."""
        return not self.granted and (not self._begun or self._begun[-1][0] + self.seconds <= now)

    def add(self, weight: float, now: float) -> None:
        """Take note that `weight` begins now."""
        self._begun.append((now, weight))
        self._total += weight


class RateLimiter(TimedLimiter):
    """At most `n` begin in any stretch of `per` seconds.

    A function begins when it is called, a command when it is started, on a host when it is
    asked for there. So that is what a server sees, but for the time that the network takes.
    A job for another executor begins when it is handed over; a command in an environment
    that does not tell of its beginning counts from its end.

    Use it as ``concurrency=`` of any function that runs many, or directly:
    ``limiter.run(fn)``, ``with limiter:``, ``@limiter``. It does not say how many run at
    once: ``AllOf(RateLimiter(10), ConcurrencyLimiter(4))`` does both.

    Args:
        n: How much may begin; a task counts by its weight, 1 by default.
        per: Seconds.
        burst: How much may begin at the same moment. Fewer than `n` spread the work over
            the time: 1 lets tasks begin ``per / n`` seconds apart. None: `n`.
        clock: The time, and what wakes those who wait; the library's own by default.
            `parallel_exec.testing` has one that stands still.

    Raises:
        ConfigError: An argument cannot be used.

    **Ordering:** by priority, then first come, first served; nobody overtakes.
    **Thread safety:** yes. Nested calls count like any others.
    **Cost:** memory for `n` times; a thread of the library's wakes those who wait.
    """

    lends = False
    counts_beginnings = True

    @only_known
    def __init__(
        self,
        n: int,
        per: float | timedelta = 1.0,
        *,
        burst: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(clock)
        seconds = checks.seconds("per", per)
        self._windows = [Window(checks.count("n", n), seconds)]
        if burst is not None:
            if checks.count("burst", burst) > n:
                raise checks.refuse("burst", burst, f"at most n, {n}")
            if burst < n:
                self._windows.append(Window(burst, burst * seconds / n))
        self._n = n
        self._per = seconds
        self._granted: set[Request] = set()  # those that have not begun

    @property
    def limit(self) -> float:
        """How much may begin in `per` seconds."""
        return self._n

    @property
    def idle(self) -> bool:
        """Whether nothing that has begun counts any more; see `composed.is_idle`."""
        with base.LOCK:
            now = self._clock.now()
            return all(window.is_empty(now) for window in self._windows)

    def _room(self, weight: float) -> bool:
        now = self._clock.now()
        return self._free_at(weight, now) <= now

    def _free_at(self, weight: float, now: float) -> float:
        when = now
        for window in self._windows:
            when = max(when, window.free_at(weight, now))
        return when

    def _may_fit_at(self, request: Request, now: float) -> float:
        return self._free_at(request.weight, now)

    def _fits(self, request: Request) -> bool:
        return not self._paused and self._room(request.weight)

    def _taken(self, request: Request) -> None:
        self._granted.add(request)
        for window in self._windows:
            window.granted += request.weight

    def began(self, request: Request) -> None:
        """See `Limiter.began`."""
        with base.LOCK:
            self._count(request)
            self._ask_for_alarm()
        base.set_alarms()

    def _returned(self, request: Request, verdict: Verdict, now: float) -> None:
        self._count(request)

    def _count(self, request: Request) -> None:
        """Count a beginning, once."""
        if request in self._granted:
            self._granted.discard(request)
            now = self._clock.now()
            for window in self._windows:
                window.granted = window.granted - request.weight if self._granted else 0.0
                window.add(request.weight, now)

    def _check_weight(self, weight: float) -> None:
        if checks.number("weight", weight) > self._n:
            raise checks.refuse("weight", weight, f"at most n, {self._n}")

    def __repr__(self) -> str:
        return f"RateLimiter({self._n}, per={self._per:g})"
