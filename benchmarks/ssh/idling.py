"""What connections cost that nobody uses."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.harness import Figures

SETTLE_S = 1.0  # what was just done may still be ending
WATCH_S = 10.0


class Idling:
    """The connections are made in the ``with`` block; after it `figures` tells their cost."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.figures: Figures = {}

    def __enter__(self) -> Self:
        gc.collect()
        self._memory = _memory()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            return
        time.sleep(SETTLE_S)
        gc.collect()
        grown = _memory() - self._memory
        start, cpu = time.perf_counter(), time.process_time()
        time.sleep(WATCH_S)
        used = (time.process_time() - cpu) / (time.perf_counter() - start)
        self.figures = {"cpu_percent": 100 * used, "kb_each": grown / self._count / 1000}


def _memory() -> int:
    """Return the memory in bytes that is this process's alone."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGESIZE")
