"""The service thread: messages, timers and its end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from parallel_exec.reactor.loop import Reactor


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
