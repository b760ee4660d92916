"""Finding the processes that left their command's group, and who is left in it.

A command's group is signalled as one. A process that left it (setsid, a daemon's double
fork, a shell's job control) is found by the mark in its environment, or as a descendant
of the command's first process. Both need a look at the process table, so one look serves
every command that is being ended at the moment.

One look is not enough: what is forked while the table is read may be missed, and so may what has
just become another program, whose environment is empty for a moment. So it is looked again, until
two looks in a row have found nobody; see `Process.looked`.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Mapping
from typing import NamedTuple

from parallel_exec.environments.local import kernel
from parallel_exec.environments.local.watchdog import MARK

__all__ = ["Search", "Stray", "living_groups"]

_MARK = MARK.encode() + b"="


class Stray:
    """A process outside of its command's group, held so that its id stays its own: by a pidfd,
    or where there are none by the time at which it started.

    Attributes:
        pid: Its id.
        started: Tells it from a later process with that id.
        parent: The id of its parent.
        parents_group: The group of that; 0 if it is gone.
        told: Whether it has been told to end.
    """

    __slots__ = ("_fd", "_poll", "parent", "parents_group", "pid", "started", "told")

    def __init__(self, pid: int, started: bytes, parent: int, parents_group: int) -> None:
        self.pid = pid
        self.started = started
        self.parent = parent
        self.parents_group = parents_group
        self.told = False
        self._fd = kernel.open_pidfd(pid)
        if self._fd >= 0:
            self._poll = select.poll()
            self._poll.register(self._fd, select.POLLIN)

    @property
    def alive(self) -> bool:
        """Whether it has not exited yet; a zombie has."""
        if self._fd >= 0:
            return not self._poll.poll(0)
        now = _look(self.pid)
        return now is not None and now.started == self.started and now.lives

    def send(self, number: int) -> None:
        """Send a signal, if it is there to get it and ours to end."""
        try:
            if self._fd >= 0:
                try:
                    signal.pidfd_send_signal(self._fd, number)
                    return
                except OSError as error:
                    if error.errno not in kernel.MISSING:
                        raise
            if self.alive:
                os.kill(self.pid, number)
        except (ProcessLookupError, PermissionError):
            pass

    def close(self) -> None:
        """Give the hold back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Search:
    """Looks at the process table as often as it takes.

    Args:
        token: The mark of this process's commands.
    """

    def __init__(self, token: str) -> None:
        self._token = token.encode() + b"."
        self._serials: dict[tuple[int, bytes], int | None] = {}  # whose each process is, if known

    def look(self, commands: Mapping[int, int]) -> tuple[dict[int, list[Stray]], set[int]]:
        """Find the strays of some commands in one pass over the process table.

        Args:
            commands: Serial number to group of each; negative if its first process has been
                reaped, so that only the group still has that number for sure.

        Returns:
            Serial number to its strays, also those that were found before. And the groups that
            have a living member. Both are empty where there is no ``/proc``.
        """
        groups = {abs(group) for group in commands.values()}
        table = {pid: process for pid in _pids() if (process := _look(pid)) is not None}
        children: dict[int, list[int]] = {}
        for pid, process in table.items():
            children.setdefault(process.parent, []).append(pid)
        found: dict[int, set[int]] = {}
        for serial, leader in commands.items():
            line = [leader] if leader > 0 else []
            while line:
                for pid in children.get(line.pop(), ()):
                    line.append(pid)
                    if table[pid].group != leader:
                        found.setdefault(serial, set()).add(pid)
        known = self._serials
        self._serials = {}
        for pid, process in table.items():
            if process.group in groups or pid == os.getpid() or not process.lives:
                continue
            key = (pid, process.started)
            owner = known[key] if key in known else self._serial_of(pid)
            if owner != UNKNOWN:
                self._serials[key] = owner
                if owner is not None and owner in commands:
                    found.setdefault(owner, set()).add(pid)
        strays: dict[int, list[Stray]] = {}
        for serial, pids in found.items():
            for pid in pids:
                parent = table.get(table[pid].parent)
                stray = _hold(pid, table[pid], parent.group if parent and parent.lives else 0)
                if stray is not None:
                    strays.setdefault(serial, []).append(stray)
        return strays, {process.group for process in table.values() if process.lives}

    def _serial_of(self, pid: int) -> int | None:
        """Return the serial number in the mark of a process, None if it has no mark of ours,
        `UNKNOWN` if it has no environment, or not now.
        """
        try:
            with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
                environment = b"\0" + file.read()
        except OSError:
            return None
        start = environment.find(b"\0" + _MARK + self._token)
        if start < 0:
            return UNKNOWN if len(environment) == 1 else None
        start += 1 + len(_MARK) + len(self._token)
        number = environment[start:].split(b"\0", 1)[0]
        return int(number) if number.isdigit() else None


UNKNOWN = -1


def living_groups() -> set[int] | None:
    """Return the process groups that have a member which is no zombie.

    A dead process stays in its group until its parent reaps it, and for an orphan that
    may take seconds (an init that looks now and then) or for ever (a container without
    one). None where there is no ``/proc``.
    """
    groups = {
        process.group for pid in _pids() if (process := _look(pid)) is not None and process.lives
    }
    return groups or None


class _Process(NamedTuple):
    state: bytes
    parent: int
    group: int
    started: bytes  # tells a process from a later one with the same id

    @property
    def lives(self) -> bool:
        """Whether it is no zombie."""
        return self.state not in (b"Z", b"X")


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def _look(pid: int) -> _Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            # The name in parentheses may hold anything; the fields follow the last one.
            fields = file.read().rpartition(b")")[2].split()
        return _Process(fields[0], int(fields[1]), int(fields[2]), fields[19])
    except (OSError, IndexError):
        return None


def _hold(pid: int, seen: _Process, parents_group: int) -> Stray | None:
    """Take hold of a process, if it is still the one that was seen."""
    try:
        stray = Stray(pid, seen.started, seen.parent, parents_group)
    except OSError:
        return None
    now = _look(pid)
    if now is None or now.started != seen.started or not now.lives:
        stray.close()
        return None
    return stray
