"""Finding the processes that left their command's group, and who is left in it.

A command's group is signalled as one. A process that left it (setsid, a daemon's double
fork, a shell's job control) is found by the mark in its environment, or as a descendant
of the command's first process. Both need a look at the process table, so one look serves
every command that is being ended at the moment.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from parallel_exec.environments.local.watchdog import MARK

__all__ = ["Stray", "find", "living_groups"]

_MARK = MARK.encode() + b"="


class Stray:
    """A process outside of its command's group, held so that its id stays its own."""

    __slots__ = ("_fd", "_poll", "pid")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    @property
    def alive(self) -> bool:
        """Whether it has not exited yet; a zombie has."""
        return not self._poll.poll(0)

    def send(self, number: int) -> None:
        """Send a signal, if it is there to get it and ours to end."""
        try:
            signal.pidfd_send_signal(self._fd, number)
        except (ProcessLookupError, PermissionError):
            pass

    def close(self) -> None:
        """Give the hold back."""
        os.close(self._fd)


def find(token: str, commands: Mapping[int, int]) -> dict[int, list[Stray]]:
    """Find the strays of some commands in one pass over the process table.

    Args:
        token: The mark of this process's commands.
        commands: Serial number to group of each; negative if its first process has been
            reaped, so that only the group still has that number for sure.

    Returns:
        Serial number to its strays. Empty where there is no ``/proc``.
    """
    if not hasattr(os, "pidfd_open"):
        return {}
    own = _own_marks(token, commands)
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
    for pid, process in table.items():
        if process.group not in groups and pid != os.getpid():
            marked = own.get(_mark_of(pid))
            if marked is not None:
                found.setdefault(marked, set()).add(pid)
    strays: dict[int, list[Stray]] = {}
    for serial, pids in found.items():
        for pid in pids:
            stray = _hold(pid, table[pid])
            if stray is not None:
                strays.setdefault(serial, []).append(stray)
    return strays


def living_groups() -> set[int] | None:
    """Return the process groups that have a member which is no zombie.

    A dead process stays in its group until its parent reaps it, and for an orphan that
    may take seconds (an init that looks now and then) or for ever (a container without
    one). None where there is no ``/proc``.
    """
    groups = {
        process.group
        for pid in _pids()
        if (process := _look(pid)) is not None and process.state not in (b"Z", b"X")
    }
    return groups or None


def _own_marks(token: str, commands: Iterable[int]) -> dict[bytes, int]:
    return {f"{token}.{serial}".encode(): serial for serial in commands}


class _Process(NamedTuple):
    state: bytes
    parent: int
    group: int
    started: bytes  # tells a process from a later one with the same id


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


def _mark_of(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            environment = b"\0" + file.read()
    except OSError:
        return b""
    start = environment.find(b"\0" + _MARK)
    if start < 0:
        return b""
    return environment[start + 1 + len(_MARK) :].split(b"\0", 1)[0]


def _hold(pid: int, seen: _Process) -> Stray | None:
    """Take hold of a process, if it is still the one that was seen."""
    try:
        stray = Stray(pid)
    except OSError:
        return None
    now = _look(pid)
    if now is None or now.started != seen.started:
        stray.close()
        return None
    return stray
