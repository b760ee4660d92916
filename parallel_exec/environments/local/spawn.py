"""Starting a program: the fast way where it is known, `subprocess.Popen` elsewhere.

`Popen` costs 35 to 100 microseconds of Python for each command, a third of what the whole
command costs. What it does beside calling the C function below it is to find out what is
known here beforehand: the words are checked, the variables encoded, the descriptors open.
That function is the standard library's own and private; its arguments are the same from
3.11 to 3.13, and any other version gets `Popen`.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

__all__ = ["SCARCE", "path_of", "spawn"]

SCARCE = {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM}
"""What the system says when it is out of something that others will give back."""

fork_exec: Any  # private: the stubs describe it for one version only
try:
    from _posixsubprocess import fork_exec
except ImportError:  # pragma: no cover
    fork_exec = None

# Held while a program is started. A fork by another thread waits for it: the forked child
# would keep the pipes open whose end is waited for here, for as long as it lives.
STARTING = threading.Lock()
os.register_at_fork(
    before=STARTING.acquire,
    after_in_parent=STARTING.release,
    after_in_child=STARTING.release,
)

FAST = (
    fork_exec is not None
    and sys.platform == "linux"  # where that function uses vfork
    and (3, 11) <= sys.version_info[:2] <= (3, 13)
)


def spawn(
    argv: list[str],
    environ: list[bytes],
    path: bytes | None,
    cwd: str | None,
    stdin: int,
    stdout: int,
    stderr: int,
) -> int:
    """Start a program in a session of its own; return its process id.

    Args:
        argv: The words.
        environ: Its variables, as ``NAME=value``.
        path: Where the first word is looked up; None: in the PATH of `environ`.
        cwd: The directory to start it in.
        stdin: The descriptors that become its 0, 1 and 2.
        stdout: See `stdin`.
        stderr: See `stdin`.

    Raises:
        OSError: The system refused; nothing runs.
    """
    failure = _failures or _open_failures()
    if failure is None or stdin <= 2 or stdout <= 2 or stderr <= 2:  # the child overwrites it
        return _popen(argv, environ, cwd, stdin, stdout, stderr)
    pid: int = fork_exec(
        argv,
        _candidates(argv[0], path_of(environ) if path is None else path),
        True,  # close_fds
        (failure.fd,),
        cwd,
        environ,
        stdin, -1, -1, stdout, -1, stderr,
        failure.spare, failure.fd,
        True,  # restore_signals
        True,  # start_new_session
        -1, None, None, None, -1, None,
        True,  # vfork: the parent's memory is not copied
    )  # fmt: skip
    if failure.memory[0]:
        os.waitpid(pid, 0)
        raise _refusal(failure.take(), argv[0], cwd)
    return pid


class Failures:
    """Where a child writes why it could not become the program that was asked for.

    `subprocess` takes a pipe for that, for each command. But vfork comes back no sooner than
    the child has become the program or given up, so this is memory that the child reaches
    as a file and the parent looks at; four system calls less.

    Attributes:
        fd: The file. It is closed by becoming the program.
        spare: The same once more; the child closes one first, as the reading end of a pipe.
        memory: What is in it: zeros, unless a child wrote.
    """

    def __init__(self) -> None:
        fd = os.memfd_create("parallel_exec-failures", os.MFD_CLOEXEC)
        try:
            # The child overwrites 0 to 2, and if 3 is kept open it closes all others one by
            # one: it asks the system to close 3 to 2 at once, which is an error.
            self.fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 4)
        finally:
            os.close(fd)
        try:
            os.truncate(self.fd, mmap.PAGESIZE)
            self.memory = mmap.mmap(self.fd, mmap.PAGESIZE)
            self.spare = os.dup(self.fd)
        except BaseException:
            os.close(self.fd)
            raise

    def take(self) -> bytes:
        """Return what the last child wrote, and be ready for the next."""
        message = self.memory[:].rstrip(b"\0")
        self.memory[: len(message)] = bytes(len(message))
        os.lseek(self.fd, 0, os.SEEK_SET)
        return message


_failures: Failures | None = None


def _open_failures() -> Failures | None:
    """Make the file where children write; None if that is not known to work here."""
    global _failures
    if FAST:
        _failures = Failures()
    return _failures


def _forget() -> None:
    """In a forked child: the file is the parent's, and its place in it is shared."""
    global _failures
    if _failures is not None:
        os.close(_failures.fd)
        os.close(_failures.spare)
        _failures = None


os.register_at_fork(after_in_child=_forget)


def _popen(
    argv: list[str], environ: list[bytes], cwd: str | None, stdin: int, stdout: int, stderr: int
) -> int:
    process = subprocess.Popen(
        argv,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd,
        env=dict(variable.split(b"=", 1) for variable in environ),
        start_new_session=True,
    )
    process.returncode = 0  # it is waited for by its id, not by the Popen object
    return process.pid


def _refusal(failure: bytes, program: str, cwd: str | None) -> OSError:
    """Return the error that the child reported: ``OSError:errno in hex:where``."""
    try:
        _, number, where = failure.split(b":", 2)
        code = int(number, 16)
    except ValueError:
        return OSError(errno.EIO, f"the child failed: {failure!r}", program)
    name = cwd if where == b"noexec:chdir" else program
    return OSError(code, os.strerror(code), name)


def path_of(environ: Sequence[bytes]) -> bytes:
    """Return the PATH among variables, or the system's default."""
    for variable in environ:
        if variable.startswith(b"PATH="):
            return variable[5:]
    return os.fsencode(os.defpath)


@lru_cache(maxsize=256)
def _candidates(program: str, path: bytes) -> tuple[bytes, ...]:
    """Return the files to try, in order."""
    name = os.fsencode(program)
    if b"/" in name:
        return (name,)
    return tuple(os.path.join(folder, name) for folder in path.split(b":"))
