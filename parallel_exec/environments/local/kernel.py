"""What the kernel can do: it is asked when that is first needed.

What Python was built with says little: the kernel may be older, and a container's filter may forbid
a call (EPERM) or deny that there is one (ENOSYS). Each of them can be done without.
"""

from __future__ import annotations

import errno
import os
import signal
import tempfile
from functools import lru_cache

__all__ = ["group_by_pidfd", "open_pidfd", "shared_memory", "signal_group", "traced", "valgrind"]

MISSING = {errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EINVAL}
GROUP = 4  # PIDFD_SIGNAL_PROCESS_GROUP


def open_pidfd(pid: int) -> int:
    """Return a pidfd for a process, or -1 where there are none.

    Raises:
        OSError: There is no such process, or no descriptor is left.
    """
    try:
        return os.pidfd_open(pid)
    except AttributeError:  # not Linux
        return -1
    except OSError as error:
        if error.errno in MISSING:
            return -1
        raise


def signal_group(pidfd: int, number: int) -> None:
    """Signal the process group of a pidfd; to be used if `group_by_pidfd`."""
    signal.pidfd_send_signal(pidfd, number, None, GROUP)


@lru_cache(maxsize=1)
def group_by_pidfd() -> bool:
    """Return whether the kernel can signal a process group by a pidfd (Linux 6.9)."""
    try:
        fd = open_pidfd(os.getpid())
    except OSError:
        return False
    if fd < 0:
        return False
    try:
        signal_group(fd, 0)
    except ProcessLookupError:
        return True  # this process leads no group
    except (OSError, ValueError):
        return False
    finally:
        os.close(fd)
    return True


def shared_memory(size: int) -> int:
    """Return a descriptor of memory that has no name in the file system.

    Raises:
        OSError: There is no room for it.
    """
    try:
        fd = os.memfd_create("parallel_exec-watchdog", os.MFD_CLOEXEC)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in MISSING:
            raise
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    try:
        os.truncate(fd, size)
    except BaseException:
        os.close(fd)
        raise
    return fd


def traced() -> bool:
    """Return whether a debugger has this process now."""
    try:
        with open("/proc/self/status", "rb") as file:
            return any(line.startswith(b"TracerPid:") and line.split()[1] != b"0" for line in file)
    except OSError:
        return False


def valgrind() -> bool:
    """Return whether this process runs under valgrind."""
    try:
        with open("/proc/self/maps", "rb") as file:
            return b"/vgpreload_" in file.read()
    except OSError:
        return False
