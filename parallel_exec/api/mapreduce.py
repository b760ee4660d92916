"""A function over many items at once: map, filter, reduce."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from itertools import islice
from typing import Any, Generic, TypeVar, Unpack

from parallel_exec.api.closing import Forgettable
from parallel_exec.api.many import (
    DEFAULTS,
    Many,
    ManyOptions,
    MapOptions,
    executor_of,
    gather,
    named,
    outcomes_of,
)
from parallel_exec.engine.task import Task, Work
from parallel_exec.engine.work import Call, Send, name_of, shown_call
from parallel_exec.errors import ConfigError
from parallel_exec.limits.base import Limit
from parallel_exec.values import checks
from parallel_exec.values.functions import is_function
from parallel_exec.values.options import check, takes
from parallel_exec.values.outcome import Outcomes

__all__ = [
    "Imap",
    "parallel_filter",
    "parallel_for_each",
    "parallel_imap",
    "parallel_map",
    "parallel_map_settled",
    "parallel_reduce",
]

T = TypeVar("T")
R = TypeVar("R")


def _prepare(
    fn: Callable[[T], R],
    items: Iterable[T],
    concurrency: int | Limit | None,
    name: str,
    options: MapOptions,
    **how: Any,
) -> Many:
    if not is_function(fn):
        raise checks.refuse("fn", fn, "a function of one item")
    if not isinstance(items, Iterable):
        raise checks.refuse("items", items, "a list or another iterable")
    executor = executor_of(options)

    def make(item: T) -> Work:
        if executor is not None:
            return Send(executor, fn, (item,), label=shown_call(fn, (item,)))
        return Call(fn, (item,))

    given: ManyOptions = {**options, "concurrency": concurrency}
    return Many(items, make, name, given, subject=name_of(fn), **how)


@takes(MapOptions, **DEFAULTS)
def parallel_map(
    fn: Callable[[T], R],
    items: Iterable[T],
    concurrency: int | Limit | None = 5,
    **options: Unpack[MapOptions],
) -> list[R]:
    """Call a function for every item, several at once; return the values in item order.

    Args:
        fn: Called with one item, in a thread.
        items: Read no further than `concurrency` + 16 ahead; see "Input" among the options
            of many.
        concurrency: How many calls at once: a number, any limit, None for no limit.
        **options: See `ManyOptions`.

    Raises:
        ConfigError: An argument cannot be used; nothing was started.
        BaseException: The first failure; the rest is stopped. A note names the item.

    **Ordering:** calls start in item order; values come in it.
    **Blocking:** until every call has returned, also when one has failed.
    **Cancellation:** as `all`. **Thread safety:** yes; may be called inside of a task.
    **Cost:** less than half of ThreadPoolExecutor.map's; benchmarks/calls.py measures it.
    """
    return gather(_prepare(fn, items, concurrency, "parallel_map", options, first="rejected"))


@takes(MapOptions, **DEFAULTS)
def parallel_map_settled(
    fn: Callable[[T], R],
    items: Iterable[T],
    concurrency: int | Limit | None = 5,
    **options: Unpack[MapOptions],
) -> Outcomes[R]:
    """Call a function for every item, several at once; return how each call ended.

    Args:
        fn, items, concurrency: As for `parallel_map`.
        **options: See `ManyOptions`. After `max_failures`, a `deadline` or a `cancel` the
            calls that ran are ``cancelled``, those that had not begun ``skipped``.

    Returns:
        An outcome for every item, in item order: its label names the item, and its `task`
        is the item.

    Raises:
        ConfigError: An argument cannot be used; nothing was started.

    **Ordering, blocking, cancellation, thread safety, cost:** as `parallel_map`.
    """
    return outcomes_of(_prepare(fn, items, concurrency, "parallel_map_settled", options))


class Imap(Forgettable, Iterator[R], Generic[R]):
    """The values of a lazy map as they are asked for; see `parallel_imap`.

    Leave it by its end, by ``with``, by `close`, or forget it: in each case what still
    runs is ended.
    """

    def __init__(self, values: Generator[R, None, None]) -> None:
        self._values: Generator[R, None, None] = values

    def __next__(self) -> R:
        return next(self._values)


@takes(MapOptions, **DEFAULTS)
def parallel_imap(
    fn: Callable[[T], R],
    items: Iterable[T],
    concurrency: int | Limit | None = 5,
    *,
    ordered: bool = True,
    **options: Unpack[MapOptions],
) -> Imap[R]:
    """Call a function for every item, several at once; give the values as they come.

    Nothing starts before the first value is asked for. Endless input is welcome: it is
    read no further than `concurrency` + 16 ahead of what has been asked for, a list as well,
    and that bounds the values that wait to be asked for.

    Args:
        fn: Called with one item, in a thread.
        items: The items; may be endless.
        concurrency: How many calls at once: a number, any limit, None for no limit.
        ordered: Whether values come in item order, or else as soon as they are there.
        **options: See `ManyOptions`.

    Returns:
        An iterator, which is also a context manager and has `close`.

    Raises:
        ConfigError: An argument cannot be used.
        BaseException: A failure, from the step that would give its value; what still
            runs is stopped. A note names the item.

    **Blocking:** each step, until the next value is there.
    **Cancellation:** leaving the iterator ends what runs.
    **Thread safety:** the iterator belongs to one thread.
    """
    if not isinstance(ordered, bool):
        raise checks.refuse("ordered", ordered, "True or False")
    many = _prepare(fn, items, concurrency, "parallel_imap", options, each=True)
    return Imap(_in_order(many) if ordered else _as_they_come(many))


def _as_they_come(many: Many) -> Generator[Any, None, None]:
    task: Task | None = None
    try:
        with closing(many.settled()) as settled:
            for task in settled:
                yield _value(many, task)
        many.raise_if_ended_early()
    finally:
        del many, task  # see `gather`


def _in_order(many: Many) -> Generator[Any, None, None]:
    early: dict[int, Task] = {}
    wanted = 0
    task: Task | None = None
    try:
        with closing(many.settled(acknowledge=False)) as settled:
            for task in settled:
                early[task.index] = task
                while wanted in early:
                    # What waits for its turn counts as undelivered, so that one slow item
                    # does not let all the others pile up behind it.
                    many.run.delivered += 1
                    yield _value(many, early.pop(wanted))
                    wanted += 1
        many.raise_if_ended_early()
    finally:
        del many, task, early  # see `gather`


def _value(many: Many, task: Task) -> Any:
    """Take the value out of a task: it is the user's alone from now on."""
    if task.error is None:
        value, task.value = task.value, None
        return value
    try:
        many.raise_if_ended_early()
        raise named(task)
    finally:
        del many, task  # see `gather`


