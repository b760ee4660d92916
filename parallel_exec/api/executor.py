"""A pool to put in the place of `concurrent.futures.ThreadPoolExecutor`."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.thread import BrokenThreadPool
from contextvars import copy_context
from functools import partial
from typing import Any, NamedTuple, TypeVar, Unpack

from parallel_exec.api import many
from parallel_exec.api.many import DEFAULTS, ManyOptions, TaskLike
from parallel_exec.engine.future import TaskFuture
from parallel_exec.engine.retry import Retry
from parallel_exec.engine.run import Run
from parallel_exec.engine.task import Task
from parallel_exec.engine.work import Call
from parallel_exec.errors import ExecutorClosedError
from parallel_exec.limits import base
from parallel_exec.limits.base import Limit
from parallel_exec.limits.composed import AllOf
from parallel_exec.limits.fixed import ConcurrencyLimiter
from parallel_exec.reactor import lifecycle
from parallel_exec.values import checks
from parallel_exec.values.functions import is_function
from parallel_exec.values.options import check, only_known, takes

__all__ = ["ExecutedWithErrors", "ParallelExecutor", "TaskFailure"]

T = TypeVar("T")
processors = getattr(os, "process_cpu_count", os.cpu_count)  # the first from Python 3.13 on
KNOWN = ManyOptions.__annotations__.keys()
_names = itertools.count()
theirs = logging.getLogger("concurrent.futures")


class TaskFailure(NamedTuple):
    """A task that failed, and why."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody wants of a pair
    error: BaseException


class ExecutedWithErrors(NamedTuple):
    """What `ParallelExecutor.execute_with_errors` returns."""

    successes: list[Any]
    failures: list[TaskFailure]


