"""The enforcement of limits: who holds a place, who waits for one, who is next.

A **request** asks for a place under a **limit** and holds it once granted. A limit is one
limiter or several at once (`parts`); a request takes its place in all of them in one step
or waits in the line of the first that has none, holding nothing. That is why combined
limits cannot deadlock.

The line is ordered by priority, then by arrival. The one at its head waits until there is
room for its weight; nobody overtakes it.

A task that waits inside of the library for other tasks lends its place to them (`lend`):
otherwise a nested call under the same limit would wait for a place that its own caller
holds.

One lock, `LOCK`, guards the counters and the lines of all limiters: it is held for a few
microseconds and never while foreign code runs, so one for all costs no more than one for
each, and a step over several limiters is atomic without an order of locks. Whoever
releases a place is handed the requests that were granted by it and tells them after the
lock is released.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Protocol, TypeVar
from weakref import WeakSet

from parallel_exec.limits.rule import Verdict

__all__ = [
    "LOCK",
    "Limit",
    "Limiter",
    "Request",
    "acquire",
    "call_in_place",
    "current",
    "lend",
    "lend_no_more",
    "regrant",
    "release",
    "tell",
    "wait_for_place",
    "withdraw",
]

T = TypeVar("T")

LOCK = threading.Lock()  # guards every limiter's counter and line and every request's state
_arrival = itertools.count()
_limiters: WeakSet[Limiter] = WeakSet()


class Request:
    """Asks for a place, waits for it, holds it.

    Attributes:
        weight: How much room it takes.
        priority: Who is served first; higher is earlier, equals in order of arrival.
        key: What limits by key tell requests apart by, or None.
        parent: The request under whose place this one is made, or None.
        parts: The limiters in which it wants or has its place.
        held: Whether it has it.
        since: When it was granted, in monotonic seconds.
    """

    __slots__ = (
        "_borrowed",
        "_lending",
        "_lent",
        "_line",
        "held",
        "key",
        "parent",
        "parts",
        "priority",
        "since",
        "weight",
    )

    def __init__(
        self,
        weight: float = 1,
        priority: float = 0,
        key: object = None,
        parent: Request | None = None,
    ) -> None:
        self.weight = weight
        self.priority = priority
        self.key = key
        self.parent = parent
        self.parts: tuple[Limiter, ...] = ()
        self.held = False
        self.since = 0.0
        self._line: Limiter | None = None  # where it waits
        self._borrowed: dict[Limiter, tuple[Request, float]] | None = None
        self._lent: dict[Limiter, float] | None = None
        self._lending = 0  # how many of its own calls wait for others

    def granted(self) -> None:
        """Learn that the place is there. Called without the lock, from any thread."""


class Limit(Protocol):
    """What `concurrency=` takes beside a number."""

    def parts(self, request: Request) -> tuple[Limiter, ...]:
        """Return the limiters in which `request` needs a place."""


class Limiter:
    """A line and a counter; its room is decided by the subclass.

    Methods with an underscore are called with `LOCK` held.
    """

    def __init__(self) -> None:
        self._in_flight: float = 0
        self._line: list[tuple[float, int, Request]] = []
        self._only = (self,)
        _limiters.add(self)

    def parts(self, request: Request) -> tuple[Limiter, ...]:
        """See `Limit.parts`."""
        return self._only

    @property
    def in_flight(self) -> float:
        """How much room is taken now, in weights."""
        return self._in_flight

    @property
    def waiting(self) -> int:
        """How many requests wait for room now."""
        with LOCK:
            return sum(1 for _, _, request in self._line if request._line is self)

    # Decided by subclasses

    def _room(self, weight: float) -> bool:
        """Return whether there is room for `weight` more."""
        raise NotImplementedError

    def _taken(self, request: Request) -> None:
        """Take note that `request` was given a place."""

    def _returned(self, request: Request, verdict: Verdict, now: float) -> None:
        """Take note that `request` gave its place back, and how its task ended."""

    # The line

    def _fits(self, request: Request) -> bool:
        """Return whether there is room for `request`, with what it can borrow."""
        if request.parent is None:
            return self._room(request.weight)
        _, amount = _loan(request, self)
        rest = request.weight - amount
        # A heavy one that can borrow all that is taken runs alone, as at the top level.
        return rest <= 0 or self._room(rest) or self._in_flight <= amount

    def _admits(self, request: Request) -> bool:
        """Return whether `request`, just arrived, can have its place at once."""
        line = self._line
        while line and line[0][2]._line is not self:
            heapq.heappop(line)
        if line and line[0][0] <= -request.priority:
            # Others wait. Only who needs nothing of what they wait for may pass.
            return request.parent is not None and _loan(request, self)[1] >= request.weight
        return self._fits(request)

    def _take(self, request: Request) -> None:
        amount: float = 0
        if request.parent is not None:
            lender, amount = _loan(request, self)
            if lender is not None and amount > 0:
                lent = lender._lent = lender._lent or {}
                lent[self] = lent.get(self, 0) + amount
                request._borrowed = request._borrowed or {}
                request._borrowed[self] = (lender, amount)
        self._in_flight += request.weight - amount
        self._taken(request)

    def _give(self, request: Request, verdict: Verdict, now: float) -> None:
        amount: float = 0
        if request._borrowed and self in request._borrowed:
            lender, amount = request._borrowed.pop(self)
            if lender._lent is not None:
                lender._lent[self] -= amount
        # Never below 0: in a forked child the counters start anew (`_after_fork_in_child`).
        self._in_flight = max(0, self._in_flight - (request.weight - amount))
        self._returned(request, verdict, now)

    def _queue(self, request: Request) -> None:
        request._line = self
        heapq.heappush(self._line, (-request.priority, next(_arrival), request))

    def _grant(self, granted: list[Request], *, borrowers: bool = False) -> None:
        """Give places to those at the head of the line, as long as there is room, and to
        those further back for whom a place has come back that they can borrow.
        """
        line = self._line
        while line:
            request = line[0][2]
            if request._line is not self:  # it was withdrawn, or has its place already
                heapq.heappop(line)
            elif self._fits(request):
                heapq.heappop(line)
                _grant_or_move(request, granted)
            else:
                break
        if borrowers:
            for _, _, request in sorted(line):
                if request._line is self and _loan(request, self)[1] >= request.weight:
                    _grant_or_move(request, granted)


def _loan(request: Request, limiter: Limiter) -> tuple[Request | None, float]:
    """Return from whom `request` can borrow in `limiter`, and how much."""
    lender = request.parent
    while lender is not None:
        if lender.held and limiter in lender.parts:
            if not lender._lending:
                return None, 0
            lent = lender._lent.get(limiter, 0) if lender._lent else 0
            return lender, min(request.weight, lender.weight - lent)
        lender = lender.parent
    return None, 0


def _take_all(request: Request) -> None:
    for limiter in request.parts:
        limiter._take(request)
    request.held = True
    request.since = time.monotonic()


def _grant_or_move(request: Request, granted: list[Request]) -> None:
    """Give `request`, whose turn it is in one line, its places, or move it to the line
    of a limiter that has none.
    """
    for limiter in request.parts:
        if not limiter._fits(request):
            limiter._queue(request)
            return
    request._line = None
    _take_all(request)
    granted.append(request)


def acquire(request: Request, limit: Limit) -> bool:
    """Give `request` its place under `limit`, or put it in line.

    Returns:
        Whether it has its place. If not, `request.granted` is called once, later,
        unless it is withdrawn before.
    """
    parts = request.parts = limit.parts(request)
    with LOCK:
        for limiter in parts:
            if not limiter._admits(request):
                limiter._queue(request)
                return False
        _take_all(request)
        return True


def release(request: Request, verdict: Verdict = "neither") -> list[Request]:
    """Take the place of `request` back.

    Returns:
        The requests that were granted by it; the caller tells them (`tell`).
    """
    granted: list[Request] = []
    with LOCK:
        if not request.held:
            return granted
        request.held = False
        now = time.monotonic()
        borrowed = request._borrowed is not None
        for limiter in request.parts:
            limiter._give(request, verdict, now)
        for limiter in request.parts:
            limiter._grant(granted, borrowers=borrowed)
    return granted


def withdraw(request: Request) -> tuple[bool, list[Request]]:
    """Take `request` out of the line.

    Returns:
        Whether it still waited, and the requests that were granted because of it. If
        it did not wait any more, it has been granted and must be released.
    """
    granted: list[Request] = []
    with LOCK:
        limiter = request._line
        if limiter is None:
            return False, granted
        request._line = None
        limiter._grant(granted)
    return True, granted


def lend(request: Request | None) -> None:
    """Let tasks made under `request` borrow its place, since its own code waits for them."""
    if request is None:
        return
    granted: list[Request] = []
    with LOCK:
        request._lending += 1
        if request.held:
            for limiter in request.parts:
                if limiter._line:
                    limiter._grant(granted, borrowers=True)
    tell(granted)


def lend_no_more(request: Request | None) -> None:
    """The code of `request` goes on; see `lend`."""
    if request is not None:
        with LOCK:
            request._lending -= 1


def regrant(limiter: Limiter) -> None:
    """Serve the line of `limiter` after its room has changed. Not with `LOCK` held."""
    granted: list[Request] = []
    with LOCK:
        limiter._grant(granted)
    tell(granted)


def tell(granted: Iterable[Request]) -> None:
    """Tell requests that they were granted."""
    for request in granted:
        request.granted()


class _Waiter(Request):
    """The request of a thread that blocks until it is granted."""

    __slots__ = ("_gate",)

    def __init__(self, weight: float, priority: float) -> None:
        super().__init__(weight, priority, parent=current.get())
        self._gate = threading.Lock()
        self._gate.acquire()

    def granted(self) -> None:
        self._gate.release()

    def wait(self, timeout: float | None) -> bool:
        """Wait for the grant; return whether it came. An interrupt gives it up."""
        try:
            if self._gate.acquire(timeout=-1 if timeout is None else timeout):
                return True
        except BaseException:
            self.give_up()
            raise
        return not self.give_up()

    def give_up(self) -> bool:
        """Leave the line; return False if the place has been granted meanwhile."""
        waited, granted = withdraw(self)
        tell(granted)
        return waited


current: ContextVar[Request | None] = ContextVar("parallel_exec_place", default=None)
"""The innermost place under which the running code runs."""


def wait_for_place(
    limit: Limit, weight: float = 1, priority: float = 0, timeout: float | None = None
) -> Request | None:
    """Block until there is a place under `limit`; return it, or None after `timeout` seconds."""
    request = _Waiter(weight, priority)
    lend(request.parent)
    try:
        if acquire(request, limit) or request.wait(timeout):
            return request
        return None
    finally:
        lend_no_more(request.parent)


def call_in_place(request: Request, call: Callable[[], T]) -> T:
    """Call a function under a place that is held; nested calls can borrow it."""
    token = current.set(request)
    try:
        return call()
    finally:
        current.reset(token)


def _after_fork_in_child() -> None:
    """The threads that held or awaited places are not here."""
    for limiter in _limiters:
        limiter._in_flight = 0
        limiter._line.clear()
    LOCK.release()


# Held over the fork, so that the child does not inherit it from a thread it has not.
os.register_at_fork(
    before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=_after_fork_in_child
)
