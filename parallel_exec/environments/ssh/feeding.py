"""What a command reads on its way there: orders, input, the end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from parallel_exec import reactor
from parallel_exec.environments import room, threads
from parallel_exec.environments.base import Stop
from parallel_exec.environments.input import FileReader
from parallel_exec.values.secret import Hidden

__all__ = ["CHUNK", "Input"]

CHUNK = 256 * 1024  # bytes of input that are read from a file at once


def _nothing() -> None:
    """Nobody waits for more."""


class Input:
    """What a command reads: orders first, then bytes or a file, then the end.

    It belongs to the command's thread. A file that may block is read by a thread of its
    own, one chunk ahead.

    Args:
        first: What can go at once.
        gates: What may only go when a gate is opened, one after the other; the data
            follow the last.
        data: The command's own input.
        tail: What ends it, on a terminal.
        poke: Called when a chunk has been read ahead.
    """

    def __init__(
        self,
        first: Hidden,
        gates: list[Hidden],
        data: Hidden | FileReader,
        tail: bytes,
        poke: Callable[[], object],
    ) -> None:
        self._now = memoryview(first.reveal())
        self._gates = gates
        self._poke = poke
        self._tail = tail
        self._data = bytes(data.reveal()) if isinstance(data, Hidden) else b""
        self._file = None if isinstance(data, Hidden) else data
        self._next: bytes | None = None  # from the thread that reads a file
        self._ended = self._file is None
        self.error: Exception | None = None
        self._wanted = threading.Semaphore(0)
        self._closed = False
        self._wakes: tuple[int, int] | None = None  # a pipe: closed here, its reader looks up
        self._reads_ahead = False  # by a thread
        if self._file is not None and not self._file.at_hand:
            self._reads_ahead = True
        if not gates:
            self._begin_data()

    def begin(self, stop: Stop, strained: Callable[[BaseException], object]) -> bool:
        """Begin to read ahead, if that needs a thread; return False if stopped before.

        Where the system is out of descriptors or threads, it waits while others may give
        theirs back.

        Raises:
            OSError: The system is out of descriptors, and nothing of ours can end.
            RuntimeError: The interpreter exits: no thread starts any more.
        """
        if not self._reads_ahead:
            return True
        assert self._file is not None
        while self._file.waits and self._wakes is None:
            try:
                self._wakes = os.pipe()
            except OSError as error:
                strained(error)
                if not room.get().pause(stop.wait, own=1):
                    raise
                if stop.reason is not None:
                    return False
        wanted_by = -1 if self._wakes is None else self._wakes[1]

        def make() -> threading.Thread:
            return reactor.Thread(
                target=self._read_ahead,
                args=(wanted_by,),
                name="parallel_exec input",
                daemon=True,
            )

        thread = None
        try:
            thread = threads.start(make, stop, strained)
        finally:
            if thread is None and wanted_by >= 0:
                os.close(wanted_by)
        return thread is not None

    @property
    def last(self) -> bool:
        """Whether nothing follows what `peek` shows."""
        return (
            self._ended
            and self._next is None
            and self.error is None
            and not self._data
            and not self._tail
            and not self._gates
        )

    def add(self, data: Hidden) -> None:
        """Have `data` go before the next gate."""
        self._now = memoryview(bytes(self._now) + bytes(data.reveal()))

    def open_gate(self) -> None:
        """Let go what waits behind the next gate."""
        self.add(self._gates.pop(0))
        if not self._gates:
            self._begin_data()

    def ready(self) -> bool:
        """Return whether there is something to send, the end included."""
        if self._now:
            return True
        if self._gates or self.error is not None:  # no end where it broke off
            return False
        return not self._reads_ahead or self._next is not None or self._ended

    def peek(self) -> Hidden:
        """Return what comes next, as much as is at hand."""
        if not self._now and not self._gates:
            self._refill()
        return Hidden(self._now)

    def sent(self, size: int) -> None:
        """Note how much of what `peek` returned has gone."""
        self._now = self._now[size:]

    def _begin_data(self) -> None:
        # Little goes along with what is before it; much is not copied for that.
        if self._file is None and len(self._data) <= CHUNK:
            self._now = memoryview(b"".join((self._now, self._data, self._tail)))
            self._data = self._tail = b""

    def close(self) -> None:
        """Want nothing more."""
        self._closed = True
        self._poke = _nothing
        self._wanted.release()
        if self._wakes is not None:
            os.close(self._wakes[0])
            self._wakes = None

    def _refill(self) -> None:
        if self._data:
            self._now, self._data = memoryview(self._data), b""
        elif self._reads_ahead:
            data, self._next = self._next, None
            if data is not None:
                self._now = memoryview(data)
                self._wanted.release()
        elif not self._ended:
            data = self._read(-1)
            self._now = memoryview(data)
            self._ended = not data
        if not self._now and self._ended and self._next is None and self.error is None:
            self._now, self._tail = memoryview(self._tail), b""

    def _read(self, wanted_by: int) -> bytes:
        assert self._file is not None
        try:
            return self._file.read(wanted_by)
        except Exception as error:
            self.error = error
            return b""

    def _read_ahead(self, wanted_by: int) -> None:
        try:
            while not self._closed:
                data = self._read(wanted_by)
                if not data:
                    break
                self._next = data
                self._poke()
                self._wanted.acquire()
        finally:
            if wanted_by >= 0:
                os.close(wanted_by)
            self._ended = True
            self._poke()
