"""An asynchronous function is refused wherever a function is taken: its call runs nothing."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.errors import ConfigError
from parallel_exec.values.functions import is_function


async def async_function(*_: Any) -> int:
    return 1


async def async_generator(*_: Any) -> AsyncIterator[int]:
    yield 1


class AsyncCall:
    async def __call__(self, *_: Any) -> int:
        return 1

    async def method(self, *_: Any) -> int:
        return 1

    @classmethod
    async def of_class(cls, *_: Any) -> int:
        return 1

    @staticmethod
    async def of_nothing(*_: Any) -> int:
        return 1


class AsyncGeneratorCall:
    async def __call__(self, *_: Any) -> AsyncIterator[int]:
        yield 1


ASYNC: dict[str, Any] = {
    "function": async_function,
    "lambda's partial": functools.partial(async_function),
    "partial of a partial": functools.partial(functools.partial(async_function, 1), 2),
    "partial of an object": functools.partial(AsyncCall()),
    "generator": async_generator,
    "partial of a generator": functools.partial(async_generator),
    "object": AsyncCall(),
    "object, generator": AsyncGeneratorCall(),
    "method": AsyncCall().method,
    "class method": AsyncCall.of_class,
    "static method": AsyncCall.of_nothing,
    "cache": functools.cache(async_function),
}
USES: dict[str, Callable[[Any], object]] = {
    "all": lambda fn: px.all([fn]),
    "as_completed": lambda fn: next(px.as_completed([fn])).result(),
    "task": lambda fn: px.all([px.Task(fn)]),
    "map": lambda fn: px.parallel_map(fn, [1]),
    "imap": lambda fn: px.parallel_imap(fn, [1]),
    "filter": lambda fn: px.parallel_filter(fn, [1]),
    "for_each": lambda fn: px.parallel_for_each(fn, [1]),
    "reduce": lambda fn: px.parallel_reduce(fn, [1, 2]),
    "reduce of one": lambda fn: px.parallel_reduce(fn, [1]),
    "limiter": lambda fn: px.ConcurrencyLimiter(1).run(fn),
    "decorator": lambda fn: px.ConcurrencyLimiter(1)(fn),
    "balancer": lambda fn: px.LoadBalancer([fn]),
    "batcher": lambda fn: px.TaskBatcher(1, 0, fn),
    "initializer": lambda fn: px.ParallelExecutor(1, initializer=fn),
    "on_outcome": lambda fn: px.all(["true"], on_outcome=fn),
    "on_event": lambda fn: px.all(["true"], on_event=fn),
    "progress": lambda fn: px.all(["true"], progress=fn),
    "on_stdout": lambda fn: px.run("true", on_stdout=fn),
    "classify": lambda fn: px.AIMDController(classify=fn),
    "retry on": lambda fn: px.Retry(on=fn),
    "retry wait": lambda fn: px.Retry(wait=fn),
    "group": lambda fn: px.Group([px.Local()]).map(fn),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", ASYNC)
def test_an_asynchronous_function_is_refused(name: str, use: str) -> None:
    """In whatever disguise, and wherever it is given."""
    with pytest.raises(ConfigError, match="must be"):
        USES[use](ASYNC[name])


class Sync:
    def __call__(self) -> int:
        return 1

    def method(self) -> int:
        return 1


def with_attribute() -> int:
    return 1


with_attribute.note = "mine"  # type: ignore[attr-defined]


class Awkward:
    def __getattr__(self, name: str) -> Any:
        raise LookupError(name)

    def __call__(self) -> int:
        return 1


@pytest.mark.parametrize(
    "fn",
    [
        int,
        dict,
        len,
        [].copy,
        Sync(),
        Sync().method,
        Sync,
        lambda: 1,
        functools.partial(Sync()),
        functools.cache(lambda: 1),
        with_attribute,
        Awkward(),
    ],
    ids=lambda fn: type(fn).__name__,
)
def test_anything_else_that_can_be_called_is_a_function(fn: Any) -> None:
    """Types, built-ins, methods, objects, partials and caches."""
    assert is_function(fn)


@pytest.mark.parametrize("thing", [None, 1, "true", [], object()])
def test_what_cannot_be_called_is_none(thing: object) -> None:
    """Whatever it is."""
    assert not is_function(thing)
