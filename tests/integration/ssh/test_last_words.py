"""What the other side says when there is no connection, or no login: it is in the error."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.environments.ssh.border import common
from parallel_exec.errors import AuthenticationError, ConnectError, ConnectTimeoutError
from tests.integration.ssh.hostile import Honest, Line, Serve, message
from tests.integration.ssh.server import ROOT, Server, run, wait_until


class Saying(Honest):
    """Says something that is not SSH, and hangs up or waits."""

    def __init__(self, words: bytes, *, waits: bool = False) -> None:
        self.words = words
        self.waits = waits

    def raw(self, line: Line) -> bool:
        line.send(self.words)
        if self.waits:
            line.wait()
        else:
            line.receive()
        return True


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n", "HTTP/1.1 400 Bad Request Server: x"),
        (b"220 mail.example ESMTP\r\n", "220 mail.example ESMTP"),
        (b"no end of the line", "no end of the line"),
        (b"\x15\x03\x01\x00\x02\x02\x46", r"\x15\x03\x01\x00\x02\x02F"),
        (b"\x1b[2J\xff\n", r"\x1b[2J" + "\ufffd"),
    ],
)
def test_what_is_not_ssh(hostile: Serve, words: bytes, told: str) -> None:
    """It is told, escaped, and at once: another handshake would hear the same."""
    server = hostile(Saying(words))
    with pytest.raises(ConnectError) as refused:
        run(server.host(connect_timeout=20), "true")
    assert str(refused.value).endswith(f"the host does not speak SSH, it says '{told}'")
    assert server.connections == 1


def test_what_is_not_ssh_and_waits(hostile: Serve) -> None:
    """It is told when the time is over."""
    with pytest.raises(ConnectTimeoutError, match="it says '220 mail', which is not SSH"):
        run(hostile(Saying(b"220 mail\r\n", waits=True)).host(connect_timeout=1), "true")


@pytest.mark.parametrize("words", ["Exceeded MaxStartups", "Not allowed at this time"])
def test_server_that_is_full_says_so(hostile: Serve, words: str) -> None:
    """It is asked again, as one that only closes, and its words are told in the end."""
    server = hostile(Saying(words.encode() + b"\r\n"))
    with pytest.raises(ConnectError, match=rf"handshakes: .*'{words}'"):
        run(server.host(connect_timeout=1), "true")
    assert server.connections > 1


def test_endless_words_are_cut(hostile: Serve) -> None:
    """A megabyte of them is no error message."""
    with pytest.raises(ConnectError) as refused:
        run(hostile(Saying(b"x" * 60_000 + b"\r\n" * 90)).host(), "true")
    assert len(str(refused.value)) < 500


class HangingUp(Honest):
    """Ends the connection as its answer to a login."""

    def __init__(self, code: int | None, words: str = "", *, before: int = 0) -> None:
        self.code = code
        self.words = words
        self.before = before  # how many attempts are refused as usual
        self.attempts = 0
        self.transport: Any = None

    def prepare(self, transport: Any) -> None:
        self.transport = transport

    def login(self, method: str, user: str, given: Any) -> bool | None:
        self.attempts += 1
        if self.attempts > self.before:
            if self.code is not None:
                gone = message(common.cMSG_DISCONNECT, self.code, self.words, "")
                self.transport._send_message(gone)
            self.transport.packetizer.close()
            raise EOFError
        return False


TOO_MANY = "Too many authentication failures"


@pytest.mark.parametrize("code", [2, 14, None])
def test_login_that_is_refused_by_hanging_up(hostile: Serve, code: int | None) -> None:
    """It is an `AuthenticationError` with the host's words, and no retry repeats it."""
    behaviour = HangingUp(code, TOO_MANY if code else "")
    host = hostile(behaviour).host()
    told = TOO_MANY if code else "closed the connection"
    with pytest.raises(AuthenticationError, match=told):
        px.all([host.command("true")], retry=px.Retry(attempts=3, wait=0.01))
    assert behaviour.attempts == 1


def test_host_that_hangs_up_for_a_reason_of_its_own(hostile: Serve) -> None:
    """Too many connections, for instance, say nothing about the login: it can be repeated."""
    with pytest.raises(ConnectError, match="the host hung up: come back later"):
        run(hostile(HangingUp(12, "come back later")).host(), "true")


def test_words_of_a_disconnection_are_escaped(hostile: Serve) -> None:
    """And cut."""
    with pytest.raises(AuthenticationError) as refused:
        run(hostile(HangingUp(2, "\x1b[31m\n" + "x" * 20_000)).host(), "true")
    assert r"\x1b[31m xxx" in str(refused.value)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("way", ["key", "password"])
def test_one_attempt_at_openssh(make_sshd, tmp_path: Path, way: str) -> None:  # type: ignore[no-untyped-def]
    """`MaxAuthTries 1`: one login is refused, however often a retry may try."""
    server = make_sshd(extra=["MaxAuthTries 1", "KbdInteractiveAuthentication no"])
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True
    )
    options: dict[str, Any] = {"identity_file": tmp_path / "other"}
    if way == "password":
        options = {"identity_file": "/no/such/key", "password": "wrong"}
    with pytest.raises(AuthenticationError, match=TOO_MANY):
        px.all([server.backend(**options).command("true")], retry=px.Retry(attempts=3, wait=0.01))
    assert server.log.read_text().count("Connection from ") == 2  # one asked whether it is there


class Bannering(Honest):
    """Sends a banner before it refuses, as PAM's reasons come."""

    methods = "publickey"

    def prepare(self, transport: Any) -> None:
        self.transport = transport

    def login(self, method: str, user: str, given: Any) -> bool | None:
        words = "The system is going\ndown for \x1b[1mmaintenance."
        self.transport._send_message(message(common.cMSG_USERAUTH_BANNER, words, ""))
        return False


