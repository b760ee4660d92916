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

A signal handler or a finalizer can run between any two lines, also while its thread holds
the lock. It cannot have a place then: the counters may be half changed, and whoever would
give a place back waits for the lock. So it gets an error (`refuse_reentry`). The lock can be
taken twice by one thread only so that its owner is known.

The methods that a subclass may have written (`_fits`, `_room`, `_taken`, `_returned`) are
foreign code. What they raise is told of after the lock is released, and costs neither a place
nor a request its turn.
"""

from __future__ import annotations

import itertools
import threading
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar
from weakref import WeakSet

from parallel_exec.limits.rule import Verdict
from parallel_exec.reactor import busy, lifecycle, refuse_when_finalizing, report

if TYPE_CHECKING:
    from parallel_exec.values.outcome import Outcome

__all__ = [
    "LOCK",
    "NO_VERDICTS",
    "Limit",
    "Limiter",
    "Place",
    "Request",
    "acquire",
    "acquire_each",
    "begin",
    "call_in_place",
    "current",
    "grant_or_move",
    "lend",
    "lend_no_more",
    "refuse_reentry",
    "regrant",
    "release",
    "set_alarms",
    "tell",
    "wait_for_place",
    "withdraw",
]

T = TypeVar("T")
RequestT = TypeVar("RequestT", bound="Request")

LOCK = threading.RLock()  # guards every limiter's counter and line and every request's state
_arrival = itertools.count(1)
_limiters: WeakSet[Limiter] = WeakSet()
alarms: deque[Callable[[], object]] = deque()  # appended to with `LOCK` held; see `set_alarms`
NO_VERDICTS: Mapping[Limiter, Verdict] = {}
_inside: Callable[[], bool] = LOCK._is_owned  # type: ignore[attr-defined]


def refuse_reentry() -> None:
    """Do nothing, or raise where this thread has been interrupted inside of a limiter.

    Raises:
        RuntimeError: A signal handler or a finalizer has interrupted this thread while it
            held `LOCK`. What it waits for would never come.
    """
    if _inside():
        raise RuntimeError(
            "a limiter was used in a signal handler or a finalizer that interrupted its own "
            "thread inside of a limiter: use it in another thread, or after the handler"
        )


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

    # Slots, since each is read more often than it is made: an attribute of the class that
    # stands for the usual value takes CPython 3.11 four times as long to read.
    __slots__ = (
        "_borrowed",
        "_lending",
        "_lent",
        "_line",
        "_order",
        "held",
        "key",
        "parent",
        "parts",
        "priority",
        "since",
        "weight",
    )

    def __init__(self) -> None:
        self.weight: float = 1
        self.priority: float = 0
        self.key: object = None
        self.parent: Request | None = None
        self.parts: tuple[Limiter, ...] = ()
        self.held = False
        self.since = 0.0
        self._order = 0  # when it arrived, among all; 0 until it has had to wait
        self._line: Limiter | None = None  # where it waits
        self._borrowed: dict[Limiter, tuple[Request, float]] | None = None
        self._lent: dict[Limiter, dict[Request, float]] | None = None  # to whom, how much
        self._lending = 0  # how many of its own calls wait for others

    def __lt__(self, other: object) -> bool:
        return False  # for the line, where one may stand twice

    def harmless(self, error: BaseException | None) -> bool:
        """Return whether another try does no harm after one that ended with `error`: it
        surely did not run, or may run twice.
        """
        return False

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

    judges: ClassVar[bool] = False  # whether it wants to know how tasks ended
    counts_beginnings: ClassVar[bool] = False  # whether it wants to know when tasks begin
    foreign = False  # whether `judge` calls code that is not the library's and may block
    lends: ClassVar[bool] = True  # whether a nested task may use the place around it
    # Whether the short ways may be gone, which leave these hooks out: for the threads of a
    # limiter (`BlockingLimiter`), and for `release`.
    _enters_plainly = False
    _plain = False

    def __init_subclass__(cls) -> None:
        def inherits(*hooks: str) -> bool:
            return all(getattr(cls, hook) is getattr(Limiter, hook) for hook in hooks)

        cls._enters_plainly = inherits("_fits", "_admits", "_take", "_give", "_grant")
        cls._plain = cls._enters_plainly and inherits("_taken", "_returned")

    def __init__(self) -> None:
        self._in_flight: float = 0
        self._paused = False
        self._nudged: Place | None = None  # a thread that was woken to look for itself
        self._line: deque[tuple[float, int, Request]] = deque()  # in order
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
        refuse_reentry()
        with LOCK:
            return len({id(request) for _, _, request in self._line if request._line is self})

    @property
    def paused(self) -> bool:
        """Whether nothing new begins until `resume` is called."""
        return self._paused

    def pause(self) -> None:
        """Let nothing new begin. What runs goes on; who asks for room waits."""
        refuse_reentry()
        with LOCK:
            self._paused = True

    def resume(self) -> None:
        """Let things begin again, those that waited first. Idempotent."""
        refuse_reentry()
        with LOCK:
            self._paused = False
        regrant(self)

    # Decided by subclasses

    def judge(self, request: Request, outcome: Outcome[Any]) -> Verdict:
        """Say what the end of a try means. Called once a try, before `_returned`, without
        `LOCK`, and only if `judges`.
        """
        return "success" if outcome.ok else "neither"

    def again(self, request: Request, outcome: Outcome[Any]) -> float | BaseException | None:
        """Say whether a try that was judged "overload" is followed by another. Called as
        `judge` is.

        Returns:
            Seconds until then; an error of the limiter's own to end with; None: no.
        """
        return None

    def began(self, request: Request) -> None:
        """Take note that what `request` has its place for begins now: a function is called, a
        command started. Called without `LOCK`, at most once a place, from any thread, and only
        if `counts_beginnings`.
        """

    def strained(self, request: Request) -> None:
        """Take note that `request`, which has its place, waits for resources of the
        system: processes, threads, descriptors. Called without `LOCK`.
        """

    def _room(self, weight: float) -> bool:
        """Return whether there is room for `weight` more."""
        raise NotImplementedError

    def _taken(self, request: Request) -> None:
        """Take note that `request` was given a place."""

    def _returned(self, request: Request, verdict: Verdict, now: float) -> None:
        """Take note that `request` gave its place back, and how its task ended."""

    def _forked(self) -> None:
        """This is a forked child: who held or awaited places is not here."""
        self._in_flight = 0
        self._nudged = None
        self._line.clear()

    # The line

    def _fits(self, request: Request) -> bool:
        """Return whether there is room for `request`, with what it can borrow."""
        if self._paused:
            return False
        if request.parent is None:
            return self._room(request.weight)
        _, amount = _loan(request, self)
        rest = request.weight - amount
        # A heavy one that can borrow all that is taken runs alone, as at the top level.
        return rest <= 0 or self._room(rest) or self._in_flight <= amount

    def _has_room(self, request: Request) -> bool:
        """Return what `_fits` says. If it raises, requests go one after the other, so that
        nobody waits for ever.
        """
        try:
            return self._fits(request)
        except BaseException as error:
            self._raised("_fits", error)
            return self._in_flight <= 0

    def _raised(self, hook: str, error: BaseException) -> None:
        """Tell of what a hook has raised, when the lock has been released."""
        alarms.append(lambda: report("%s of a limiter raised: %r", hook, self, error=error))

    def _admits(self, request: Request) -> bool:
        """Return whether `request`, just arrived, can have its place at once."""
        line = self._line
        while line:
            urgency, order, head = line[0]
            if head._line is not self:
                line.popleft()
                continue
            if urgency > -request.priority or (
                urgency == -request.priority and 0 < request._order < order
            ):
                break  # it goes first
            # Others wait. Only who needs nothing of what they wait for may pass.
            if request.parent is None or self._paused:
                return False
            return _loan(request, self)[1] >= request.weight
        return self._has_room(request)

    def _take(self, request: Request) -> None:
        amount = request.weight
        if request.parent is not None:
            lender, borrowed = _loan(request, self)
            if lender is not None and borrowed > 0:
                amount -= borrowed
                lent = lender._lent = lender._lent or {}
                lent.setdefault(self, {})[request] = borrowed
                request._borrowed = request._borrowed or {}
                request._borrowed[self] = (lender, borrowed)
        self._in_flight += amount
        try:
            self._taken(request)
        except BaseException as error:
            self._raised("_taken", error)

    def _give(self, request: Request, verdict: Verdict, now: float) -> None:
        amount = request.weight
        if request._borrowed and self in request._borrowed:
            lender, borrowed = request._borrowed.pop(self)
            amount -= borrowed
            if lender._lent is not None:
                del lender._lent[self][request]
        if request._lent:
            # It is left before those it lent to have ended: the place is theirs now.
            for borrower, lent in request._lent.pop(self, {}).items():
                amount -= lent
                if borrower._borrowed is not None:
                    del borrower._borrowed[self]
        # Never below 0: in a forked child the counters start anew (`_after_fork_in_child`).
        left = self._in_flight - amount
        self._in_flight = left if left > 0 else 0
        try:
            self._returned(request, verdict, now)
        except BaseException as error:
            self._raised("_returned", error)

    def _queue(self, request: Request) -> None:
        request._line = self
        order = request._order = request._order or next(_arrival)
        entry = (-request.priority, order, request)
        line = self._line
        if not line or line[-1] < entry:  # as nearly always
            line.append(entry)
        else:
            insort(line, entry)

    def _grant(self, granted: list[Request], *, borrowers: bool = False) -> None:
        """Give places to those at the head of the line, as long as there is room, and to
        those further back for whom a place has come back that they can borrow.
        """
        line = self._line
        while line:
            request = line[0][2]
            if request._line is not self:  # it was withdrawn, or has its place already
                line.popleft()
            elif self._has_room(request):
                line.popleft()
                grant_or_move(request, granted, self)
            else:
                break
        if borrowers:
            for _, _, request in list(line):
                if (
                    request._line is self
                    and not self._paused
                    and _loan(request, self)[1] >= request.weight
                ):
                    grant_or_move(request, granted, self)

    def _hand_on(self, request: Request, granted: list[Request], now: float) -> None:
        """Take the place of `request` back, and give what room there is to those in line:
        what `_give` and `_grant` do, where no more than the counter is to be changed.
        """
        left = self._in_flight - request.weight
        self._in_flight = left if left > 0 else 0
        line = self._line
        while line:
            head = line[0][2]
            if head._line is not self:
                line.popleft()
                continue
            if head.parent is not None or head.parts is not self._only:
                self._grant(granted)
                break
            try:
                room = not self._paused and self._room(head.weight)
            except BaseException:
                room = self._has_room(head)
            if not room:
                break
            line.popleft()
            self._in_flight += head.weight
            head._line = None
            head.held = True
            head.since = now
            granted.append(head)


def _loan(request: Request, limiter: Limiter) -> tuple[Request | None, float]:
    """Return from whom `request` can borrow in `limiter`, and how much."""
    lender = request.parent
    while lender is not None:
        if lender.held and limiter in lender.parts:
            if not lender._lending or not limiter.lends:
                return None, 0
            lent = sum(lender._lent.get(limiter, {}).values()) if lender._lent else 0
            return lender, min(request.weight, lender.weight - lent)
        lender = lender.parent
    return None, 0


def _take_all(request: Request) -> None:
    request._line = None
    request.held = True
    request.since = time.monotonic()
    for limiter in request.parts:
        limiter._take(request)


def grant_or_move(request: Request, granted: list[Request], turn_in: Limiter) -> None:
    """Give `request`, whose turn it is in the line of `turn_in`, its places, or move it to
    the line of a limiter that has none. It keeps the time of its arrival.
    """
    for limiter in request.parts:
        if limiter is not turn_in and not limiter._admits(request):
            limiter._queue(request)
            return
    _take_all(request)
    granted.append(request)


def acquire(request: Request, limit: Limit) -> bool:
    """Give `request` its place under `limit`, or put it in line.

    Returns:
        Whether it has its place. If not, `request.granted` is called once, later,
        unless it is withdrawn before.
    """
    refuse_reentry()
    request.parts = limit.parts(request)
    with LOCK:
        if _placed(request):
            return True
    if alarms:
        set_alarms()
    return False


def acquire_each(requests: Iterable[RequestT]) -> list[RequestT]:
    """Do for each of `requests`, which know their parts, what `acquire` does; return those
    that have their place.
    """
    refuse_reentry()
    with LOCK:
        placed = [request for request in requests if _placed(request)]
    if alarms:
        set_alarms()
    return placed


def _placed(request: Request) -> bool:
    """Give `request` its place in its parts, or put it in line. With the lock held."""
    request._order = 0
    for limiter in request.parts:
        if not limiter._admits(request):
            limiter._queue(request)
            return False
    _take_all(request)
    return True


def release(request: Request, verdicts: Mapping[Limiter, Verdict] = NO_VERDICTS) -> list[Request]:
    """Take the place of `request` back.

    Args:
        request: Who held it; if it does not, nothing happens.
        verdicts: What its end means to the limiters that judge.

    Returns:
        The requests that were granted by it; the caller tells them (`tell`).
    """
    granted: list[Request] = []
    refuse_reentry()
    with LOCK:
        if not request.held:
            return granted
        request.held = False
        now = time.monotonic()
        parts = request.parts
        borrowed = request._borrowed is not None
        if len(parts) == 1 and parts[0]._plain and not borrowed and request._lent is None:
            parts[0]._hand_on(request, granted, now)
        else:
            for limiter in parts:
                limiter._give(request, verdicts.get(limiter, "neither"), now)
            for limiter in parts:
                if limiter._line:
                    limiter._grant(granted, borrowers=borrowed)
    if alarms:
        set_alarms()
    return granted


def withdraw(request: Request) -> tuple[bool, list[Request]]:
    """Take `request` out of the line.

    Returns:
        Whether it still waited, and the requests that were granted because of it. If
        it did not wait any more, it has been granted and must be released.
    """
    granted: list[Request] = []
    refuse_reentry()
    with LOCK:
        limiter = request._line
        if limiter is None:
            return False, granted
        request._line = None
        limiter._grant(granted)
    set_alarms()
    return True, granted


def begin(request: Request) -> None:
    """Tell the limiters in which `request` has its place that it begins."""
    for limiter in request.parts:
        if limiter.counts_beginnings:
            limiter.began(request)


def lend(request: Request | None) -> None:
    """Let tasks made under `request` borrow its place, since its own code waits for them."""
    busy.pause()
    if request is None:
        return
    granted: list[Request] = []
    refuse_reentry()
    with LOCK:
        request._lending += 1
        if request.held:
            for limiter in request.parts:
                if limiter._line:
                    limiter._grant(granted, borrowers=True)
    set_alarms()
    tell(granted)


def lend_no_more(request: Request | None) -> None:
    """The code of `request` goes on; see `lend`."""
    busy.resume()
    if request is not None:
        refuse_reentry()
        with LOCK:
            request._lending -= 1


def regrant(limiter: Limiter) -> None:
    """Serve the line of `limiter` after its room has changed. Not with `LOCK` held."""
    refuse_reentry()
    granted: list[Request] = []
    with LOCK:
        limiter._grant(granted)
    set_alarms()
    tell(granted)


def set_alarms() -> None:
    """Have those limiters woken that get room by time alone. Not with `LOCK` held: a clock
    may be somebody else's.
    """
    while alarms:
        try:
            alarm = alarms.popleft()
        except IndexError:  # another thread was faster
            return
        alarm()


def tell(granted: Iterable[Request]) -> None:
    """Tell requests that they were granted."""
    for request in granted:
        request.granted()


class Place(Request):
    """The request of a thread that blocks until it is granted."""

    __slots__ = ("_gate",)

    _gate: threading.Lock

    def granted(self) -> None:
        self.wake()

    def wake(self) -> None:
        """Have the thread look."""
        try:
            self._gate.release()
        except RuntimeError:
            pass  # it has been woken already, and has not looked yet

    def wait(self, timeout: float | None) -> bool:
        """Wait for the grant; return whether it came. An interrupt gives it up."""
        try:
            refuse_when_finalizing()
            while self._gate.acquire(timeout=-1 if timeout is None else timeout):
                nudged = any(limiter._nudged is self for limiter in self.parts)
                if (self.held and not nudged) or self._come_at_last():
                    return True
        except BaseException:
            self.give_up()
            raise
        return not self.give_up()

    def _come_at_last(self) -> bool:
        """Serve the line after having been woken without a grant (`Limiter._nudged`);
        return whether this one got its place by it.
        """
        granted: list[Request] = []
        with LOCK:
            for limiter in self.parts:
                if limiter._nudged is self:
                    limiter._nudged = None
                limiter._grant(granted)
        set_alarms()
        tell(request for request in granted if request is not self)
        return self.held

    def give_up(self) -> bool:
        """Leave the line; return False if the place has been granted meanwhile."""
        for limiter in self.parts:
            if limiter._nudged is self:
                limiter._nudged = None
        waited, granted = withdraw(self)
        tell(granted)
        return waited


current: ContextVar[Request | None] = ContextVar("parallel_exec_place", default=None)
"""The innermost place under which the running code runs."""


def wait_for_place(
    limit: Limit,
    weight: float = 1,
    priority: float = 0,
    key: object = None,
    timeout: float | None = None,
) -> Place | None:
    """Block until there is a place under `limit`; return it, or None after `timeout` seconds."""
    place = Place()
    place.parent = current.get()
    place.weight = weight
    place.priority = priority
    place.key = key
    place._gate = threading.Lock()
    place._gate.acquire()
    lend(place.parent)
    try:
        if acquire(place, limit) or place.wait(timeout):
            return place
        return None
    finally:
        lend_no_more(place.parent)


def call_in_place(request: Request, call: Callable[[], T]) -> T:
    """Call a function under a place that is held; nested calls can borrow it."""
    token = current.set(request)
    try:
        return call()
    finally:
        current.reset(token)


def _after_fork_in_child() -> None:
    """Start anew: there are no other threads."""
    for limiter in _limiters:
        limiter._forked()
    alarms.clear()


lifecycle.at_fork("limits", _after_fork_in_child, lock=LOCK)
