"""Requests and clocks that stand still, for tests of limits."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any

from parallel_exec.limits import base
from parallel_exec.limits.base import Limit, Place, Request
from parallel_exec.reactor import Timer

__all__ = ["Asker", "StillClock"]


class Asked(Place):
    """A request that remembers when it was granted, relative to others."""

    def __init__(self, name: str, log: list[str], parent: Request | None) -> None:
        self.name = name
        self._log = log
        self.parent = parent

    def granted(self) -> None:
        """Remember it."""
        self._log.append(self.name)


class Asker:
    """Asks for places without threads.

    Attributes:
        granted: The names of those that have got one, in order.
    """

    def __init__(self) -> None:
        self.granted: list[str] = []

    def ask(
        self,
        name: str,
        limit: Limit,
        *,
        weight: float = 1,
        priority: float = 0,
        key: object = None,
        parent: Request | None = None,
    ) -> Asked:
        """Ask for a place."""
        request = Asked(name, self.granted, parent)
        request.weight, request.priority, request.key = weight, priority, key
        if base.acquire(request, limit):
            self.granted.append(name)
        return request


class StillClock:
    """A clock that goes only when it is told to."""

    def __init__(self) -> None:
        self._now = 100.0
        self._order = itertools.count()
        self._timers: list[Timer] = []

    def now(self) -> float:
        """See `Clock.now`."""
        return self._now

    def call_at(self, when: float, call: Callable[..., object], *args: Any) -> Timer:
        """See `Clock.call_at`."""
        timer = Timer(when, next(self._order), call, args)
        heapq.heappush(self._timers, timer)
        return timer

    def post(self, call: Callable[..., object], *args: Any) -> None:
        """See `Clock.post`."""
        self.call_at(self._now, call, *args)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and make the calls that are due on the way."""
        end = self._now + seconds
        while self._timers and self._timers[0].when <= end:
            timer = heapq.heappop(self._timers)
            self._now = max(self._now, timer.when)
            if timer.call is not None:
                timer.call(*timer.args)
        self._now = end
