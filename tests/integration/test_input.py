"""Input that comes when it likes: nothing that is there waits for what is not."""

from __future__ import annotations

import contextvars
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.api.many import BUFFER
from tests.integration.processes import PATIENCE_S

here: contextvars.ContextVar[str] = contextvars.ContextVar("here", default="nowhere")


class Feed:
    """Gives some items, then blocks until it is released, then gives some more."""

    def __init__(self, *items: Any, more: tuple[Any, ...] = (), before: bool = False) -> None:
        self._items = items
        self._more = more
        self._released = threading.Event()
        self.blocks = threading.Event()
        self.threads: list[threading.Thread] = []
        self.given = 0

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self._note()
            yield item
        self.threads.append(threading.current_thread())
        self.blocks.set()
        self._released.wait(PATIENCE_S)
        for item in self._more:
            self._note()
            yield item

    def _note(self) -> None:
        self.given += 1
        self.threads.append(threading.current_thread())

    def release(self) -> None:
        """Let it go on, and wait until nobody reads any more."""
        self._released.set()
        for thread in set(self.threads) - {threading.current_thread()}:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


@pytest.fixture
def feeds() -> Iterator[Callable[..., Any]]:
    """Return what makes feeds, which are released in the end."""
    made: list[Feed] = []

    def make(*items: Any, more: tuple[Any, ...] = ()) -> Feed:
        made.append(Feed(*items, more=more))
        return made[-1]

    yield make
    for feed in made:
        feed.release()


def boom(*_: object) -> None:
    raise LookupError("no")


def test_results_are_given_while_the_input_blocks(feeds: Callable[..., Any]) -> None:
    """What has ended is there for who asks, whether or not another item ever comes."""
    with px.parallel_imap(lambda item: item + 1, feeds(1, 2, 3)) as values:
        assert [next(values) for _ in range(3)] == [2, 3, 4]
    with px.parallel_imap(lambda item: item + 1, feeds(1, 2), ordered=False) as values:
        assert {next(values) for _ in range(2)} == {2, 3}
    with px.as_completed(feeds("echo 1", lambda: 2)) as outcomes:
        assert all(next(outcomes).ok for _ in range(2))


def test_who_decides_early_does_not_wait_for_the_input(feeds: Callable[..., Any]) -> None:
    """A first success, a first end and a first failure stop the call at once."""
    assert px.any(feeds(boom, lambda: 5)) == 5
    assert px.race(feeds(lambda: 6)) == 6
    with pytest.raises(LookupError):
        px.all(feeds(boom))
    with pytest.raises(LookupError):
        px.parallel_map(boom, feeds(1))
    assert len(px.all_settled(feeds("false"), max_failures=0).rejected) == 1


CALLS: dict[str, Callable[..., object]] = {
    "all": lambda feed, **options: px.all(feed, **options),
    "any": lambda feed, **options: px.any(feed, **options),
    "map": lambda feed, **options: px.parallel_map(lambda fn: fn, feed, **options),
    "imap": lambda feed, **options: list(px.parallel_imap(lambda fn: fn, feed, **options)),
    "filter": lambda feed, **options: px.parallel_filter(bool, feed, **options),
    "reduce": lambda feed, **options: px.parallel_reduce(max, feed, **options),
    "balancer": lambda feed, **options: px.LoadBalancer([id, hash]).execute_many(feed, **options),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_deadline_does_not_wait_for_the_input(name: str, feeds: Callable[..., Any]) -> None:
    """Neither in the middle nor before the first item."""
    for feed in (feeds(), feeds(boom if name == "any" else len)):
        with pytest.raises(px.errors.DeadlineExceededError):
            CALLS[name](feed, deadline=0.05, max_failures=9)
    outcomes = px.all_settled(feeds("sleep 60"), deadline=0.05)
    assert [outcome.status for outcome in outcomes] == ["cancelled"]


@pytest.mark.parametrize("name", CALLS)
def test_a_cancel_does_not_wait_for_the_input(name: str, feeds: Callable[..., Any]) -> None:
    """Whoever sets the token has the call end."""
    token, feed = px.CancelToken(), feeds()

    def cancel() -> None:
        feed.blocks.wait(PATIENCE_S)
        token.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(px.errors.TaskCancelledError):
        CALLS[name](feed, cancel=token)
    thread.join()


def test_an_interrupt_does_not_wait_for_the_input(feeds: Callable[..., Any]) -> None:
    """Ctrl-C reaches the calling thread while another reads."""
    feed = feeds("true")

    def interrupt() -> None:
        feed.blocks.wait(PATIENCE_S)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        px.all_settled(feed)
    thread.join()


def test_an_iterator_is_read_by_one_thread_in_the_context_of_its_caller() -> None:
    """A generator sees the caller's context variables, and one other thread from its first
    line to its last.
    """
    seen: list[tuple[threading.Thread, str]] = []

    def items() -> Iterator[int]:
        for item in range(50):
            seen.append((threading.current_thread(), here.get()))
            yield item
        seen.append((threading.current_thread(), here.get()))

    def call() -> list[int]:
        here.set("in the caller's")
        return px.parallel_map(abs, items(), 3)

    assert contextvars.copy_context().run(call) == list(range(50))
    (thread,) = {thread for thread, _ in seen}
    assert thread is not threading.current_thread()
    assert {place for _, place in seen} == {"in the caller's"}
    assert not thread.is_alive()


def test_a_list_is_read_by_nobody_else() -> None:
    """What cannot block needs no thread; a subclass that may block has one."""
    readers: set[threading.Thread] = set()

    class Live(list[int]):
        def __iter__(self) -> Iterator[int]:
            readers.add(threading.current_thread())
            yield from super().__iter__()

    assert px.parallel_map(abs, Live([1, 2])) == [1, 2]
    assert threading.current_thread() not in readers

    names: list[str] = []
    start = threading.Thread.start

    def noted(thread: threading.Thread) -> None:
        names.append(thread.name)
        start(thread)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", noted)
        for items in ([1, 2], (1, 2), range(2), {1, 2}, {1: 2}, {1: 2}.values()):
            px.parallel_map(abs, items)
    assert "parallel_exec input" not in names


def test_input_that_still_blocks_is_left_and_reads_no_more(feeds: Callable[..., Any]) -> None:
    """Its thread is a daemon; what it was waiting for is dropped, and nothing asked for after."""
    called: list[object] = []
    feed = feeds(lambda: 1, more=(lambda: called.append(1),) * 5)
    assert px.any(feed) == 1
    (thread,) = set(feed.threads)
    assert thread.is_alive()
    assert thread.daemon
    feed.release()
    assert feed.given <= 2
    assert called == []


def test_input_that_does_not_block_is_read_no_more_when_the_call_returns() -> None:
    """An iterator can be used on, from where the call has left it."""
    read: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100_000):
            read.append(item)
            yield item

    source = items()
    with px.parallel_imap(abs, source, 2) as values:
        assert next(values) == 0
    count = len(read)
    assert next(source) == count
    assert len(read) == count + 1


