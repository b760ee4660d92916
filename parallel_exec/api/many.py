"""Many tasks at once, as promises: all, any, race, and their outcomes."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Executor, Future
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import Any, Generic, TypedDict, TypeVar, Unpack, overload

from parallel_exec.api.closing import Forgettable
from parallel_exec.api.environments import place_of
from parallel_exec.api.tasks import Task as Given
from parallel_exec.engine.cancel import CancelToken
from parallel_exec.engine.events import Event, Listener, TaskFinished
from parallel_exec.engine.retry import RetryLike, policy
from parallel_exec.engine.run import Run
from parallel_exec.engine.scheduler import StopRule
from parallel_exec.engine.task import Task, Work
from parallel_exec.engine.work import Broken, Call, Running, Send, Shell, shown_call
from parallel_exec.errors import ConfigError
from parallel_exec.limits.base import Limit
from parallel_exec.limits.composed import is_limit
from parallel_exec.limits.fixed import ConcurrencyLimiter, Unlimited
from parallel_exec.observers import log, progress as bars
from parallel_exec.values import checks
from parallel_exec.values.command import Command, CommandLike
from parallel_exec.values.functions import is_function
from parallel_exec.values.options import check, takes
from parallel_exec.values.outcome import Outcome, Outcomes, Status, name_task, run_failed
from parallel_exec.values.result import Result

__all__ = [
    "DEFAULT_CONCURRENCY",
    "AsCompleted",
    "ManyOptions",
    "MapOptions",
    "TaskLike",
    "all",
    "all_settled",
    "any",
    "as_completed",
    "fail_safe",
    "fast_fail",
    "race",
]

DEFAULT_CONCURRENCY = 16
"""How many tasks run at once where nothing else is asked for."""

BUFFER = 16
"""How many tasks are read before their turn, and results kept until they are asked for, beyond
`concurrency`."""
READ_AHEAD = 1024  # the same of a list, where the results are wanted all at once anyway
# What can be read without waiting for anybody, by the method that reads it: a subclass that has
# one of its own may block.
KINDS: tuple[type[Any], ...] = (list, tuple, range, dict, set, frozenset)
VIEWS: tuple[type[Any], ...] = (type({}.keys()), type({}.values()), type({}.items()))
AT_HAND = tuple(kind.__iter__ for kind in KINDS + VIEWS)

COMMANDS = (str, list, tuple, Command)  # what of tasks is a command

T = TypeVar("T")
TaskLike = str | Sequence[Any] | Command | Callable[[], Any] | Future[Any] | Given
# For type checkers, which know the results where all tasks are of a kind.
Commands = Iterable[CommandLike]
Function = Callable[[], T] | Future[T]
Functions = Iterable[Function[T]]


class MapOptions(TypedDict, total=False):
    """`ManyOptions`, for functions that take `concurrency` by itself."""

    timeout: float | timedelta | None
    kill_after: float | timedelta
    deadline: float | timedelta | None
    retry: RetryLike | None
    progress: bool | Listener
    max_failures: int | str | None
    cancel: CancelToken | None
    on_outcome: Callable[[Outcome[Any]], object] | None
    on_event: Listener | None
    executor: Executor | None


class ManyOptions(MapOptions, total=False):
    """The options of everything that runs many tasks.

    Attributes:
        concurrency: How many run at once: a number, any limit (`ConcurrencyLimiter`,
            `AIMDController`, `RateLimiter`, ...), or None for no limit. By default
            `DEFAULT_CONCURRENCY`, or what the function says. A limit may be shared by
            several calls.
        timeout: Seconds for each try of a task, where the command has none of its own.
        kill_after: Seconds that a function is given to return after its timeout or a
            cancel, before it is left behind; 5 by default. Commands have their own.
        deadline: Seconds for the whole.
        retry: When a task that failed is tried again: a `Retry`, or any object of
            tenacity. None: never.
        progress: True shows a bar, on a terminal or in a notebook, and lines now and
            then elsewhere; or a `ParallelProgress` or `VisualProgress`.
        max_failures: How many tasks may fail before the rest is stopped: a number, or a
            share of all ("10%"). None: all of them.
        cancel: A token that stops everything.
        on_outcome: Called with the `Outcome` of each task as it ends.
        on_event: Called with each event: `RunStarted`, `TaskStarted`, `TaskRetrying`,
            `TaskFinished`, `RunFinished`.
        executor: A `concurrent.futures.Executor` that runs the tasks, in place of
            threads and processes of this process.
    """

    concurrency: int | Limit | None


# As they are shown in signatures.
DEFAULTS: dict[str, Any] = {
    "concurrency": DEFAULT_CONCURRENCY,
    "timeout": None,
    "kill_after": 5.0,
    "deadline": None,
    "retry": None,
    "progress": False,
    "max_failures": None,
    "cancel": None,
    "on_outcome": None,
    "on_event": None,
    "executor": None,
}


class Many:
    """A run that has been prepared: every option checked, nothing started.

    Args:
        items: What the tasks are made of.
        make: Makes the work of one item; may raise ConfigError.
        name: The function that was called.
        options: As `ManyOptions`.
        first: The status at which the run stops with the first task that has it; ""
            stands for any, None for no such.
        each: Whether every task is wanted as it settles.
        also: Another rule by which the run stops.
        subject: What it says of itself in events.
    """

    def __init__(
        self,
        items: Iterable[Any],
        make: Callable[[Any], Work],
        name: str,
        options: ManyOptions,
        *,
        first: Status | str | None = None,
        each: bool = False,
        also: StopRule | None = None,
        subject: str = "",
    ) -> None:
        check(name, options, ManyOptions.__annotations__)
        self._items = items
        self._make = make
        self._each = each
        self.at_hand = getattr(type(items), "__iter__", None) in AT_HAND
        self.total = len(items) if isinstance(items, Sized) else None
        self.limit = limit_of(options.get("concurrency", DEFAULT_CONCURRENCY))
        self._cancel = options.get("cancel")
        if self._cancel is not None and not isinstance(self._cancel, CancelToken):
            raise checks.refuse("cancel", self._cancel, "a CancelToken")
        self.tolerated = max_failures(options.get("max_failures"), self.total)
        listeners = list(_listeners(options))
        self.run = Run(
            self.limit,
            retry=policy(options.get("retry")),
            timeout=_seconds("timeout", options),
            kill_after=checks.seconds(
                "kill_after", options.get("kill_after", 5.0), allow_zero=True
            ),
            deadline=_seconds("deadline", options),
            stop_rule=_stop_rule(first, self.tolerated, also),
            listeners=listeners,
            quiet=listeners == [log.listen] and not log.wanted_each(),
            each=each,
            label=name,
            subject=subject,
            total=self.total,
        )
        self.count = 0
        # Of a mapping of names to tasks: its keys, and its values, which are for outcomes.
        self.names: list[str] | None = None
        self.given: list[Any] | None = None

    def settled(self, *, acknowledge: bool = True) -> Generator[Task, None, None]:
        """Return the tasks as they settle; closing that ends the run. See `Run.drive`."""
        return self.run.drive(
            self._tasks(),
            window=self._window,
            at_hand=self.at_hand,
            cancel=() if self._cancel is None else (self._cancel,),
            acknowledge=acknowledge,
        )

    def raise_if_ended_early(self) -> None:
        """Raise what ended the run, if that was not one of its tasks."""
        failure = self.run.failure
        if failure is not None:
            try:
                raise failure
            finally:
                del self, failure  # see `gather`

    def _tasks(self) -> Iterator[Task]:
        make = self._make
        for index, item in self._numbered():
            try:
                work = make(item)
            except ConfigError as error:
                work = Broken(error, label=_shown(item))
            self.count += 1
            task = Task(index, work)
            task.given = item if self.given is None else self.given[index]
            if isinstance(item, Given):
                task.weight = item.weight
                task.priority = item.priority
                task.key = item.key
                task.repeatable = item.safe_to_repeat
            yield task

    def _numbered(self) -> Iterable[tuple[int, Any]]:
        """Return the items with their places, in the order in which they are to begin."""
        numbered = enumerate(self._items)
        if self.at_hand and Given in map(type, self._items):
            return sorted(numbered, key=_later)
        return numbered

    def _window(self) -> int:
        """Return how many tasks may be read and not yet be given out."""
        limit = getattr(self.limit, "limit", DEFAULT_CONCURRENCY)
        if limit == math.inf:
            return sys.maxsize
        return int(limit) + (READ_AHEAD if self.at_hand and not self._each else BUFFER)


def limit_of(concurrency: object) -> Limit:
    """Return the limit that ``concurrency=`` stands for."""
    if concurrency is None:
        return Unlimited()
    if is_limit(concurrency):
        return concurrency
    if isinstance(concurrency, int):
        return ConcurrencyLimiter(checks.count("concurrency", concurrency))
    raise checks.refuse("concurrency", concurrency, "a whole number of at least 1 or a limit")


def work_of(executor: Executor | None, timeout: float | None) -> Callable[[Any], Work]:
    """Return what makes the work of a task-like thing.

    Args:
        executor: Who runs it, or None for this process.
        timeout: What commands are given for their time, if they have none of their own
            and run elsewhere.
    """

    def make(item: Any) -> Work:
        label: str | None = None
        own_timeout: Any = None
        if isinstance(item, Given):
            label, own_timeout, item = item.label, item.timeout, item.what
        if isinstance(item, COMMANDS):
            command = Command.of(item)
            if label is not None:
                command = command.replace(label=label)
            if own_timeout is not None:
                command = command.replace(timeout=own_timeout)
            if executor is None:
                return Shell(command, place_of(command))
            if command.timeout is None and timeout is not None:
                command = command.replace(timeout=timeout)
            return Send(
                executor, _run_there, (command,), label=str(command),
                is_command=True, timeout=math.inf,
            )  # fmt: skip
        if isinstance(item, Future):
            return Running(item, label)
        if not is_function(item):
            raise checks.refuse("task", item, "a command, a function without arguments or a future")
        if executor is not None:
            name = label or shown_call(item)
            return Send(executor, item, (), label=name, timeout=own_timeout)
        return Call(item, label=label, timeout=own_timeout)

    return make


def _run_there(command: Command) -> Any:
    """Run a command in whatever process this is."""
    from parallel_exec.api.one import run

    return run(command)


def prepare(tasks: Iterable[TaskLike], name: str, options: ManyOptions, **how: Any) -> Many:
    """Check everything; nothing is started."""
    executor = executor_of(options)
    make = work_of(executor, _seconds("timeout", options))
    given = labelled(tasks)
    prepared = Many(given, make, name, options, **how)
    if isinstance(tasks, Mapping):
        prepared.names, prepared.given = list(tasks), list(tasks.values())
    return prepared


def labelled(tasks: object) -> Iterable[Any]:
    """Return the tasks that were given; those of a mapping are called by its keys.

    Raises:
        ConfigError: It is no iterable, a bare string, or a mapping with a key that is no name.
    """
    found = checks.sequence_of_tasks("tasks", tasks)
    if not isinstance(found, Mapping):
        return found
    for key in found:
        if not isinstance(key, str):
            raise checks.refuse("tasks", key, "a mapping of names, which are strings, to tasks")
    return [
        replace(task, label=name) if isinstance(task, Given) else Given(task, label=name)
        for name, task in found.items()
    ]


def executor_of(options: MapOptions) -> Executor | None:
    """Return the executor among `options`."""
    executor = options.get("executor")
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise checks.refuse("executor", executor, "a concurrent.futures.Executor")
    return executor


@overload
def all(  # type: ignore[overload-overlap]
    tasks: Mapping[str, CommandLike], **options: Unpack[ManyOptions]
) -> dict[str, Result]: ...
@overload
def all(  # type: ignore[overload-overlap]
    tasks: Mapping[str, Function[T]], **options: Unpack[ManyOptions]
) -> dict[str, T]: ...
@overload
def all(  # type: ignore[overload-overlap]
    tasks: Mapping[str, Any], **options: Unpack[ManyOptions]
) -> dict[str, Any]: ...
@overload
def all(tasks: Commands, **options: Unpack[ManyOptions]) -> list[Result]: ...
@overload
def all(tasks: Functions[T], **options: Unpack[ManyOptions]) -> list[T]: ...
@overload
def all(tasks: Iterable[TaskLike], **options: Unpack[ManyOptions]) -> list[Any]: ...
@takes(ManyOptions, **DEFAULTS)
def all(
    tasks: Iterable[TaskLike] | Mapping[str, Any], **options: Unpack[ManyOptions]
) -> list[Any] | dict[str, Any]:
    """Run tasks at once; return their values, in task order.

    The first failure stops the rest and is raised, with a note that names its task.

    Args:
        tasks: Commands (a string for the shell, a list of words, a `Command`), functions
            without arguments, or futures, each as it is or in a `Task` that says more
            about it; mixed as you like, lazily read. Or a mapping of names to tasks: the
            names, which are strings, are what reports and errors call them.
        **options: See `ManyOptions`. With `max_failures`, that many failures do not
            stop the rest; they are raised in the end.

    Returns:
        A `Result` for a command, what it returned for a function. For a mapping, a dict with
        its names, in its order.

    Raises:
        ConfigError: An argument cannot be used; nothing was started.
        RunFailedError: Tasks failed, but not more than `max_failures`.
        DeadlineExceededError: The whole was over its `deadline`.
        TaskCancelledError: `cancel` was set.
        BaseException: The first failure of a task.

    **Ordering:** tasks start in their order; values come in it, whichever ended first.
    **Blocking:** until every task has ended, also when one has failed.
    **Cancellation:** a KeyboardInterrupt, like any other exception in this thread, ends
    what runs before it goes on.
    **Thread safety:** yes; may be called inside of a task.
    **Cost:** a few microseconds a task beyond its own; memory for the values.
    """
    return _gather_named(prepare(tasks, "all", options, first="rejected"))


def gather(many: Many, *, keep: bool = True) -> list[Any]:
    """Return the values of all tasks in task order, or raise what failed first.

    Args:
        many: The run.
        keep: Whether the values are wanted; if not, the list is empty.
    """
    values, error = _gathered(many, keep)
    if error is not None:
        try:
            raise error
        finally:
            # The traceback holds this frame, which must not hold the error: in a circle it
            # would wait for the cycle collector, with all that the failed function held.
            del many, error
    return values


def _gather_named(many: Many) -> list[Any] | dict[str, Any]:
    names = many.names
    values, error = _gathered(many, True)
    if error is not None:
        try:
            raise error
        finally:
            del many, error  # see `gather`
    return values if names is None else dict(zip(names, values, strict=True))


def _gathered(many: Many, keep: bool) -> tuple[list[Any], BaseException | None]:
    """Return the values of all tasks, or what is to be raised in their place."""
    values: dict[int, Any] = {}
    failed: list[Task] = []
    with closing(many.settled()) as settled:
        for task in settled:
            if task.error is not None:
                failed.append(task)
            elif keep:
                values[task.index] = task.value
    culprit = many.run.culprit
    if culprit is not None and many.tolerated is None:
        return [], named(culprit)
    if many.run.failure is not None:
        return [], many.run.failure
    if failed:
        failed.sort(key=_index)
        return [], run_failed([task.outcome() for task in failed], of=many.count)
    return [values[index] for index in range(len(values))], None


def named(task: Task) -> BaseException:
    """Return the error of a task, with the note that names it."""
    assert task.error is not None
    name_task(task.error, task.index, task.label(), task.attempt)
    return task.error


@overload
def all_settled(tasks: Commands, **options: Unpack[ManyOptions]) -> Outcomes[Result]: ...
@overload
def all_settled(tasks: Functions[T], **options: Unpack[ManyOptions]) -> Outcomes[T]: ...
@overload
def all_settled(tasks: Iterable[TaskLike], **options: Unpack[ManyOptions]) -> Outcomes[Any]: ...
@takes(ManyOptions, **DEFAULTS)
def all_settled(tasks: Iterable[TaskLike], **options: Unpack[ManyOptions]) -> Outcomes[Any]:
    """Run tasks at once; return how each ended, whatever happens to any of them.

    Args:
        tasks: As for `all`.
        **options: See `ManyOptions`. After `max_failures`, a `deadline` or a `cancel`
            the tasks that ran are ``cancelled``, those that had not begun ``skipped``.

    Returns:
        An outcome for every task, in task order.

    Raises:
        ConfigError: An argument cannot be used; nothing was started.

    **Ordering, blocking, cancellation, thread safety, cost:** as `all`.
    """
    return outcomes_of(prepare(tasks, "all_settled", options))


def outcomes_of(many: Many) -> Outcomes[Any]:
    """Run what has been prepared to its end; return how each task ended, in task order."""
    with closing(many.settled()) as settled:
        tasks_settled = sorted(settled, key=_index)
    return Outcomes(task.outcome() for task in tasks_settled)


@overload
def any(tasks: Commands, **options: Unpack[ManyOptions]) -> Result: ...
@overload
def any(tasks: Functions[T], **options: Unpack[ManyOptions]) -> T: ...
@overload
def any(tasks: Iterable[TaskLike], **options: Unpack[ManyOptions]) -> Any: ...
@takes(ManyOptions, **DEFAULTS)
def any(tasks: Iterable[TaskLike], **options: Unpack[ManyOptions]) -> Any:
    """Run tasks at once; return the value of the first that succeeds, stop the others.

    Args:
        tasks: As for `all`.
        **options: See `ManyOptions`.

    Raises:
        ConfigError: There are no tasks, or an argument cannot be used.
        RunFailedError: No task succeeded; it holds the error of each.
        DeadlineExceededError, TaskCancelledError: As for `all`.

    **Blocking:** until the first success, and until the others have been ended.
    **Cancellation, thread safety, cost:** as `all`.
    """
    value, error = _first_success(prepare(_some(tasks), "any", options, first="fulfilled"))
    if error is not None:
        try:
            raise error
        finally:
            del error  # see `gather`
    return value


def _first_success(many: Many) -> tuple[Any, BaseException | None]:
    """Return the value of the first task that succeeded, or what is to be raised."""
    with closing(many.settled()) as settled:
        tasks_settled = sorted(settled, key=_index)
    winner = many.run.culprit
    if winner is not None and winner.error is None:
        return winner.value, None
    if many.run.failure is not None:
        return None, many.run.failure
    _refuse_none(tasks_settled)
    return None, run_failed([task.outcome() for task in tasks_settled])


@overload
def race(tasks: Commands, **options: Unpack[ManyOptions]) -> Result: ...
@overload
def race(tasks: Functions[T], **options: Unpack[ManyOptions]) -> T: ...
@overload
def race(tasks: Iterable[TaskLike], **options: Unpack[ManyOptions]) -> Any: ...
@takes(ManyOptions, **DEFAULTS)
def race(tasks: Iterable[TaskLike], **options: Unpack[ManyOptions]) -> Any:
    """Run tasks at once; the first that ends, well or not, decides; stop the others.

    Args:
        tasks: As for `all`.
        **options: See `ManyOptions`.

    Returns:
        The value of the first that ended, if that was with one.

    Raises:
        ConfigError: There are no tasks, or an argument cannot be used.
        DeadlineExceededError, TaskCancelledError: As for `all`.
        BaseException: The error of the first that ended, with a note that names it.

    **Blocking:** until the first end, and until the others have been ended.
    **Cancellation, thread safety, cost:** as `all`.
    """
    value, error = _first_end(prepare(_some(tasks), "race", options, first=""))
    if error is not None:
        try:
            raise error
        finally:
            del error  # see `gather`
    return value


def _first_end(many: Many) -> tuple[Any, BaseException | None]:
    """Return how the first task that settled ended: its value, or what is to be raised."""
    with closing(many.settled()) as settled:
        tasks_settled = list(settled)
    first = many.run.culprit
    if first is None:
        if many.run.failure is not None:
            return None, many.run.failure
        _refuse_none(tasks_settled)
        first = tasks_settled[0]
    return first.value, None if first.error is None else named(first)


@overload
def fast_fail(  # type: ignore[overload-overlap]
    tasks: Mapping[str, CommandLike], **options: Unpack[ManyOptions]
) -> dict[str, Result]: ...
@overload
def fast_fail(  # type: ignore[overload-overlap]
    tasks: Mapping[str, Function[T]], **options: Unpack[ManyOptions]
) -> dict[str, T]: ...
@overload
def fast_fail(  # type: ignore[overload-overlap]
    tasks: Mapping[str, Any], **options: Unpack[ManyOptions]
) -> dict[str, Any]: ...
@overload
def fast_fail(tasks: Commands, **options: Unpack[ManyOptions]) -> list[Result]: ...
@overload
def fast_fail(tasks: Functions[T], **options: Unpack[ManyOptions]) -> list[T]: ...
@overload
def fast_fail(tasks: Iterable[TaskLike], **options: Unpack[ManyOptions]) -> list[Any]: ...
@takes(ManyOptions, **DEFAULTS)
def fast_fail(
    tasks: Iterable[TaskLike] | Mapping[str, Any], **options: Unpack[ManyOptions]
) -> list[Any] | dict[str, Any]:
    """The strategy of `all`, by name: the first failure stops the rest and is raised."""
    return _gather_named(prepare(tasks, "fast_fail", options, first="rejected"))


@overload
def fail_safe(tasks: Commands, **options: Unpack[ManyOptions]) -> Outcomes[Result]: ...
@overload
def fail_safe(tasks: Functions[T], **options: Unpack[ManyOptions]) -> Outcomes[T]: ...
@overload
def fail_safe(tasks: Iterable[TaskLike], **options: Unpack[ManyOptions]) -> Outcomes[Any]: ...
@takes(ManyOptions, **DEFAULTS)
def fail_safe(tasks: Iterable[TaskLike], **options: Unpack[ManyOptions]) -> Outcomes[Any]:
    """The strategy of `all_settled`, by name: every task is tried, whatever happens."""
    return outcomes_of(prepare(tasks, "fail_safe", options))


class AsCompleted(Forgettable, Iterator[Outcome[T]], Generic[T]):
    """The outcomes of a run as they come; see `as_completed`.

    Leave it by its end, by ``with``, by `close`, or forget it: in each case what still
    runs is ended.
    """

    def __init__(self, many: Many) -> None:
        self._values: Generator[Task, None, None] = many.settled()

    def __next__(self) -> Outcome[T]:
        return next(self._values).outcome()


@overload
def as_completed(tasks: Commands, **options: Unpack[ManyOptions]) -> AsCompleted[Result]: ...
@overload
def as_completed(tasks: Functions[T], **options: Unpack[ManyOptions]) -> AsCompleted[T]: ...
@overload
def as_completed(tasks: Iterable[TaskLike], **options: Unpack[ManyOptions]) -> AsCompleted[Any]: ...
@takes(ManyOptions, **DEFAULTS)
def as_completed(tasks: Iterable[TaskLike], **options: Unpack[ManyOptions]) -> AsCompleted[Any]:
    """Run tasks at once; give the outcome of each as soon as it has ended.

    Nothing starts before the first outcome is asked for. Endless input is welcome: it
    is read no further than `concurrency` + 16 ahead of what has been asked for.

    Args:
        tasks: As for `all`.
        **options: See `ManyOptions`.

    Returns:
        An iterator of outcomes, which is also a context manager and has `close`.

    Raises:
        ConfigError: An argument cannot be used.

    **Ordering:** by end. **Blocking:** each step, until the next task has ended.
    **Cancellation:** leaving the iterator ends what runs. After a `deadline` or a
    `cancel` the outcomes still come: ``cancelled`` and ``skipped`` ones.
    **Thread safety:** the iterator belongs to one thread.
    """
    return AsCompleted(prepare(tasks, "as_completed", options, each=True))


def _some(tasks: Iterable[TaskLike]) -> Iterable[TaskLike]:
    """Refuse an empty list of tasks at once."""
    checks.sequence_of_tasks("tasks", tasks)
    if isinstance(tasks, Sequence | Mapping) and not tasks:
        raise ConfigError(f"tasks must not be empty, not {tasks!r}")
    return tasks


def _refuse_none(settled: Sequence[Task]) -> None:
    if not settled:
        raise ConfigError("tasks must not be empty: there were none to read")


def _index(task: Task) -> int:
    return task.index


def _later(numbered: tuple[int, Any]) -> float:
    item = numbered[1]
    return -item.priority if isinstance(item, Given) else 0


def _seconds(name: str, options: ManyOptions) -> float | None:
    value: Any = options.get(name)
    return None if value is None else checks.seconds(name, value)


def max_failures(value: object, total: int | None) -> int | None:
    """Return how many failures are tolerated; None: any number."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            share = float(value.removesuffix("%")) / 100
        except ValueError:
            share = math.nan
        if not value.endswith("%") or not 0 <= share <= 1:
            raise checks.refuse("max_failures", value, 'a number of tasks or a share like "10%"')
        if total is None:
            raise checks.refuse(
                "max_failures", value, "a number where the number of tasks is not known"
            )
        return math.floor(total * share)
    return checks.count("max_failures", value, minimum=0)


