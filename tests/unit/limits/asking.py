"""Requests without threads, for tests of limits."""

from __future__ import annotations

from parallel_exec.limits import base
from parallel_exec.limits.base import Limit, Place, Request

__all__ = ["Asker"]


class Asked(Place):
    """A request that remembers when it was granted, relative to others."""

    def __init__(self, name: str, log: list[str], parent: Request | None) -> None:
        super().__init__()
        self.name = name
        self._log = log
        self.parent = parent

    def granted(self) -> None:
        """Remember it, and begin."""
        self._log.append(self.name)
        base.begin(self)


class Asker:
    """Asks for places without threads.

    Attributes:
        granted: The names of those that have got one, in order.
    """

    def __init__(self) -> None:
        self.granted: list[str] = []

    def ask(
        self,
        name: str,
        limit: Limit,
        *,
        weight: float = 1,
        priority: float = 0,
        key: object = None,
        parent: Request | None = None,
    ) -> Asked:
        """Ask for a place."""
        request = Asked(name, self.granted, parent)
        request.weight, request.priority, request.key = weight, priority, key
        if base.acquire(request, limit):
            request.granted()
        return request
