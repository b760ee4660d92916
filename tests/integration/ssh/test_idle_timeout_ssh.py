"""`idle_timeout` over SSH, where more than the command may be silent."""

from __future__ import annotations

import threading

import pytest

import parallel_exec as px
from parallel_exec.errors import CommandIdleError
from tests.integration.ssh.server import Server


def test_silence_in_a_terminal_ends_it(sshd: Server) -> None:
    """A command with a terminal is ended like any other, with what it printed."""
    with px.SSH(sshd.destination, pty=True, **sshd.options) as host:
        with pytest.raises(CommandIdleError) as caught:
            host.run("echo seen; exec sleep 100000", idle_timeout=0.5)
        assert caught.value.result.text() == "seen\r\n"
        assert host.run("echo fine", idle_timeout=60).ok


def test_output_that_waits_for_a_slow_callback_is_no_silence(sshd: Server) -> None:
    """The library asks the host for no more, so the command may not be blamed."""
    slow = threading.Event()
    sizes: list[int] = []

    def look(line: str) -> None:
        sizes.append(len(line))
        if len(sizes) == 1:
            slow.wait(6)  # nobody sets it

    script = "head -c 40000000 /dev/zero | tr '\\0' x | fold -w 100000"
    with px.SSH(sshd.destination, **sshd.options) as host:
        result = host.run(script, on_stdout=look, idle_timeout=4, capture=False)
    assert result.ok
    assert sum(sizes) == 40_000_000
