"""Ends what a killed parent left behind: the parent's side.

A small process waits for the end of this one (`watchdog_main`). What it must know then
stands in a table in shared memory, so that telling it of a command costs two writes to
memory and wakes nobody. A slot is written before its command is spawned, with the serial
number that marks the command's environment, and completed with the process id after it:
whenever the parent dies, every command is in the table or can be found by its mark.

`Guard` starts the process, notices when it ends and starts it again.
"""

from __future__ import annotations

import itertools
import mmap
import os
import secrets
import struct

from parallel_exec.environments.local import kernel
from parallel_exec.environments.local.guard import Guard
from parallel_exec.reactor import lifecycle
from parallel_exec.reactor.lifecycle import STARTING

__all__ = ["MARK", "SLOT", "Watchdog", "get"]

MARK = "PARALLEL_EXEC_ID"  # the variable that marks a command's environment
SLOT = struct.Struct("=qii")  # serial number, process id (see `confirm`), kill_after in ms
LONGS, SERIAL = 2, 0  # of a slot: how many numbers of eight bytes, and which of them is what
INTS, PID, KILL_AFTER = 4, 2, 3  # and of four
SLOTS = 1 << 15
LONGEST_MS = 2**31 - 1


class Watchdog:
    """The table, and the process that reads it when this one has died.

    Thread-safe, each slot for the one thread that has it.

    Attributes:
        token: Marks the commands of this process; a mark is ``token.serial``.
        serials: The next serial number of a command.
        mark: The variable that marks the processes of a command, but its serial number.
        guard: Has the process.
    """

    def __init__(self) -> None:
        self.token = secrets.token_hex(8)
        self._fd = kernel.shared_memory(SLOT.size * SLOTS)
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
        self.guard = Guard(self._fd, self.token)

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

    def forget(self) -> None:
        """Give all back; in a forked child the process is the parent's."""
        self.guard.forget()
        self._longs.release()
        self._ints.release()
        self._table.close()
        os.close(self._fd)


_watchdog: Watchdog | None = None


def get() -> Watchdog:
    """Return this process's watchdog, which has been started.

    Raises:
        OSError: There is no room for it now.
    """
    global _watchdog
    with STARTING:
        if _watchdog is None:
            watchdog = Watchdog()
            try:
                watchdog.guard.start()
            except BaseException:
                watchdog.forget()
                raise
            _watchdog = watchdog
    return _watchdog


def stop() -> None:
    """End it, if there is one. Nothing else is started."""
    if _watchdog is not None:
        _watchdog.guard.stop()


def after_fork_in_child() -> None:
    """Forget the parent's."""
    global _watchdog
    if _watchdog is not None:
        _watchdog.forget()
        _watchdog = None


lifecycle.at_fork("watchdog", after_fork_in_child)
