"""What can be called in a thread for what it does."""

from __future__ import annotations

import functools
import inspect
from types import FunctionType

__all__ = ["is_function"]

ASYNC = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def is_function(value: object) -> bool:
    """Return whether `value` can be called, and does its work when it is.

    The call of an ``async def`` returns before anything of it has run, and nobody here awaits
    it. So neither it nor an asynchronous generator counts, nor a partial, a method, a cache or
    an object with an asynchronous ``__call__`` of one.
    """
    if type(value) is FunctionType and not value.__dict__:  # as nearly always
        return not value.__code__.co_flags & ASYNC
    return callable(value) and not _is_async(value)


def _is_async(value: object) -> bool:
    try:
        while True:
            if isinstance(value, functools.partial):
                value = value.func
            elif isinstance(value, functools._lru_cache_wrapper):
                value = value.__wrapped__
            elif inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value):
                return True
            elif isinstance(value, type) or inspect.isroutine(value):
                return False
            else:
                value = getattr(type(value), "__call__", None)  # noqa: B004 - to look at it
                if not inspect.isfunction(value) and not isinstance(value, functools.partial):
                    return False
    except Exception:  # a `__getattr__` of somebody's
        return False
