"""Running as another user."""

from __future__ import annotations

import shutil

import pytest

import parallel_exec as px
from parallel_exec.errors import SudoError
from tests.integration.ssh.server import ROOT, Server, run, running
from tests.integration.ssh.test_ending import mark

pytestmark = [
    pytest.mark.skipif(shutil.which("sudo") is None, reason="needs sudo: apt-get install sudo"),
    pytest.mark.skipif(not ROOT, reason="needs root, to make an account that may use sudo"),
]


def test_password_goes_over_stdin_along_with_input(sshd: Server) -> None:
    """Neither gets the other's bytes, and no command line has the password."""
    password = sshd.account.password
    assert password is not None
    backend = sshd.backend(sudo=True, sudo_password=password)
    result = run(backend, "id -u; cat; ps -A -o args=", input=b"given\n")
    assert result.lines()[:2] == ["0", "given"]
    assert password not in result.text()


def test_env_and_cwd_hold_for_the_other_user(sshd: Server) -> None:
    """Sudo clears the environment; what was asked for is set after that."""
    backend = sshd.backend(sudo=True, sudo_password=sshd.account.password)
    result = run(backend, "pwd; echo $A; whoami", cwd="/root", env={"A": "b c"})
    assert result.lines() == ["/root", "b c", "root"]


def test_streams_of_the_other_user_are_merged(sshd: Server) -> None:
    """What sudo asks on stderr is no part of them."""
    backend = sshd.backend(sudo=True, sudo_password=sshd.account.password)
    result = run(backend, "whoami; echo e >&2; echo o", stderr="stdout")
    assert (result.lines(), result.stderr) == (["root", "e", "o"], b"")


def test_sudo_of_a_command_goes_over_that_of_the_host(sshd: Server) -> None:
    """In either direction, alone and in a group."""
    password = sshd.account.password
    me = sshd.account.user
    with px.SSH(sshd.destination, **sshd.options, sudo_password=password) as plain:
        assert plain.run("whoami").text() == f"{me}\n"
        assert plain.run("whoami", sudo=True).text() == "root\n"
        assert px.run(plain.command("whoami", sudo="nobody")).text() == "nobody\n"
        (outcome,) = px.Group([plain]).run("whoami", sudo=True)
        assert outcome.result().text() == "root\n"
    with px.SSH(sshd.destination, **sshd.options, sudo=True, sudo_password=password) as root:
        assert root.run("whoami").text() == "root\n"
        assert root.run("whoami", sudo=False).text() == f"{me}\n"


def test_another_user_than_root(sshd: Server) -> None:
    """By name."""
    backend = sshd.backend(sudo="nobody", sudo_password=sshd.account.password)
    assert run(backend, ["whoami"]).text() == "nobody\n"


def test_wrong_password_is_its_own_error(sshd: Server) -> None:
    """Nothing runs, and the input is not taken for a second try."""
    witness = sshd.base / "sudo-witness"
    backend = sshd.backend(sudo=True, sudo_password="wrong")
    with pytest.raises(SudoError, match="refused the password"):
        run(backend, f"touch {witness}", input=b"secret input\n")
    assert not witness.exists()


def test_missing_password_is_an_error_and_does_not_hang(sshd: Server) -> None:
    """Sudo would ask, and nobody is there."""
    with pytest.raises(SudoError, match="password is required"):
        run(sshd.backend(sudo=True), "true")


def test_password_that_is_not_asked_for(make_sshd, sshd) -> None:  # type: ignore[no-untyped-def]
    """Root needs none: it must not end up in the command's input."""
    key = (sshd.key.with_suffix(".pub")).read_text()
    server = make_sshd(extra=["PermitRootLogin yes"])
    (server.base / "authorized_keys").write_text(key)
    backend = server.backend(
        f"root@127.0.0.1:{server.port}",
        identity_file=str(sshd.key),
        sudo="nobody",
        sudo_password="not needed",
    )
    assert run(backend, "whoami; cat", input=b"mine").text() == "nobody\nmine"


@pytest.mark.parametrize("pty", [False, True])
def test_what_sudo_started_is_ended_through_sudo(sshd: Server, pty: bool) -> None:
    """The user itself may not signal root's processes."""
    word = mark()
    backend = sshd.backend(sudo=True, sudo_password=sshd.account.password, pty=pty)
    script = f"trap '' TERM; sleep {word} & sleep {word}; sleep {word}"
    result = run(backend, script, stop_after=1.0, kill_after=0.5)
    assert result.timed_out
    assert running(f"sleep {word}") == []
