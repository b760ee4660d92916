"""The kinds of work: a function, a command, a future, a job for another executor."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from parallel_exec.engine.task import PENDING, Stoppable, Task
from parallel_exec.environments.base import Backend
from parallel_exec.errors import ConfigError
from parallel_exec.values.command import Command

__all__ = ["Broken", "Call", "Running", "Send", "Shell", "name_of"]


def name_of(fn: object) -> str:
    """Return the qualified name of a function, or what comes closest."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__qualname__", None) or getattr(type(fn), "__qualname__", "?")
    return str(name).replace("<locals>.", "")


class Call:
    """A function and its arguments; it gets a thread."""

    __slots__ = ("_args", "_fn", "_label", "timeout")

    threaded = True
    abandonable = True
    exempt = False
    is_command = False

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...] = (),
        *,
        label: str | None = None,
        timeout: float | None = None,
    ) -> None:
        self._fn = fn
        self._args = args
        self._label = label
        self.timeout = timeout

    def call(self, task: Task) -> Any:
        return self._fn(*self._args)

    def start(self, task: Task) -> Stoppable:
        raise NotImplementedError

    def label(self) -> str:
        return self._label or name_of(self._fn)


class Shell:
    """A command in an environment."""

    __slots__ = ("_backend", "_command", "timeout")

    threaded = False
    abandonable = False
    exempt = False
    is_command = True

    def __init__(self, command: Command, backend: Backend) -> None:
        self._command = command
        self._backend = backend
        self.timeout = command.timeout

    @property
    def host(self) -> str:
        """The name of the environment, for limits by host."""
        return self._backend.name

    def call(self, task: Task) -> Any:
        raise NotImplementedError

    def start(self, task: Task) -> Stoppable:
        return self._backend.start(self._command, task)

    def label(self) -> str:
        return str(self._command)


class Running:
    """A future of somebody else's, which runs already; no limit applies."""

    __slots__ = ("_future",)

    threaded = False
    abandonable = True
    exempt = True
    is_command = False
    timeout = None

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def call(self, task: Task) -> Any:
        raise NotImplementedError

    def start(self, task: Task) -> Stoppable:
        _follow(self._future, task)
        return _Cancellable(self._future)

    def label(self) -> str:
        return "future"


class Send:
    """A function that another executor calls. Handing it over may block: it gets a thread
    for as long as that takes.
    """

    __slots__ = ("_args", "_executor", "_fn", "_label", "is_command", "timeout")

    threaded = True
    abandonable = True
    exempt = False

    def __init__(
        self,
        executor: Executor,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        *,
        label: str,
        is_command: bool = False,
        timeout: float | None = None,
    ) -> None:
        self._executor = executor
        self._fn = fn
        self._args = args
        self._label = label
        self.is_command = is_command
        self.timeout = timeout

    def call(self, task: Task) -> Any:
        # The number makes every call another: an executor that takes functions for pure
        # (dask) would run equal ones once.
        future = self._executor.submit(_call_there, next(_sent), self._fn, *self._args)
        task.execution = _Cancellable(future)
        if task.ending is not None:
            task.execution.end(task.ending)
        _follow(future, task)
        return PENDING

    def start(self, task: Task) -> Stoppable:
        raise NotImplementedError

    def label(self) -> str:
        return self._label


_sent = itertools.count()


def _call_there(number: int, fn: Callable[..., Any], *args: Any) -> Any:
    """Call a function, in whatever process this is."""
    return fn(*args)


class Broken:
    """Something that is no task: it fails when its turn comes, and harms no other."""

    __slots__ = ("_error", "_label")

    threaded = False
    abandonable = False
    exempt = True
    is_command = False
    timeout = None

    def __init__(self, error: ConfigError, label: str) -> None:
        self._error = error
        self._label = label

    def call(self, task: Task) -> Any:
        raise NotImplementedError

    def start(self, task: Task) -> Stoppable:
        task.run.clock.post(task.run.ended, task, None, self._error)
        return task

    def label(self) -> str:
        return self._label


class _Cancellable:
    """A future as something that can be asked to end."""

    __slots__ = ("_future",)

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def end(self, reason: object) -> None:
        self._future.cancel()

    def kill(self) -> None:
        self._future.cancel()


def _follow(future: Future[Any], task: Task) -> None:
    """Report the end of `future` as the end of this try of `task`."""
    run, attempt = task.run, task.attempt

    def done(future: Future[Any]) -> None:
        try:
            value, error = future.result(timeout=0), None
        except BaseException as raised:
            value, error = None, raised
        run.clock.post(run.attempt_ended, task, attempt, value, error)

    future.add_done_callback(done)
