"""A limit of its own for each key, or for each host."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakSet

from parallel_exec.limits.base import Limit, Limiter, Request
from parallel_exec.values import checks

__all__ = ["PerHost", "PerKey"]


class _Keyed:
    """Makes the limits as keys come up.

    One lock: it guards `_limits`; `make` is called while it is held, once a key.
    """

    def __init__(self, make: Callable[[Any], Limit]) -> None:
        if not callable(make):
            raise checks.refuse("make", make, "a function of a key that makes a limit")
        self._make = make
        self._lock = threading.RLock()
        self._limits: dict[Hashable, Limit] = {}
        _all.add(self)

    def of(self, key: Hashable) -> Limit:
        """Return the limit of a key; it is made when the key first comes up."""
        limit = self._limits.get(key)
        if limit is None:
            with self._lock:
                limit = self._limits.get(key)
                if limit is None:
                    limit = self._make(key)
                    if not hasattr(limit, "parts"):
                        raise checks.refuse("make", limit, "a function that gives a limit")
                    self._limits[key] = limit
        return limit

    def _parts(self, key: Hashable, request: Request) -> tuple[Limiter, ...]:
        return () if key is None else self.of(key).parts(request)


class PerKey(_Keyed):
    """A limit of its own for each key of tasks: ``Task(..., key=...)``.

    Tasks without a key are not limited by it. Together with others: ``AllOf(global,
    PerHost(...), PerKey(...))``.

    Args:
        make: Makes the limit of a key, once, when the key first comes up; it is kept.
            It must be quick.

    Raises:
        ConfigError: `make` is no function.

    **Thread safety:** yes.
    """

    def parts(self, request: Request) -> tuple[Limiter, ...]:
        """See `Limit.parts`."""
        return self._parts(request.key, request)


class PerHost(_Keyed):
    """A limit of its own for each environment that commands run in, by its name.

    Functions are not limited by it.

    Args:
        make: Makes the limit of a host, given its name; as for `PerKey`.

    **Thread safety:** yes.
    """

    def parts(self, request: Request) -> tuple[Limiter, ...]:
        """See `Limit.parts`."""
        return self._parts(getattr(request, "host", None), request)


_all: WeakSet[_Keyed] = WeakSet()


def _after_fork_in_child() -> None:
    for keyed in _all:
        keyed._lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)
