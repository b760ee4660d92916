"""The kinds of work: a function, a command, a future, a job for another executor."""

from __future__ import annotations

import functools
import itertools
import reprlib
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from typing import TYPE_CHECKING, Any

from parallel_exec.engine.task import PENDING, Stoppable, Task
from parallel_exec.environments.base import Backend
from parallel_exec.values.command import Command

if TYPE_CHECKING:
    from parallel_exec.engine.run import Run

__all__ = ["Broken", "Call", "Running", "Send", "Shell", "name_of", "shown_call"]

MOST_SHOWN = 5  # arguments in a label


def name_of(fn: object) -> str:
    """Return the qualified name of a function, or what comes closest."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    try:
        name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
        return str(name).replace("<locals>.", "")
    except Exception:  # it is somebody's property
        return type(fn).__qualname__


def shown_call(fn: object, args: tuple[Any, ...] = ()) -> str:
    """Return the label of a function that is called with `args`: ``fetch('page', depth=2)``.

    What a partial holds already comes first. Arguments are shortened. A function without
    any is its name alone.
    """
    named: dict[str, Any] = {}
    while isinstance(fn, functools.partial):
        args = (*fn.args, *args)
        named = {**fn.keywords, **named}
        fn = fn.func
    shown = [_shown(value) for value in args]
    shown += [f"{name}={_shown(value)}" for name, value in named.items()]
    if len(shown) > MOST_SHOWN:
        shown[MOST_SHOWN:] = ["..."]
    return f"{name_of(fn)}({', '.join(shown)})" if shown else name_of(fn)


def _shown(value: object) -> str:
    try:
        return reprlib.repr(value)
    except Exception:  # of a __repr__ that gives no string; a label is not worth a failure
        return f"<{type(value).__name__}>"


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
        return self._label or shown_call(self._fn, self._args)


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

    __slots__ = ("_future", "_label")

    threaded = False
    abandonable = True
    exempt = True
    is_command = False
    timeout = None

    def __init__(self, future: Future[Any], label: str | None = None) -> None:
        self._future = future
        self._label = label or "future"

    def call(self, task: Task) -> Any:
        raise NotImplementedError

    def start(self, task: Task) -> Stoppable:
        _follow(self._future, task)
        return _Cancellable(self._future)

    def label(self) -> str:
        return self._label


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
        _follow(future, task, takes_back=not _is_dask(self._executor))
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

    def __init__(self, error: Exception, label: str) -> None:
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


def _is_dask(executor: Executor) -> bool:
    """Return whether the futures of `executor` can be cancelled although they run: Dask never says
    that one has begun, and what has begun goes on at its worker.
    """
    return type(executor).__module__.partition(".")[0] == "distributed"


def _follow(future: Future[Any], task: Task, *, takes_back: bool = True) -> None:
    """Report the end of `future` as the end of this try of `task`.

    Args:
        future: Ends with what the task is for.
        task: Whose try it is.
        takes_back: Whether one that could be cancelled had not begun. Else it may still run, and
            the task is abandoned.
    """
    future.add_done_callback(_Follower(task, takes_back))


class _Follower:
    """Reports the end of a future as the end of a try. The future keeps it for good, so it lets
    go of the task: in a circle, what the future gave would wait for the cycle collector.
    """

    __slots__ = ("_of", "_takes_back")

    def __init__(self, task: Task, takes_back: bool) -> None:
        self._of: tuple[Run, Task, int] | None = task.run, task, task.attempt
        self._takes_back = takes_back

    def __call__(self, future: Future[Any]) -> None:
        of, self._of = self._of, None
        assert of is not None
        run, task, attempt = of
        value: Any = None
        error: BaseException | None
        # Asked for, not raised: a traceback would hold this frame, and with it the task.
        try:
            if future.cancelled():
                error = CancelledError()
            else:
                error = future.exception(timeout=0)
                if error is None:
                    value = future.result(timeout=0)
        except BaseException as raised:  # it is somebody else's class of future
            error = raised
        if not self._takes_back and task.ending is not None and future.cancelled():
            # Then its place is given back by what follows: nothing will tell of its end.
            run.clock.post(run.give_up, task, attempt, "was given up and may still run there")
        run.clock.post(run.attempt_ended, task, attempt, value, error)
