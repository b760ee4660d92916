"""Measures in a fresh process, so that memory and threads of one side are its own.

``fresh.run(function, 1, 2)`` calls the module-level `function` with these arguments (they
travel as JSON) in a new interpreter and returns the figures that it returns.
"""

from __future__ import annotations

import gc
import importlib
import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.harness import Figures, UnavailableError

__all__ = ["Gauge", "open_files", "run"]

STATUS = Path("/proc/self/status")
UNAVAILABLE = 75  # the exit status for "not on this machine": EX_TEMPFAIL


def run(function: Callable[..., Figures], *args: Any) -> Figures:
    """Return ``function(*args)``, called in a new interpreter.

    Raises:
        UnavailableError: The function raised it.
        subprocess.CalledProcessError: It raised something else; its traceback has been
            printed.
    """
    where = f"{function.__module__}:{function.__name__}"
    argv = [sys.executable, "-m", "benchmarks.fresh", where, json.dumps(args)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=False)
    if done.returncode == UNAVAILABLE:
        raise UnavailableError(done.stdout.decode().strip())
    done.check_returncode()
    figures: Figures = json.loads(done.stdout)
    return figures


class Gauge:
    """Measures what happens in a ``with`` block; `figures` holds it afterwards.

    ``wall_s``; ``cpu_s``: user and system time of this process without its children;
    ``growth_mb``: the highest resident memory of the block over that at its start;
    ``threads``: the most there were at once, the main thread included.
    """

    def __init__(self) -> None:
        self.figures: Figures = {}
        self._threads = 0
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="gauge")

    def __enter__(self) -> Self:
        self._watcher.start()
        gc.collect()
        self._memory = _reset_peak()
        self._cpu = _cpu_s()
        self._start = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        wall = time.perf_counter() - self._start
        cpu = _cpu_s() - self._cpu
        memory = _peak_memory() - self._memory
        self._done.set()
        self._watcher.join()
        self.figures = {
            "wall_s": wall,
            "cpu_s": cpu,
            "growth_mb": memory / 1e6,
            "threads": float(self._threads),
        }

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            # The one that looks is not counted.
            self._threads = max(self._threads, _threads() - 1)


def open_files(wanted: int) -> None:
    """Raise the limit of open files to at least `wanted`, if that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise UnavailableError(f"it needs {wanted} open files, ulimit -Hn is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _status(name: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise KeyError(name)


def _reset_peak() -> int:
    """Return the resident memory in bytes, having made it the peak."""
    if not STATUS.exists():
        return _peak_memory()
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS") * 1024


def _peak_memory() -> int:
    """Return the highest resident memory in bytes.

    Not `ru_maxrss` on Linux: a child starts with its parent's.
    """
    if STATUS.exists():
        return _status("VmHWM") * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _threads() -> int:
    return _status("Threads") if STATUS.exists() else threading.active_count()


def main() -> int:
    """Call the function that the command line names; print its figures as JSON."""
    where, args = sys.argv[1:]
    module, _, name = where.partition(":")
    try:
        figures = getattr(importlib.import_module(module), name)(*json.loads(args))
    except UnavailableError as error:
        print(error)
        return UNAVAILABLE
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
