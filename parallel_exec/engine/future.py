"""The futures that tasks settle."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import TYPE_CHECKING, Any, TypeVar

from parallel_exec import reactor
from parallel_exec.values.result import Result

if TYPE_CHECKING:
    from parallel_exec.engine.task import Task

__all__ = ["CommandFuture", "TaskFuture", "settle"]

T = TypeVar("T")


def settle(future: Future[Any], task: Task) -> None:
    """Settle `future` as `task` ended. Its callbacks run in this thread."""
    try:
        if isinstance(future, CommandFuture) and future.ends_cancelled():
            Future.cancel(future)
            future.set_running_or_notify_cancel()  # tells those who wait for several
        elif task.error is None:
            future.set_result(task.value)
        elif not task.attempt and isinstance(task.error, CancelledError) and future.cancel():
            future.set_running_or_notify_cancel()  # tells those who wait for several
        else:
            future.set_exception(task.error)
    except InvalidStateError:
        # It was cancelled before; those who wait for several futures are told now.
        if future.cancelled() and not task.attempt:
            future.set_running_or_notify_cancel()
    finally:
        # It is the future's now. Whoever has begun the task may still refer to that.
        task.value = task.error = task.future = None


class TaskFuture(Future[T]):
    """A future that the service thread can settle without running its callbacks there:
    a callback may block, or call the library again.

    One lock: it guards whether there are callbacks, and in `CommandFuture` how it will be
    settled; no callback is called while it is held.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.RLock()  # a signal handler may call what its thread is in
        self._has_callbacks = False

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """See `concurrent.futures.Future.add_done_callback`."""

        def call(future: Future[T]) -> None:
            try:
                fn(future)
            except Exception:
                raise  # the base class logs it
            except BaseException:  # it would lose the callbacks that follow
                reactor.report("a callback of a future raised: %r", fn)

        with self._lock:
            self._has_callbacks = True
        super().add_done_callback(call)

    def result(self, timeout: float | None = None) -> T:
        """See `concurrent.futures.Future.result`."""
        if timeout is None and not self.done():
            reactor.refuse_when_finalizing()
        try:
            return super().result(timeout)
        finally:
            del self  # the traceback of what it raises holds this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """See `concurrent.futures.Future.exception`."""
        if timeout is None and not self.done():
            reactor.refuse_when_finalizing()
        return super().exception(timeout)

    def settle_without_callbacks(self, task: Task) -> None:
        """Settle it here if nobody has to be called back, else in a thread of its own."""
        with self._lock:
            if not self._has_callbacks:
                settle(self, task)
                return
        thread = reactor.Thread(
            target=settle, args=(self, task), name="parallel_exec callbacks", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # out of threads: late is better than never
            loop = reactor.get()
            loop.call_at(loop.now() + 0.05, self.settle_without_callbacks, task)


class CommandFuture(TaskFuture[Result]):
    """The future of a command that runs; what `submit` returns.

    It is like any of `concurrent.futures`, except that it can be ended: `cancel` and `stop`
    end the command (TERM, after `kill_after` KILL, with all that it started) and return at
    once. The future is done when nothing of it is left. So it works with `asyncio`, too:
    ``await asyncio.wait_for(asyncio.wrap_future(px.submit(...)), 1)`` leaves nothing behind.

    **Thread safety:** yes; both can be called from a signal handler.
    """

    # The state of the base class stays "pending" while the command runs: only from there can
    # a future become cancelled when the command has ended.

    def __init__(self) -> None:
        super().__init__()
        self._end: Callable[[str], object] | None = None  # asks the command to end
        self._cancel_asked = False
        self._settling = False

    def ended_by(self, end: Callable[[str], object]) -> None:
        """Say how the command is asked to end."""
        self._end = end

    def running(self) -> bool:
        """Return whether the command has not ended."""
        return not self.done()

    def stop(self) -> bool:
        """Begin to end the command. Then the future holds a `TaskCancelledError`, whose
        `result` has what the command had printed; or the result, if it ends by itself
        before that.

        Returns:
            Whether it had not ended yet. At once; wait with `exception()`.
        """
        return self._ask("the command was stopped", cancel=False)

    def cancel(self) -> bool:
        """Begin to end the command. Then the future is cancelled: `cancelled()` is True, and
        `result()` raises `concurrent.futures.CancelledError`.

        Returns:
            Whether it will be, or is, cancelled; False if it was done before. At once; wait
            with `concurrent.futures.wait`.
        """
        return self._ask("the command was cancelled", cancel=True)

    def _ask(self, reason: str, *, cancel: bool) -> bool:
        with self._lock:
            if self._settling or self.done():
                return cancel and (self._cancel_asked or self.cancelled())
            self._cancel_asked = self._cancel_asked or cancel
            end = self._end
        if end is not None:
            end(reason)
        return True

    def ends_cancelled(self) -> bool:
        """Return whether it was cancelled. From then on it cannot be any more: the caller
        settles it.
        """
        with self._lock:
            self._settling = True
            self._end = None  # it refers to the run, which refers to this
            return self._cancel_asked
