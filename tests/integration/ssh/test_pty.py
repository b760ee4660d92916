"""Commands with a terminal."""

from __future__ import annotations

import pytest

from parallel_exec.errors import HostError
from tests.integration.ssh.server import Server, run


def test_a_terminal_is_there_and_sane(sshd: Server) -> None:
    """stdin, stdout and stderr; the modes of the start are gone."""
    result = run(sshd.backend(pty=True), "tty; test -t 0 && test -t 2 && stty -a")
    text = result.text()
    assert text.startswith("/dev/pts/")
    assert " icanon" in text
    assert " echo " in text
    assert result.stderr == b""


def test_input_ends_on_a_terminal(sshd: Server) -> None:
    """The terminal echoes; the orders are not seen."""
    result = run(sshd.backend(pty=True), "cat; echo end", input=b"hello\n", env={"A": "secret"})
    assert result.text() == "hello\r\nhello\r\nend\r\n"


def test_no_input_is_the_end_of_input(sshd: Server) -> None:
    """A command that reads does not wait for ever."""
    result = run(sshd.backend(pty=True), "cat; echo end", stop_after=5.0)
    assert result.exit_code == 0


def test_exit_status_and_signal(sshd: Server) -> None:
    """As without a terminal."""
    backend = sshd.backend(pty=True)
    assert run(backend, "exit 3").exit_code == 3
    assert run(backend, "kill -TERM $$").signal == "SIGTERM"


def test_host_that_gives_no_terminal(make_sshd) -> None:  # type: ignore[no-untyped-def]
    """The command surely did not run, however soon the host would have begun it."""
    server = make_sshd(extra=["PermitTTY no"])
    witness = server.account.home / "witness"
    for options in ({}, {"env": {"A": "1"}}, {"input": b"x"}):
        with pytest.raises(HostError, match="gives no terminal"):
            run(server.backend(pty=True), f"touch {witness}", **options)
    assert not witness.exists()
