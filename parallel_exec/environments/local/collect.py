"""Collecting what a program leaves, its output and its exit: by the extension `_process` where
there is one, else by Python's own calls.

What is one call there is five to ten here. Each of them gives the interpreter's lock back, which
the other service thread takes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

__all__ = ["ALONE", "CHUNK", "ENDED", "FAILED", "LOST", "MORE", "collect", "drain"]

CHUNK = 1 << 16  # bytes of each pipe that are read at once
ENDED = (1, 2)
"""In what `drain` says: that stdout has ended, and stderr."""
MORE = 4
"""In what `drain` says: that there may be more to be read now."""
LOST = 8
"""In what `drain` says: that there was no memory for what was read."""
ALONE = 16
"""In what `collect` says: that nobody is left in the child's group, and its pidfd is closed."""
FAILED = 32
"""In what `collect` says: that the child never became its program. The status is an errno."""

Pieces: TypeAlias = tuple[bytes, bytes, int]
Remains: TypeAlias = tuple[int | None, bytes, bytes, int]


def drain_slowly(stdout: int, stderr: int) -> Pieces:
    """See `drain`."""
    pieces = [b"", b""]
    state = 0
    for stream, fd in enumerate((stdout, stderr)):
        if fd < 0:
            continue
        try:
            pieces[stream] = os.read(fd, CHUNK)
        except BlockingIOError:
            continue
        except MemoryError:
            state |= LOST
            continue
        except OSError:
            pass
        if pieces[stream]:
            state |= MORE
        else:
            with suppress(OSError):  # somebody else may have closed it
                os.close(fd)
            state |= ENDED[stream]
    return pieces[0], pieces[1], state


def collect_slowly(pid: int, pidfd: int, stdout: int, stderr: int) -> Remains:
    """See `collect`."""
    status = _reap(pid, pidfd)
    if status is None:
        return None, b"", b"", 0
    return status, *drain_slowly(stdout, stderr)


def _reap(pid: int, pidfd: int) -> int | None:
    """Return a child's exit status as `os.waitpid` does, None if it has not exited, -1 if somebody
    else has reaped it.
    """
    try:
        if pidfd >= 0 and hasattr(os, "P_PIDFD"):
            # Its id may be another's once somebody else has reaped it.
            try:
                found = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                return -1
            except OSError:
                pass  # not before Linux 5.4
            else:
                return None if found is None else _status(found)
        done, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return -1
    return status if done else None


def _status(found: os.waitid_result) -> int:
    """Return an exit as `os.waitpid` would give it."""
    if found.si_code == os.CLD_EXITED:
        return found.si_status << 8
    return found.si_status | (0x80 if found.si_code == os.CLD_DUMPED else 0)


drain: Callable[[int, int], Pieces]
"""Read what is in two pipes that do not block; close them at their ends.

Args:
    stdout: One, or -1.
    stderr: The other, or -1.

Returns:
    What was read of each, and how far they are: of `ENDED`, `MORE` and `LOST` what holds.
    Without any of these but the first nothing is left in those that have not ended.
"""

collect: Callable[[int, int, int, int], Remains]
"""Take the exit status of a child and reap it, if it has exited, and what it has left in its
pipes as `drain` does; else do nothing.

Args:
    pid: Its id.
    pidfd: Its pidfd, or -1.
    stdout: See `drain`.
    stderr: See `drain`.

Returns:
    The status as `os.waitpid` gives it, None if it has not exited, -1 if somebody else has
    reaped it. Then what `drain` returns, with `ALONE` if that is known, and `FAILED`.
"""

try:
    from parallel_exec.environments.local import _process
except ImportError:
    drain, collect = drain_slowly, collect_slowly
else:
    drain, collect = _process.drain, _process.collect
