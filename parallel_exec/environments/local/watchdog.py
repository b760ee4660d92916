"""Ends what a killed parent left behind: the parent's side.

A small process waits for the end of this one (`watchdog_main`). What it must know then
stands in a table in shared memory, so that telling it of a command costs two writes to
memory and wakes nobody. A slot is written before its command is spawned, with the serial
number that marks the command's environment, and completed with the process id after it:
whenever the parent dies, every command is in the table or can be found by its mark.
"""

from __future__ import annotations

import logging
import mmap
import os
import secrets
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from parallel_exec.environments.local.spawn import SCARCE

__all__ = ["MARK", "SLOT", "Watchdog"]

log = logging.getLogger("parallel_exec")

MARK = "PARALLEL_EXEC_ID"  # the variable that marks a command's environment
SLOT = struct.Struct("<qii")  # serial number, process id (0: not known yet), kill_after in ms
SLOTS = 1 << 15
EMPTY = bytes(SLOT.size)
MAIN = Path(__file__).with_name("watchdog_main.py")


class Watchdog:
    """The table, and the process that reads it when this one has died.

    Not thread-safe: the service thread alone uses it.

    Attributes:
        token: Marks the commands of this process; a mark is ``token.serial``.
        process: The process, or None where it cannot be or is not yet.
    """

    def __init__(self) -> None:
        self.token = secrets.token_hex(8)
        self.process: subprocess.Popen[bytes] | None = None
        self._fd = _shared_memory(SLOT.size * SLOTS)
        self._table = mmap.mmap(self._fd, SLOT.size * SLOTS)
        self._impossible = False
        self._free: list[int] = []
        self._used = 0

    @property
    def wanted(self) -> bool:
        """Whether there is no process and it has not turned out that there cannot be one."""
        return self.process is None and not self._impossible

    def start(self) -> None:
        """Start the process. Does not wait for it.

        Raises:
            OSError: The system is out of something now.
        """
        if not sys.executable:
            self._impossible = True
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
            self._impossible = True
            log.warning("commands outlive this process if it is killed: no watchdog, %s", error)
        finally:
            if parent >= 0:
                os.close(parent)

    def announce(self, serial: int, kill_after: float) -> int:
        """Write that a command is about to be spawned; return its slot, or -1 if full."""
        if self._free:
            slot = self._free.pop()
        elif self._used < SLOTS:
            slot = self._used
            self._used += 1
        else:
            return -1
        SLOT.pack_into(self._table, slot * SLOT.size, serial, 0, _milliseconds(kill_after))
        return slot

    def confirm(self, slot: int, serial: int, pid: int, kill_after: float) -> None:
        """Write the command's process id into its slot."""
        if slot >= 0:
            milliseconds = _milliseconds(kill_after)
            SLOT.pack_into(self._table, slot * SLOT.size, serial, pid, milliseconds)

    def clear(self, slot: int) -> None:
        """Clear a slot; before its process is reaped, while the id is still its own."""
        if slot >= 0:
            self._table[slot * SLOT.size : (slot + 1) * SLOT.size] = EMPTY

    def free(self, slot: int) -> None:
        """Give a cleared slot back."""
        if slot >= 0:
            self._free.append(slot)

    def stop(self) -> None:
        """End the process and reap it."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()

    def forget(self) -> None:
        """In a forked child: the process is the parent's."""
        if self.process is not None:
            self.process.returncode = 0
            self.process = None
        self._table.close()
        os.close(self._fd)


def _milliseconds(seconds: float) -> int:
    return min(int(seconds * 1000), 2**31 - 1)


def _shared_memory(size: int) -> int:
    """Return a descriptor of memory that has no name in the file system."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("parallel_exec-watchdog", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.truncate(fd, size)
    return fd
