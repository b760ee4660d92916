"""What has a `close` is a context manager."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Generator
from types import TracebackType
from typing import Any, Self

__all__ = ["Closing", "Forgettable"]


class Closing:
    """Gives a class with `close` the ``with`` statement, which calls it at the end."""

    def close(self) -> None:
        """End what still runs, give back what is held. Idempotent."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Forgettable(Closing):
    """Gives what a generator gives. Is closed when it is forgotten: by the ``break`` out of a
    loop over it, for example.

    A KeyboardInterrupt that comes meanwhile is raised again, in the code that goes on: what is
    raised in a finalizer is lost.
    """

    _values: Generator[Any, None, None] | None = None  # until it is made
    _late: object = None

    def close(self) -> None:
        """End what still runs, and wait for that. Idempotent."""
        if self._values is not None:
            self._values.close()

    def __del__(self) -> None:
        try:
            self.close()
        except KeyboardInterrupt as error:
            if threading.current_thread() is not threading.main_thread():
                raise
            error.with_traceback(None)  # whose frames hold this object
            self._late = _Interrupt()


class _Interrupt:
    """Interrupts the main thread when it is let go.

    The attributes of an object are let go when its finalizer has returned. A finalizer that is
    a function in C runs no Python code in which the interrupt could be raised; so it is raised
    in the code that let the object go.
    """

    __slots__ = ()

    __del__ = _thread.interrupt_main
