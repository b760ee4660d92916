"""What happens at a fork of the program, in order.

Before a fork its thread takes the locks, so that no other is in the middle of what they guard; the
parent gives them back. The child does what `IN_CHILD` lists, then gives them back, too.

A signal's handler may raise in a hook, between any two of its steps: a KeyboardInterrupt ends the
hook there, and the fork goes on all the same. So each step asks first whether it has been made (who
owns the lock?), and each hook is called several times: one interrupt spoils one call, the next does
what is left. In the child all signals are blocked meanwhile. The interrupt is raised once more when
the fork is over, or it would be lost.
"""

from __future__ import annotations

import _thread
import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["IN_CHILD", "LOCKS", "STARTING", "at_fork"]

log = logging.getLogger("parallel_exec")

LOCKS = ("starting", "limits")
"""The locks that are taken before a fork, by name, in this order."""

IN_CHILD = (
    "reactor",  # first: it closes what it watches, so that others need not
    "watchdog",
    "local",
    "limits",
    "keyed limits",
    "executors",
    "batchers",
    "room",
    "ssh files",
    "ssh keys",
    "ssh prompts",
    "ssh gates",
    "ssh pools",
    "ssh environments",
)
"""What a forked child does, by name, in this order: it forgets what is its parent's."""

TIMES = 3  # how often each hook is called

STARTING = threading.RLock()
"""Held while descriptors are opened or closed that a forked child must not keep, or must not close
in the parent's place: while a program is started, for example. Else the child would keep the pipes
open whose end is waited for here, for as long as it lives.
"""

_locks: dict[str, Any] = {"starting": STARTING}
_hooks: dict[str, Callable[[], object]] = {}
_forking: dict[int, tuple[Any, ...]] = {}  # by thread: the locks that it takes for a fork
_begun_in = 0  # the process in which the child's work was done last


def at_fork(name: str, in_child: Callable[[], object], *, lock: Any = None) -> None:
    """Have `in_child` called in a forked child.

    Args:
        name: One of `IN_CHILD`.
        in_child: Called while the child has one thread, and that has all signals blocked.
        lock: An `RLock` that is held over the fork; then `name` is one of `LOCKS`, too.
    """
    assert name in IN_CHILD
    _hooks[name] = in_child
    if lock is not None:
        assert name in LOCKS
        _locks[name] = lock


def _take_locks() -> None:
    try:
        me = threading.get_ident()
        if me not in _forking:
            # Not those that this thread has: it forks in a signal's handler.
            locks = (_locks[name] for name in LOCKS if name in _locks)
            _forking[me] = tuple(lock for lock in locks if not lock._is_owned())
        for lock in _forking[me]:
            if not lock._is_owned():
                lock.acquire()
    except KeyboardInterrupt:
        _interrupt_again()


def _give_locks_back() -> None:
    try:
        me = threading.get_ident()
        for lock in reversed(_forking.get(me, ())):
            if lock._is_owned():
                lock.release()
        _forking.pop(me, None)
    except KeyboardInterrupt:
        _interrupt_again()


def _begin_child() -> None:
    try:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            # When this has returned nothing interrupts: there is no other thread.
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            if _begun_in != os.getpid():
                _forget_parent()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    except KeyboardInterrupt:
        _interrupt_again()


def _forget_parent() -> None:
    global _begun_in
    for name in IN_CHILD:
        try:
            _hooks.get(name, bool)()
        except Exception:
            log.exception("what a forked child does for %s has failed", name)
    _give_locks_back()
    _forking.clear()  # other threads of the parent were about to fork, too
    for lock in _locks.values():
        if not lock._is_owned():
            lock._at_fork_reinit()  # it was taken all the same, by a thread that is not here
    _begun_in = os.getpid()


def _interrupt_again() -> None:
    """Have the interrupt that was caught raised in the main thread when the fork is over: an
    exception would be lost here.
    """
    try:
        _thread.start_new_thread(_thread.interrupt_main, ())
    except RuntimeError:  # no thread is to be had: at least it is printed
        raise KeyboardInterrupt from None


if hasattr(os, "register_at_fork"):
    for _ in range(TIMES):
        os.register_at_fork(
            before=_take_locks, after_in_parent=_give_locks_back, after_in_child=_begin_child
        )
