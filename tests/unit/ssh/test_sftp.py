"""An SFTP session: what it does where its connection is gone, and what it reads."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import pytest
from hypothesis import given, strategies as st

from parallel_exec.environments.ssh.channel import CommandChannel
from parallel_exec.environments.ssh.connection import BrokenError
from parallel_exec.environments.ssh.sftp import Sftp
from parallel_exec.environments.ssh.sftp_packets import (
    DATA,
    Attributes,
    NonsenseError,
    Reader,
    packed,
)


class Line:
    """Stands for a connection that has broken."""

    active = False

    def reason(self) -> str:
        """Return why."""
        return "it broke"


class Channel(CommandChannel):
    """Gives up where a session would go on for ever."""

    calls = 0

    def send_some(self, data: Any, *, final: bool) -> int:
        """Count it."""
        self.calls += 1
        assert self.calls < 10, "it tries again and again"
        return super().send_some(data, final=final)


def test_room_on_a_broken_connection_is_not_waited_for() -> None:
    """What the window has left is of no use: the request fails, and does not spin."""
    channel = Channel(0)
    channel.transport = Line()
    channel.out_window_size = 1000
    with channel.changed:
        channel._set_closed()
    session = Sftp(channel, 60.0, lambda: False)
    with pytest.raises(BrokenError, match="it broke"):
        session.run(session.remove(b"name"))


class Quiet(CommandChannel):
    """A channel that sends nothing."""

    def send_some(self, data: Any, *, final: bool) -> int:
        """Say that all has gone out."""
        return len(data)


ANSWERS = st.lists(st.binary(max_size=300), max_size=6)


@given(ANSWERS, st.data())
def test_answers_are_the_same_however_they_arrive(bodies: list[bytes], data: st.DataObject) -> None:
    """In one packet, in many, or byte by byte; after them nothing more is taken."""
    channel = Quiet(0)
    channel.transport = Line()
    session = Sftp(channel, 60.0, lambda: False)
    numbers = [session.ask_read(b"handle", 0, 300) for _ in bodies]
    stream = b"".join(
        struct.pack(">IBI", 9 + len(body), DATA, number) + packed(body)
        for number, body in zip(numbers, bodies, strict=True)
    )
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        session._take(0, stream[:size])
        stream = stream[size:]
    assert [session.data(session._wait(number)) for number in numbers] == bodies
    assert not session._asked
    assert not session._answers
    session._take(0, struct.pack(">IBI", 9, DATA, 1) + packed(b""))
    with pytest.raises(NonsenseError, match="nothing that was asked"):
        session.run(session.remove(b"name"))
    assert session._answers == {}


@given(st.binary(max_size=200))
def test_bytes_of_chance_are_read_or_are_nonsense(body: bytes) -> None:
    """No other error, whatever is looked for, and never more than there is."""
    for read in (
        lambda: list(Reader(body).entries()),
        lambda: Reader(body).attributes(),
        lambda: Reader(body).status(),
        lambda: Reader(body).string(),
        lambda: Reader(body).large_number(),
    ):
        with contextlib.suppress(NonsenseError):
            read()


@given(st.lists(st.tuples(st.binary(max_size=20), st.integers(0, 2**32 - 1)), max_size=20))
def test_a_listing_is_read_as_it_was_written(entries: list[tuple[bytes, int]]) -> None:
    """Every name and mode, in order."""
    body = struct.pack(">I", len(entries)) + b"".join(
        packed(name) + packed(b"drwx") + Attributes(mode=mode, accessed=1, modified=2).packed()
        for name, mode in entries
    )
    found = [(name, known.mode) for name, known in Reader(body).entries()]
    assert found == entries
