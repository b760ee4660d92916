"""A limit of its own for each key, or for each host.

Keys come and go: customers, hosts of a cloud. A limit is kept as long as a task holds or
awaits a place in it, and `keep` others are kept beside, those that were used last, since
limits that learn would begin anew. The rest is forgotten, and made again when it is needed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeGuard
from weakref import WeakSet, WeakValueDictionary

from parallel_exec.limits.base import Limit, Limiter, Request
from parallel_exec.limits.composed import is_idle, is_limit
from parallel_exec.limits.fixed import Unlimited
from parallel_exec.reactor import lifecycle
from parallel_exec.values import checks

__all__ = ["PerHost", "PerKey"]

LOOKED_AT = 4  # of those that might be forgotten, how many at a time


class _Use(Unlimited):
    """Stands among the parts of those who use a limit, and is there as long as one does."""

    def __init__(self, limit: Limit) -> None:
        super().__init__()
        del self._only  # a cycle: it is to go with the last request that refers to it
        self.of = limit

    def parts(self, request: Request) -> tuple[Limiter, ...]:
        """See `Limit.parts`."""
        return (self, *self.of.parts(request))


class _Keyed:
    """Makes the limits as keys come up.

    One lock: it guards `_used` and `_recent`; `make` is called while it is held, once a key.
    """

    def __init__(self, make: Callable[[Any], Limit], *, keep: int | None = 1000) -> None:
        if not callable(make):
            raise checks.refuse("make", make, "a function of a key that makes a limit")
        self._make = make
        self._keep = None if keep is None else checks.count("keep", keep, minimum=0)
        self._lock = threading.RLock()
        # Those in use, since a request refers to its limiters; and those used last.
        self._used: WeakValueDictionary[Hashable, Limiter] = WeakValueDictionary()
        self._recent: OrderedDict[Hashable, Limit] = OrderedDict()
        _all.add(self)

    def of(self, key: Hashable) -> Limit:
        """Return the limit of a key; it is made when the key comes up.

        What is changed on it holds as long as it is kept.
        """
        with self._lock:
            return self._get(key)[0]

    @property
    def idle(self) -> bool:
        """Whether new limits would do as well; see `composed.is_idle`."""
        with self._lock:
            return all(is_idle(limit) for limit in self._recent.values())

    def _parts(self, key: Hashable, request: Request) -> tuple[Limiter, ...]:
        if key is None:
            return ()
        with self._lock:
            limiter = self._get(key)[1]
        return limiter.parts(request)

    # With the lock held

    def _get(self, key: Hashable) -> tuple[Limit, Limiter]:
        """Return the limit of a key, and what to refer to while it is in use."""
        used = self._used.get(key)
        if used is not None:
            limit = used.of if isinstance(used, _Use) else used
        else:
            limit = self._recent[key] if key in self._recent else self._made(key)
            used = self._used[key] = limit if _is_plain(limit) else _Use(limit)
        self._recent[key] = limit
        self._recent.move_to_end(key)
        if self._keep is not None and len(self._recent) > self._keep:
            self._forget(self._keep)
        return limit, used

    def _made(self, key: Hashable) -> Limit:
        limit = self._make(key)
        if not is_limit(limit):
            raise checks.refuse("make", limit, "a function that gives a limit")
        return limit

    def _forget(self, keep: int) -> None:
        """Forget limits that were not used for longest, if new ones would do as well."""
        for _ in range(LOOKED_AT):
            if len(self._recent) <= keep:
                return
            key, limit = self._recent.popitem(last=False)
            if not is_idle(limit) or (key in self._used and not _is_plain(limit)):
                self._recent[key] = limit


def _is_plain(limit: Limit) -> TypeGuard[Limiter]:
    """Return whether a limit is a limiter of which, when nobody has or awaits a place in it,
    nothing is to be remembered.
    """
    return isinstance(limit, Limiter) and not hasattr(limit, "idle")


class PerKey(_Keyed):
    """A limit of its own for each key of tasks: ``Task(..., key=...)``.

    Tasks without a key are not limited by it. Together with others: ``AllOf(global,
    PerHost(...), PerKey(...))``.

    Args:
        make: Makes the limit of a key when the key comes up. It must be quick.
        keep: How many limits are kept that no task needs at the moment, those that were
            used last; beyond that, only those that are paused, and rates that are used up.
            None: all.

    Raises:
        ConfigError: An argument cannot be used.

    **Thread safety:** yes.
    """

    def parts(self, request: Request) -> tuple[Limiter, ...]:
        """See `Limit.parts`."""
        return self._parts(request.key, request)


class PerHost(_Keyed):
    """A limit of its own for each environment that commands run in, by its name.

    Functions are not limited by it, but for those of `Group.map`, and nor are the tasks of
    a `LoadBalancer`, which get their host with their place; see its `capacity`.

    Args:
        make: Makes the limit of a host, given its name; as for `PerKey`.
        keep: As for `PerKey`.

    **Thread safety:** yes.
    """

    def parts(self, request: Request) -> tuple[Limiter, ...]:
        """See `Limit.parts`."""
        return self._parts(getattr(request, "host", None), request)


_all: WeakSet[_Keyed] = WeakSet()


def _after_fork_in_child() -> None:
    for keyed in _all:
        keyed._lock = threading.RLock()


lifecycle.at_fork("keyed limits", _after_fork_in_child)
