"""What the machine, or the container around this process, has to give."""

from __future__ import annotations

import os
from pathlib import Path

from parallel_exec.limits.machine import Machine

GIB = 1024**3


def machine(root: Path, **files: str) -> Machine:
    """Return a machine whose files are these; `__` in a name is a slash."""
    for name, text in {
        "proc__loadavg": "0.50 0.40 0.30 4/321 999",
        "proc__meminfo": "MemTotal: 16777216 kB\nMemFree: 1 kB\nMemAvailable: 8388608 kB\n",
        **files,
    }.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return Machine(root)


def test_figures_of_a_machine_without_groups(tmp_path: Path) -> None:
    """Who asks does not count as runnable; memory is what can be had without swapping."""
    found = machine(tmp_path)
    assert found.tells()
    assert found.runnable() == 3
    assert found.memory_free() == 8 * GIB
    assert found.processors() == len(os.sched_getaffinity(0))


def test_a_machine_without_the_files_does_not_tell(tmp_path: Path) -> None:
    """As on macOS."""
    assert not Machine(tmp_path).tells()


def test_limits_of_control_groups_of_version_2(tmp_path: Path) -> None:
    """The tightest group above the process counts; its file cache can be had back."""
    found = machine(
        tmp_path,
        proc__self__cgroup="0::/app/worker",
        sys__fs__cgroup__app__worker__cpu="",
        **{
            "sys__fs__cgroup__app__memory.max": str(4 * GIB),
            "sys__fs__cgroup__app__memory.current": str(3 * GIB),
            "sys__fs__cgroup__app__memory.stat": f"anon 5\ninactive_file {GIB // 2}",
            "sys__fs__cgroup__app__cpu.max": "50000 100000",
            "sys__fs__cgroup__app__worker__memory.max": "max",
            "sys__fs__cgroup__app__worker__cpu.max": "max 100000",
        },
    )
    assert found.memory_free() == GIB * 3 // 2
    assert found.processors() == 0.5


def test_limits_of_control_groups_of_version_1(tmp_path: Path) -> None:
    """Each controller has a tree of its own; a path of the host's that is not there is left
    out, its mount counts.
    """
    found = machine(
        tmp_path,
        proc__self__cgroup="4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/",
        **{
            "sys__fs__cgroup__memory__memory.limit_in_bytes": str(2 * GIB),
            "sys__fs__cgroup__memory__memory.usage_in_bytes": str(GIB),
            "sys__fs__cgroup__memory__memory.stat": "total_inactive_file 0",
            "sys__fs__cgroup__cpu__cpu.cfs_quota_us": "-1",
            "sys__fs__cgroup__cpu__cpu.cfs_period_us": "100000",
        },
    )
    assert found.memory_free() == GIB
    assert found.processors() == len(os.sched_getaffinity(0))


def test_this_machine_has_figures() -> None:
    """The real files are read."""
    found = Machine()
    assert found.tells()
    assert found.memory_free() > 0
    assert found.runnable() >= 0
