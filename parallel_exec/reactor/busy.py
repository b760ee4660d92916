"""Who of ours may give descriptors, processes or threads back.

What finds the system out of them waits as long as there is somebody, and fails at once if there is
nobody: then the program itself holds them all, and waiting could never help.

Commands count from their start to their end, threads of ours as long as they have something to do:
but not while they wait for others of ours. All calls are atomic.
"""

from __future__ import annotations

import threading
import time

__all__ = ["begin", "end", "may_give_back", "pause", "resume"]

GRACE_S = 0.25  # how long after somebody's end the system may still be giving back

_busy: set[object] = set()
_paused: set[int] = set()  # the threads among them that wait for others
_ended_at = -GRACE_S


def begin(who: object) -> None:
    """Take note that a command runs, or a thread, which is given as its id."""
    _busy.add(who)


def end(who: object) -> None:
    """Take note that it has ended. Idempotent."""
    global _ended_at
    _busy.discard(who)
    _ended_at = time.monotonic()


def pause() -> None:
    """Take note that this thread waits for others of ours."""
    me = threading.get_ident()
    if me in _busy:
        _paused.add(me)
        _busy.discard(me)


def resume() -> None:
    """Take note that it goes on."""
    me = threading.get_ident()
    if me in _paused:
        _paused.discard(me)
        _busy.add(me)


def may_give_back() -> bool:
    """Return whether there is anybody, or was a moment ago."""
    return bool(_busy) or time.monotonic() - _ended_at < GRACE_S


def forget() -> None:
    """In a forked child: nobody runs here."""
    global _ended_at
    _busy.clear()
    _paused.clear()
    _ended_at = -GRACE_S
