"""Input that may block is read by a thread of its own.

A live feed gives its next item when it likes. Results, deadlines and cancels do not wait for
it: the calling thread waits for results alone, and this thread for the input. It reads one
item after the other, no further than there is room, in a copy of the caller's context.

When the run ends before its input does, the thread is told to stop. One that still blocks in
the input is left: it is a daemon, reads nothing more, and what it was waiting for is dropped.
Commands that the input itself runs are ended, as those of a task that is cancelled.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextvars import Context
from typing import TYPE_CHECKING

from parallel_exec.engine.cancel import CancelToken
from parallel_exec.limits import base
from parallel_exec.limits.base import Request
from parallel_exec.reactor import Thread

if TYPE_CHECKING:
    from parallel_exec.engine.task import Task

__all__ = ["Reader"]

GRACE_S = 0.05  # how long an item that is being read is waited for at the end
ENDING_S = 1.0  # the same for a thread that is not in the input: it is about to end


class Place(Request):
    """The place under which input is read: it holds none of a limit, and can be cancelled."""

    __slots__ = ("_token",)

    def __init__(self, parent: Request | None) -> None:
        super().__init__()
        self.parent = parent
        self._token = CancelToken()

    def token(self) -> CancelToken:
        """Return the token that the code of the input sees."""
        return self._token


class Reader:
    """Reads the tasks of a run.

    Args:
        tasks: The input.
        room: Asked how many more may be read now.
        hand_over: Called with each task, and with none when there will be no more.
        ring: Wakes the calling thread, to look at `over`.
        context: Where the input is read: it belongs to this thread from now on.

    Attributes:
        over: Whether nothing more will be read.
        error: What reading raised, or None.
        here: Whether there is no thread to be had, so that the calling thread reads.

    Only the thread changes `over` and `error`, only the calling thread the rest; a bool that is
    seen late costs one more look.
    """

    def __init__(
        self,
        tasks: Iterator[Task],
        *,
        room: Callable[[], int],
        hand_over: Callable[[list[Task], bool], None],
        ring: Callable[[], None],
        context: Context,
        parent: Request | None,
    ) -> None:
        self._tasks = tasks
        self._room = room
        self._hand_over = hand_over
        self._ring = ring
        self._context = context
        self._place = Place(parent)
        self._thread: threading.Thread | None = None
        self._gate = threading.Lock()  # released to wake the thread
        self._gate.acquire()
        self._ended = threading.Lock()  # released when the thread has done all it does
        self._ended.acquire()
        self._waiting = False  # whether the thread waits for room
        self._inside = False  # whether it is in the input,
        self._since = 0.0  # and since when
        self._stopped = False
        self._left = False
        self.over = False
        self.here = False
        self.error: BaseException | None = None

    def start(self) -> None:
        """Begin to read. In the service thread, which no interrupt hits."""
        if self._stopped:
            return
        thread = Thread(target=self._run, name="parallel_exec input")
        self._thread = thread
        try:
            thread.start()
        except RuntimeError:  # out of threads, or the interpreter exits
            self._thread = None
            self.here = True
            self._ring()

    def read_here(self) -> bool:
        """Read the next task in the calling thread, if there is room; return whether it has."""
        if self.over or self._room() <= 0:
            return False
        self._context.run(self._read_one)
        return True

    def wake(self, enough: int) -> None:
        """Have the thread go on, if it waits and there is room for `enough`."""
        if self._waiting and self._room() >= enough:
            self._wake()

    def stop(self) -> None:
        """Have it read no more; wait for the item that is being read, but not for one that
        blocks. Idempotent; after an interrupt it can be called again.
        """
        self._stopped = True
        self._place.token().cancel("the call whose input this is has ended")
        self._wake()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        patience = ENDING_S
        if self._inside:
            patience = max(0.0, GRACE_S - (time.monotonic() - self._since))
        if self._ended.acquire(timeout=patience):
            self._ended.release()
            thread.join()
        else:
            self._left = True

    def _wake(self) -> None:
        try:
            self._gate.release()
        except RuntimeError:
            pass  # it has been woken already

    # In the thread

    def _run(self) -> None:
        try:
            self._context.run(self._read)
        finally:
            self.over = True
            self._ring()
            self._ended.release()
            del self  # what the input raised refers to this frame

    def _read(self) -> None:
        base.current.set(self._place)
        while not self._stopped and not self.over:
            if self._room() > 0:
                self._read_one()
                continue
            self._waiting = True
            if self._room() <= 0 and not self._stopped:  # it may have come just before
                self._gate.acquire()
            self._waiting = False

    def _read_one(self) -> None:
        self._since = time.monotonic()
        self._inside = True
        try:
            task = next(self._tasks, None)
        except BaseException as error:
            # Without this frame, which has the reader, and that the error.
            traceback = error.__traceback__
            self.error = BaseException.with_traceback(error, traceback and traceback.tb_next)
            self.over = True
            return
        finally:
            self._inside = False
        if self._left:
            return
        if task is None:
            self.over = True
            self._hand_over([], True)
        else:
            self._hand_over([task], False)
