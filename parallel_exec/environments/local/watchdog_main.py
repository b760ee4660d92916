"""Ends what a killed parent left behind: the process that does it.

Run by path, or by its text, with nothing of the package imported, so that it starts fast and small,
by whatever Python 3 there is: ``python -I -S watchdog_main.py TABLE SAID ORDERED PARENT PIDFD
TOKEN``. All but the last are numbers: descriptors, but for the parent's id. The parent's side is
`guard`, the layout of the table in `watchdog`.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Callable, Mapping

SLOT = struct.Struct("=qii")
MARK = b"PARALLEL_EXEC_ID="
STARTING_S = 1.0  # how long those are looked for that were just being started
LOOKS = 2  # how many looks in a row must find nobody
PAUSE_S = 0.02
UNKILLABLE_S = 60.0  # what has not ended by KILL by then will not end by waiting


def started(pid: int) -> bytes:
    """Return what tells a process from a later one with its id; b"" if it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return b""
    return b"" if fields[0] in (b"Z", b"X") else fields[19]


def exists(pid: int) -> bool:
    """Return whether there is a process with this id."""
    return send(os.kill, pid, 0)


def wait_for_end(parent: int, parent_fd: int, ordered: int) -> bool:
    """Return True when the parent is dead, False when this process is to end before."""
    if sys.platform != "linux" and hasattr(select, "kqueue"):
        queue = select.kqueue()
        order = select.kevent(ordered, select.KQ_FILTER_READ, select.KQ_EV_ADD)
        queue.control([order], 0)
        end = select.kevent(parent, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
        try:
            queue.control([end], 0)
        except ProcessLookupError:
            return True
        events = queue.control(None, 2)
        return not any(event.filter == select.KQ_FILTER_READ and event.data for event in events)
    poll = select.poll()
    poll.register(ordered, select.POLLIN)
    if parent_fd >= 0:
        poll.register(parent_fd, select.POLLIN)
    has_proc = os.path.isdir("/proc/self")
    born = started(parent) if has_proc else b""
    while True:
        for fd, _ in poll.poll(None if parent_fd >= 0 else 200):
            if fd == parent_fd:
                return True
            if os.read(ordered, 1):
                return False
            poll.unregister(ordered)  # its end may be seen before the parent's
        if parent_fd < 0:
            lives = started(parent) == born != b"" if has_proc else exists(parent)
            if not lives:
                return True


def commands(table: mmap.mmap) -> dict[int, tuple[int, float]]:
    """Return serial -> (process group, seconds to wait before KILL). A group that is not
    positive is no longer to be signalled by its id; see `Watchdog.confirm`.
    """
    found = {}
    for offset in range(0, len(table), SLOT.size):
        serial, pid, kill_after = SLOT.unpack_from(table, offset)
        if serial:
            found[serial] = (pid, kill_after / 1000)
    return found


def look(
    token: bytes, commands: Mapping[int, tuple[int, float]]
) -> tuple[dict[tuple[int, bytes], int], dict[int, int], dict[int, int]]:
    """Return the processes that carry the mark of a command, or descend from its first process: in
    whatever session, or in its group alone if the rest are daemons now. Each as its id and what
    tells it from a later one, with the command's serial number. And all that live: their parents,
    and their groups.
    """
    found = {}
    parents: dict[int, int] = {}
    in_groups: dict[int, int] = {}
    table = {}
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            if fields[0] in (b"Z", b"X"):
                continue
            pid, group = int(name), int(fields[2])
            table[pid] = fields[19]
            in_groups[pid] = group
            parents[pid] = int(fields[1])
            children.setdefault(parents[pid], []).append(pid)
            with open(f"/proc/{name}/environ", "rb") as file:
                environment = file.read()
        except OSError:
            continue
        at = (b"\0" + environment).find(b"\0" + MARK + token + b".")
        if at < 0:
            continue
        mark = environment[at:].split(b"\0", 1)[0]
        serial = mark.rpartition(b".")[2]
        if not serial.isdigit() or int(serial) not in commands:
            continue
        only = -commands[int(serial)][0]
        if only <= 0 or group == only:
            found[pid, fields[19]] = int(serial)
    for number, (leader, _) in commands.items():
        line = [leader] if leader > 0 else []
        while line:
            for pid in children.get(line.pop(), ()):
                line.append(pid)
                found.setdefault((pid, table[pid]), number)
    return found, parents, in_groups


def send(kill: Callable[[int, int], None], target: int, number: int) -> bool:
    """Send a signal; return whether there was anybody to get it."""
    try:
        kill(target, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def end(table: mmap.mmap, token: bytes) -> None:
    """End the commands in the table: TERM, after their time KILL. Until two looks in a row have
    found nobody, since others may be forked while the processes are looked at. Who was started by
    one that has been told, and still runs, is that one's to end: it may clean up.
    """
    found = commands(table)
    if not found:
        return
    died = time.monotonic()
    groups = {pid: wait for pid, wait in found.values() if pid > 0}
    longest = max(wait for _, wait in found.values())
    # What was just being started carries its mark only when it has become its program.
    starting = any(not pid for pid, _ in found.values())
    told: set[tuple[int, bytes]] = set()
    strays, parents, in_groups = look(token, found)
    for group in groups:
        if not send(os.killpg, group, signal.SIGTERM):
            send(os.kill, group, signal.SIGKILL)  # it has no group yet, and is no program yet
    empty = looks = 0
    while True:
        waited = time.monotonic() - died
        busy = {pid for pid, _ in told & strays.keys()}
        # Parents first: one that sees its child die before it is told may go on.
        for (pid, start), serial in sorted(
            strays.items(), key=lambda each: (int(each[0][1]), each)
        ):
            late = waited >= found[serial][1]
            parent = parents[pid]
            cared_for = looks > 0 and (parent in busy or in_groups.get(parent) in groups)
            if late:
                send(os.kill, pid, signal.SIGKILL)
            elif in_groups[pid] not in groups and (pid, start) not in told and not cared_for:
                told.add((pid, start))
                send(os.kill, pid, signal.SIGTERM)
        looks += 1
        living = set(in_groups.values())
        for group, wait in list(groups.items()):
            gone = not send(os.killpg, group, signal.SIGKILL if waited >= wait else 0)
            if gone or (living and group not in living):  # the dead may wait long to be reaped
                del groups[group]
        starting = starting and waited < STARTING_S
        empty = 0 if strays or groups or starting else empty + 1
        if empty >= LOOKS or waited > UNKILLABLE_S + longest:
            return
        time.sleep(PAUSE_S)
        strays, parents, in_groups = look(token, found)


def main() -> None:
    table_fd, said, ordered, parent, parent_fd = map(int, sys.argv[1:6])
    table = mmap.mmap(table_fd, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.write(said, b"up\n")
    except OSError:
        pass  # the parent is dead already
    if wait_for_end(parent, parent_fd, ordered):
        end(table, sys.argv[6].encode())


if __name__ == "__main__":
    main()
