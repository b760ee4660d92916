"""The common paths on the other server that is found in the field."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from parallel_exec.errors import (
    AuthenticationError,
    CommandNotFoundError,
    ConnectionLostError,
    HostKeyError,
    SudoError,
)
from tests.integration.ssh.server import ROOT, Server, run, running, wait_until
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


def test_files(dropbear: Server, tmp_path: Path) -> None:
    """Over OpenSSH's SFTP server, which Dropbear starts."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(100):
        (tree / f"{number}").write_text(f"{number}")
    backend = dropbear.backend()
    assert backend.put(tree, "tree-d").files == 100
    assert backend.get("tree-d", tmp_path / "back").bytes == 190
    assert (tmp_path / "back" / "42").read_text() == "42"


def test_broken_connection(dropbear: Server) -> None:
    """The command is lost, what is left of it is ended, the next one connects anew."""
    backend = dropbear.backend()
    word = mark()
    future = backend.submit(f"sleep {word}; true")
    wait_until(lambda: running(f"sleep {word}"), "it runs")
    assert backend._pool is not None
    backend._pool._connections[0].transport.sock.shutdown(2)
    with pytest.raises(ConnectionLostError):
        future.result(30)
    wait_until(lambda: not running(f"sleep {word}"), "what is left of it has ended")
    assert backend.run("echo again").text() == "again\n"


@pytest.mark.skipif(not ROOT, reason="needs root, to make an account whose password is known")
def test_password_and_unknown_key(dropbear: Server, tmp_path: Path) -> None:
    """Logins and trust are the same."""
    password = dropbear.account.password
    backend = dropbear.backend(identity_file=None, agent=False, password=password)
    assert backend.run("echo in").text() == "in\n"
    with pytest.raises(AuthenticationError):
        dropbear.backend(identity_file=None, agent=False, password="wrong").run("true")
    with pytest.raises(HostKeyError, match="unknown"):
        dropbear.backend(known_hosts=str(tmp_path / "known_hosts")).run("true")
