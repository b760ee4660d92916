"""Secrets on their way to a host: what it echoes, and what tracebacks keep."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.environments.ssh.packets import Packetizer
from tests.integration.frames import hides_in_frames
from tests.integration.ssh.hostile import Honest, Serve, Session, message
from tests.integration.ssh.server import Server

SECRET = 'hunter2 it\'s "$more"\nand a line'
PARTS = ("hunter2", "$more", "and a line")


def hides(text: object) -> None:
    """Check that a text has no part of the secret that matters."""
    for part in PARTS:
        assert part not in str(text)


def received(session: Session) -> bytes:
    """Return all the orders of a client."""
    data = b""
    while more := session.channel.recv(65536):
        data += more
    return data


class EchoesThenRuns(Honest):
    """A login shell on a terminal that echoes."""

    def command(self, session: Session) -> None:
        session.out(received(session))
        session.answer()


class EchoesAndRefuses(Honest):
    """A shell that repeats what it does not understand."""

    def command(self, session: Session) -> None:
        session.err(b"sh: syntax error: " + received(session))
        session.request("exit-status", 2)
        session.channel.close()


class HangsUpWithIt(Honest):
    """A host that says in its last words what it was sent."""

    def command(self, session: Session) -> None:
        session.begin()
        words = received(session).decode("utf-8", "replace")
        session.send(message(bytes([1]), 11, words, "en"))  # SSH_MSG_DISCONNECT
        session.transport.close()


def command() -> px.Command:
    """Return a command with secrets in all places."""
    secret = px.Secret(SECRET)
    return px.sh("true {} '{}'", secret, secret, env={"WORD": secret}, input=secret)


def test_an_echo_of_the_orders_is_masked_in_the_log(
    hostile: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """Raw, quoted once, and quoted again for the shell that reads the orders."""
    host = hostile(EchoesThenRuns()).host(connect_timeout=5)
    with caplog.at_level(logging.DEBUG, "parallel_exec"):
        host.run(command(), timeout=10)
    (said,) = [line for line in caplog.messages if "said before the command" in line]
    assert "***" in said
    hides(caplog.text)


def test_an_echo_of_the_orders_is_masked_in_the_error(hostile: Serve) -> None:
    """Of a start that the host refused."""
    host = hostile(EchoesAndRefuses()).host(connect_timeout=5)
    with pytest.raises(px.errors.HostError, match="did not start") as caught:
        host.run(command(), timeout=10)
    assert "***" in str(caught.value)
    hides(caught.value)
    hides_in_frames(caught.value, *PARTS)


def test_the_last_words_of_a_host_are_masked(hostile: Serve) -> None:
    """In the error of a connection that is lost, and in the result."""
    host = hostile(HangsUpWithIt()).host(connect_timeout=5)
    with pytest.raises(px.errors.ConnectionLostError) as caught:
        host.run(command(), timeout=10)
    assert "***" in str(caught.value)
    assert caught.value.result is not None
    for text in (caught.value, caught.value.result.cause):
        hides(text)


class Broken(Exception):  # noqa: N818
    """What no code expects."""


@pytest.fixture
def one(sshd: Server) -> Iterator[px.SSH]:
    """A host that is connected already."""
    with px.SSH(sshd.destination, **sshd.options) as host:
        host.run("true")
        yield host


@pytest.fixture
def unsendable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that takes everything but secrets: paramiko fails to make a packet of them."""
    build = Packetizer._build_packet

    def fail(self: Any, payload: bytes) -> Any:
        if b"hunter2" in payload:
            raise Broken("no packet")
        return build(self, payload)

    monkeypatch.setattr(Packetizer, "_build_packet", fail)


def test_no_frame_of_a_failed_start_holds_a_secret(one: px.SSH, unsendable: None) -> None:
    """Neither ours nor paramiko's, which encrypt and send the orders."""
    with pytest.raises(Broken) as caught:
        one.run(command(), timeout=10)
    hides_in_frames(caught.value, *PARTS)


def test_no_frame_of_a_failed_login_holds_the_password(sshd: Server, unsendable: None) -> None:
    """Paramiko's frames have it plain: the error goes on without them."""
    options = {**sshd.options, "identity_file": []}
    with px.SSH(sshd.destination, **{**options, "password": SECRET}) as host:
        with pytest.raises(px.errors.ConnectError) as caught:
            host.run("true", timeout=10)
        assert isinstance(caught.value.__cause__, Broken)
        hides_in_frames(caught.value, *PARTS)


def test_a_variable_that_no_shell_can_set_is_refused_before_secrets_are_plain(
    one: px.SSH,
) -> None:
    """The other variables are not in the frames of that error."""
    with pytest.raises(px.errors.ConfigError, match="not a shell name") as caught:
        one.run("true", env={"A": px.Secret(SECRET), "a b": "c"})
    hides_in_frames(caught.value, *PARTS)


@pytest.mark.parametrize("name", ["password", "passphrase", "sudo_password"])
def test_passwords_that_cannot_be_sent_are_refused_at_once_and_not_shown(name: str) -> None:
    """Lone surrogates, another type; and a refusal of something else keeps none in its frames."""
    values: list[Any] = ["hunter2\ud800", px.Secret("hunter2\ud800"), b"hunter2"]
    for value in values:
        with pytest.raises(px.errors.ConfigError, match=name) as caught:
            px.SSH("web1", **{name: value})
        hides(caught.value)
    for other, refused in (("agent", 3), ("max_sessions", 0), ("no_such", 1)):
        options: dict[str, Any] = {name: SECRET, other: refused}
        with pytest.raises(px.errors.ConfigError) as caught:
            px.hosts("web1", **options)
        hides_in_frames(caught.value, *PARTS)
        for make in (px.SSH, lambda name, **given: px.Group([name], **given)):
            with pytest.raises(px.errors.ConfigError) as caught:
                make("web1", **options)
            hides_in_frames(caught.value, *PARTS)


@pytest.mark.parametrize("name", ["pasword", "passwd", "pwd", "sudo_pasword", "token"])
def test_a_mistyped_password_is_not_shown(name: str) -> None:
    """Neither by the error that says so nor by its frames."""
    options: dict[str, Any] = {name: SECRET}
    for make in (px.SSH, px.hosts, lambda host, **given: px.Group([host], **given)):
        with pytest.raises(px.errors.ConfigError, match=name) as caught:
            make("web1", **options)
        hides(caught.value)
        hides_in_frames(caught.value, *PARTS)
    with pytest.raises(px.errors.ConfigError, match=name) as caught:
        px.run("true", **options)
    hides(caught.value)


def test_a_host_file_keeps_its_secrets(tmp_path: Path) -> None:
    """A value in the wrong place is in no message, cause or frame."""
    path = tmp_path / "hosts"
    path.write_text("web1 password=hunter2 max_sessions=hunter2\n")
    with pytest.raises(px.errors.ConfigError, match="max_sessions") as caught:
        px.hosts(file=path)
    error: BaseException | None = caught.value
    while error is not None:
        hides(error)
        error = error.__cause__ or error.__context__
    hides_in_frames(caught.value, *PARTS)
