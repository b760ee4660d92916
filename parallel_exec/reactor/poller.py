"""Waiting for descriptors: epoll on Linux, kqueue on macOS, poll elsewhere."""

from __future__ import annotations

import select
from typing import Protocol

__all__ = ["READ", "WRITE", "Poller", "make"]

READ = 1
WRITE = 2


class Poller(Protocol):
    """A set of descriptors to wait for. Level-triggered."""

    def add(self, fd: int, interest: int) -> None:
        """Watch `fd` for READ or WRITE; the end of a pipe counts as both."""

    def add_once(self, fd: int) -> None:
        """Watch `fd` for READ until it has been ready: then it is as if it were removed."""

    def remove(self, fd: int) -> None:
        """Stop watching `fd`. To be called before it is closed: a copy of it in a
        forked process would keep it watched.
        """

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        """Return the descriptors that are ready, each with the system's word for what for,
        after at most `timeout` seconds.
        """

    def close(self) -> None:
        """Give the poller's own descriptor back."""


class EpollPoller:
    """Linux: the cost of a wait does not grow with what is watched."""

    def __init__(self) -> None:
        self._epoll = select.epoll()

    def add(self, fd: int, interest: int) -> None:
        self._epoll.register(fd, select.EPOLLIN if interest == READ else select.EPOLLOUT)

    def add_once(self, fd: int) -> None:
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLONESHOT)

    def remove(self, fd: int) -> None:
        self._epoll.unregister(fd)

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        return self._epoll.poll(timeout, 512)

    def close(self) -> None:
        self._epoll.close()


class KqueuePoller:
    """macOS and the BSDs."""

    def __init__(self) -> None:
        self._queue = select.kqueue()  # type: ignore[attr-defined,unused-ignore]
        self._filters: dict[int, int] = {}

    def add(self, fd: int, interest: int) -> None:
        kind = select.KQ_FILTER_READ if interest == READ else select.KQ_FILTER_WRITE  # type: ignore[attr-defined,unused-ignore]
        self._filters[fd] = kind
        self._queue.control([select.kevent(fd, kind, select.KQ_EV_ADD)], 0)  # type: ignore[attr-defined,unused-ignore]

    def add_once(self, fd: int) -> None:
        self._filters[fd] = kind = select.KQ_FILTER_READ  # type: ignore[attr-defined,unused-ignore]
        flags = select.KQ_EV_ADD | select.KQ_EV_ONESHOT  # type: ignore[attr-defined,unused-ignore]
        self._queue.control([select.kevent(fd, kind, flags)], 0)  # type: ignore[attr-defined,unused-ignore]

    def remove(self, fd: int) -> None:
        kind = self._filters.pop(fd)
        self._queue.control([select.kevent(fd, kind, select.KQ_EV_DELETE)], 0)  # type: ignore[attr-defined,unused-ignore]

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        events = self._queue.control(None, 512, timeout)
        return [(event.ident, event.filter) for event in events]

    def close(self) -> None:
        self._queue.close()


class PollPoller:
    """Everywhere else."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._once: set[int] = set()

    def add(self, fd: int, interest: int) -> None:
        self._poll.register(fd, select.POLLIN if interest == READ else select.POLLOUT)

    def add_once(self, fd: int) -> None:
        self._poll.register(fd, select.POLLIN)
        self._once.add(fd)

    def remove(self, fd: int) -> None:
        self._poll.unregister(fd)
        self._once.discard(fd)

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        # Rounded up: a wait that ends before its time would be repeated at once.
        milliseconds = None if timeout is None else int(timeout * 1000) + 1
        ready = self._poll.poll(milliseconds)
        for fd, _ in ready:
            if fd in self._once:
                self.remove(fd)
        return ready

    def close(self) -> None:
        pass


def make() -> Poller:
    """Return the best poller this system has."""
    if hasattr(select, "epoll"):
        return EpollPoller()
    if hasattr(select, "kqueue"):
        return KqueuePoller()
    return PollPoller()
