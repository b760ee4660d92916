"""The service thread: it watches descriptors, keeps timers and takes messages.

Everything that must not wait for anything else happens here: starting and draining
local commands, the steps of the scheduler that nobody's thread is at hand for, retries,
rates and deadlines. What runs here must never block and never call foreign code.

`post` is what makes the library safe under Ctrl-C: a KeyboardInterrupt can hit the
calling thread at any bytecode, so that thread changes no shared state. It appends to a
deque, which either has happened or has not.

No locks here. The handlers, the timer heap and the poller belong to their thread; the
inbox is a deque, whose `append` and `popleft` are atomic.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from parallel_exec.errors import CommandStartError, ExecutorClosedError
from parallel_exec.reactor import busy, lifecycle, poller, system, threads
from parallel_exec.reactor.mishaps import report

__all__ = [
    "Clock",
    "Reactor",
    "Timer",
    "at_work",
    "get",
    "refuse_when_finalizing",
    "starts_no_more_threads",
]

LONGEST_WAIT_S = 3600.0  # the system's call takes no more than some weeks
CROWD = 600  # where more descriptors are watched, a rest is taken when some have ended
LULL_MS = 0.0015  # that rest, for each of them
LONGEST_LULL_MS = 5
LOOK_S = 0.02  # how often what cannot be watched is looked at
NO_ROOM = {errno.ENOSPC, errno.ENOMEM}  # epoll has a limit for each user

Handler = tuple[Callable[..., object], tuple[Any, ...]]


class Timer:
    """A call that is due at a time; `cancel` may come from any thread."""

    __slots__ = ("args", "call", "order", "when")

    def __init__(self, when: float, order: int, call: Callable[..., object], args: Any) -> None:
        self.when = when
        self.order = order
        self.call: Callable[..., object] | None = call
        self.args = args

    def __lt__(self, other: Timer) -> bool:
        return (self.when, self.order) < (other.when, other.order)

    def cancel(self) -> None:
        """Make the call not happen, if it has not begun. Idempotent."""
        self.call = None
        self.args = ()


class Clock(Protocol):
    """Time, as the engine needs it. `parallel_exec.testing` has one that stands still."""

    def now(self) -> float:
        """Return monotonic seconds."""

    def call_at(self, when: float, call: Callable[..., object], *args: Any) -> Timer:
        """Have `call` made at `when`, in the service thread. From any thread."""

    def post(self, call: Callable[..., object], *args: Any) -> None:
        """Have `call` made soon, in order, in the service thread. From any thread,
        signal handlers and finalizers included: takes no lock, changes no state.
        """


class Reactor:
    """A service thread, started when it is first needed."""

    def __init__(self) -> None:
        self._poller = poller.make()
        self._handlers: dict[int, Handler] = {}
        self._inbox: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._timers: list[Timer] = []
        self._order = itertools.count()
        self._sleeping = False
        self._owner = threading.Lock()  # held by the one thread that runs the loop
        self._thread: threading.Thread | None = None
        self._ident: int | None = None
        self._stopped = False
        self._compact_at = 1024
        self._watched = 0  # how many descriptors were, a turn ago
        try:
            self._wake_read, self._wake_write = _bell()
        except BaseException:
            self._poller.close()
            raise
        self._posted = select.poll()
        self._posted.register(self._wake_read, select.POLLIN)
        self.watch(self._wake_read, poller.READ, self._woken)

    # From any thread

    @staticmethod
    def now() -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def post(self, call: Callable[..., object], *args: Any) -> None:
        """See `Clock.post`."""
        self._inbox.append((call, args))
        # The loop says that it sleeps before it looks at the inbox a last time, so one
        # of the two sees the other. Nothing is noted here that an interrupt between
        # the lines could leave half done.
        if self._sleeping:
            self._wake()
        if self._ident is None:
            self._start()

    def call_at(self, when: float, call: Callable[..., object], *args: Any) -> Timer:
        """See `Clock.call_at`."""
        timer = Timer(when, next(self._order), call, args)
        if self.inside():
            heapq.heappush(self._timers, timer)
        else:
            self.post(heapq.heappush, self._timers, timer)
        return timer

    def inside(self) -> bool:
        """Return whether this is the service thread."""
        return threading.get_ident() == self._ident

    def stop(self) -> None:
        """End the service thread and wait for it. What was posted before is still done."""
        thread = self._thread
        if thread is None or not thread.is_alive() or self.inside():
            return
        # Not by `post`: the thread may end before that looks whether it has to start one.
        self._inbox.append((self._stop, ()))
        self._wake()
        thread.join()

    # In the service thread

    def watch(self, fd: int, interest: int, call: Callable[..., object], *args: Any) -> None:
        """Have `call` made when `fd` is ready, and again when something comes: it is to go on
        until there is nothing left, or to watch it anew. It may be made in vain.
        """
        self._handlers[fd] = handler = (call, args)
        try:
            self._poller.add(fd, interest)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self.call_at(self.now() + LOOK_S, self._look, fd, interest, handler)

    def _look(self, fd: int, interest: int, handler: Handler) -> None:
        """Have that done by time which the system has no room to watch."""
        if self._handlers.get(fd) is handler:
            _do(*handler)
        if self._handlers.get(fd) is handler:
            self.watch(fd, interest, handler[0], *handler[1])

    def forget(self, fd: int) -> None:
        """Watch `fd` no more, which is being closed."""
        self._handlers.pop(fd, None)

    def _start(self) -> None:
        """Start the thread. Two may be started, by two threads or after an interrupt in
        here; the second finds the loop owned and ends.
        """
        while True:
            if sys.is_finalizing():  # Python 3.11 would wait for the thread for ever
                raise RuntimeError("no thread can be started at interpreter shutdown")
            thread = threading.Thread(target=self._run, name="parallel_exec", daemon=True)
            try:
                with threads.signals_blocked():
                    thread.start()
                return
            except RuntimeError as error:  # out of threads: others of ours may end
                if starts_no_more_threads(error):
                    raise
                if not busy.may_give_back():
                    what = f"the service thread cannot be started: {error}"
                    raise CommandStartError(what) from error
                time.sleep(0.05)

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"\1\0\0\0\0\0\0\0")
        except BlockingIOError:  # it has been woken often enough
            pass

    def _woken(self) -> None:
        try:
            while len(os.read(self._wake_read, 4096)) == 4096:
                pass
        except BlockingIOError:
            pass

    def _stop(self) -> None:
        self._stopped = True

    def _run(self) -> None:
        if not self._owner.acquire(blocking=False):
            return
        threads.block_signals()
        self._thread = threading.current_thread()
        self._ident = threading.get_ident()
        try:
            while not self._stopped:
                self._turn()
        finally:
            self._stopped = False
            self._ident = None
            threads.end_blocking()
            self._owner.release()

    def _turn(self) -> None:
        inbox = self._inbox
        timers = self._timers
        wait: float | None = None
        watched = len(self._handlers)
        if CROWD < watched < self._watched:
            self._rest(min(watched * LULL_MS, LONGEST_LULL_MS))
        self._watched = watched
        self._sleeping = True
        if inbox:
            wait = 0.0
        elif timers:
            wait = min(max(0.0, timers[0].when - time.monotonic()), LONGEST_WAIT_S)
        ready = self._poller.wait(wait)
        self._sleeping = False
        for fd, _ in ready:
            handler = self._handlers.get(fd)
            if handler is not None:  # else an earlier one of this turn removed it
                call, args = handler
                _do(call, args)
        for _ in range(len(inbox)):  # what these post in turn comes next time
            call, args = inbox.popleft()
            _do(call, args)
        if timers:
            now = time.monotonic()
            if timers[0].when <= now or len(timers) > self._compact_at:
                self._fire(now)

    def _rest(self, milliseconds: float) -> None:
        """Let what ends next come, to be done in one go, which costs less: the caches are warm
        after the first. What is posted is not kept waiting.
        """
        self._sleeping = True
        if not self._inbox:
            self._posted.poll(milliseconds)
        self._sleeping = False

    def _fire(self, now: float) -> None:
        timers = self._timers
        while timers and timers[0].when <= now:
            timer = heapq.heappop(timers)
            if timer.call is not None:
                _do(timer.call, timer.args)
        if len(timers) > self._compact_at:
            # Cancelled timers stay in the heap until they are due: a million short
            # commands with a long timeout would fill it.
            timers[:] = [timer for timer in timers if timer.call is not None]
            heapq.heapify(timers)
            self._compact_at = max(1024, 2 * len(timers))

    def _forget(self) -> None:
        """In a forked child: close the descriptors, touch nothing that is shared."""
        for fd in {self._wake_read, self._wake_write, *self._handlers}:
            try:
                os.close(fd)
            except OSError:
                pass
        self._handlers.clear()
        self._poller.close()


def _bell() -> tuple[int, int]:
    """Return what wakes the service thread: a descriptor to read and one to write, which may be
    the same.
    """
    try:
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    except AttributeError:
        pass
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EINVAL):
            raise
    else:
        return fd, fd
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    return read, write


def _do(call: Callable[..., object], args: tuple[Any, ...]) -> None:
    """Make a call, whatever comes of it."""
    try:
        call(*args)
    except BaseException:
        report("the service thread met an error in %r", call)


def starts_no_more_threads(error: RuntimeError) -> bool:
    """Return whether a thread did not start because the interpreter exits (Python 3.12), and
    not because the system is out of threads now. Both are a `RuntimeError`.
    """
    return "shutdown" in str(error)


def refuse_when_finalizing() -> None:
    """Do nothing, or raise at the end of the interpreter, when objects that are left are
    finalized: no other thread will run again, so what waits for one waits for ever.

    Raises:
        ExecutorClosedError: The interpreter finalizes.
    """
    if sys.is_finalizing():
        raise ExecutorClosedError("the interpreter is shutting down: its threads run no more")


_made: dict[str, Reactor] = {}  # one at most


def get() -> Reactor:
    """Return the process's reactor. A forked child gets its own.

    Raises:
        CommandStartError: There are no descriptors for it, or the system is not one for it.
    """
    reactor = _made.get("")
    if reactor is None:
        system.check()
        try:
            made = Reactor()
        except OSError as error:
            what = f"the service thread cannot be started: {error.strerror}"
            raise CommandStartError(what, errno=error.errno) from error
        # Two threads may come here at once: setdefault is atomic, one of them wins.
        reactor = _made.setdefault("", made)
    return reactor


def at_work() -> Reactor:
    """Return the process's reactor with its thread running.

    Raises:
        CommandStartError: There is no thread for it, or there are no descriptors.
    """
    system.check()  # each time: modules may be replaced when it is there already
    reactor = get()
    if reactor._ident is None and not reactor._owner.locked():
        reactor._start()
    return reactor


def _after_fork_in_child() -> None:
    for reactor in _made.values():
        reactor._forget()
    _made.clear()


lifecycle.at_fork("reactor", _after_fork_in_child)