def test_banner_of_a_login_that_is_refused(hostile: Serve) -> None:
    """Its words may be the reason."""
    told = r"it says 'The system is going down for \\x1b\[1mmaintenance\.'"
    with pytest.raises(AuthenticationError, match=told):
        run(hostile(Bannering()).host(), "true")


class Expired(Honest):
    """Wants a new password before it lets anyone in."""

    methods = "password"

    def login(self, method: str, user: str, given: Any) -> bool | None:
        words = message(bytes([60]), "Your password has expired.", "")
        self.transport._send_message(words)
        return False

    def prepare(self, transport: Any) -> None:
        self.transport = transport


def test_expired_password_of_other_servers(hostile: Serve) -> None:
    """The message that asks for a new one is understood."""
    with pytest.raises(AuthenticationError, match="has expired and must be changed first: 'Your"):
        run(hostile(Expired()).host(password="old", identity_file="/no/such/key"), "true")


@pytest.mark.skipif(not ROOT, reason="needs root, to make an account whose password expires")
@pytest.mark.parametrize("pam", ["yes", "no"])
def test_expired_password_of_openssh(make_sshd, pam: str) -> None:  # type: ignore[no-untyped-def]
    """It lets in and starts nothing: an `AuthenticationError`, not worth a retry."""
    server = make_sshd(extra=[f"UsePAM {pam}", "KbdInteractiveAuthentication no"])
    user = server.account.user
    backend = server.backend(identity_file="/no/such/key", password=server.account.password)
    subprocess.run(["chage", "-d", "0", user], check=True)
    try:
        with pytest.raises(AuthenticationError, match="has expired: change it in a terminal"):
            px.all([backend.command("true")], retry=px.Retry(attempts=3, wait=0.01))
    finally:
        subprocess.run(["chage", "-d", "-1", user], check=True)
    assert server.logins() == 1


# Proxy commands


def proxied(folder: Path, command: str, **options: Any) -> px.SSH:
    """Return a host behind a ProxyCommand."""
    script = folder / "proxy.sh"
    script.write_text(command)
    config = folder / "config"
    config.write_text(f"Host *\n  ProxyCommand /bin/sh {script}\n")
    return px.SSH("web1", config=config, agent=False, **{"connect_timeout": 5, **options})


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("exec /no/such/program", r"ended with status 127; it printed '.*/no/such/program.*"),
        ("echo no route to web1 >&2; exit 3", "ended with status 3; it printed 'no route to web1'"),
        ("printf '\\033[2J\\n\\n' >&2; exit 4", r"ended with status 4; it printed '\\x1b\[2J'"),
        ("exit 1", "ended with status 1"),
        ("kill -KILL $$", "was ended by SIGKILL"),
        (
            "yes 'so many words' | head -c 1000000 >&2; exit 5",
            "ended with status 5; it printed 'so many",
        ),
    ],
)
def test_proxy_command_that_fails(tmp_path: Path, command: str, told: str) -> None:
    """Its status and what it printed are told, and nothing is said against the host."""
    with proxied(tmp_path, command) as host:
        began = time.monotonic()
        with pytest.raises(ConnectError, match=f"^web1: its ProxyCommand {told}") as refused:
            run(host, "true")
        assert time.monotonic() - began < 4  # it is not tried again
    assert len(str(refused.value)) < 500


def test_proxy_command_that_hangs(tmp_path: Path) -> None:
    """What it printed until then is told."""
    with proxied(tmp_path, "echo knocking >&2; exec sleep 60", connect_timeout=1) as host:
        told = "^web1: through its ProxyCommand: no banner came .*; it printed 'knocking'"
        with pytest.raises(ConnectTimeoutError, match=told):
            run(host, "true")


def test_words_of_a_proxy_command_reach_standard_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It may ask the user for something, like to open a page."""
    command = "echo open the page >&2; exit 3"
    with proxied(tmp_path, command) as host, pytest.raises(ConnectError):
        run(host, "true")
    assert capfd.readouterr().err == "open the page\n"


def test_proxy_command_that_prints_much_waits_for_nobody(sshd: Server, tmp_path: Path) -> None:
    """Not even where nobody reads our standard error."""
    script = tmp_path / "forward.py"
    script.write_text(
        "import os, socket, sys, threading\n"
        f"s = socket.create_connection(('127.0.0.1', {sshd.port}))\n"
        "def up():\n"
        "    while d := os.read(0, 65536): s.sendall(d)\n"
        "    s.shutdown(1)\n"
        "threading.Thread(target=up, daemon=True).start()\n"
        "while d := s.recv(65536):\n"
        "    os.write(2, b'x' * 300_000)\n"
        "    os.write(1, d)\n"
    )
    config = tmp_path / "config"
    config.write_text(f"Host *\n  ProxyCommand python3 {script}\n")
    kept, (reader, writer) = os.dup(2), os.pipe()
    os.dup2(writer, 2)
    try:
        done = run(sshd.backend(config=config), "echo through", stop_after=60)
    finally:
        os.dup2(kept, 2)
        for fd in (kept, reader, writer):
            os.close(fd)
    assert done.text() == "through\n"


def test_proxy_command_leaves_nothing_open(tmp_path: Path) -> None:
    """Also one whose children live on, and keep its standard error."""
    pid = tmp_path / "pid"
    command = f"sleep 100 </dev/null >/dev/null & echo $! >{pid}; exit 3"
    with proxied(tmp_path, command) as host, pytest.raises(ConnectError, match="status 3"):
        run(host, "true")
    stat = Path("/proc", pid.read_text().strip(), "stat")
    wait_until(lambda: not stat.exists() or ") Z " in stat.read_text(), "it has ended")
