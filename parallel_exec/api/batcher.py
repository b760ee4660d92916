"""Items that come one by one, processed many at a time."""

from __future__ import annotations

import itertools
import json
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from datetime import timedelta
from time import monotonic
from typing import Any, Generic, Literal, TypeVar

from parallel_exec import reactor
from parallel_exec.api import one
from parallel_exec.api.closing import Closing
from parallel_exec.engine.work import name_of
from parallel_exec.errors import BatcherFullError, BatchResultError, ExecutorClosedError
from parallel_exec.reactor import lifecycle
from parallel_exec.values import checks
from parallel_exec.values.command import Command
from parallel_exec.values.functions import is_function
from parallel_exec.values.options import only_known

__all__ = ["TaskBatcher"]

T = TypeVar("T")
R = TypeVar("R")

Overflow = Literal["block", "error", "drop oldest"]
LINGER_S = 0.05  # how long a thread waits for more before it ends


class TaskBatcher(Closing, Generic[T, R]):
    """Collects items and has them processed a batch at a time.

        with px.TaskBatcher(100, 0.05, insert_rows) as batcher:
            futures = [batcher.add(row) for row in rows]

    Args:
        batch_size: A batch of so many items is processed at once.
        batch_delay: A smaller one is, so many seconds after its first item.
        processor: Takes the list of items and gives the results, one for each and in
            their order. It is called in a thread of the batcher's. Or a command, which
            reads a JSON array on its stdin and prints one.
        workers: How many batches may be processed at the same time.
        max_queue: How many items may wait to be processed; a batch cannot have more. None:
            any number.
        overflow: What `add` does beyond that: "block" until there is room, raise an
            "error" (`BatcherFullError`), or "drop oldest": then the item that has waited
            longest gets that error.

    Raises:
        ConfigError: An argument cannot be used.

    **Ordering:** batches start in the order of their items; with one worker they end in it.
    At the exit of the interpreter batchers are closed, the last that was made first.
    **Thread safety:** yes; after a fork the child's copy is empty and works.
    **Cancellation:** the future of an item that waits can be cancelled; the item is then
    left out.
    **Cost:** about twice that of the future; benchmarks/batcher.py measures it. Threads
    exist only while there are items.

    One lock, also in `_changed`: it guards every attribute. The processor is called, and futures
    are settled, without it.
    """

    @only_known
    def __init__(
        self,
        batch_size: int,
        batch_delay: float | timedelta,
        processor: Callable[[list[T]], Iterable[R]] | str | Sequence[Any] | Command,
        *,
        workers: int = 1,
        max_queue: int | None = None,
        overflow: Overflow = "block",
    ) -> None:
        self._size = checks.count("batch_size", batch_size)
        self._delay = checks.seconds("batch_delay", batch_delay, allow_zero=True)
        self._process: Callable[[list[T]], Iterable[R]]
        if isinstance(processor, str | Sequence | Command):
            command = Command.of(processor)
            self._process = lambda items: _run(command, items)
            self._name = str(command)
        elif is_function(processor):
            self._process = processor
            self._name = name_of(processor)
        else:
            raise checks.refuse("processor", processor, "a function of a list, or a command")
        self._most_workers = checks.count("workers", workers)
        self._max_queue = None if max_queue is None else checks.count("max_queue", max_queue)
        if overflow not in ("block", "error", "drop oldest"):
            raise checks.refuse("overflow", overflow, '"block", "error" or "drop oldest"')
        self._overflow = overflow
        self._closed = False
        self._reset()
        _all[next(_number)] = self

    def _reset(self) -> None:
        self._lock = threading.RLock()  # so that its owner is known: see `_refuse_reentry`
        self._changed = threading.Condition(self._lock)
        self._open: list[tuple[T, Future[R]]] = []  # the batch that is being filled
        self._due = 0.0  # when it goes as it is
        self._ready: deque[list[tuple[T, Future[R]]]] = deque()
        self._queued = 0  # items in `_open` and `_ready`
        self._idle = 0  # threads that wait
        self._blocked = 0  # callers of `add` that wait for room
        self._workers: set[threading.Thread] = set()

    def add(self, item: T) -> Future[R]:
        """Hand over an item; its future gives its result.

        The future raises what the processor raised for its batch, or `BatchResultError`.

        Raises:
            ExecutorClosedError: The batcher has been closed.
            BatcherFullError: It is full, and `overflow` is "error".

        **Blocking:** only if it is full and `overflow` is "block".
        """
        reactor.refuse_when_finalizing()
        self._refuse_reentry()
        future: Future[R] = Future()
        dropped: Future[R] | None = None
        with self._lock:
            if self._queued == self._max_queue:
                dropped = self._make_room()
            if self._closed:
                raise ExecutorClosedError("the batcher has been closed")
            batch = self._open
            batch.append((item, future))
            self._queued += 1
            if len(batch) == self._size or (self._queued == self._max_queue and not self._ready):
                self._send()  # it is full, or there is no room for what would fill it
            elif len(batch) == 1:
                self._due = monotonic() + self._delay
                self._wake()
        if dropped is not None and _is_wanted(dropped):
            error = BatcherFullError("dropped: newer items took its place")
            _settle(dropped.set_exception, error)
        return future

    def flush(self) -> None:
        """Have what has been added processed now. Does not wait for it."""
        self._refuse_reentry()
        with self._lock:
            self._send()

    def close(self) -> None:
        """Take no more items, and wait until all have been processed. Idempotent.

        **Blocking:** yes, except inside of the processor. After an interrupt it can be called
        again.
        """
        self._refuse_reentry()
        me = threading.current_thread()
        with self._lock:
            self._closed = True
            self._send()
            self._changed.notify_all()
            workers = list(self._workers)
            if me in workers:
                return
            here = _exiting and not workers and self._queued > 0
            if here:  # no thread could be started
                self._workers.add(me)
        if here:
            self._work()
        with self._lock:
            # Not by joining them alone: a thread whose join was interrupted counts as ended,
            # before Python 3.13.
            while self._workers or self._queued:
                self._changed.wait()
        for thread in workers:
            thread.join()

    def __repr__(self) -> str:
        return f"<TaskBatcher of {self._name}: {self._queued} waiting>"

    def _refuse_reentry(self) -> None:
        """Raise where a signal handler has interrupted its own thread inside of this batcher:
        what it changes may be half changed already.
        """
        if self._lock._is_owned():  # type: ignore[attr-defined]
            raise RuntimeError(
                "a batcher was used in a signal handler or a finalizer that interrupted its own "
                "thread inside of it: use it in another thread, or after the handler"
            )

    # With the lock held

    def _make_room(self) -> Future[R] | None:
        """Do what is to be done when the queue is full; return the future of an item that
        was dropped.
        """
        if self._overflow == "drop oldest":
            oldest = self._ready[0] if self._ready else self._open
            _, future = oldest.pop(0)
            if self._ready and not oldest:
                self._ready.popleft()
            self._queued -= 1
            return future
        if self._overflow == "error":
            raise BatcherFullError(f"{self._max_queue} items wait to be processed already")
        self._blocked += 1
        try:
            while self._queued == self._max_queue and not self._closed:
                self._changed.wait()
        finally:
            self._blocked -= 1
        return None

    def _send(self) -> None:
        """Let the open batch go."""
        if self._open:
            self._ready.append(self._open)
            self._open = []
            self._wake()

    def _wake(self) -> None:
        """See that a thread looks at what there is now."""
        if self._idle:
            # Those who wait for room, or for the end, wait on the same condition.
            alone = not self._blocked and not self._closed
            self._changed.notify() if alone else self._changed.notify_all()
        elif len(self._workers) < self._most_workers:
            self._start()

    def _start(self) -> None:
        thread = reactor.Thread(
            target=self._work, name=f"parallel_exec batches of {self._name}", daemon=True
        )
        self._workers.add(thread)
        clock = reactor.get()
        try:
            thread.start()
            # A processor may need the service thread, and be called at the exit of the
            # interpreter, where Python 3.12 starts no threads any more.
            clock.post(_nothing)
        except RuntimeError:  # out of threads: others may end
            self._workers.discard(thread)
            if not self._workers and not _exiting:
                clock.call_at(clock.now() + 0.05, self._start_late)

    def _start_late(self) -> None:
        with self._lock:
            if self._queued and not self._workers:
                self._start()

    def _take(self) -> list[tuple[T, Future[R]]] | None:
        """Wait for a batch and take it; None if there is none and the thread shall end."""
        while True:
            if self._ready:
                batch = self._ready.popleft()
                break
            wait = LINGER_S
            if self._open:
                wait = self._due - monotonic()
                if wait <= 0:
                    batch, self._open = self._open, []
                    break
            elif self._closed:
                return None
            self._idle += 1
            try:
                woken = self._changed.wait(wait)
            finally:
                self._idle -= 1
            if not woken and not self._queued:
                return None
        self._queued -= len(batch)
        if self._blocked:
            self._changed.notify_all()
        if self._open:
            self._wake()  # the next batch has to be waited for, too
        return batch

    # In a thread

    def _work(self) -> None:
        while True:
            with self._lock:
                batch = self._take()
                if batch is None:
                    self._workers.discard(threading.current_thread())
                    if self._closed:
                        self._changed.notify_all()
                    return
            self._settle(batch)
            del batch

    def _settle(self, batch: list[tuple[T, Future[R]]]) -> None:
        wanted = [pair for pair in batch if _is_wanted(pair[1])]
        if not wanted:
            return
        try:
            results = self._process([item for item, _ in wanted])
            answers = _checked(results, len(wanted), self._name)
        except BaseException as error:
            for _, future in wanted:
                _settle(future.set_exception, error)
            return
        for (_, future), answer in zip(wanted, answers, strict=True):
            _settle(future.set_result, answer)


