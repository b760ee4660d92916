"""A fixed number of tasks at once, which can be changed at any time."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from parallel_exec.limits import base
from parallel_exec.limits.base import Limiter, Place, Request
from parallel_exec.values import checks
from parallel_exec.values.outcome import Outcome

__all__ = ["ConcurrencyLimiter", "Unlimited"]

P = ParamSpec("P")
R = TypeVar("R")


class BlockingLimiter(Limiter):
    """The ways in which user code takes a place itself: `run`, ``with``, decorator."""

    def run(self, fn: Callable[[], R], *, weight: float = 1, priority: float = 0) -> R:
        """Wait for room, call `fn`, give the room back.

        Args:
            fn: A function without arguments.
            weight: How much room it takes.
            priority: Who is served first; higher is earlier, equals in order of arrival.

        Returns:
            What `fn` returns.

        Raises:
            ConfigError: `weight` cannot be used.
            BaseException: What `fn` raises.

        **Blocking:** until there is room and `fn` has returned.
        **Thread safety:** yes. Nested calls borrow the room of the call around them.
        """
        place = self._enter(weight, priority)
        value: R | None = None
        error: BaseException | None = None
        try:
            value = fn()
            return value
        except BaseException as raised:
            error = raised
            raise
        finally:
            base.current.set(place.parent)
            self._leave(place, value, error, fn)
            del error  # its traceback holds this frame

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function, so that each call of it waits for room."""

        @functools.wraps(fn)
        def limited(*args: P.args, **kwargs: P.kwargs) -> R:
            return self.run(lambda: fn(*args, **kwargs))

        return limited

    def __enter__(self) -> None:
        """Wait for room; see `run`."""
        self._enter(1, 0)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        place = base.current.get()
        if place is None or place.parts is not self._only:
            raise RuntimeError("the limiter was left in another context than it was entered in")
        base.current.set(place.parent)
        self._leave(place, None, error, None)

    def _enter(self, weight: float, priority: float) -> Place:
        """Take a place, and make it the one that this code runs under."""
        if weight != 1:
            self._check_weight(weight)
        parent = base.current.get()
        if parent is None and weight == 1:  # then there is nothing to borrow
            place = Place()
            place.parent = None
            place.parts = self._only
            try:
                with base.LOCK:
                    if not self._line and not self._paused and self._room(1):
                        self._in_flight += 1
                        place.held = True
                        place.since = monotonic()
                        self._taken(place)
                if place.held:
                    base.current.set(place)
                    return place
            except BaseException:  # an interrupt: nobody would give it back
                base.tell(base.release(place))
                raise
        waited = base.wait_for_place(self, weight, priority)
        assert waited is not None  # there was no time limit
        base.current.set(waited)
        return waited

    def _leave(
        self, place: Request, value: object, error: BaseException | None, fn: object
    ) -> None:
        """Give a place back; `value` or `error` is what came of the code under it."""
        if self.judges:
            outcome = _outcome(place, value, error, fn)
            base.tell(base.release(place, {self: self.judge(place, outcome)}))
            return
        with base.LOCK:
            if place.held and not self._line and not place._borrowed and not place._lent:
                place.held = False
                self._in_flight = max(0, self._in_flight - place.weight)
                return
        base.tell(base.release(place))

    def _check_weight(self, weight: float) -> None:
        checks.number("weight", weight)


def _outcome(
    place: Request, value: object, error: BaseException | None, fn: object
) -> Outcome[Any]:
    return Outcome(
        index=0,
        label=getattr(fn, "__qualname__", "with"),
        status="fulfilled" if error is None else "rejected",
        value=value,
        reason=error,
        attempts=1,
        duration_s=monotonic() - place.since,
    )


class ConcurrencyLimiter(BlockingLimiter):
    """At most `limit` at once, counted in weights.

    Use it as ``concurrency=`` of any function that runs many, also of several at once,
    which then share it; or directly: ``limiter.run(fn)``, ``with limiter:``,
    ``@limiter``.

    Args:
        limit: How much may be in flight; a task takes its weight, 1 by default.

    Raises:
        ConfigError: `limit` is no whole number of at least 1.

    **Ordering:** by priority, then first come, first served; nobody overtakes.
    **Thread safety:** yes; a forked child starts with all the room.
    **Cost:** about that of `threading.Semaphore`; benchmarks/limits.py measures it.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = checks.count("limit", limit)

    @property
    def limit(self) -> int:
        """How much may be in flight. Set it to change that at any time; a smaller limit
        ends nothing, it lets nothing new begin until there is room.
        """
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = checks.count("limit", limit)
        base.regrant(self)

    def _room(self, weight: float) -> bool:
        # One that is heavier than the limit, which shrank meanwhile, runs alone.
        return self._in_flight + weight <= self._limit or self._in_flight == 0

    def _check_weight(self, weight: float) -> None:
        if checks.number("weight", weight) > self._limit:
            raise checks.refuse("weight", weight, f"at most the limit, {self._limit}")

    def __repr__(self) -> str:
        return f"ConcurrencyLimiter({self._limit})"


class Unlimited(Limiter):
    """No limit: for ``concurrency=None``."""

    limit = math.inf

    def _room(self, weight: float) -> bool:
        return True
