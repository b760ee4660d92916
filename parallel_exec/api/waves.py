"""Waves: a few hosts first, the others when that went well."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from parallel_exec.api.many import ManyOptions, max_failures
from parallel_exec.engine.cancel import Callback, CancelToken
from parallel_exec.engine.events import Event, Listener, TaskFinished
from parallel_exec.limits import base
from parallel_exec.limits.base import Limiter, Request
from parallel_exec.text import plain
from parallel_exec.values import checks
from parallel_exec.values.hosts import fold
from parallel_exec.values.outcome import Status

__all__ = ["Waves"]


class Gate(Limiter):
    """Lets the tasks of a run begin whose place is below a number that grows.

    Attributes:
        begun: The places of those that were let in.
    """

    def __init__(self) -> None:
        super().__init__()
        self.begun: set[int] = set()
        self._below = 0

    def open(self, below: int) -> None:
        """Let those below a place begin."""
        with base.LOCK:
            self._below = below
        base.regrant(self)

    def shut(self) -> set[int]:
        """Let nobody begin any more; return who has."""
        with base.LOCK:
            self._below = 0
            return set(self.begun)

    def _room(self, weight: float) -> bool:
        return True

    def _fits(self, request: Request) -> bool:
        index = getattr(request, "index", 0)
        # One that was let in is never kept from its next try.
        return not self._paused and (index < self._below or index in self.begun)

    def _admits(self, request: Request) -> bool:
        return self._fits(request)  # who waits here waits for another wave: it may be passed

    def _taken(self, request: Request) -> None:
        self.begun.add(getattr(request, "index", 0))


class Waves:
    """Opens the gate for one wave after the other, as their hosts succeed.

    It hears twice of a host that has ended: by `rule`, at once and wherever that happened,
    so that nothing more begins in a wave that has failed; and by the event, in order and in
    the calling thread, which decides how it goes on.

    Args:
        sizes: The sizes of the waves, as users give them.
        names: The hosts, in the order of their tasks.
        options: Those of the run.

    Attributes:
        gate: What the run is limited by.
        options: The options of the run with waves: those given, but for `max_failures`.

    Raises:
        ConfigError: The sizes cannot be used.
    """

    def __init__(self, sizes: object, names: Sequence[str], options: ManyOptions) -> None:
        self._names = names
        self._ends = _ends(sizes, len(names))
        tolerated = options.get("max_failures")
        max_failures(tolerated, len(names))  # refused, if it cannot be used
        self._tolerated = [
            max_failures(tolerated, end - start) or 0 for start, end in pairwise([0, *self._ends])
        ]
        self._wave = 0
        self._failures = 0  # in this wave, as `rule` counts them
        self._failed: list[str] = []  # in this wave, as events tell
        self._ended: set[int] = set()
        self._left = set(range(self._ends[0])) if self._ends else set()  # of this wave
        self._token = CancelToken()
        self._links: list[Callback] = []
        cancel = options.get("cancel")
        if isinstance(cancel, CancelToken):
            self._links = [
                cancel.on_cancel(lambda: self._token.cancel(cancel.reason)),
                cancel.on_stop_starting(lambda: self._token.stop_starting(cancel.reason)),
            ]
        elif cancel is not None:
            raise checks.refuse("cancel", cancel, "a CancelToken")
        also = options.get("on_event")
        if also is not None and not callable(also):
            raise checks.refuse("on_event", also, "a function of one argument")
        self.options: ManyOptions = {
            **options,
            "max_failures": None,
            "cancel": self._token,
            "on_event": self._listener(also),
        }
        self.gate = Gate()
        if self._ends:
            self.gate.open(self._ends[0])

    def close(self) -> None:
        """Let go of the token that was given."""
        for link in self._links:
            link.close()

    def rule(self, status: Status) -> bool:
        """Shut the gate with the failure that is one too many; never stop what runs."""
        if status != "fulfilled":
            self._failures += 1
            if self._failures > self._tolerated[self._wave]:
                self.gate.shut()
        return False

    def _listener(self, also: Listener | None) -> Listener:
        def listener(event: Event) -> None:
            if isinstance(event, TaskFinished):
                self._count(event.outcome.index, event.outcome.ok)
            if also is not None:
                also(event)

        return listener

    def _count(self, index: int, ok: bool) -> None:
        self._ended.add(index)
        self._left.discard(index)
        if not ok:
            self._failed.append(self._names[index])
        if len(self._failed) > self._tolerated[self._wave]:
            if self.gate.shut() <= self._ended:  # nothing of it runs any more
                of = f"wave {self._wave + 1} of {len(self._ends)}"
                self._token.cancel(f"not begun, since {of} failed: {plain(fold(self._failed))}")
            return
        while not self._left and self._ends[self._wave] < self._ends[-1]:
            start = self._ends[self._wave]
            self._wave += 1
            self._failures = 0
            self._failed = []
            # One that a limit of the user's refuses has ended before its turn.
            self._left = set(range(start, self._ends[self._wave])) - self._ended
            self.gate.open(self._ends[self._wave])


def _ends(sizes: object, total: int) -> list[int]:
    """Return for each wave the place behind its last task."""
    wanted = 'a list of sizes, as [1, "10%", "100%"]'
    if isinstance(sizes, str | bytes) or not isinstance(sizes, Sequence) or not sizes:
        raise checks.refuse("waves", sizes, wanted)
    counts = [_size(size, total) for size in sizes]
    ends: list[int] = []
    end = 0
    while end < total:
        end = min(total, end + counts[min(len(ends), len(counts) - 1)])
        ends.append(end)
    return ends


def _size(size: object, total: int) -> int:
    """Return how many hosts a size stands for; a share is rounded up."""
    if isinstance(size, int) and not isinstance(size, bool) and size >= 1:
        return size
    if isinstance(size, str) and size.endswith("%"):
        try:
            share = Fraction(size[:-1].strip()) / 100
        except (ValueError, ZeroDivisionError):
            share = Fraction(0)
        if 0 < share <= 1:
            return max(1, math.ceil(total * share))
    raise checks.refuse("waves", size, 'made of numbers of hosts from 1 and shares like "10%"')
