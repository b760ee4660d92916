"""Asking work to stop."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from parallel_exec.errors import TaskCancelledError
from parallel_exec.limits.base import current
from parallel_exec.reactor import refuse_when_finalizing, report
from parallel_exec.values import checks

__all__ = ["CancelToken"]


class CancelToken:
    """Stops the work it was given to, from any thread or signal handler.

    Give it as ``cancel=`` to any function that runs many, then call `cancel`: running
    commands are ended, running functions see their own token set, what has not begun
    is skipped. A function learns of it by ``CancelToken.current()``.

    A token is for one use: once set it stays set, and work that is given a set token
    ends before it begins.

    **Thread safety:** yes; takes no lock, so that `cancel` can be called anywhere.
    """

    __slots__ = ("__weakref__", "_callbacks", "_cancelled", "_drained", "_reason", "_starters")

    def __init__(self) -> None:
        self._cancelled = False
        self._drained = False  # whether `stop_starting` was called
        self._reason: str | None = None
        self._callbacks: deque[Callback] = deque()  # of `cancel`
        self._starters: deque[Callback] = deque()  # of `stop_starting`

    @classmethod
    def current(cls) -> CancelToken:
        """Return the token of the task that the calling function runs in.

        Outside of any task it is one that nobody sets.
        """
        place = current.get()
        while place is not None:
            token = getattr(place, "token", None)
            if token is not None:
                return token()  # type: ignore[no-any-return]
            place = place.parent
        return cls()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` has been called."""
        return self._cancelled

    @property
    def reason(self) -> str | None:
        """What `cancel` was given."""
        return self._reason

    def cancel(self, reason: str | None = None) -> None:
        """Stop the work. Returns at once; the work ends in its own time. Idempotent.

        Args:
            reason: Shown in the errors of what was stopped.
        """
        if not self._cancelled:
            self._reason = reason
            self._cancelled = True
        _call_all(self._callbacks)

    @property
    def starting_stopped(self) -> bool:
        """Whether `stop_starting` or `cancel` has been called."""
        return self._drained or self._cancelled

    def stop_starting(self, reason: str | None = None) -> None:
        """Let what runs go on, tries that follow a failure aside, and begin nothing more: what
        has not begun is skipped. Returns at once. Idempotent; `cancel` may follow and ends
        what still runs.

        Functions of many that raise then raise a `TaskCancelledError`, if anything was
        skipped; those that give outcomes give them all.

        Args:
            reason: Shown in the errors of what was skipped.
        """
        if not self.starting_stopped:
            self._reason = reason
            self._drained = True
        _call_all(self._starters)

    def raise_if_cancelled(self) -> None:
        """Do nothing, or raise.

        Raises:
            TaskCancelledError: The token has been set.
        """
        if self._cancelled:
            raise TaskCancelledError(self._reason or "the task was cancelled")

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the token is set, at most `timeout` seconds.

        Returns:
            Whether it is set.
        """
        if timeout is not None:
            timeout = checks.seconds("timeout", timeout, allow_zero=True)
        elif not self._cancelled:
            refuse_when_finalizing()
        gate = threading.Lock()
        gate.acquire()
        callback = self.on_cancel(gate.release)
        try:
            gate.acquire(timeout=-1 if timeout is None else timeout)
        finally:
            callback.close()
        return self._cancelled

    def on_cancel(self, call: Callable[[], object]) -> Callback:
        """Have `call` made when the token is set: at once, if it is.

        It is called by whoever calls `cancel`, and must not block.

        Returns:
            A handle; its `close` takes the call back.
        """
        callback = Callback(self._callbacks, call)
        self._callbacks.append(callback)
        if self._cancelled:
            _call_all(self._callbacks)
        return callback

    def on_stop_starting(self, call: Callable[[], object]) -> Callback:
        """Have `call` made when `stop_starting` is called; otherwise as `on_cancel`."""
        callback = Callback(self._starters, call)
        self._starters.append(callback)
        if self._drained:
            _call_all(self._starters)
        return callback

    def __repr__(self) -> str:
        return f"<CancelToken {'set' if self._cancelled else 'not set'}>"


def _call_all(callbacks: deque[Callback]) -> None:
    interrupt: BaseException | None = None
    while True:
        try:
            callback = callbacks.popleft()  # each is taken once, by somebody
        except IndexError:
            break
        try:
            callback.call()
        except Exception:
            report("a callback of a cancel token raised: %r", callback.call)
        except BaseException as raised:
            interrupt = interrupt or raised
    if interrupt is not None:
        raise interrupt


class Callback:
    """A call that a token makes when it is set."""

    __slots__ = ("_among", "call")

    def __init__(self, among: deque[Callback], call: Callable[[], object]) -> None:
        self._among = among
        self.call = call

    def close(self) -> None:
        """Take the call back, if it has not been made. Idempotent."""
        try:
            self._among.remove(self)
        except ValueError:
            pass
