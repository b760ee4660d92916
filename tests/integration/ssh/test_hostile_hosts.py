"""What a host may say, and what the network may say in its place: every call returns."""

from __future__ import annotations

import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.environments.ssh import dial, sending
from parallel_exec.environments.ssh.border import common, paramiko
from parallel_exec.errors import (
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    HostError,
    ParallelExecError,
)
from tests.integration.ssh.hostile import Honest, Line, Serve, Session, message
from tests.integration.ssh.server import make_keys

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


def test_a_name_server_that_does_not_answer(
    hostile: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts against `connect_timeout`, whatever bound the system's resolver has."""
    gate = threading.Event()
    look_up = socket.getaddrinfo

    def silent(host: str, *given: Any) -> Any:
        if host == "far.invalid" and not given[-1] & socket.AI_NUMERICHOST:
            gate.wait()
        return look_up(host, *given)

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    server = hostile(Honest())
    try:
        with (
            px.SSH("someone@far.invalid", **server.options, connect_timeout=0.3) as far,
            pytest.raises(ConnectTimeoutError, match=r"no name server answered for far\.invalid"),
        ):
            far.run("true")
        assert server.host().run("true").ok
    finally:
        gate.set()


# After the login: the host


class Once(Honest):
    """Is hostile to its first command, and honest to what ends that."""

    def __init__(self, hostility: Callable[[Session], object]) -> None:
        self._hostility = hostility

    def command(self, session: Session) -> None:
        """Do what it is for."""
        if len(session.server.lines) == 1:
            self._hostility(session)
        else:
            session.answer()


def status_after_close(session: Session) -> None:
    """Go on after the end."""
    session.answer(b"hello\n")
    session.request("exit-status", 1)


def data_after_close(session: Session) -> None:
    """Go on after the end."""
    session.answer(b"hello\n")
    session.send(message(common.cMSG_CHANNEL_DATA, session.channel.remote_chanid, b"more\n" * 1000))


def two_statuses(session: Session) -> None:
    """Change one's mind."""
    session.answer(b"hello\n", close=False)
    session.request("exit-status", 77)
    session.request("exit-signal", "KILL", False, "", "")
    session.channel.close()


def data_after_the_end_of_file(session: Session) -> None:
    """Say that it was all, and go on."""
    session.answer(b"hello\n", close=False, status=None)
    session.send(message(common.cMSG_CHANNEL_EOF, session.channel.remote_chanid))
    session.send(message(common.cMSG_CHANNEL_DATA, session.channel.remote_chanid, b"more\n"))
    session.request("exit-status", 0)
    session.channel.close()


@pytest.mark.parametrize(
    "hostility", [status_after_close, data_after_close, two_statuses, data_after_the_end_of_file]
)
def test_what_comes_after_the_end_changes_nothing(
    hostile: Serve, hostility: Callable[[Session], object]
) -> None:
    """The result is the one that was there, and the host can be used again."""
    host = hostile(Once(hostility)).host()
    assert host.run("anything").text() == "hello\n"
    assert host.run("again").ok


def test_a_channel_that_is_closed_without_a_word(hostile: Serve) -> None:
    """Nobody knows whether the command ran; the error says what happened, and the connection
    is used again.
    """

    class ClosesOnly(Honest):
        def command(self, session: Session) -> None:
            session.channel.close()

    server = hostile(ClosesOnly())
    host = server.host()
    for _ in range(3):
        with pytest.raises(ConnectionLostError, match="closed its channel without an exit status"):
            host.run("true")
    assert server.connections == 1


@pytest.mark.parametrize("pid", [b"9" * 5000, b"9" * 100_000, b"-1", b"1 2", b""])
def test_a_process_id_that_is_none(hostile: Serve, pid: bytes) -> None:
    """The command has not started as it should: an error that says what came instead."""

    def answers(session: Session) -> None:
        session.answer(pid=pid)

    host = hostile(Once(answers)).host()
    with pytest.raises(HostError, match="did not start") as caught:
        host.run("true", timeout=20)
    assert len(str(caught.value)) < 2000
    assert host.run("again").ok


@pytest.mark.parametrize("name", ["A" * 100_000, "", "TERM\x1b[31m", "KILL\n", "\udcff"])
def test_a_signal_that_is_none(hostile: Serve, name: str) -> None:
    """The connection is given up; nothing of it is shown."""

    def killed(session: Session) -> None:
        session.answer(status=None, close=False)
        raw = name.encode("utf-8", "surrogateescape")
        session.request("exit-signal", raw, False, "", "")
        session.wait()

    host = hostile(Once(killed)).host()
    with pytest.raises(ConnectionLostError, match="a signal with a name of") as caught:
        host.run("true", timeout=20)
    assert len(str(caught.value)) < 2000
    assert host.run("again").ok


def test_signals_that_are_some(hostile: Serve) -> None:
    """Those of the RFC, and those of a system's own."""
    for name in ("TERM", "RTMIN+1", "SIG@openssh.com"):

        def killed(session: Session, name: str = name) -> None:
            session.answer(status=None, close=False)
            session.request("exit-signal", name, False, "", "")
            session.channel.close()

        result = hostile(Once(killed)).host().run("true", check=False)
        assert (result.signal, result.exit_code) == (f"SIG{name}", None)


def test_more_output_than_was_allowed(hostile: Serve) -> None:
    """While nobody takes it, it would have to be kept: the connection ends."""
    gate = threading.Event()

    def pours(session: Session) -> None:
        session.begin()
        line = b"x" * 99_999 + b"\n"
        with suppress(EOFError):
            for _ in range(400):
                number = session.channel.remote_chanid
                session.send(message(common.cMSG_CHANNEL_DATA, number, line))
            session.wait()
        gate.set()

    host = hostile(Once(pours)).host()
    with memory_below(60 * MIB), pytest.raises(ConnectionLostError, match="more output than"):
        host.run("true", on_stdout=lambda line: gate.wait(), capture=False, timeout=60)


def test_something_for_a_channel_that_never_was(hostile: Serve) -> None:
    """It ends the connection, and is not said to have been the host's wish."""

    def strays(session: Session) -> None:
        session.begin()
        session.send(message(common.cMSG_CHANNEL_DATA, 4242, b"x"))
        session.wait()

    with pytest.raises(ConnectionLostError, match="channel 4242"):
        hostile(Once(strays)).host().run("true", timeout=20)


# Who does not read


def _asks(kind: bytes, *parts: bytes | str | bool | int) -> Callable[[Session], object]:
    def asks(session: Session) -> None:
        session.begin()
        session.deaf()
        made = message(kind, *parts)
        with suppress(EOFError, OSError):
            while True:
                session.transport._send_message(made)
        session.stay()

    return asks


FLOODS = {
    "global requests": _asks(common.cMSG_GLOBAL_REQUEST, "x" * 300, True),
    "channels": _asks(common.cMSG_CHANNEL_OPEN, "x11", 1, 1 << 20, 32768, "1", 9),
    "forwarded connections": _asks(
        common.cMSG_CHANNEL_OPEN, "forwarded-tcpip", 1, 1 << 20, 32768, "127.0.0.1", 22, "::1", 9
    ),
    "requests on a channel": _asks(common.cMSG_CHANNEL_REQUEST, 0, "window-change", True),
    "what nobody knows": _asks(bytes([30]), "x"),
}


class Floods(Once):
    """Has little room for what it does not read."""

    room, window = 4096, 1 << 30


@pytest.fixture
def _little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the system keep little of what a host does not take, so that a flood is soon over."""
    connect = dial.connect

    def with_little_room(*given: Any) -> socket.socket:
        sock = connect(*given)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return sock

    monkeypatch.setattr(dial, "connect", with_little_room)
    monkeypatch.setattr(sending, "MOST_POSTED", 500)


@pytest.mark.usefixtures("_little_room")
@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_of_questions_from_a_host_that_does_not_read(hostile: Serve, flood: str) -> None:
    """Whether or not the command has a timeout, its connection ends and it is lost."""
    host = hostile(Floods(FLOODS[flood])).host(connect_timeout=600)
    with pytest.raises(ConnectionLostError, match="asks without end"):
        host.run("true")
    assert host.run("again").ok


@pytest.mark.parametrize("drips", [False, True])
def test_a_rekey_that_is_begun_and_never_finished(hostile: Serve, drips: bool) -> None:
    """Whoever wants to send waits as long as for a connection, also if the host goes on talking."""

    def rekeys(session: Session) -> None:
        session.begin()
        session.deaf()
        session.transport._send_kex_init()
        with suppress(EOFError, OSError):
            while drips and not session.server.over.wait(0.05):
                session.transport._send_message(message(common.cMSG_IGNORE, "x"))
        session.stay()

    host = hostile(Once(rekeys)).host(connect_timeout=0.5)
    with pytest.raises(ParallelExecError):
        host.run("cat > /dev/null", input=b"x" * (20 * MIB), timeout=0.5, kill_after=0.1)
    assert host.run("again").ok


@pytest.mark.parametrize("sips", [False, True])
def test_a_host_that_does_not_read_keeps_nobody_writing(hostile: Serve, sips: bool) -> None:
    """Also one that takes a little now and then."""

    def stops_reading(session: Session) -> None:
        session.begin()
        session.deaf()
        with suppress(OSError):
            while sips and not session.server.over.wait(0.05):
                session.transport.sock.settimeout(1.0)
                session.transport.sock.recv(4096)
        session.stay()

    host = hostile(Floods(stops_reading)).host(connect_timeout=0.5)
    with pytest.raises(ParallelExecError):
        host.run("cat > /dev/null", input=b"x" * (30 * MIB), timeout=0.5, kill_after=0.1)
    assert host.run("again").ok


@pytest.mark.parametrize("drips", [False, True])
def test_a_channel_that_is_never_opened(hostile: Serve, drips: bool) -> None:
    """The command has not run; it is so also if the host goes on talking."""

    class OpensNothing(Honest):
        def opening(self, transport: Any) -> bool:
            if drips:
                self.server.start(self.drip, transport)
            return False

        def drip(self, transport: Any) -> None:
            while transport.is_active() and not self.server.over.wait(0.05):
                transport._send_message(message(common.cMSG_IGNORE, "x"))

    with pytest.raises(ConnectTimeoutError, match="opened no channel"):
        hostile(OpensNothing()).host(connect_timeout=0.3).run("true")


# The key of the host


@pytest.mark.parametrize("same", [True, False])
def test_the_key_of_a_rekey_is_verified(hostile: Serve, same: bool, tmp_path: Path) -> None:
    """The same key goes on; another one ends the connection before anything is sent under it."""
    make_keys(tmp_path)
    went_on: list[bool] = []

    def rekeys(session: Session) -> None:
        session.begin()
        if not same:
            other = paramiko.Ed25519Key.from_private_key_file(str(tmp_path / "host"))
            session.transport.add_server_key(other)
        with suppress(paramiko.SSHException, EOFError):
            session.transport.renegotiate_keys()
            went_on.append(True)
            session.request("exit-status", 0)
        session.channel.close()

    host = hostile(Once(rekeys)).host()
    if same:
        assert host.run("true", timeout=30).ok
    else:
        with pytest.raises(ConnectionLostError, match="another host key"):
            host.run("true", timeout=30)
    assert went_on == [same] * same
