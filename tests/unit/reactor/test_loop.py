"""The service thread: messages, timers and its end."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from parallel_exec import reactor
from parallel_exec.reactor import loop as module
from parallel_exec.reactor.loop import LONGEST_LULL_MS, Reactor
from parallel_exec.reactor.poller import READ


@pytest.fixture
def loop() -> Iterator[Reactor]:
    """A service thread of the test's own, with its descriptors given back."""
    made = Reactor()
    yield made
    made.stop()
    made._forget()


def test_messages_are_handled_in_order_in_one_thread(loop: Reactor) -> None:
    """What is posted runs in the service thread, first come, first served."""
    seen: list[tuple[int, int]] = []
    done = threading.Event()
    for number in range(100):
        loop.post(lambda number=number: seen.append((number, threading.get_ident())))
    loop.post(done.set)
    done.wait()
    assert [number for number, _ in seen] == list(range(100))
    assert len({ident for _, ident in seen} | {threading.get_ident()}) == 2


def test_timers_fire_in_order_and_cancelled_ones_do_not(loop: Reactor) -> None:
    """A timer posted from outside is as good as one made inside."""
    seen: list[str] = []
    cancelled, done = threading.Event(), threading.Event()
    loop.post(cancelled.wait)  # none of them may fire before all are made
    now = loop.now()
    loop.call_at(now + 0.02, done.set)
    loop.call_at(now + 0.01, seen.append, "second")
    loop.call_at(now, seen.append, "first")
    loop.call_at(now, seen.append, "never").cancel()
    cancelled.set()
    done.wait()
    assert seen == ["first", "second"]


def test_an_error_in_a_message_ends_nothing(
    loop: Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the next message is handled."""
    done = threading.Event()
    loop.post(lambda: 1 / 0)
    loop.post(done.set)
    done.wait()
    assert "ZeroDivisionError" in caplog.text


def test_what_cannot_be_watched_is_looked_at(
    loop: Reactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system watches no more than so many descriptors; the rest takes a little longer."""

    def refuse(fd: int, interest: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    read, write = os.pipe()
    os.set_blocking(read, False)
    seen: list[bytes] = []
    done = threading.Event()

    def arrived() -> None:
        try:
            seen.append(os.read(read, 100))
        except BlockingIOError:
            return
        if seen[-1] == b"":
            loop.forget(read)
            done.set()
        else:
            loop.watch(read, READ, arrived)
            os.close(write)

    monkeypatch.setattr(loop._poller, "add", refuse)
    loop.post(loop.watch, read, READ, arrived)
    os.write(write, b"something")
    done.wait()
    os.close(read)
    assert seen == [b"something", b""]


def test_what_ends_in_a_crowd_is_done_in_one_go(
    loop: Reactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where many are watched and one has ended, a rest is taken before the next look; what is
    posted ends it.
    """
    seen: list[object] = []
    resting, done = threading.Event(), threading.Event()
    wait, posted = loop._poller.wait, loop._posted

    def look(timeout: float | None) -> list[tuple[int, int]]:
        seen.append("look")
        return wait(timeout)

    def rest(milliseconds: float) -> None:
        assert 0 < milliseconds <= LONGEST_LULL_MS
        resting.set()
        posted.poll()

    def watch_all() -> None:
        for number, (read, _) in enumerate(pipes):
            loop.watch(read, READ, seen.append, number)

    pipes = [os.pipe() for _ in range(5)]
    monkeypatch.setattr(module, "CROWD", 4)
    loop.post(watch_all)
    loop.post(loop.call_at, loop.now(), done.set)  # a turn later
    done.wait()
    monkeypatch.setattr(loop._poller, "wait", look)
    monkeypatch.setattr(loop, "_posted", SimpleNamespace(poll=rest))
    loop.post(loop.forget, pipes[0][0])
    resting.wait()
    seen.clear()
    done.clear()
    for number in (3, 1, 4):
        os.write(pipes[number][1], b"x")
    loop.post(seen.append, "posted")
    loop.post(done.set)
    done.wait()
    assert seen[:5] == ["look", 3, 1, 4, "posted"]
    for read, write in pipes:
        loop.forget(read)
        os.close(read)
        os.close(write)


def test_stopping_starts_no_second_thread(loop: Reactor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread may have ended before the caller goes on: that is no reason for another."""
    started = threading.Event()
    loop.post(started.set)
    started.wait()
    thread, wake = loop._thread, loop._wake
    assert thread is not None

    def wake_and_let_it_end() -> None:
        wake()
        thread.join()

    monkeypatch.setattr(loop, "_wake", wake_and_let_it_end)
    monkeypatch.setattr(loop, "_start", lambda: pytest.fail("a second thread was started"))
    loop.stop()
    assert not thread.is_alive()


def test_a_thread_that_is_run_by_its_caller_leaves_its_signals_alone() -> None:
    """Where no thread is to be had, a caller does the work itself: it must not end with its
    signals blocked, as the threads of the library do.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    called: list[int] = []
    reactor.Thread(target=called.append, args=(1,), name="never started").run()
    try:
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert called == [1]
