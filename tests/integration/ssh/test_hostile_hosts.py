"""What a host may say, and what the network may say in its place: every call returns."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from parallel_exec.environments.ssh.border import common
from parallel_exec.errors import ConnectError, ConnectionLostError, ConnectTimeoutError
from tests.integration.ssh.hostile import Honest, Line, Serve, Session, message

MIB = 1 << 20


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    """Fail if more bytes than `limit` are held at any time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def test_a_hostile_server_can_be_honest(hostile: Serve) -> None:
    """What `Honest` answers is what a command's result shows."""

    class Says(Honest):
        def command(self, session: Session) -> None:
            session.answer(b"hello\n", status=3)

    result = hostile(Says()).host().run("anything", check=False)
    assert (result.stdout, result.exit_code) == (b"hello\n", 3)


# Before the host's key is verified: the network


class Silent(Honest):
    """Accepts, and says nothing."""

    def raw(self, line: Line) -> bool:
        """Wait for the client to go."""
        line.wait()
        return True


class Announces(Honest):
    """Announces a packet of any size, in 19 bytes, and waits."""

    def __init__(self, size: int) -> None:
        self._size = size

    def raw(self, line: Line) -> bool:
        """Send them."""
        line.send(b"SSH-2.0-x\r\n" + self._size.to_bytes(4, "big") + b"\x04\x14\0\0")
        line.wait()
        return True


def test_a_server_that_is_silent_from_the_start(hostile: Serve) -> None:
    """It is given up after `connect_timeout`."""
    with pytest.raises(ConnectTimeoutError):
        hostile(Silent()).host(connect_timeout=0.5).run("true")


@pytest.mark.parametrize("size", [(1 << 30) + 4, (1 << 32) - 4, 36_004, 0, 3])
def test_a_packet_that_no_honest_server_announces(hostile: Serve, size: int) -> None:
    """The connection ends at once, whatever `connect_timeout` is, and takes no memory."""
    host = hostile(Announces(size)).host(connect_timeout=600)
    with memory_below(4 * MIB), pytest.raises(ConnectError) as caught:
        host.run("true")
    assert not isinstance(caught.value, ConnectTimeoutError)


def test_a_count_without_the_things_counted(hostile: Serve) -> None:
    """Four billion extensions in five bytes, before anybody has logged in, are not counted."""

    class Counts(Honest):
        def exchanged(self, transport: Any) -> None:
            transport._send_message(message(common.cMSG_EXT_INFO, (1 << 32) - 1))

    with memory_below(8 * MIB), pytest.raises(ConnectError, match="ends early"):
        hostile(Counts()).host(connect_timeout=600).run("true")


# After the login: the host


class ClosesOnly(Honest):
    """Closes each command's channel without a word."""

    def command(self, session: Session) -> None:
        """Close."""
        session.channel.close()


def test_a_channel_that_is_closed_without_a_word(hostile: Serve) -> None:
    """Nobody knows whether the command ran; the error says what happened, and the connection
    is used again.
    """
    server = hostile(ClosesOnly())
    host = server.host()
    for _ in range(3):
        with pytest.raises(ConnectionLostError, match="closed its channel without an exit status"):
            host.run("true")
    assert server.connections == 1