def _stop_rule(
    first: Status | str | None, tolerated: int | None, also: StopRule | None
) -> StopRule | None:
    if also is not None:
        rule = _stop_rule(first, tolerated, None)
        return lambda status: also(status) or (rule is not None and rule(status))
    if first == "rejected" and tolerated is None:
        return lambda status: status != "fulfilled"
    failures = 0

    def stop(status: Status) -> bool:
        nonlocal failures
        if first == "" or (first == "fulfilled" and status == first):
            return True
        if status != "fulfilled":
            failures += 1
        return tolerated is not None and failures > tolerated

    return None if first is None and tolerated is None else stop


def _listeners(options: ManyOptions) -> Iterator[Listener]:
    if log.wanted():
        yield log.listen
    shown = options.get("progress")
    if shown is True:
        shown = bars.pick()
    if shown:
        if not is_function(shown):
            raise checks.refuse("progress", shown, "True, a ParallelProgress or a VisualProgress")
        yield shown
    for name in ("on_outcome", "on_event"):
        call: Any = options.get(name)
        if call is None:
            continue
        if not is_function(call):
            raise checks.refuse(name, call, "a function of one argument")
        yield _outcomes_to(call) if name == "on_outcome" else call


def _outcomes_to(call: Callable[[Outcome[Any]], object]) -> Listener:
    def listener(event: Event) -> None:
        if isinstance(event, TaskFinished):
            call(event.outcome)

    return listener


def _shown(item: object) -> str:
    text = checks.shown(item)
    return text if len(text) <= 80 else text[:77] + "..."
