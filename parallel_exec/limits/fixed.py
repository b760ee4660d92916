"""A fixed number of tasks at once, which can be changed at any time."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any, ClassVar, ParamSpec, TypeVar, cast

from parallel_exec.limits import base
from parallel_exec.limits.base import Limiter, Place, Request
from parallel_exec.limits.rule import Verdict
from parallel_exec.values import checks
from parallel_exec.values.functions import is_function
from parallel_exec.values.options import only_known
from parallel_exec.values.outcome import Outcome

__all__ = ["BlockingLimiter", "ConcurrencyLimiter", "Unlimited", "outcome_of"]

P = ParamSpec("P")
R = TypeVar("R")


OVERTAKING_S = 0.002


class BlockingLimiter(Limiter):
    """The ways in which user code takes a place itself: `run`, ``with``, decorator.

    A thread that is given a place while it sleeps takes some time to wake up, and all that
    time the place would be idle: with short work under the lock of the interpreter that is
    a large part of the time. So the thread at the head of the line is woken and comes for
    the place, and one that happens to run already may take it before, as with
    `threading.Semaphore`. Unlike there, only for two milliseconds: then the head of the line
    is given the next place that comes free (Go's `sync.Mutex` ends its normal mode
    after a similar time).
    """

    quick: ClassVar[bool] = False  # whether threads may overtake one that is waking up

    def __init__(self) -> None:
        super().__init__()
        self._served_at = 0.0  # when the head of the line was last given its place

    def run(self, fn: Callable[[], R], *, weight: float = 1, priority: float = 0) -> R:
        """Wait for room, call `fn`, give the room back.

        Args:
            fn: A function without arguments.
            weight: How much room it takes.
            priority: Who is served first; higher is earlier, equals in order of arrival.

        Returns:
            What `fn` returns.

        Raises:
            ConfigError: `fn` or `weight` cannot be used.
            BaseException: What `fn` raises.

        **Blocking:** until there is room and `fn` has returned.
        **Thread safety:** yes. Nested calls borrow the room of the call around them.
        """
        if not is_function(fn):
            raise checks.refuse("fn", fn, "a function without arguments, and no coroutine function")
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
        """Decorate a function, so that each call of it waits for room.

        Raises:
            ConfigError: It is a coroutine function, whose call returns before it has run.
        """
        if not is_function(fn):
            raise checks.refuse("fn", fn, "a function, and no coroutine function")

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
        if weight != 1 or weight is True:
            self._check_weight(weight)
        if priority:
            checks.number("priority", priority, minimum=-math.inf)
        base.refuse_reentry()
        if weight != 1 or base.current.get() is not None or not self._enters_plainly:
            waited = base.wait_for_place(self, weight, priority)
            assert waited is not None  # there was no time limit
            base.current.set(waited)
            base.begin(waited)
            return waited
        # The same as the above, for what there is no need to borrow and weigh.
        place = Place()
        place.parts = self._only
        place.priority = priority
        try:
            with base.LOCK:
                if (
                    (not self._line or self._may_overtake(place))
                    and not self._paused
                    and self._room(1)
                ):
                    self._in_flight += 1
                    place.held = True
                    place.since = monotonic()
                    self._taken(place)
                else:
                    place._gate = threading.Lock()
                    place._gate.acquire()
                    self._queue(place)
            if not place.held:
                base.set_alarms()
                place.wait(None)
            base.current.set(place)
            return place
        except BaseException:  # an interrupt: nobody would give it back
            base.tell(base.release(place))
            raise

    def _leave(
        self,
        place: Request,
        value: object,
        error: BaseException | None,
        fn: object,
        verdict: Verdict = "neither",
    ) -> None:
        """Give a place back; `value` or `error` is what came of the code under it, and
        `verdict` what that means.
        """
        with base.LOCK:
            line = self._line
            if (
                place.held
                and self._enters_plainly
                and (not line or (self.quick and self._may_wait(line[0][2])))
                and not place._borrowed
                and not place._lent
            ):
                place.held = False
                self._in_flight = max(0, self._in_flight - place.weight)
                if not self._plain:
                    self._returned(place, verdict, monotonic())
                if not line or self._nudged is not None:
                    return
                nudged = self._nudged = cast(Place, line[0][2])
            else:
                nudged = None
        if nudged is not None:
            nudged.wake()
        else:
            base.tell(base.release(place, {self: verdict}))

    def _may_overtake(self, place: Place) -> bool:
        """Return whether `place` may go before those in line, of whom the first has been
        woken and is not here yet. With the lock held.
        """
        return (
            self._nudged is not None
            and place.priority >= -self._line[0][0]
            and monotonic() - self._served_at < OVERTAKING_S
        )

    def _may_wait(self, head: Request) -> bool:
        """Return whether `head`, for whom there is a place now, is left to come for it
        instead of being given it, so that the place is not idle until then. With the
        lock held.
        """
        now = monotonic()
        if now - self._served_at < OVERTAKING_S:
            return type(head) is Place and head.parts is self._only and head.weight == 1
        self._served_at = now
        return False

    def _check_weight(self, weight: float) -> None:
        checks.number("weight", weight)


def outcome_of(
    place: Request, value: object, error: BaseException | None, fn: object
) -> Outcome[Any]:
    """Return how the code under `place` ended: with `value` or `error`."""
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

    **Ordering:** by priority, then first come, first served; nobody overtakes, except that
    a thread may, for two milliseconds, go before an equal one that is just waking up.
    **Thread safety:** yes; a forked child starts with all the room.
    **Cost:** about that of `threading.Semaphore`; benchmarks/limits.py measures it.
    """

    quick = True

    @only_known
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
