"""Waiting for descriptors: epoll on Linux, kqueue on macOS, poll elsewhere."""

from __future__ import annotations

import select
from typing import Protocol

__all__ = ["READ", "WRITE", "Poller", "make"]

READ = 1
WRITE = 2


class Poller(Protocol):
    """A set of descriptors to wait for. Edge-triggered: each is told of when it is added and
    ready, and when something comes; not again because something is left.
    """

    def add(self, fd: int, interest: int) -> None:
        """Watch `fd` for READ or WRITE; the end of a pipe counts as both."""

    def remove(self, fd: int) -> None:
        """Stop watching `fd`."""

    def forget(self, fd: int) -> None:
        """Know that `fd` is about to be closed, which ends the watch by itself."""

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        """Return the descriptors that are ready, each with the system's word for what for,
        after at most `timeout` seconds.
        """

    def close(self) -> None:
        """Give the poller's own descriptor back."""


if hasattr(select, "epoll"):
    ARRIVALS = select.EPOLLIN | select.EPOLLET
    ROOM = select.EPOLLOUT | select.EPOLLET


class EpollPoller:
    """Linux: the cost of a wait does not grow with what is watched."""

    def __init__(self) -> None:
        self._epoll = select.epoll()

    def add(self, fd: int, interest: int) -> None:
        self._epoll.register(fd, ARRIVALS if interest == READ else ROOM)

    def remove(self, fd: int) -> None:
        self._epoll.unregister(fd)

    def forget(self, fd: int) -> None:
        pass  # a copy in a forked child would keep it watched, but nothing more comes

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        return self._epoll.poll(timeout, 128)

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
        flags = select.KQ_EV_ADD | select.KQ_EV_CLEAR  # type: ignore[attr-defined,unused-ignore]
        self._queue.control([select.kevent(fd, kind, flags)], 0)  # type: ignore[attr-defined,unused-ignore]

    def remove(self, fd: int) -> None:
        kind = self._filters.pop(fd)
        self._queue.control([select.kevent(fd, kind, select.KQ_EV_DELETE)], 0)  # type: ignore[attr-defined,unused-ignore]

    def forget(self, fd: int) -> None:
        self._filters.pop(fd, None)

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        events = self._queue.control(None, 512, timeout)
        return [(event.ident, event.filter) for event in events]

    def close(self) -> None:
        self._queue.close()


class PollPoller:
    """Everywhere else. It tells more often than it need."""

    def __init__(self) -> None:
        self._poll = select.poll()

    def add(self, fd: int, interest: int) -> None:
        self._poll.register(fd, select.POLLIN if interest == READ else select.POLLOUT)

    def remove(self, fd: int) -> None:
        self._poll.unregister(fd)

    def forget(self, fd: int) -> None:
        self._poll.unregister(fd)

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        # Rounded up: a wait that ends before its time would be repeated at once.
        milliseconds = None if timeout is None else int(timeout * 1000) + 1
        return self._poll.poll(milliseconds)

    def close(self) -> None:
        pass


def make() -> Poller:
    """Return the best poller this system has."""
    if hasattr(select, "epoll"):
        return EpollPoller()
    if hasattr(select, "kqueue"):
        return KqueuePoller()
    return PollPoller()
