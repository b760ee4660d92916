"""An SFTP session whose connection is gone."""

from __future__ import annotations

from typing import Any

import pytest

from parallel_exec.environments.ssh.channel import CommandChannel
from parallel_exec.environments.ssh.connection import BrokenError
from parallel_exec.environments.ssh.sftp import Sftp


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
