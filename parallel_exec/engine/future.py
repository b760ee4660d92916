"""The futures that tasks settle."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import TYPE_CHECKING, Any, TypeVar

from parallel_exec import reactor

if TYPE_CHECKING:
    from parallel_exec.engine.task import Task

__all__ = ["TaskFuture", "settle"]

log = logging.getLogger("parallel_exec")

T = TypeVar("T")


def settle(future: Future[Any], task: Task) -> None:
    """Settle `future` as `task` ended. Its callbacks run in this thread."""
    try:
        if task.error is None:
            future.set_result(task.value)
        elif not task.attempt and isinstance(task.error, CancelledError) and future.cancel():
            future.set_running_or_notify_cancel()  # tells those who wait for several
        else:
            future.set_exception(task.error)
    except InvalidStateError:
        # It was cancelled before; those who wait for several futures are told now.
        if future.cancelled() and not task.attempt:
            future.set_running_or_notify_cancel()


class TaskFuture(Future[T]):
    """A future that the service thread can settle without running its callbacks there:
    a callback may block, or call the library again.

    One lock: it guards whether there are callbacks; none is called while it is held.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._has_callbacks = False

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """See `concurrent.futures.Future.add_done_callback`."""

        def call(future: Future[T]) -> None:
            try:
                fn(future)
            except Exception:
                raise  # the base class logs it
            except BaseException:  # it would lose the callbacks that follow
                log.exception("a callback of a future raised: %r", fn)

        with self._lock:
            self._has_callbacks = True
        super().add_done_callback(call)

    def settle_without_callbacks(self, task: Task) -> None:
        """Settle it here if nobody has to be called back, else in a thread of its own."""
        with self._lock:
            if not self._has_callbacks:
                settle(self, task)
                return
        thread = threading.Thread(
            target=settle, args=(self, task), name="parallel_exec callbacks", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # out of threads: late is better than never
            loop = reactor.get()
            loop.call_at(loop.now() + 0.05, self.settle_without_callbacks, task)
