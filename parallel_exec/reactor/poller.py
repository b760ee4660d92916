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

    def remove(self, fd: int) -> None:
        """Stop watching `fd`. To be called before it is closed: a copy of it in a
        forked process would keep it watched.
        """

    def wait(self, timeout: float | None) -> list[int]:
        """Return the descriptors that are ready, after at most `timeout` seconds."""

    def close(self) -> None:
        """Give the poller's own descriptor back."""


class EpollPoller:
    """Linux: the cost of a wait does not grow with what is watched."""

    def __init__(self) -> None:
        self._epoll = select.epoll()

    def add(self, fd: int, interest: int) -> None:
        self._epoll.register(fd, select.EPOLLIN if interest == READ else select.EPOLLOUT)

    def remove(self, fd: int) -> None:
        self._epoll.unregister(fd)

    def wait(self, timeout: float | None) -> list[int]:
        return [fd for fd, _ in self._epoll.poll(timeout, 512)]

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

    def remove(self, fd: int) -> None:
        kind = self._filters.pop(fd)
        self._queue.control([select.kevent(fd, kind, select.KQ_EV_DELETE)], 0)  # type: ignore[attr-defined,unused-ignore]

    def wait(self, timeout: float | None) -> list[int]:
        return [event.ident for event in self._queue.control(None, 512, timeout)]

    def close(self) -> None:
        self._queue.close()


class PollPoller:
    """Everywhere else."""

    def __init__(self) -> None:
        self._poll = select.poll()

    def add(self, fd: int, interest: int) -> None:
        self._poll.register(fd, select.POLLIN if interest == READ else select.POLLOUT)

    def remove(self, fd: int) -> None:
        self._poll.unregister(fd)

    def wait(self, timeout: float | None) -> list[int]:
        # Rounded up: a wait that ends before its time would be repeated at once.
        milliseconds = None if timeout is None else int(timeout * 1000) + 1
        return [fd for fd, _ in self._poll.poll(milliseconds)]

    def close(self) -> None:
        pass


def make() -> Poller:
    """Return the best poller this system has."""
    if hasattr(select, "epoll"):
        return EpollPoller()
    if hasattr(select, "kqueue"):
        return KqueuePoller()
    return PollPoller()