@takes(MapOptions, **DEFAULTS)
def parallel_filter(
    fn: Callable[[T], object],
    items: Iterable[T],
    concurrency: int | Limit | None = 5,
    **options: Unpack[MapOptions],
) -> list[T]:
    """Return the items for which a function returns something true, in item order.

    Args, errors, ordering and the rest: as `parallel_map`.
    """
    judged = gather(
        _prepare(_Judge(fn), items, concurrency, "parallel_filter", options, first="rejected")
    )
    return [item for item, chosen in judged if chosen]


class _Judge(Generic[T]):
    """Gives an item along with its verdict, since the input may be read only once."""

    def __init__(self, fn: Callable[[T], object]) -> None:
        if not is_function(fn):
            raise checks.refuse("fn", fn, "a function of one item")
        self._fn = fn
        self.__qualname__ = shown_call(fn)

    def __call__(self, item: T) -> tuple[T, bool]:
        return item, bool(self._fn(item))


@takes(MapOptions, **DEFAULTS)
def parallel_for_each(
    fn: Callable[[T], object],
    items: Iterable[T],
    concurrency: int | Limit | None = 5,
    **options: Unpack[MapOptions],
) -> None:
    """Call a function for every item, several at once, for what it does.

    Args, errors, ordering and the rest: as `parallel_map`; no values are kept.
    """
    many = _prepare(fn, items, concurrency, "parallel_for_each", options, first="rejected")
    gather(many, keep=False)


@takes(MapOptions, **DEFAULTS)
def parallel_reduce(
    fn: Callable[[T, T], T],
    items: Iterable[T],
    chunk_size: int = 2,
    *,
    concurrency: int | Limit | None = 5,
    **options: Unpack[MapOptions],
) -> T:
    """Fold items into one, as a tree: chunks are folded at once, then their results.

    Args:
        fn: Makes one of two neighbours. It has to be associative; it need not be
            commutative, since the order of the items is kept.
        items: At least one; a single one is the answer itself, and `fn` is not called.
        chunk_size: How many neighbours one call folds, one after the other.
        concurrency: How many chunks at once: a number, any limit, None for no limit.
        **options: See `ManyOptions`; `deadline` and `progress` count for each level.

    Raises:
        ConfigError: There are no items, or an argument cannot be used.
        BaseException: The first failure; the rest is stopped.

    **Blocking, cancellation, thread safety:** as `parallel_map`.
    **Cost:** about log(len(items)) / log(chunk_size) rounds.
    """
    if not is_function(fn):
        raise checks.refuse("fn", fn, "a function of two items")
    if not isinstance(items, Iterable):
        raise checks.refuse("items", items, "a list or another iterable")
    checks.count("chunk_size", chunk_size, minimum=2)
    check("parallel_reduce", options, {*MapOptions.__annotations__, "concurrency", "chunk_size"})
    fold = Fold(fn)

    def folded(chunks: Iterable[list[T]]) -> list[T]:
        return gather(
            _prepare(fold, chunks, concurrency, "parallel_reduce", options, first="rejected")
        )

    # Input that may block is folded as it comes, so that a deadline does not wait for it.
    is_list = isinstance(items, list | tuple | range)
    level = list(items) if is_list else folded(_chunks(items, chunk_size))
    if not level:
        raise ConfigError(f"items must not be empty, not {items!r}")
    while len(level) > 1:
        level = folded([level[at : at + chunk_size] for at in range(0, len(level), chunk_size)])
    return level[0]


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of `size`, the last one shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


class Fold(Generic[T]):
    """Folds one chunk. A class, so that it can be sent to another process."""

    def __init__(self, fn: Callable[[T, T], T]) -> None:
        self._fn = fn
        self.__qualname__ = shown_call(fn)

    def __call__(self, chunk: list[T]) -> T:
        value = chunk[0]
        for item in chunk[1:]:
            value = self._fn(value, item)
        return value
