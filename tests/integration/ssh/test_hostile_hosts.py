"""What a host may say after it has let somebody in: the call returns, with an outcome."""

from __future__ import annotations

import pytest

from parallel_exec.errors import ConnectionLostError, ConnectTimeoutError
from tests.integration.ssh.hostile import Honest, Line, Serve, Session


class Silent(Honest):
    """Accepts, and says nothing."""

    def raw(self, line: Line) -> bool:
        """Wait for the client to go."""
        line.wait()
        return True


class ClosesOnly(Honest):
    """Closes each command's channel without a word."""

    def command(self, session: Session) -> None:
        """Close."""
        session.channel.close()


def test_a_hostile_server_can_be_honest(hostile: Serve) -> None:
    """What `Honest` answers is what a command's result shows."""

    class Says(Honest):
        def command(self, session: Session) -> None:
            session.answer(b"hello\n", status=3)

    result = hostile(Says()).host().run("anything", check=False)
    assert (result.stdout, result.exit_code) == (b"hello\n", 3)


def test_a_server_that_is_silent_from_the_start(hostile: Serve) -> None:
    """It is given up after `connect_timeout`."""
    with pytest.raises(ConnectTimeoutError):
        hostile(Silent()).host(connect_timeout=0.5).run("true")


def test_a_channel_that_is_closed_without_a_word(hostile: Serve) -> None:
    """Nobody knows whether the command ran."""
    with pytest.raises(ConnectionLostError):
        hostile(ClosesOnly()).host().run("true")
