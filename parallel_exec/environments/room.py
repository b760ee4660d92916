"""Room for connections, where the system gives a process so many descriptors and no more.

Connections that nobody uses are kept, since making one takes a handshake. When descriptors
are short they give way, the one that has been idle longest first. Where none can, who wants
to connect waits in line until another has ended, as long as there is any of ours; else the
system's own refusal is what the caller gets.

Some descriptors are left free for everything else: files, a name server, commands of this
machine. So the system hardly ever refuses one; whom it does refuse one asks `give_way`, or
waits (`pause`) and tries again.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable

from parallel_exec.reactor import busy, lifecycle

__all__ = ["Place", "Room", "get", "is_shortage"]

SPARE = 8  # one of so many descriptors is left free
LEAST_SPARE = 16
LOOK_S = 0.1  # how often the first in line looks for itself: others free some, too
SHORTAGE = {errno.EMFILE, errno.ENFILE}


def is_shortage(error: BaseException | None) -> bool:
    """Return whether an error, or what it was raised from, is for want of a descriptor or of a
    thread.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in SHORTAGE:
            return True
        if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


class Place:
    """Room for one connection."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._entering = True
        self._left = False

    def taken(self) -> None:
        """Take note that it has its descriptor now. Idempotent."""
        self._room._changed(self, left=False)

    def leave(self) -> None:
        """Give it back. Idempotent, from any thread."""
        self._room._changed(self, left=True)


class Room:
    """The process's descriptors, as far as connections take them. Thread-safe.

    One lock: it guards every attribute. What gives way is called outside of it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line: deque[threading.Event] = deque()
        self.held = 0  # places given out
        self._entering = 0  # those of them that have no descriptor yet
        self._give_way: list[Callable[[], bool]] = []
        self._short_at = -1e9

    def gives_way(self, function: Callable[[], bool]) -> None:
        """Have `function` called when descriptors are short.

        It begins to close something that nobody uses, does not wait, and returns whether
        there was something. It may be called in any thread.
        """
        self._give_way.append(function)

    def enter(
        self,
        wanted: Callable[[], bool],
        register: Callable[[Callable[[], object]], object],
        waits: Callable[[], object],
        timeout: float | None = None,
    ) -> Place | None:
        """Wait for room; return None once it is no longer `wanted`, or the time is over.

        Args:
            wanted: Asked whenever the function given to `register` was called.
            register: Is given a function to wake this wait from another thread.
            waits: Called before it waits.
            timeout: Seconds for the wait; None for as long as it is wanted.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        turn = threading.Event()
        with self._lock:
            if not self._line and (place := self._take()) is not None:
                return place
            self._line.append(turn)
        try:
            register(turn.set)
            waits()
            while wanted():
                with self._lock:
                    first = self._line[0] is turn
                    if first and (place := self._take()) is not None:
                        return place
                if first:
                    self.give_way()
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return None
                pause = LOOK_S if first else None
                turn.wait(left if pause is None else pause if left is None else min(pause, left))
                turn.clear()
            return None
        finally:
            with self._lock:
                self._line.remove(turn)
                self._wake()

    def enter_soon(self, within: float) -> Place | None:
        """Return a place for what must not wait long: most of the spare ones are for that, too.

        Args:
            within: Seconds after which there was none: None then.
        """
        deadline = time.monotonic() + within
        while True:
            with self._lock:
                if self._fits(spare=LEAST_SPARE) or not self.may_get_some:
                    return self._give()
            self.give_way()
            if time.monotonic() >= deadline:
                return None
            time.sleep(LOOK_S)

    def give_way(self) -> bool:
        """Begin to close something that nobody uses; return whether there was something."""
        self._short_at = time.monotonic()
        return any(function() for function in self._give_way)

    def pause(self, wait: Callable[[float], object], *, own: int = 0) -> bool:
        """Wait a little after the system has refused something; return False if nothing of
        ours can end that would change it.

        Args:
            wait: Waits so many seconds.
            own: How many connections do not count, since they end after who waits; nor
                does the command then that waits over one of them.
        """
        others = self.held > own if own else self.may_get_some
        if not self.give_way() and not others:
            return False
        wait(LOOK_S)
        return True

    @property
    def may_get_some(self) -> bool:
        """Whether anything of ours may end, a connection, a command or a function."""
        return self.held > 0 or busy.may_give_back()

    def short_lately(self) -> bool:
        """Return whether descriptors are short, or were a moment ago."""
        return _next_descriptor() is None or time.monotonic() - self._short_at < 1.0

    def _take(self) -> Place | None:
        """Return a place if there is room, or nobody to wait for. Under the lock."""
        return self._give() if self._fits() or not self.may_get_some else None

    def _give(self) -> Place:
        self.held += 1
        self._entering += 1
        return Place(self)

    def _fits(self, spare: int | None = None) -> bool:
        """Return whether there is a descriptor for one more, beside `spare`. Under the lock."""
        import resource  # not at import: Windows has none

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if most == resource.RLIM_INFINITY:
            return True
        # The system gives the lowest number that is free: those below are in use.
        number = _next_descriptor()
        if number is None:
            return False
        if spare is None:
            spare = max(LEAST_SPARE, most // SPARE)
        return number + self._entering < most - spare

    def _changed(self, place: Place, *, left: bool) -> None:
        with self._lock:
            if place._entering:
                place._entering = False
                self._entering -= 1
            if left and not place._left:
                place._left = True
                self.held -= 1
            self._wake()

    def _wake(self) -> None:
        """Have the first in line look. Under the lock."""
        if self._line:
            self._line[0].set()


def _next_descriptor() -> int | None:
    """Return the number that the next descriptor gets; None if there is none."""
    try:
        fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    os.close(fd)
    return fd


_made = [Room()]


def get() -> Room:
    """Return the process's."""
    return _made[0]


def _after_fork_in_child() -> None:
    """Who waits there are threads of the parent's; what gives way stays."""
    old, _made[0] = _made[0], Room()
    _made[0]._give_way = old._give_way


lifecycle.at_fork("room", _after_fork_in_child)
