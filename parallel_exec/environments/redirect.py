"""The output of commands that goes elsewhere than into their results."""

from __future__ import annotations

import errno
import os
import select

from parallel_exec.environments.room import SHORTAGE
from parallel_exec.errors import CommandStartError
from parallel_exec.text import plain
from parallel_exec.values import streams
from parallel_exec.values.command import Command

__all__ = ["check_folders", "inherited", "open_file", "write_all"]

NAMES = ("stdout", "stderr")
FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOCTTY", 0)
FLAGS |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)


def check_folders(command: Command, environment: str) -> None:
    """Refuse a command whose output is to go to a folder that there is none of.

    Raises:
        CommandStartError: So it is.
    """
    for name in NAMES:
        path = getattr(command, name)
        if streams.is_path(path):
            try:
                os.stat(os.path.dirname(path) or ".")
            except OSError as error:
                raise _refusal(name, command, environment, error) from error


def open_file(stream: int, command: Command, environment: str) -> int:
    """Open the file that a stream of `command` goes to, emptied; return its descriptor.

    A named pipe must have a reader: it is not waited for.

    Raises:
        CommandStartError: It cannot be written.
        OSError: There is no descriptor left, now.
    """
    name = NAMES[stream]
    try:
        fd = os.open(getattr(command, name), FLAGS, 0o666)
    except OSError as error:
        if error.errno in SHORTAGE:
            raise
        raise _refusal(name, command, environment, error) from error
    os.set_blocking(fd, True)
    if fd > 2:
        return fd
    import fcntl  # not at import: Windows has none

    try:  # a program without its own streams: theirs are not for files
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def inherited(stream: int, command: Command, environment: str) -> int:
    """Return this program's own descriptor for a stream.

    Raises:
        CommandStartError: It has none.
    """
    fd = stream + 1
    try:
        own = os.get_inheritable(fd)
    except OSError as error:
        raise _refusal(NAMES[stream], command, environment, error) from error
    if not own:  # it was closed, and something that Python opened has its number
        raise _refusal(NAMES[stream], command, environment, OSError(errno.EBADF, ""))
    return fd


def write_all(fd: int, data: bytes) -> None:
    """Write all of it, however long that takes.

    Raises:
        OSError: It cannot be written.
    """
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:  # an inherited one, which others may have made so
            ready = select.poll()
            ready.register(fd, select.POLLOUT)
            ready.poll()


def _refusal(name: str, command: Command, environment: str, error: OSError) -> CommandStartError:
    where = getattr(command, name)
    said = error.strerror
    if where == streams.INHERIT:
        said = f"this program has no {name}"
    return CommandStartError(
        f"{name}={where!r} cannot be written ({said}): {plain(command)}",
        errno=error.errno,
        environment=environment,
    )
