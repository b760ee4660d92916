"""How many handshakes may be under way to one server at once.

sshd counts the connections that have not logged in. By default (MaxStartups 10:30:100)
it drops some at random past 10 and all past 100. A refused handshake costs a
millisecond on both sides and nothing has run; a needless wait costs a whole handshake,
a second on a slow line. So a server is asked up to 100 at once, until it refuses; each
round of refusals halves the number, successes raise it again by one a round.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable

from parallel_exec.reactor import lifecycle

__all__ = ["Gate", "gate_of"]

FIRST_LIMIT = 100


class Gate:
    """A number of places that learns from refusals. Thread-safe.

    One lock: it guards every attribute. A place is handed to the first who waits.
    """

    def __init__(self, limit: int = FIRST_LIMIT) -> None:
        self._lock = threading.Lock()
        self.limit = float(limit)
        self.inside = 0
        self.entered = 0  # a number for each entry, so that one round cuts once
        self._cut_at = 0
        self._refused = False
        self._waiting: deque[tuple[threading.Event, list[int]]] = deque()

    def enter(self, timeout: float | None = None) -> int | None:
        """Wait for a place; return the entry's number, or None if it took too long."""
        with self._lock:
            if self.inside < int(self.limit) and not self._waiting:
                return self._take()
            event, place = threading.Event(), list[int]()
            self._waiting.append((event, place))
        event.wait(timeout)
        with self._lock:
            if place:
                return place[0]
            self._waiting.remove((event, place))
            return None

    def leave(self, entry: int, *, refused: bool = False) -> None:
        """Give the place back; `refused` says that the server had none."""
        with self._lock:
            self.inside -= 1
            if refused:
                # Those that entered before the last cut tell nothing new.
                if entry > self._cut_at:
                    self.limit = max(1.0, min(self.limit, self.inside + 1) / 2)
                    self._cut_at = self.entered
                self._refused = True
            elif self._refused:
                self.limit += 1 / self.limit
            while self._waiting and self.inside < int(self.limit):
                event, place = self._waiting.popleft()
                place.append(self._take())
                event.set()

    def _take(self) -> int:
        self.inside += 1
        self.entered += 1
        return self.entered


_gates: dict[Hashable, Gate] = {}
_gates_lock = threading.Lock()  # guards _gates


def gate_of(endpoint: Hashable) -> Gate:
    """Return the gate of a server, the same one for everyone in this process."""
    with _gates_lock:
        return _gates.setdefault(endpoint, Gate())


def _after_fork_in_child() -> None:
    """The handshakes under way are the parent's."""
    global _gates_lock
    _gates_lock = threading.Lock()
    _gates.clear()


lifecycle.at_fork("ssh gates", _after_fork_in_child)
