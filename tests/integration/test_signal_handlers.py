"""Signal handlers and finalizers that use the library in the middle of a use of it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.limits import base


@contextmanager
def interrupting(handler: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Have a handler called every millisecond of CPU; give what it has raised."""
    raised: list[BaseException] = []

    def handle(number: int, frame: object) -> None:
        try:
            handler()
        except RuntimeError as error:
            raised.append(error)

    before = signal.signal(signal.SIGVTALRM, handle)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.001, 0.001)
    try:
        yield raised
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


LIMITERS: dict[str, Callable[[], Any]] = {
    "fixed": lambda: px.ConcurrencyLimiter(4),
    "adaptive": lambda: px.AIMDController(4),
    "rate": lambda: px.RateLimiter(1_000_000),
}


@pytest.mark.parametrize("name", LIMITERS)
def test_a_handler_that_uses_a_limiter_never_hangs(name: str) -> None:
    """It gets its place, or an error that says why not; the counters stay right."""
    limiter = LIMITERS[name]()
    handled = 0

    def handler() -> None:
        nonlocal handled
        handled += 1
        limiter.run(int)

    with interrupting(handler) as raised:
        while handled < 300:
            limiter.run(int)
    assert len(raised) < handled
    assert limiter.in_flight == 0
    assert limiter.waiting == 0


USES: dict[str, Callable[[px.ConcurrencyLimiter], object]] = {
    "run": lambda limiter: limiter.run(int),
    "with": lambda limiter: limiter.__enter__(),
    "pause": lambda limiter: limiter.pause(),
    "resume": lambda limiter: limiter.resume(),
    "waiting": lambda limiter: limiter.waiting,
    "limit": lambda limiter: setattr(limiter, "limit", 3),
    "px.run": lambda limiter: px.run("true"),
    "px.submit": lambda limiter: px.submit("true"),
    "px.all": lambda limiter: px.all(["true"], concurrency=limiter),
    "map": lambda limiter: px.parallel_map(int, [1], limiter),
    "pool": lambda limiter: px.ParallelExecutor(1, concurrency=limiter).submit(int),
}


@pytest.mark.parametrize("name", USES)
def test_what_cannot_be_had_inside_of_a_limiter_is_refused(name: str) -> None:
    """Whoever interrupts the thread that holds the lock of limiters gets a clear error."""
    limiter = px.ConcurrencyLimiter(2)
    with base.LOCK, pytest.raises(RuntimeError, match="in a signal handler or a finalizer"):
        USES[name](limiter)
    assert limiter.run(lambda: 7) == 7
    assert px.all(["true"], concurrency=limiter)[0].ok


def test_a_batcher_inside_of_itself_is_refused() -> None:
    """A handler that interrupts `add` gets an error and does not hang."""
    batcher: Any = px.TaskBatcher(1, 0, list)
    with batcher:
        uses: list[Callable[[], object]] = [lambda: batcher.add(1), batcher.flush, batcher.close]
        for use in uses:
            with batcher._lock, pytest.raises(RuntimeError, match="in a signal handler"):
                use()
        assert batcher.add(2).result() == 2


def test_a_handler_may_add_a_callback_to_the_future_that_is_asked_for_one() -> None:
    """As it may with a future of the standard library."""
    called = 0
    with px.ParallelExecutor(1) as pool:
        gate = threading.Event()
        future = pool.submit(gate.wait, 30)

        def note(_: object) -> None:
            nonlocal called
            called += 1

        handled = 0

        def handler() -> None:
            nonlocal handled
            handled += 1
            future.add_done_callback(note)

        end = time.monotonic() + 30
        with interrupting(handler):
            while handled < 100 and time.monotonic() < end:
                future.add_done_callback(lambda _: None)
        gate.set()
    assert called == handled
