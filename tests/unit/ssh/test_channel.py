"""Which arrivals wake the thread that waits for a command."""

from __future__ import annotations

from typing import Any

from parallel_exec.environments.ssh.border import paramiko
from parallel_exec.environments.ssh.channel import CommandChannel


class Line:
    """Stands for the connection; notes which channels it is to wake."""

    def __init__(self) -> None:
        self.woken: list[Any] = []

    def wake_soon(self, channel: Any) -> None:
        """Note it."""
        self.woken.append(channel)

    def forget(self, number: int) -> None:
        """Nothing is remembered."""


def opened() -> tuple[CommandChannel, Line]:
    """Return an open channel and its connection."""
    channel, line = CommandChannel(0), Line()
    channel.transport = line
    channel.in_window_threshold = 1000
    channel.granted = 1 << 20
    return channel, line


def adjust(size: int) -> Any:
    """Return the message that makes room for so many bytes."""
    message = paramiko.Message()
    message.add_int(size)
    message.rewind()
    return message


def test_room_for_input_wakes_who_has_some() -> None:
    """It may wait for just that."""
    channel, line = opened()
    channel._window_adjust(adjust(100))
    assert channel.out_window_size == 100
    assert line.woken == [channel]


def test_room_for_input_wakes_nobody_after_its_end() -> None:
    """Most commands have none, and each wake-up costs a turn at the interpreter."""
    channel, line = opened()
    channel._end_of_input()
    channel._window_adjust(adjust(100))
    assert line.woken == []


def test_output_wakes_nobody() -> None:
    """The reading thread hands it on itself."""
    channel, line = opened()
    taken: list[tuple[int, bytes]] = []
    channel.take = lambda stream, data: taken.append((stream, data))
    channel._feed(b"out")
    assert taken == [(0, b"out")]
    assert line.woken == []
    assert not channel.poked


def test_the_end_is_told() -> None:
    """By whatever it is told: end of file, status, close."""
    for tell in ("_handle_eof", "_handle_close", "_request_failed"):
        channel, line = opened()
        channel.closed = True
        getattr(channel, tell)(None)
        assert line.woken == [channel], tell
