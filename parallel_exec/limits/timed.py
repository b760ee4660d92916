"""Limiters whose room comes back by time alone, not only when a place is given back.

While somebody waits, such a limiter has a clock wake it at the moment when the head of the
line may fit. It then serves its line as after a release.
"""

from __future__ import annotations

import math

from parallel_exec import reactor
from parallel_exec.limits import base
from parallel_exec.limits.base import Request
from parallel_exec.limits.fixed import BlockingLimiter
from parallel_exec.reactor import Clock

__all__ = ["TimedLimiter"]


class TimedLimiter(BlockingLimiter):
    """Asks a clock to be woken while requests wait.

    Args:
        clock: The time, and what wakes those who wait; None: the library's own.
    """

    def __init__(self, clock: Clock | None) -> None:
        super().__init__()
        self._own_clock = clock
        self._alarm_at: float | None = None  # when somebody will look again

    @property
    def _clock(self) -> Clock:
        return self._own_clock or reactor.get()

    def _may_fit_at(self, request: Request, now: float) -> float:
        """Return when to look again whether `request`, the head of the line, fits; infinity,
        if time alone does not help.
        """
        raise NotImplementedError

    def _queue(self, request: Request) -> None:
        super()._queue(request)
        self._ask_for_alarm()

    def _grant(self, granted: list[Request], *, borrowers: bool = False) -> None:
        super()._grant(granted, borrowers=borrowers)
        self._ask_for_alarm()

    def _ask_for_alarm(self) -> None:
        if self._line and not self._paused:
            when = self._may_fit_at(self._line[0][2], self._clock.now())
            if when != math.inf and (self._alarm_at is None or when < self._alarm_at):
                self._alarm_at = when
                base.alarms.append(lambda: self._set_alarm(when))

    def _set_alarm(self, when: float) -> None:
        self._clock.call_at(when, self._woken)

    def _woken(self) -> None:
        with base.LOCK:
            self._alarm_at = None
        base.regrant(self)

    def _forked(self) -> None:
        super()._forked()
        self._alarm_at = None  # the thread that would have woken it is not in this process