@pytest.mark.parametrize("make", [list, iter], ids=["list", "iterator"])
def test_no_more_is_read_than_is_in_flight_and_a_small_buffer(
    make: Callable[[range], Any],
) -> None:
    """The same of a list and of an iterator: what is ahead of a slow reader is bounded."""
    called: list[int] = []
    with px.parallel_imap(called.append, make(range(5000)), 4) as values:
        next(values)
        end = time.monotonic() + PATIENCE_S
        while len(called) < 4 + BUFFER and time.monotonic() < end:
            threading.Event().wait(0.002)
        threading.Event().wait(0.05)
        assert 4 <= len(called) <= 4 + BUFFER + 1
    called.clear()
    with px.as_completed([lambda: called.append(1)] * 5000, concurrency=4) as outcomes:
        next(outcomes)
        threading.Event().wait(0.05)
        assert len(called) <= 4 + BUFFER + 1


def test_what_the_input_raises_comes_after_what_has_ended(feeds: Callable[..., Any]) -> None:
    """The error of the input is the caller's, with the line that raised it."""

    def items() -> Iterator[int]:
        yield 1
        raise LookupError("the source is gone")

    with pytest.raises(LookupError, match="the source is gone") as raised:
        px.parallel_map(abs, items())
    assert raised.traceback[-1].name == "items"


def test_a_command_that_the_input_runs_is_ended_with_the_call() -> None:
    """Nothing that was started outlives its call for long, whoever started it."""
    ended = threading.Event()
    began = threading.Event()

    def tasks() -> Iterator[Any]:
        yield lambda: began.wait(PATIENCE_S)
        began.set()
        try:
            px.run("sleep 60")
        except px.errors.TaskCancelledError:
            ended.set()

    assert px.any(tasks()) is True
    assert ended.wait(PATIENCE_S)


def test_input_is_read_inside_of_a_task_at_a_limit_of_one() -> None:
    """A nested call whose input makes calls of its own borrows the place around it."""
    limiter = px.ConcurrencyLimiter(1)

    def inner() -> Iterator[Any]:
        for number in px.parallel_map(abs, iter(range(3)), limiter):
            yield lambda number=number: number

    def outer() -> Any:
        return px.all(inner(), concurrency=limiter)

    assert px.all([outer, outer], concurrency=limiter) == [[0, 1, 2]] * 2


def test_without_a_thread_to_be_had_the_caller_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the system is out of threads, or the interpreter exits."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "parallel_exec input":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    readers: set[threading.Thread] = set()

    def items() -> Iterator[int]:
        for item in range(40):
            readers.add(threading.current_thread())
            yield item

    assert px.parallel_map(abs, items(), 2) == list(range(40))
    assert list(px.parallel_imap(abs, items(), 2)) == list(range(40))
    assert readers == {threading.current_thread()}
    with pytest.raises(LookupError):
        px.parallel_map(boom, items())


def test_no_items_are_no_tasks() -> None:
    """An input that is empty at once, or after a while, ends the call."""
    assert px.all(iter(())) == []
    assert px.parallel_map(abs, map(abs, iter(()))) == []
    with pytest.raises(px.errors.ConfigError, match="must not be empty"):
        px.parallel_reduce(max, iter(()))
    assert px.parallel_reduce(max, iter([3])) == 3
    assert px.parallel_reduce(lambda a, b: a + b, iter("abcdefg"), 3) == "abcdefg"
