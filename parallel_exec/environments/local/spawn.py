"""Starting a program: by the extension `_process` where there is one, else by `Popen`.

`subprocess.Popen` more than doubles this process's CPU for each command: beside its system calls it
finds out what is known here beforehand, and it waits, with the interpreter's lock held, until the
child has become its program: no other thread runs meanwhile.
The extension is in the wheels for Linux, and is built where a C compiler is at hand.

Which way is chosen at the first command: the first of `WAYS`, from the one that
``PARALLEL_EXEC_START`` names, that works here.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

from parallel_exec.environments.local import kernel
from parallel_exec.errors import ConfigError

__all__ = ["MERGED", "PIPE", "SCARCE", "WAYS", "Variables", "spawn", "tidy", "way"]

VARIABLE = "PARALLEL_EXEC_START"
WAYS = ("concurrent", "vfork", "popen")
"""The ways to start a program: by the extension without waiting until it runs, by the extension
waiting for that, by `subprocess.Popen`.
"""

Started: TypeAlias = tuple[int, int, int, int, int]

fast: Callable[..., Started] | None

tidy: Callable[[], bool]
"""Close what was kept open for programs on their way, if they need it no more; in a forked child,
all of it. Returns whether some is left to be closed.
"""

try:
    from parallel_exec.environments.local import _process

    if not hasattr(_process, "probe"):
        raise ImportError
except ImportError:  # it is not there, or was built from an older source
    fast = None
    tidy = bool  # `Popen` leaves nothing
else:
    fast = _process.spawn
    tidy = _process.tidy

PIPE = subprocess.PIPE
"""In place of a descriptor: one end of a new pipe."""

MERGED = subprocess.STDOUT
"""In place of a descriptor for stderr: that of stdout."""

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
        stdin: The descriptors that become its 0, 1 and 2, or `PIPE`; for stderr also
            `MERGED`.
        stdout: See `stdin`.
        stderr: See `stdin`.
        waiting: Whether it must be known on return that it runs. Else a failure may be
            known only when `collect` takes the exit of what was to become it, and until
            then the descriptors must stay open.

    Returns:
        Its process id, a pidfd or -1, and our ends of its three pipes, which do not block;
        -1 where there is none.

    Raises:
        OSError: The system refused; nothing runs.
    """
    if stderr == MERGED and stdout == PIPE:
        read, write = os.pipe()
        try:
            os.set_blocking(read, False)
            started = spawn(argv, variables, mark, cwd, stdin, write, write, waiting=True)
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        return (*started[:3], read, -1)
    if stderr == MERGED:
        stderr = stdout
    chosen = way()
    if fast is None or chosen == "popen":
        return popen(argv, variables, mark, cwd, stdin, stdout, stderr)
    return fast(
        _files(argv[0], variables.path),
        argv,
        (*variables.items, mark),
        None if cwd is None else os.fsencode(cwd),
        stdin,
        stdout,
        stderr,
        waiting or chosen == "vfork",
    )


@lru_cache(maxsize=1)
def way() -> str:
    """Return which of `WAYS` is taken; chosen once, at the first command.

    Raises:
        ConfigError: ``PARALLEL_EXEC_START`` names none of them.
        OSError: There is no room to find out, now.
    """
    wanted = os.environ.get(VARIABLE, WAYS[0])
    if wanted not in WAYS:
        raise ConfigError(f"{VARIABLE} must be one of {', '.join(WAYS)}, not {wanted!r}")
    if fast is None or wanted == "popen" or kernel.valgrind():
        return "popen"  # valgrind ends at a child that shares its parent's memory
    # A debugger takes its breakpoints out of the memory of a new child, but puts them in again
    # where the parent waits for that.
    waiting = wanted == "vfork" or kernel.traced()
    if not _process.probe(waiting):
        return "popen"
    return "vfork" if waiting else "concurrent"


def popen(
    argv: list[str],
    variables: Variables,
    mark: bytes,
    cwd: str | None,
    stdin: int,
    stdout: int,
    stderr: int,
) -> Started:
    """Do the same in another way.

    A child of `Popen` has the signal mask of the thread that starts it. So that is empty for this
    moment: a signal to the program may be handled in this thread then, as in any other.
    """
    blocked = signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        return _popen(argv, variables, mark, cwd, stdin, stdout, stderr)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _popen(
    argv: list[str],
    variables: Variables,
    mark: bytes,
    cwd: str | None,
    stdin: int,
    stdout: int,
    stderr: int,
) -> Started:
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
        pidfd = kernel.open_pidfd(process.pid)
    except OSError:  # no descriptor is left for one
        pidfd = -1
    return process.pid, pidfd, ends[0], ends[1], ends[2]


@lru_cache(maxsize=256)
def _files(program: str, path: bytes) -> tuple[bytes, ...]:
    """Return what the program may be, in order."""
    name = os.fsencode(program)
    if b"/" in name:
        return (name,)
    return tuple(os.path.join(folder, name) for folder in path.split(b":"))
