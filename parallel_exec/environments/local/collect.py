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

__all__ = ["CHUNK", "ENDED", "MORE", "drain", "reap"]

CHUNK = 1 << 16  # bytes of each pipe that are read at once
ENDED = (1, 2)
"""In what `drain` says: that stdout has ended, and stderr."""
MORE = 4
"""In what `drain` says: that there may be more to be read now."""

Pieces: TypeAlias = tuple[bytes, bytes, int]
Exit: TypeAlias = tuple[int | None, bool]


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
        except OSError:
            pass
        if pieces[stream]:
            state |= MORE
        else:
            with suppress(OSError):  # somebody else may have closed it
                os.close(fd)
            state |= ENDED[stream]
    return pieces[0], pieces[1], state


def reap_slowly(pid: int, pidfd: int) -> Exit:
    """See `reap`."""
    done, status = os.waitpid(pid, os.WNOHANG)
    return (status if done else None), False


drain: Callable[[int, int], Pieces]
"""Read what is in two pipes that do not block; close them at their ends.

Args:
    stdout: One, or -1.
    stderr: The other, or -1.

Returns:
    What was read of each, and how far they are: of `ENDED` and `MORE` what holds. Without
    MORE nothing is left in those that have not ended.
"""

reap: Callable[[int, int], Exit]
"""Take the exit status of a child and reap it, if it has exited.

Args:
    pid: Its id.
    pidfd: Its pidfd, or -1.

Returns:
    The status as `os.waitpid` gives it, or None; and whether it is known that nobody is
    left in its group.

Raises:
    ChildProcessError: Somebody else has reaped it.
"""

try:
    from parallel_exec.environments.local import _process
except ImportError:
    drain, reap = drain_slowly, reap_slowly
else:
    drain, reap = _process.drain, _process.reap
