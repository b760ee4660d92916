"""A request for a place, for machines that ask a limit for many."""

from __future__ import annotations

from collections.abc import Callable

from parallel_exec.limits.base import Place

__all__ = ["Asked"]


class Asked(Place):
    """A request that tells its machine when it was granted."""

    def __init__(self, tell: Callable[[Asked], object], number: int) -> None:
        super().__init__()
        self.number = number
        self._tell = tell

    def granted(self) -> None:
        """Tell."""
        self._tell(self)

    def __repr__(self) -> str:
        return f"#{self.number}"
