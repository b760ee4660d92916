"""Ends what a killed parent left behind: the process that does it.

Run by path, with nothing of the package imported, so that it starts fast and small:
``python -I -S watchdog_main.py TABLE_FD PARENT_FD TOKEN``. The parent's side and the
layout of the table are in `watchdog`.
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


def wait_for_end(parent: int, parent_fd: int) -> None:
    """Return when the parent is dead."""
    if parent_fd >= 0:
        poll = select.poll()
        poll.register(parent_fd, select.POLLIN)
        poll.poll()
    elif sys.platform != "linux" and hasattr(select, "kqueue"):
        queue = select.kqueue()
        end = select.kevent(parent, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
        try:
            queue.control([end], 1)
        except ProcessLookupError:
            pass
    else:
        while os.getppid() == parent:
            time.sleep(0.2)


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


def marked(token: bytes, commands: Mapping[int, tuple[int, float]]) -> dict[int, int]:
    """Return the processes that carry the mark of a command: in whatever session, or in its
    group alone if the rest are daemons now.
    """
    found = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                environment = file.read()
            group = os.getpgid(int(name))
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
            found[int(name)] = int(serial)
    return found


def send(kill: Callable[[int, int], None], target: int, number: int) -> bool:
    """Send a signal; return whether there was anybody to get it."""
    try:
        kill(target, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def main() -> None:
    table_fd, parent_fd, token = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode()
    parent = os.getppid()
    table = mmap.mmap(table_fd, 0)
    wait_for_end(parent, parent_fd)
    found = commands(table)
    if not found:
        return
    died = time.monotonic()
    groups = {pid: wait for pid, wait in found.values() if pid > 0}
    # What was just being started carries its mark only when it has become its program.
    starting = any(not pid for pid, _ in found.values())
    strays = marked(token, found)
    for group in groups:
        if not send(os.killpg, group, signal.SIGTERM):
            send(os.kill, group, signal.SIGKILL)  # it has no group yet, and is no program yet
    for pid in strays:
        send(os.kill, pid, signal.SIGTERM)
    while groups or strays or starting:
        time.sleep(0.02)
        waited = time.monotonic() - died
        if starting:
            for pid, serial in marked(token, found).items():
                if pid not in strays:
                    strays[pid] = serial
                    send(os.kill, pid, signal.SIGTERM)
            starting = waited < STARTING_S
        for group, wait in list(groups.items()):
            if not send(os.killpg, group, signal.SIGKILL if waited >= wait else 0):
                del groups[group]
        late = any(waited >= found[serial][1] for serial in strays.values())
        if late:  # ids are looked up again: one may belong to somebody else by now
            for pid, serial in marked(token, found).items():
                if waited >= found[serial][1]:
                    send(os.kill, pid, signal.SIGKILL)
        for pid in list(strays):
            if not send(os.kill, pid, 0):
                del strays[pid]
        if waited > 60 + max(wait for _, wait in found.values()):
            return  # what does not end by KILL will not end by waiting


if __name__ == "__main__":
    main()
