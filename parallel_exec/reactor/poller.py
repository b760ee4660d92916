"""Waiting for descriptors: epoll on Linux, kqueue on macOS."""

from __future__ import annotations

import select
from typing import Protocol

__all__ = ["READ", "WRITE", "Poller", "make"]

READ = 1
WRITE = 2


class Poller(Protocol):
    """A set of descriptors to wait for. Edge-triggered: each is told of when it is added and
    ready, and when something comes; not again because something is left. Closing it ends the
    watch: a copy in a forked child may keep it, but nothing more comes.
    """

    def add(self, fd: int, interest: int) -> None:
        """Watch `fd` for READ or WRITE, or watch it anew; the end of a pipe counts as both."""

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
        events = ARRIVALS if interest == READ else ROOM
        try:
            self._epoll.register(fd, events)
        except FileExistsError:
            self._epoll.modify(fd, events)

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        return self._epoll.poll(timeout, 128)

    def close(self) -> None:
        self._epoll.close()


class KqueuePoller:
    """macOS and the BSDs."""

    def __init__(self) -> None:
        self._queue = select.kqueue()  # type: ignore[attr-defined,unused-ignore]

    def add(self, fd: int, interest: int) -> None:
        kind = select.KQ_FILTER_READ if interest == READ else select.KQ_FILTER_WRITE  # type: ignore[attr-defined,unused-ignore]
        flags = select.KQ_EV_ADD | select.KQ_EV_CLEAR  # type: ignore[attr-defined,unused-ignore]
        self._queue.control([select.kevent(fd, kind, flags)], 0)  # type: ignore[attr-defined,unused-ignore]

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        events = self._queue.control(None, 512, timeout)
        return [(event.ident, event.filter) for event in events]

    def close(self) -> None:
        self._queue.close()


def make() -> Poller:
    """Return this system's."""
    return EpollPoller() if hasattr(select, "epoll") else KqueuePoller()
