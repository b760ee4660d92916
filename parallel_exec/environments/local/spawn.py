"""Starting a program: by the extension `_process` where there is one, else by `Popen`.

`subprocess.Popen` more than doubles this process's CPU for each command: beside its system calls it
finds out what is known here beforehand, and it waits, with the interpreter's lock held, until the
child has become its program: no other thread runs meanwhile.
The extension is in the wheels for Linux, and is built where a C compiler is at hand.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

__all__ = ["PIPE", "SCARCE", "Variables", "spawn", "tidy"]

Started: TypeAlias = tuple[int, int, int, int, int]

fast: Callable[..., Started] | None

tidy: Callable[[], bool]
"""Close what was kept open for programs on their way, if they need it no more; in a forked child,
all of it. Returns whether some is left to be closed.
"""

try:
    from parallel_exec.environments.local import _process
except ImportError:
    fast = None
    tidy = bool  # `Popen` leaves nothing
else:
    fast = _process.spawn
    tidy = _process.tidy

PIPE = subprocess.PIPE
"""In place of a descriptor: one end of a new pipe."""

SCARCE = {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM}
"""What the system says when it is out of something that others will give back."""


class Variables:
    """The variables of programs.

    Args:
        items: Each as ``NAME=value``.

    Attributes:
        items: The same.
        path: Their PATH, or the system's default.
    """

    __slots__ = ("items", "path")

    def __init__(self, items: Sequence[bytes]) -> None:
        self.items = tuple(items)
        self.path = next(
            (item[5:] for item in self.items if item.startswith(b"PATH=")),
            os.fsencode(os.defpath),
        )


def spawn(
    argv: list[str],
    variables: Variables,
    mark: bytes,
    cwd: str | None,
    stdin: int,
    stdout: int,
    stderr: int,
    *,
    waiting: bool = True,
) -> Started:
    """Start a program in a session of its own.

    Args:
        argv: The words.
        variables: Its variables. Where it has no slash, the first word is looked up in
            their PATH.
        mark: One more, as ``NAME=value``.
        cwd: The directory to start it in.
        stdin: The descriptors that become its 0, 1 and 2, or `PIPE`.
        stdout: See `stdin`.
        stderr: See `stdin`.
        waiting: Whether it must be known on return that it runs. Else a failure may be
            known only when `collect` takes the exit of what was to become it.

    Returns:
        Its process id, a pidfd or -1, and our ends of its three pipes, which do not block;
        -1 where there is none.

    Raises:
        OSError: The system refused; nothing runs.
    """
    if fast is None:
        return popen(argv, variables, mark, cwd, stdin, stdout, stderr)
    return fast(
        _files(argv[0], variables.path),
        argv,
        (*variables.items, mark),
        None if cwd is None else os.fsencode(cwd),
        stdin,
        stdout,
        stderr,
        waiting,
    )


def popen(
    argv: list[str],
    variables: Variables,
    mark: bytes,
    cwd: str | None,
    stdin: int,
    stdout: int,
    stderr: int,
) -> Started:
    """Do the same in another way."""
    streams = [stdin, stdout, stderr]
    ends = [-1, -1, -1]
    try:
        for number, stream in enumerate(streams):
            if stream == PIPE:
                read, write = os.pipe()
                streams[number], ends[number] = (write, read) if number else (read, write)
                os.set_blocking(ends[number], False)
        process = subprocess.Popen(
            argv,
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[2],
            cwd=cwd,
            env=dict(variable.split(b"=", 1) for variable in (*variables.items, mark)),
            start_new_session=True,
        )
    except BaseException:
        for end in ends:
            if end >= 0:
                os.close(end)
        raise
    finally:
        for stream, end in zip(streams, ends, strict=True):
            if end >= 0:
                os.close(stream)
    process.returncode = 0  # it is waited for by its id, not by the Popen object
    try:
        pidfd = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # there are none here, or no descriptor is left for one
        pidfd = -1
    return process.pid, pidfd, ends[0], ends[1], ends[2]


@lru_cache(maxsize=256)
def _files(program: str, path: bytes) -> tuple[bytes, ...]:
    """Return what the program may be, in order."""
    name = os.fsencode(program)
    if b"/" in name:
        return (name,)
    return tuple(os.path.join(folder, name) for folder in path.split(b":"))
