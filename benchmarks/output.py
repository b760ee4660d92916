"""Much output: streamed to a callback in little memory, captured about as fast as a pipe."""

from __future__ import annotations

import functools
import subprocess
import time
from collections.abc import Iterator

import parallel_exec as px
from benchmarks import fresh
from benchmarks.harness import OURS, Bar, Comparison, Figures, Side

LINE = "x" * 99
PLAIN = "subprocess.run"


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Yield the comparison of streaming, then that of capturing."""
    streamed = 100_000_000 if quick else 1_000_000_000
    yield Comparison(
        f"{streamed // 1_000_000:,} MB streamed to a line callback, capture=False",
        (Side(OURS, functools.partial(fresh.run, stream, streamed)),),
        (Bar("MB that memory grows", "growth_mb", at_most=64),),
        rounds=1,
    )
    captured = 50_000_000 if quick else 200_000_000
    yield Comparison(
        f"{captured // 1_000_000:,} MB captured",
        (
            Side(OURS, functools.partial(fresh.run, ours, captured)),
            Side(PLAIN, functools.partial(fresh.run, theirs, captured)),
        ),
        (Bar(f"of {PLAIN}'s rate", "rate_mb_per_s", PLAIN, at_least=0.8),),
        rounds=7,
    )


def stream(size: int) -> Figures:
    """Count `size` bytes, line by line."""
    seen = 0

    def count(line: str) -> None:
        nonlocal seen
        seen += len(line) + 1

    px.run(["true"], on_stdout=count)  # so that all is imported
    seen = 0
    with fresh.Gauge() as gauge:
        result = px.run(f"yes {LINE} | head -c {size}", capture=False, on_stdout=count)
    assert result.stdout == b""
    assert seen == size, f"{seen} bytes"
    return {"rate_mb_per_s": size / gauge.figures["wall_s"] / 1e6, **gauge.figures}


def ours(size: int) -> Figures:
    """Capture `size` bytes by `px.run`."""
    px.run(["true"])
    start = time.perf_counter()
    result = px.run(["head", "-c", str(size), "/dev/zero"])
    wall = time.perf_counter() - start
    assert len(result.stdout) == size
    return {"rate_mb_per_s": size / wall / 1e6}


def theirs(size: int) -> Figures:
    """Capture `size` bytes by `subprocess.run`."""
    subprocess.run(["true"], capture_output=True, check=True)
    start = time.perf_counter()
    argv = ["head", "-c", str(size), "/dev/zero"]
    done = subprocess.run(argv, capture_output=True, check=True)
    wall = time.perf_counter() - start
    assert len(done.stdout) == size
    return {"rate_mb_per_s": size / wall / 1e6}
