"""The common paths on the other server that is found in the field."""

from __future__ import annotations

import shutil

import pytest

from parallel_exec.errors import CommandNotFoundError, SudoError
from tests.integration.ssh.server import Server, run, running
from tests.integration.ssh.test_ending import mark


def test_running(dropbear: Server) -> None:
    """Output, status, signal, input, env, cwd."""
    backend = dropbear.backend()
    result = run(backend, "echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.exit_code) == (b"out\n", b"err\n", 3)
    assert run(backend, "kill -KILL $$").signal == "SIGKILL"
    assert run(backend, "cat", input=b"x" * 1_000_000).stdout == b"x" * 1_000_000
    assert run(backend, 'printf %s "$A"', env={"A": "a\nb"}).text() == "a\nb"
    with pytest.raises(CommandNotFoundError):
        run(backend, "pwd", cwd="/no/such")


@pytest.mark.parametrize("pty", [False, True])
def test_ending(dropbear: Server, pty: bool) -> None:
    """Only the command: Dropbear starts it in its own process group."""
    backend = dropbear.backend(pty=pty)
    word = mark()
    result = run(
        backend, f"trap '' TERM; sleep {word} & sleep {word}", stop_after=0.6, kill_after=0.4
    )
    assert result.timed_out
    assert running(f"sleep {word}") == []
    assert run(backend, "echo still").text().strip() == "still"


@pytest.mark.skipif(shutil.which("sudo") is None, reason="needs sudo: apt-get install sudo")
def test_sudo(dropbear: Server) -> None:
    """With its password, and with a wrong one."""
    backend = dropbear.backend(sudo=True, sudo_password=dropbear.account.password)
    assert run(backend, "id -u; cat", input=b"x").text() == "0\nx"
    with pytest.raises(SudoError):
        run(dropbear.backend(sudo=True, sudo_password="wrong"), "true")
