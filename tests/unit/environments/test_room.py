"""Room for connections: who gets it, who waits, who gives way."""

from __future__ import annotations

import errno
import resource
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from parallel_exec.environments import room as rooms
from parallel_exec.environments.room import Place, Room, is_shortage
from parallel_exec.reactor import busy


class Few:
    """A system with so many descriptors, of which some are in use."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
        self.used = 0
        monkeypatch.setattr(busy, "may_give_back", lambda: False)
        monkeypatch.setattr(rooms, "_next_descriptor", lambda: self.used)
        monkeypatch.setattr(resource, "getrlimit", lambda _: (most, most))


def enter(room: Room, wanted: Callable[[], bool] = lambda: True) -> Place | None:
    """Enter, with nobody who stops it."""
    return room.enter(wanted, lambda wake: None, lambda: None)


def test_places_are_given_until_the_spare_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """An eighth is left, or 16; those who have no descriptor yet count as well."""
    few = Few(monkeypatch, 160)
    room = Room()
    few.used = 138
    first = enter(room)
    assert first is not None
    assert enter(room) is not None
    assert room.enter(lambda: True, lambda wake: None, lambda: None, timeout=0) is None
    first.taken()
    assert enter(room) is not None
    assert room.held == 3


def test_without_any_other_it_is_the_system_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could make room, so nobody is waited for."""
    few = Few(monkeypatch, 64)
    few.used = 64
    room = Room()
    place = enter(room)
    assert place is not None
    place.leave()
    place.leave()
    assert room.held == 0
    assert not room.pause(lambda seconds: None)


def test_those_who_wait_get_places_in_the_order_in_which_they_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each as soon as another has left."""
    monkeypatch.setattr(rooms, "LOOK_S", 60.0)  # they are woken
    few = Few(monkeypatch, 64)
    few.used = 47
    room = Room()
    held = enter(room)
    assert held is not None
    order: list[int] = []
    with ThreadPoolExecutor(3) as threads:
        for number in range(3):
            waits = threading.Event()

            def work(number: int = number, waits: threading.Event = waits) -> None:
                place = room.enter(lambda: True, lambda wake: None, waits.set)
                assert place is not None
                order.append(number)
                place.leave()

            threads.submit(work)
            assert waits.wait(30)
        held.leave()
    assert order == [0, 1, 2]


def test_who_waits_can_be_called_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one who is not the first in line, and those behind go on."""
    monkeypatch.setattr(rooms, "LOOK_S", 60.0)
    few = Few(monkeypatch, 64)
    few.used = 47
    room = Room()
    held = enter(room)
    assert held is not None
    wanted = [True, True]
    wakes: list[Callable[[], object]] = []
    with ThreadPoolExecutor(2) as threads:
        futures = []
        for number in range(2):
            waits = threading.Event()
            still = partial(wanted.__getitem__, number)
            futures.append(threads.submit(room.enter, still, wakes.append, waits.set))
            assert waits.wait(30)
        wanted[1] = False
        wakes[1]()
        assert futures[1].result(30) is None
        held.leave()
        assert futures[0].result(30) is not None


def test_what_nobody_uses_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first in line asks for it, and who must not wait long, too."""
    few = Few(monkeypatch, 64)
    few.used = 64
    room = Room()
    asked: list[int] = []

    def give() -> bool:
        asked.append(few.used)
        few.used = 20
        return True

    room.gives_way(give)
    assert enter(room) is not None
    assert enter(room) is not None
    few.used = 64
    assert room.enter_soon(60) is not None
    assert asked == [64, 64]
    few.used = 50
    monkeypatch.setattr(room, "_give_way", [])
    assert room.enter_soon(0) is None
    assert room.short_lately()


def test_a_shortage_is_seen_through_other_errors() -> None:
    """By what an error was raised from, not by what it hides."""
    scarce = OSError(errno.EMFILE, "no more")
    wrapped = ValueError("cannot be read")
    wrapped.__cause__ = scarce
    assert is_shortage(wrapped)
    assert is_shortage(RuntimeError("can't start new thread"))
    assert not is_shortage(RuntimeError("can't create new thread at interpreter shutdown"))
    assert not is_shortage(OSError(errno.EAGAIN, "not now"))
    hidden = ValueError("another")
    hidden.__context__, hidden.__suppress_context__ = scarce, True
    assert not is_shortage(hidden)
    scarce.__cause__ = hidden
    hidden.__cause__ = wrapped
    assert is_shortage(hidden)
    assert not is_shortage(None)


def test_commands_of_this_machine_may_end_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """They hold descriptors, so they are waited for where there is no connection."""
    monkeypatch.setattr(rooms, "LOOK_S", 0.0)
    few = Few(monkeypatch, 64)
    few.used = 64
    room = Room()
    monkeypatch.setattr(busy, "may_give_back", lambda: True)
    assert room.enter(lambda: True, lambda wake: None, lambda: None, timeout=0) is None
    assert room.enter_soon(0) is None
    assert room.pause(lambda seconds: None)
    assert not room.pause(lambda seconds: None, own=1)  # by a command that is the one
    monkeypatch.setattr(busy, "may_give_back", lambda: False)
    assert not room.pause(lambda seconds: None)
    assert enter(room) is not None
