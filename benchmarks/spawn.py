"""How many commands a second, both streams captured: against C, threads and GNU parallel.

The C program is the floor: the same pipes, the same new session, nothing else. The bare loop
is the floor of Python that waits: it starts commands by the same call, waits until each has become
its program, which we do not, and does nothing else than reap.
These and we take the best of 1 to 8 in flight. GNU parallel's figure holds its own start, 0.1 s.
"""

from __future__ import annotations

import functools
import os
import resource
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import parallel_exec as px
from benchmarks.harness import OURS, Bar, Comparison, Figures, Side, UnavailableError
from parallel_exec.environments.local import spawn

SOURCE = Path(__file__).with_name("spawn_floor.c")
TRUE = next((path for path in ("/bin/true", "/usr/bin/true") if os.path.exists(path)), "true")
IN_FLIGHT = range(1, 9)
WORKERS = 16
C, BARE = "C posix_spawn loop", "bare loop in Python"
THREADS, GNU = "threads, subprocess.run", "GNU parallel"


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Yield the one comparison."""
    count = 200 if quick else 600
    with tempfile.TemporaryDirectory() as directory:
        yield Comparison(
            f"Commands a second, both streams captured ({TRUE})",
            (
                Side(OURS, functools.partial(best, functools.partial(ours, count))),
                Side(C, functools.partial(best, floor(Path(directory), count))),
                Side(BARE, functools.partial(best, functools.partial(bare, count))),
                Side(THREADS, functools.partial(threads, 2 * count)),
                Side(GNU, functools.partial(gnu_parallel, 2 * count)),
            ),
            (
                Bar("of the C loop", "rate_per_s", C, at_least=0.9),
                Bar("times threads around subprocess.run", "rate_per_s", THREADS, at_least=1.3),
                Bar("times GNU parallel", "rate_per_s", GNU, at_least=5),
            ),
            rounds=7,
        )


def best(measure: Callable[[int], Figures]) -> Figures:
    """Return the figures of the best of 1 to 8 in flight, and which it was."""
    figures = {in_flight: measure(in_flight) for in_flight in IN_FLIGHT}
    chosen = max(figures, key=lambda in_flight: figures[in_flight]["rate_per_s"])
    return {**figures[chosen], "in_flight": float(chosen)}


def ours(count: int, in_flight: int) -> Figures:
    """Run `count` commands by `px.all`."""
    with _Clock(count) as clock:
        results = px.all([[TRUE]] * count, concurrency=in_flight)
    assert len(results) == count
    assert all(result.ok for result in results)
    return clock.figures


def floor(directory: Path, count: int) -> Callable[[int], Figures]:
    """Return the C program as a function of the number in flight; compile it at once."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    program = directory / "spawn_floor"
    if compiler is not None:
        subprocess.run([compiler, "-O2", "-Wall", "-o", program, SOURCE], check=True)

    def measure(in_flight: int) -> Figures:
        if compiler is None:
            raise UnavailableError("no C compiler")
        argv = [str(program), str(count), str(in_flight), TRUE]
        done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True)
        rate, cpu = map(float, done.stdout.split())
        return {"rate_per_s": rate, "cpu_us": cpu}

    return measure


def bare(count: int, in_flight: int) -> Figures:
    """Run `count` commands by what starts ours, in a loop of this thread."""
    if not hasattr(select, "epoll"):
        raise UnavailableError("no epoll")
    environ = [name + b"=" + value for name, value in os.environb.items()]
    variables = spawn.Variables(environ)
    null = os.open(os.devnull, os.O_RDWR)
    running: dict[int, tuple[int, int, int]] = {}
    started = ended = 0
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # as `spawn` wants
    with select.epoll() as epoll, _Clock(count) as clock:
        while ended < count:
            while started < count and len(running) < in_flight:
                pipes = null, spawn.PIPE, spawn.PIPE
                pid, exit_fd, _, out, err = spawn.spawn([TRUE], variables, b"A=1", None, *pipes)
                epoll.register(exit_fd, select.EPOLLIN | select.EPOLLONESHOT)
                running[exit_fd] = pid, out, err
                started += 1
            for exit_fd, _ in epoll.poll():
                pid, out, err = running.pop(exit_fd)
                _, status = os.waitpid(pid, 0)
                assert status == 0
                for fd in (out, err):
                    while os.read(fd, 1 << 16):
                        pass
                    os.close(fd)
                os.close(exit_fd)
                ended += 1
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    os.close(null)
    return clock.figures


def threads(count: int) -> Figures:
    """Run `count` commands by `subprocess.run` in the threads of a pool."""

    def run(_: int) -> int:
        return subprocess.run([TRUE], capture_output=True, check=True).returncode

    with ThreadPoolExecutor(WORKERS) as pool, _Clock(count) as clock:
        codes = list(pool.map(run, range(count)))
    assert len(codes) == count
    return {**clock.figures, "in_flight": float(WORKERS)}


def gnu_parallel(count: int) -> Figures:
    """Run `count` commands by GNU parallel, which keeps their output in files."""
    program = shutil.which("parallel")
    if program is None or b"GNU" not in _version(program):
        raise UnavailableError("GNU parallel is not installed")
    lines = "\n".join(map(str, range(count)))
    argv = [program, "--will-cite", f"-j{IN_FLIGHT[-1]}", "-N0", TRUE]
    start = time.perf_counter()
    subprocess.run(argv, input=lines, text=True, capture_output=True, check=True)
    rate = count / (time.perf_counter() - start)
    return {"rate_per_s": rate, "in_flight": float(IN_FLIGHT[-1])}


@functools.cache
def _version(program: str) -> bytes:
    return subprocess.run([program, "--version"], capture_output=True, check=False).stdout


class _Clock:
    """Measures the rate of a ``with`` block that runs `count` commands, and its CPU time."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.figures: Figures = {}

    def __enter__(self) -> Self:
        self._usage = resource.getrusage(resource.RUSAGE_SELF)
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        wall = time.perf_counter() - self._start
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu = usage.ru_utime + usage.ru_stime - self._usage.ru_utime - self._usage.ru_stime
        self.figures = {"rate_per_s": self._count / wall, "cpu_us": cpu / self._count * 1e6}