def _is_wanted(future: Future[Any]) -> bool:
    """Return whether a future waits for its result, and have it say that it runs."""
    if future.done() and not future.cancelled():
        return False  # somebody else has settled it
    return future.set_running_or_notify_cancel()


def _settle(settle: Callable[[Any], None], value: object) -> None:
    """Settle a future. What goes wrong must not cost the other items theirs."""
    try:
        settle(value)
    except InvalidStateError:
        pass  # somebody else was faster
    except BaseException:  # a callback raised what is no `Exception`
        reactor.report("a callback of an item's future raised")


def _checked(results: Iterable[R], wanted: int, name: str) -> list[R]:
    """Return the results as a list of the wanted length."""
    if isinstance(results, str | bytes | Mapping) or not isinstance(results, Iterable):
        kind = type(results).__name__
        raise BatchResultError(f"{name} must give a list of {wanted} results, not a {kind}")
    answers = list(results)
    if len(answers) != wanted:
        raise BatchResultError(f"{name} gave {len(answers)} results for {wanted} items")
    return answers


def _run(command: Command, items: list[Any]) -> Any:
    return one.run(command.replace(input=json.dumps(items))).json()


def _nothing() -> None:
    pass


_all: weakref.WeakValueDictionary[int, TaskBatcher[Any, Any]] = weakref.WeakValueDictionary()
_number = itertools.count()
_exiting = False


def _drain_at_exit() -> None:
    """Close all, the last that was made first: it may hand on to those made before."""
    global _exiting
    _exiting = True
    for _, batcher in sorted(_all.items(), reverse=True):
        batcher.close()


def _after_fork_in_child() -> None:
    for batcher in list(_all.values()):
        batcher._reset()


# As for `ParallelExecutor`: before the interpreter joins its threads.
threading._register_atexit(_drain_at_exit)  # type: ignore[attr-defined]
lifecycle.at_fork("batchers", _after_fork_in_child)
