"""A KeyboardInterrupt at every bytecode of the calls that block."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import parallel_exec as px

PACKAGE = os.path.dirname(px.__file__) + os.sep
AT_MOST = 400  # places tried for each call, spread evenly over all there are


class Interrupt(KeyboardInterrupt):
    """Tells the injected interrupt from one of the terminal's."""


class Injector:
    """Raises an interrupt before the n-th bytecode of the package in this thread."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.seen = 0
        self.where = ""
        self._thread = threading.get_ident()

    def run(self, call: Callable[[], Any]) -> bool:
        """Make the call under the injector; return whether the interrupt came through."""
        with self._watching():
            try:
                call()
            except Interrupt:
                return True
        return False

    @contextmanager
    def _watching(self) -> Iterator[None]:
        if sys.version_info < (3, 12):
            sys.settrace(self._trace)
            try:
                yield
            finally:
                sys.settrace(None)
        else:  # where tracing bytecodes crashes some releases of the interpreter itself
            tool, events = sys.monitoring.PROFILER_ID, sys.monitoring.events
            sys.monitoring.use_tool_id(tool, __name__)
            sys.monitoring.register_callback(tool, events.INSTRUCTION, self._instruction)
            sys.monitoring.set_events(tool, events.INSTRUCTION)
            try:
                yield
            finally:
                sys.monitoring.set_events(tool, 0)
                sys.monitoring.register_callback(tool, events.INSTRUCTION, None)
                sys.monitoring.free_tool_id(tool)
                sys.monitoring.restart_events()

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            self._count(frame.f_code)
        return self._trace

    def _instruction(self, code: CodeType, offset: int) -> Any:
        if not code.co_filename.startswith(PACKAGE):
            return sys.monitoring.DISABLE  # type: ignore[attr-defined,unused-ignore]
        if threading.get_ident() == self._thread:
            self._count(code)
        return None

    def _count(self, code: CodeType) -> None:
        self.seen += 1
        if self.seen - 1 == self.at:
            self.where = f"{code.co_filename} ({code.co_qualname})"
            raise Interrupt


def running_commands() -> list[str]:
    """Return the commands of this process that still run, from the process table."""
    marks = f"PARALLEL_EXEC_ID={_token()}".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                environ = Path(f"/proc/{name}/environ").read_bytes()
                state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if marks in environ and state not in "ZX":
                found.append(Path(f"/proc/{name}/cmdline").read_text())
    return found


def _token() -> str:
    return px.run("echo $PARALLEL_EXEC_ID").text().strip().partition(".")[0]


def worker_threads() -> list[str]:
    """Return the library's threads other than the service thread."""
    return [
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith("parallel_exec") and thread.name != "parallel_exec"
    ]


def until(condition: Callable[[], bool]) -> bool:
    """Wait, within bounds, until `condition` holds."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if condition():
            return True
        gc.collect()  # an iterator that was forgotten in a cycle ends its work when collected
        threading.Event().wait(0.002)
    return False


def _only_interrupts(unraisable: Any) -> None:
    assert isinstance(unraisable.exc_value, Interrupt), unraisable


limiter = px.ConcurrencyLimiter(2)


def quick(n: int) -> int:
    return n + 1


CALLS: dict[str, Callable[[], Any]] = {
    "run": lambda: px.run("echo hello"),
    "all of commands": lambda: px.all(["true", ["true"], "true"], concurrency=limiter),
    "all of functions": lambda: px.all([lambda: 1, lambda: 2, lambda: 3], concurrency=limiter),
    "all that fails": lambda: px.all_settled(["sleep 30", "false", "true"], max_failures=0),
    "any": lambda: px.any(["sleep 30", "true"]),
    "race": lambda: px.race([lambda: 1, "sleep 30"]),
    "map over a generator": lambda: px.parallel_map(quick, iter(range(4)), limiter),
    "imap": lambda: list(px.parallel_imap(quick, range(4), limiter)),
    "an iterator that is left": lambda: next(px.as_completed(["true", "sleep 30"])),
    "closed in a with": lambda: _left_in_with(),
}


def _left_in_with() -> None:
    with px.as_completed(["true", "sleep 30"], concurrency=limiter) as outcomes:
        next(outcomes)


@pytest.mark.parametrize("name", CALLS)
def test_an_interrupt_anywhere_ends_the_work_and_comes_through(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever bytecode of the calling thread it hits, nothing runs on and nothing hangs."""
    call = CALLS[name]
    # Where an iterator is forgotten, its finalizer closes it; an interrupt in there is raised
    # again after it. What is raised in the finalizer itself cannot come through in any way.
    monkeypatch.setattr(sys, "unraisablehook", _only_interrupts)
    late: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: late.append(number))
    try:
        _interrupt_everywhere(call, late)
    finally:
        signal.signal(signal.SIGINT, before)
    assert late or name != "an iterator that is left"


def _interrupt_everywhere(call: Callable[[], Any], late: list[int]) -> None:
    whole = Injector(None)
    whole.run(call)
    step = max(1, whole.seen // AT_MOST)
    for at in range(0, whole.seen, step):
        injector = Injector(at)
        count = len(late)
        came = injector.run(call) or len(late) > count
        if not came:
            continue  # this time the call took another way, with fewer bytecodes
        assert until(lambda: not worker_threads()), (injector.where, worker_threads())
        assert until(lambda: limiter.in_flight == 0 and limiter.waiting == 0), injector.where
        assert until(lambda: not running_commands()), injector.where
    gc.collect()
    assert px.run("echo still works").text() == "still works\n"
