"""What tests of real processes need: waiting for what must come, finding who still runs."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import parallel_exec

T = TypeVar("T")
PATIENCE_S = 30.0  # for what must come; a busy machine may take its time
ROOT = Path(parallel_exec.__file__).resolve().parents[1]


def eventually(look: Callable[[], T | None], what: str) -> T:
    """Look until there is something true to see; return it."""
    over = time.monotonic() + PATIENCE_S
    pause = 0.002
    while not (seen := look()):
        assert time.monotonic() < over, f"this did not come about: {what}"
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    return seen


def lines_of(path: Path, count: int = 1) -> list[str]:
    """Wait until a file has at least `count` whole lines; return those it has."""

    def look() -> list[str]:
        text = path.read_text() if path.exists() else ""
        lines = text.splitlines()
        return lines if text.endswith("\n") and len(lines) >= count else []

    return eventually(look, f"{count} lines in {path.name}")


class Nap:
    """A way to sleep that nobody else has, so that its sleepers are known.

    Attributes:
        seconds: What to give to ``sleep``: longer than any test.
    """

    def __init__(self) -> None:
        self.seconds = f"{random.randint(20_000, 90_000)}.{random.randint(10**8, 10**9 - 1)}"

    def __str__(self) -> str:
        return f"sleep {self.seconds}"

    def sleepers(self) -> list[int]:
        """Return the ids of the processes that sleep so. The dead do not count, nor do
        shells that name it among other words.
        """
        table = subprocess.run(
            ["ps", "-A", "-o", "pid=,stat=,args="], capture_output=True, text=True, check=True
        )
        found = []
        for line in table.stdout.splitlines():
            pid, state, words = line.split(None, 2)
            if words.strip() == str(self) and not state.startswith("Z"):
                found.append(int(pid))
        return found

    def wait_for(self, count: int = 1) -> list[int]:
        """Wait until so many sleep; return their ids."""
        return eventually(
            lambda: pids if len(pids := self.sleepers()) >= count else None, f"{count} × {self}"
        )

    def wait_for_none(self) -> None:
        """Wait until none sleeps any more."""
        eventually(lambda: not self.sleepers(), f"the end of {self}")

    def end(self) -> None:
        """End who still sleeps, so that a failed test leaves nobody."""
        for pid in self.sleepers():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


class Script:
    """A Python program that uses the library, in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], errors: Path) -> None:
        self.process = process
        self._errors = errors

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def errors(self) -> str:
        """Return what it wrote to its standard error so far."""
        return self._errors.read_text()

    def line(self) -> str:
        """Return the next line it prints; fail if it ends before."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the script ended early:\n{self.errors()}"
        return line.decode().rstrip("\n")

    def rest(self) -> str:
        """Return what else it prints, up to its end."""
        out, _ = self.process.communicate(timeout=PATIENCE_S)
        return out.decode()

    def exit_code(self) -> int:
        """Wait for its end."""
        return self.process.wait(PATIENCE_S)

    def send(self, number: signal.Signals) -> None:
        """Send it, and it alone, a signal."""
        self.process.send_signal(number)


HEAD = """\
import os, signal, sys, threading, time
import parallel_exec as px

def wait_for_go():
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.02)

"""


@contextmanager
def python(folder: Path, code: str, *argv: object) -> Iterator[Script]:
    """Run a program that has ``px``, ``os``, ``signal``, ``sys``, ``threading``, ``time``,
    and ``wait_for_go``, which waits until the file exists that its first argument names.

    It is in a session of its own, as under a terminal of its own.
    """
    program = folder / f"program-{random.randint(0, 10**9)}.py"
    program.write_text(HEAD + textwrap.dedent(code))
    errors = program.with_suffix(".err")
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-u", str(program), *map(str, argv)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"},
            cwd=folder,
            start_new_session=True,
        )
    try:
        yield Script(process, errors)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def alive(pid: int) -> bool:
    """Return whether a process runs; one that is dead and not yet reaped does not."""
    shown = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state = shown.stdout.strip()
    return bool(state) and not state.startswith("Z")


def gone(pid: int) -> bool:
    """Return whether a process no longer runs."""
    return not alive(pid)


def leaving(nap: Nap) -> str:
    """Return shell words for a program that leaves the session of its command, then sleeps."""
    code = f"import os; os.setsid(); os.execlp('sleep', 'sleep', '{nap.seconds}')"
    return f'{sys.executable} -I -S -c "{code}"'
