"""Threads and signals.

The service thread has all signals blocked, for good: a signal to the program is handled by a thread
of the program's own, and a main thread that waits for it (`signal.sigwait`) gets it. Others that
the service thread starts would inherit that, and so would what users start in them. So those of
`Thread` have the mask of the main thread instead.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Thread", "block_signals", "signals_blocked"]

# Not those that a fault of the thread itself raises: `faulthandler` is to see them.
FAULTS = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS")
HAS_MASKS = hasattr(signal, "pthread_sigmask")
BLOCKED: set[Any] = set()
if HAS_MASKS:
    BLOCKED = set(signal.valid_signals()) - {getattr(signal, name, None) for name in FAULTS}

_blocking: set[int] = set()  # the threads that have them blocked for good
_mask: set[Any] = set()  # what the thread blocked that has started the service thread


class Thread(threading.Thread):
    """A thread, a daemon by default, that has the program's signal mask whoever starts it."""

    def __init__(
        self,
        *,
        target: Callable[..., object],
        name: str,
        args: tuple[Any, ...] = (),
        daemon: bool = True,
    ) -> None:
        super().__init__(target=target, name=name, args=args, daemon=daemon)
        self._signals: set[Any] | None = None

    def start(self) -> None:
        """See `threading.Thread.start`."""
        if threading.get_ident() in _blocking:
            self._signals = _mask_of_main()
        super().start()

    def run(self) -> None:
        """See `threading.Thread.run`."""
        if threading.current_thread() is not self:  # a caller does it, for want of a thread
            super().run()
            return
        if self._signals is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._signals)
        try:
            super().run()
        finally:
            if HAS_MASKS:  # who no longer waits for this thread may wait for a signal
                signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)


def block_signals() -> None:
    """Block all signals in this thread until it ends."""
    if HAS_MASKS:
        signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
        _blocking.add(threading.get_ident())


def end_blocking() -> None:
    """Take note that this thread, which has blocked signals, ends: another may get its id."""
    _blocking.discard(threading.get_ident())


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Have a thread that is started in here begin with all signals blocked."""
    global _mask
    if not HAS_MASKS:
        yield
        return
    # Asked first: an interrupt may come between a change and the note of what was before.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    _mask = before
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _mask_of_main() -> set[Any]:
    """Return what the main thread blocks now, or where that cannot be told, what was blocked when
    the service thread began.
    """
    if sys.platform == "linux":
        try:
            with open(f"/proc/self/task/{os.getpid()}/status", "rb") as file:
                bits = next(int(line[7:], 16) for line in file if line.startswith(b"SigBlk:"))
        except (OSError, StopIteration):
            return _mask
        mask = {number for number in signal.valid_signals() if bits >> (number - 1) & 1}
        if signal.SIGSEGV not in mask:  # else it starts a process, and blocks all for a moment
            return mask
    return _mask
