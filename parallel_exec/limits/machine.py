"""What this machine, or the container around this process, has to give at the moment.

Linux tells it in `/proc`, and the limits of a container in the control groups below
`/sys/fs/cgroup`, of version 1 or 2. A limit may stand on any group above the process, so
all of them are asked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Machine"]


class Machine:
    """Reads the figures; nothing is kept but the folders to look in.

    Args:
        root: Where `proc` and `sys` are; another folder in tests.
    """

    def __init__(self, root: str | Path = "/") -> None:
        self._root = Path(root)
        self._memory = list(self._groups("memory"))
        self._cpu = list(self._groups("cpu"))

    def tells(self) -> bool:
        """Return whether this machine has what is read here."""
        return self._read("proc/loadavg") != "" and self._read("proc/meminfo") != ""

    def processors(self) -> float:
        """Return how many processors this process may use; a quota can make it a fraction."""
        try:
            usable = float(len(os.sched_getaffinity(0)))
        except (AttributeError, OSError):  # not on every system
            usable = float(os.cpu_count() or 1)
        for group in self._cpu:
            quota = self._quota(group)
            if quota is not None:
                usable = min(usable, quota)
        return usable

    def runnable(self) -> int:
        """Return how many threads of all processes run or wait for a processor now, without
        the one that asks.
        """
        running = self._read("proc/loadavg").split()[3].partition("/")[0]
        return max(0, int(running) - 1)

    def memory_free(self) -> int:
        """Return how many bytes can be had without swapping."""
        free = 1 << 62
        for line in self._read("proc/meminfo").splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
        for group in self._memory:
            left = self._memory_left(group)
            if left is not None:
                free = min(free, left)
        return free

    def _groups(self, controller: str) -> Iterator[Path]:
        """Yield the folders of the control groups around this process, innermost first."""
        mount = self._root / "sys/fs/cgroup"
        for line in self._read("proc/self/cgroup").splitlines():
            _, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if controllers == "":  # version 2 has one tree for all
                place = mount
            elif controller in controllers.split(","):
                place = mount / controller
            else:
                continue
            # Within a container the path may be the host's, and not be there.
            group = place / path.strip("/")
            while group != place.parent:
                if group.is_dir():
                    yield group
                group = group.parent

    def _quota(self, group: Path) -> float | None:
        both = _text(group / "cpu.max").split()  # version 2
        if not both:
            both = [_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")]
        try:
            quota, period = int(both[0]), int(both[1])
        except (IndexError, ValueError):  # "max", or no such file
            return None
        return quota / period if quota > 0 and period > 0 else None

    def _memory_left(self, group: Path) -> int | None:
        for most, used, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            try:
                limit = int(_text(group / most))
                left = limit - int(_text(group / used))
            except ValueError:  # "max", or no such file
                continue
            for line in _text(group / "memory.stat").splitlines():
                if line.startswith(cache + " "):
                    left += int(line.split()[1])  # the kernel takes it back when it must
            return max(0, min(left, limit))
        return None

    def _read(self, name: str) -> str:
        return _text(self._root / name)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
