"""Ends what a killed parent left behind: the parent's side.

A small process waits for the end of this one (`watchdog_main`). What it must know then
stands in a table in shared memory, so that telling it of a command costs two writes to
memory and wakes nobody. A slot is written before its command is spawned, with the serial
number that marks the command's environment, and completed with the process id after it:
whenever the parent dies, every command is in the table or can be found by its mark.
"""

from __future__ import annotations

import itertools
import logging
import mmap
import os
import secrets
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from parallel_exec.environments.local.spawn import SCARCE

__all__ = ["MARK", "SLOT", "Watchdog", "get"]

log = logging.getLogger("parallel_exec")

MARK = "PARALLEL_EXEC_ID"  # the variable that marks a command's environment
SLOT = struct.Struct("=qii")  # serial number, process id (see `confirm`), kill_after in ms
LONGS, SERIAL = 2, 0  # of a slot: how many numbers of eight bytes, and which of them is what
INTS, PID, KILL_AFTER = 4, 2, 3  # and of four
SLOTS = 1 << 15
LONGEST_MS = 2**31 - 1
MAIN = Path(__file__).with_name("watchdog_main.py")


class Watchdog:
    """The table, and the process that reads it when this one has died.

    Thread-safe, each slot for the one thread that has it.

    Attributes:
        token: Marks the commands of this process; a mark is ``token.serial``.
        serials: The next serial number of a command.
        mark: The variable that marks the processes of a command, but its serial number.
        process: The process, or None where it cannot be or is not yet.
    """

    def __init__(self) -> None:
        self.token = secrets.token_hex(8)
        self.process: subprocess.Popen[bytes] | None = None
        self._fd = _shared_memory(SLOT.size * SLOTS)
        try:
            self._table = mmap.mmap(self._fd, SLOT.size * SLOTS)
        except BaseException:
            os.close(self._fd)
            raise
        self._longs = memoryview(self._table).cast("q")  # the same, number by number
        self._ints = memoryview(self._table).cast("i")
        self.mark = f"{MARK}={self.token}.".encode()
        self.serials = itertools.count(1)
        self._free: list[int] = []
        self._unused = itertools.count()

    def start(self) -> None:
        """Start the process, where there can be one. Does not wait for it.

        Raises:
            OSError: The system is out of something now.
        """
        if not sys.executable:
            return
        parent = os.pidfd_open(os.getpid()) if hasattr(os, "pidfd_open") else -1
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", MAIN, str(self._fd), str(parent), self.token],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={},
                start_new_session=True,
                pass_fds=[self._fd] if parent < 0 else [self._fd, parent],
            )
        except OSError as error:
            if error.errno in SCARCE:
                raise
            log.warning("commands outlive this process if it is killed: no watchdog, %s", error)
        finally:
            if parent >= 0:
                os.close(parent)

    def announce(self, serial: int, kill_after: float) -> int:
        """Write that a command is about to be spawned; return its slot, or -1 if full."""
        try:
            slot = self._free.pop()
        except IndexError:
            slot = next(self._unused)
            if slot >= SLOTS:
                return -1
        ints = self._ints
        ints[slot * INTS + PID] = 0
        ints[slot * INTS + KILL_AFTER] = min(int(kill_after * 1000), LONGEST_MS)
        self._longs[slot * LONGS + SERIAL] = serial  # from now on it counts
        return slot

    def confirm(self, slot: int, pid: int) -> None:
        """Write the command's process id into its slot.

        Args:
            slot: The slot, or -1.
            pid: The id. 0 if it is not known, or no longer its own: who carries the mark is
                ended. Negative if it is no longer its own and only its group is to be ended:
                of those who carry the mark, who is in that group.
        """
        if slot >= 0:
            self._ints[slot * INTS + PID] = pid

    def clear(self, slot: int) -> None:
        """Take a slot back."""
        if slot >= 0:
            self._longs[slot * LONGS + SERIAL] = 0
            self._free.append(slot)

    def stop(self) -> None:
        """End the process and reap it."""
        process, self.process = self.process, None
        if process is None:
            return
        try:
            process.kill()
        except PermissionError:  # this process has become another user's: it ends with it
            process.returncode = 0
        else:
            process.wait()

    def forget(self) -> None:
        """In a forked child: the process is the parent's."""
        if self.process is not None:
            self.process.returncode = 0
            self.process = None
        self._longs.release()
        self._ints.release()
        self._table.close()
        os.close(self._fd)


_watchdog: Watchdog | None = None
_making = threading.Lock()  # never held during a fork: see `backend.STARTING`


def get() -> Watchdog:
    """Return this process's watchdog, at work.

    Raises:
        OSError: There is no room for it now.
    """
    global _watchdog
    with _making:
        if _watchdog is None:
            watchdog = Watchdog()
            try:
                watchdog.start()
            except BaseException:
                watchdog.forget()
                raise
            _watchdog = watchdog
    return _watchdog


def stop() -> None:
    """End it, if there is one. Nothing else is started."""
    if _watchdog is not None:
        _watchdog.stop()


def _after_fork_in_child() -> None:
    global _watchdog
    if _watchdog is not None:
        _watchdog.forget()
        _watchdog = None


os.register_at_fork(after_in_child=_after_fork_in_child)


def _shared_memory(size: int) -> int:
    """Return a descriptor of memory that has no name in the file system."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("parallel_exec-watchdog", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.truncate(fd, size)
    return fd
