"""Services to be loaded: each admits attempts or refuses them, and says when one is done.

A service knows no clock: it is told the time and answers with the time of its next
completion. What it serves are opaque attempts.
"""

from __future__ import annotations

import heapq
from typing import Any, Protocol

__all__ = ["Knee", "Places", "Service", "TokenBucket"]

NEVER = float("inf")


class Service(Protocol):
    """What the engine asks of a service."""

    capacity: float
    busy: int
    next_at: float

    def admit(self, now: float, work_s: float, attempt: Any) -> bool:
        """Take `attempt`, which needs `work_s` of an idle service, or refuse it."""

    def complete(self) -> Any:
        """Return the attempt that is done at `next_at`."""

    def change(self, now: float, capacity: float) -> None:
        """Change the capacity. What is being served is served to its end."""


class Places:
    """Serves up to `capacity` attempts at once, at full speed, and refuses every other."""

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.busy = 0
        self.next_at = NEVER
        self._serving: list[tuple[float, int, Any]] = []
        self._count = 0

    def admit(self, now: float, work_s: float, attempt: Any) -> bool:
        """Take `attempt` if there is a place."""
        if self.busy >= self.capacity:
            return False
        self.busy += 1
        self._count += 1
        heapq.heappush(self._serving, (now + work_s, self._count, attempt))
        self.next_at = self._serving[0][0]
        return True

    def complete(self) -> Any:
        """Return the attempt that is done, and free its place."""
        self.busy -= 1
        attempt = heapq.heappop(self._serving)[2]
        self.next_at = self._serving[0][0] if self._serving else NEVER
        return attempt

    def change(self, now: float, capacity: float) -> None:
        """Change how many places there are."""
        self.capacity = capacity


class Knee:
    """Refuses nothing and slows down: up to `capacity` at full speed, beyond it ever slower.

    With n attempts beyond the knee, each runs at capacity / n of its speed, as when n
    processes share fewer cores, and what is switched between costs besides: `waste` of
    the whole throughput for every further `capacity` of load.
    """

    def __init__(self, capacity: float, waste: float) -> None:
        self.capacity = capacity
        self.waste = waste
        self.busy = 0
        self.next_at = NEVER
        self._serving: list[tuple[float, int, Any]] = []
        self._count = 0
        # Work done so far by anyone who was here all the time: attempts that share the
        # speed need no entry each to be brought forward.
        self._done_s = 0.0
        self._at = 0.0
        self._speed = 1.0

    def admit(self, now: float, work_s: float, attempt: Any) -> bool:
        """Take `attempt`."""
        self._advance(now)
        self.busy += 1
        self._count += 1
        heapq.heappush(self._serving, (self._done_s + work_s, self._count, attempt))
        self._plan()
        return True

    def complete(self) -> Any:
        """Return the attempt that is done."""
        self._advance(self.next_at)
        self.busy -= 1
        attempt = heapq.heappop(self._serving)[2]
        self._plan()
        return attempt

    def change(self, now: float, capacity: float) -> None:
        """Move the knee."""
        self._advance(now)
        self.capacity = capacity
        self._plan()

    def _advance(self, now: float) -> None:
        self._done_s += (now - self._at) * self._speed
        self._at = now

    def _plan(self) -> None:
        load = self.busy / self.capacity
        self._speed = 1.0 if load <= 1.0 else 1.0 / (load * (1.0 + self.waste * (load - 1.0)))
        self.next_at = NEVER
        if self._serving:
            left = max(0.0, self._serving[0][0] - self._done_s)
            self.next_at = self._at + left / self._speed


class TokenBucket:
    """Admits `rate_per_s`, up to `burst` at once, however many are being served."""

    def __init__(self, rate_per_s: float, burst: float, capacity: float) -> None:
        self.capacity = capacity
        self.busy = 0
        self.next_at = NEVER
        self._places = Places(NEVER)
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._at = 0.0

    def admit(self, now: float, work_s: float, attempt: Any) -> bool:
        """Take `attempt` if there is a token for it."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate_per_s)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        self._places.admit(now, work_s, attempt)
        self._mirror()
        return True

    def complete(self) -> Any:
        """Return the attempt that is done."""
        attempt = self._places.complete()
        self._mirror()
        return attempt

    def change(self, now: float, capacity: float) -> None:
        """Change nothing: this service counts a rate, not places."""

    def _mirror(self) -> None:
        self.busy = self._places.busy
        self.next_at = self._places.next_at