class ParallelExecutor(ThreadPoolExecutor):
    """A `concurrent.futures.Executor` on threads, with a limit.

    It keeps the contract of `concurrent.futures.ThreadPoolExecutor`, exit behaviour
    included: what has been submitted is done before the interpreter ends. It counts as
    one, so that ``loop.set_default_executor`` takes it. Beyond it:

    - any limit may be put on it, and changed while it runs;
    - functions see the context variables of their submitter;
    - a function that waits for another of the same pool lends it its place, so that a
      full pool does not wait for itself;
    - `max_pending` bounds what waits: `submit` then blocks;
    - after a fork the child's copy is empty and works.

    Args:
        max_workers: The most threads; as for ThreadPoolExecutor by default.
        thread_name_prefix: Begins the names of the threads.
        initializer: Called first in each thread; if it raises, the pool is broken.
        initargs: Its arguments.
        concurrency: A limit beside `max_workers`: a number or any limit, which may be
            shared with others.
        max_pending: How many calls may wait; `submit` blocks beyond. None: any number.

    Raises:
        ConfigError: An argument cannot be used.

    **Thread safety:** yes.
    """

    # A subclass for what it is taken for: asyncio asks for that. Nothing of the base class is
    # used: its `__init__` is not called, and its attributes are made here of our own.

    @only_known
    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        concurrency: int | Limit | None = None,
        max_pending: int | None = None,
    ) -> None:
        given: Any = max_workers
        if max_workers is None:
            max_workers = min(32, (processors() or 1) + 4)
        elif isinstance(given, int) and given <= 0:
            raise checks.refuse("max_workers", max_workers, "greater than 0")
        if initializer is not None and not is_function(initializer):
            raise checks.refuse("initializer", initializer, "a function")
        workers = ConcurrencyLimiter(checks.count("max_workers", max_workers))
        self._max_workers = max_workers
        self._limit: Limit = workers
        if concurrency is not None:
            self._limit = AllOf(workers, many.limit_of(concurrency))
        self._prefix = thread_name_prefix or f"{type(self).__name__}-{next(_names)}"
        self._initialize = (
            None if initializer is None else partial(_initialize, initializer, initargs)
        )
        self._max_pending = max_pending
        if max_pending is not None:
            checks.count("max_pending", max_pending)
        self._lock = threading.RLock()  # guards `_closed`, against a submit that comes late
        self._reset()
        with _executors_lock:
            _executors.add(self)

    def _reset(self) -> None:
        """Start anew, without tasks and threads: when made, and in a forked child."""
        numbers = itertools.count()
        prefix = self._prefix
        self._closed = False
        self._indices = itertools.count()
        self._room = None if self._max_pending is None else threading.Semaphore(self._max_pending)
        self._run = Run(
            self._limit,
            background=True,
            label="ParallelExecutor",
            thread_name=lambda: f"{prefix}_{next(numbers)}",
            initialize=self._initialize,
        )
        self._run.parent = None
        _runs.add(self._run)
        # A forgotten pool ends its threads when its work is done.
        self._finalizer = weakref.finalize(self, self._run.close)
        self._finalizer.atexit = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Have a function called; see `concurrent.futures.Executor.submit`.

        Raises:
            ExecutorClosedError: The pool, or the interpreter, is shutting down.
            BrokenThreadPool: An initializer has raised.

        **Blocking:** only beyond `max_pending`, and never inside of a task of the pool.
        """
        base.refuse_reentry()
        future: Future[T] = LendingFuture()
        task = Task(next(self._indices), Call(partial(fn, **kwargs) if kwargs else fn, args))
        task.context = copy_context()
        task.parent = base.current.get()
        task.future = future
        room = self._room
        if room is not None:
            inside = (
                isinstance(task.parent, Task) and getattr(task.parent, "run", None) is self._run
            )
            if not room.acquire(blocking=not inside):
                room = None
        with self._lock:
            refusal = self._refusal()
            if refusal is None:
                if room is not None:
                    future.add_done_callback(lambda _: room.release())
                self._run.begin([task], last=False)
                return future
        if room is not None:
            room.release()
        raise refusal

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Call a function for the items of `iterables`; see `concurrent.futures.Executor.map`.

        Args:
            fn: Takes one item of each iterable.
            *iterables: Read at once, or as far as `buffersize` says.
            timeout: Seconds from this call after which a value that is asked for raises
                TimeoutError. None: no limit.
            chunksize: Without effect, as for ThreadPoolExecutor.
            buffersize: How many calls may be ahead of the values that were asked for.
                None: any number.
        """
        if buffersize is None:
            return super().map(fn, *iterables, timeout=timeout, chunksize=chunksize)
        checks.count("buffersize", buffersize)
        return self._map_buffered(fn, zip(*iterables), timeout, buffersize)  # noqa: B905

    def _map_buffered(
        self,
        fn: Callable[..., T],
        calls: Iterator[tuple[Any, ...]],
        timeout: float | None,
        size: int,
    ) -> Iterator[T]:
        end = None if timeout is None else self._run.clock.now() + timeout
        ahead = deque(self.submit(fn, *args) for args in itertools.islice(calls, size))

        def values() -> Iterator[T]:
            try:
                while ahead:
                    left = None if end is None else end - self._run.clock.now()
                    value = ahead[0].result(left)
                    ahead.popleft()
                    ahead.extend(self.submit(fn, *args) for args in itertools.islice(calls, 1))
                    yield value
            finally:
                for future in ahead:
                    future.cancel()

        return values()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; see `concurrent.futures.Executor.shutdown`.

        Args:
            wait: Whether to return only when all calls have ended.
            cancel_futures: Whether those that have not begun are cancelled.

        Raises:
            RuntimeError: `wait` inside of a call of this pool, which would wait for itself.
                The pool takes no more calls all the same.
        """
        with self._lock:
            self._closed = True
        if cancel_futures:
            self._run.cancel_futures()
        self._run.close()
        if wait:
            self._run.join()

    # What others look at of a ThreadPoolExecutor.

    @property
    def _threads(self) -> set[threading.Thread]:  # type: ignore[override]
        self._run.settle_down()
        return self._run.threads()

    @property
    def _broken(self) -> bool:  # type: ignore[override]
        return self._run.failure is not None

    @property
    def _shutdown(self) -> bool:  # type: ignore[override]
        return self._closed

    @takes(ManyOptions, **DEFAULTS)
    def execute_with_errors(
        self, tasks: Iterable[TaskLike], **options: Unpack[ManyOptions]
    ) -> ExecutedWithErrors:
        """Run tasks under the limit of the pool; return what succeeded and what failed.

        Args:
            tasks: As for `parallel_exec.all`.
            **options: See `ManyOptions`.

        Returns:
            A pair: the values of the tasks that succeeded, in task order, and a
            `TaskFailure` (index, error) for each of the others.

        **Blocking:** until every task has ended.
        """
        check("execute_with_errors", options, KNOWN)
        outcomes = many.all_settled(tasks, **self._options(options))
        failures = [
            TaskFailure(outcome.index, outcome.reason)
            for outcome in outcomes
            if outcome.reason is not None
        ]
        return ExecutedWithErrors(outcomes.values(), failures)

    @takes(ManyOptions, **DEFAULTS)
    def execute_with_retry(
        self, tasks: Iterable[TaskLike], max_retries: int = 3, **options: Unpack[ManyOptions]
    ) -> list[Any]:
        """Run tasks under the limit of the pool, each up to ``max_retries + 1`` times.

        The waits between the tries of a task are 1, 2, 3, ... seconds. Any `Exception`
        is tried again, also of a command that ran: for `retry=` that decides better,
        use `parallel_exec.all`.

        Args:
            tasks: As for `parallel_exec.all`.
            max_retries: How many tries follow a first that failed.
            **options: See `ManyOptions`.

        Returns:
            The values, in task order.

        Raises:
            BaseException: The first task that failed for good; the rest is stopped.
        """
        check("execute_with_retry", options, {*KNOWN, "max_retries"})
        checks.count("max_retries", max_retries, minimum=0)
        retry = Retry(attempts=max_retries + 1, wait=float, on=Exception)
        with_retry: ManyOptions = {"retry": retry, **self._options(options)}
        return many.all(tasks, **with_retry)

    def _options(self, options: ManyOptions) -> ManyOptions:
        with self._lock:
            refusal = self._refusal()
        if refusal is not None:
            raise refusal
        return {"concurrency": self._limit, **options}

    def _refusal(self) -> Exception | None:
        if self._run.failure is not None:
            return BrokenThreadPool("the initializer of a thread raised; see the log")
        if self._closed:
            return ExecutorClosedError("cannot schedule new futures after shutdown")
        if _exiting:
            return ExecutorClosedError("cannot schedule new futures after interpreter shutdown")
        return None


def _initialize(initializer: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    """Call an initializer. One that raises is logged where `ThreadPoolExecutor` logs it, too:
    if somebody listens there, since without that it would be told twice.
    """
    try:
        initializer(*arguments)
    except BaseException:
        if theirs.hasHandlers():
            theirs.critical("Exception in initializer:", exc_info=True)
        raise


class LendingEvent(threading.Event):
    """An event whose waiter, if it is a task itself, lends its place while it waits."""

    def wait(self, timeout: float | None = None) -> bool:
        """See `threading.Event.wait`."""
        place = None if self.is_set() else base.current.get()
        base.lend(place)
        try:
            return super().wait(timeout)
        finally:
            base.lend_no_more(place)


class Waiters(list[Any]):
    """Those who wait for several futures at once: `concurrent.futures.wait` and `as_completed`
    put an object with an event there, and wait for that.
    """

    def append(self, waiter: Any) -> None:
        """Take a waiter, and have its thread lend its place while it waits."""
        event = getattr(waiter, "event", None)
        if type(event) is threading.Event and not event.is_set():
            waiter.event = LendingEvent()  # it waits for none yet: this is called before that
        super().append(waiter)


class LendingFuture(TaskFuture[T]):
    """A future whose waiter, if it is a task itself, lends its place while it waits."""

    def __init__(self) -> None:
        super().__init__()
        self._waiters = Waiters()

    def result(self, timeout: float | None = None) -> T:
        """See `concurrent.futures.Future.result`."""
        place = None if self.done() else base.current.get()
        base.lend(place)
        try:
            return super().result(timeout)
        finally:
            base.lend_no_more(place)
            del self, place  # the traceback of what it raises holds this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """See `concurrent.futures.Future.exception`."""
        place = None if self.done() else base.current.get()
        base.lend(place)
        try:
            return super().exception(timeout)
        finally:
            base.lend_no_more(place)
            del self, place


_executors: weakref.WeakSet[ParallelExecutor] = weakref.WeakSet()
_executors_lock = threading.Lock()
_runs: weakref.WeakSet[Run] = weakref.WeakSet()  # also those of pools that were forgotten
_exiting = False


def _drain_at_exit() -> None:
    """Do what has been submitted, as the standard library's executors do."""
    global _exiting
    _exiting = True
    for run in list(_runs):
        run.close()
    for run in list(_runs):
        run.drain()


def _after_fork_in_child() -> None:
    global _executors_lock
    _executors_lock = threading.Lock()
    _runs.clear()
    for executor in list(_executors):
        executor._lock = threading.RLock()
        closed = executor._closed
        executor._finalizer.detach()
        executor._reset()
        executor._closed = closed


# This hook runs before the interpreter joins its threads, `atexit` after; it is the one
# that the standard library's executors use.
threading._register_atexit(_drain_at_exit)  # type: ignore[attr-defined]
lifecycle.at_fork("executors", _after_fork_in_child)
