"""Real SSH servers for the tests, on loopback, with accounts of their own."""

from __future__ import annotations

import contextlib
import functools
import getpass
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import parallel_exec as px
from parallel_exec.environments.base import Stop
from parallel_exec.values.command import Command, CommandLike
from parallel_exec.values.result import Result

HOW_TO_GET_IT = "needs OpenSSH's server: apt-get install openssh-server"
SBIN = "/usr/sbin:/usr/local/sbin:/usr/bin:/bin"
ROOT = os.geteuid() == 0


def find(program: str) -> str | None:
    """Return the path of a server program, also where only root's path has it."""
    return shutil.which(program) or shutil.which(program, path=SBIN)


@dataclass(frozen=True)
class Account:
    """Who the tests log in as.

    Attributes:
        password: What it logs in with and what sudo asks for; None if unknown.
    """

    user: str
    home: Path
    password: str | None

    def processes(self) -> list[str]:
        """Return what it runs; the dead do not count."""
        shown = subprocess.run(
            ["ps", "-U", self.user, "-o", "pid=,stat=,args="],
            capture_output=True,
            text=True,
            check=False,
        )
        return [line for line in shown.stdout.splitlines() if line.split()[1][0] != "Z"]


@contextlib.contextmanager
def account(base: Path, shell: str = "/bin/sh", *, sudo: bool = False) -> Iterator[Account]:
    """Make a user for a while, if that is possible; else it is the one who runs the tests."""
    if not ROOT:
        yield Account(getpass.getuser(), Path.home(), None)
        return
    user = f"pxt{secrets.token_hex(4)}"
    password = secrets.token_hex(8)
    home = base / user
    # A number that no earlier account has had: processes of one that was never removed
    # would be taken for this one's.
    number = secrets.choice(sorted(set(range(20_000, 60_000)) - set(_owners().values())))
    words = ["useradd", "-M", "-u", str(number), "-d", str(home), "-s", shell, user]
    subprocess.run(words, check=True)
    rule = Path("/etc/sudoers.d") / user
    try:
        subprocess.run(["chpasswd"], input=f"{user}:{password}".encode(), check=True)
        entry = pwd.getpwnam(user)
        home.mkdir(mode=0o755)
        os.chown(home, entry.pw_uid, entry.pw_gid)
        if sudo:
            rule.write_text(f"{user} ALL=(ALL) ALL\nDefaults:{user} timestamp_timeout=0\n")
            rule.chmod(0o440)
        yield Account(user, home, password)
    finally:
        rule.unlink(missing_ok=True)
        for pid in [pid for pid, owner in _owners().items() if owner == number]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        subprocess.run(["userdel", "-f", user], check=False, capture_output=True)


def _owners() -> dict[int, int]:
    """Return the user of every process."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                found[int(name)] = os.stat(f"/proc/{name}").st_uid
    return found


@dataclass
class Server:
    """A running server and how to reach it."""

    process: subprocess.Popen[bytes]
    host: str
    port: int
    base: Path
    account: Account
    key: Path
    known_hosts: Path
    log: Path
    _backends: list[px.SSH] = field(default_factory=list)

    @property
    def destination(self) -> str:
        """Where to connect to."""
        return f"{self.account.user}@{self.host}:{self.port}"

    @property
    def options(self) -> dict[str, Any]:
        """The options with which a host trusts the server and is let in."""
        return {
            "identity_file": str(self.key),
            "known_hosts": str(self.known_hosts),
            "config": False,
        }

    def backend(self, destination: str | None = None, **options: Any) -> px.SSH:
        """Return a backend that trusts the server and has the key; closed at the end."""
        made = px.SSH(destination or self.destination, **{**self.options, **options})
        self._backends.append(made)
        return made

    def logins(self) -> int:
        """Return how many connections have logged in so far."""
        text = self.log.read_text()
        return text.count("Accepted ") - text.count("Accepted key")

    def close(self) -> None:
        """Close what the tests have opened here, not the server."""
        while self._backends:
            self._backends.pop().close()

    def stop(self) -> None:
        """End the server and its connections."""
        self.close()
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(10)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on, and that no client gets for its own end."""
    while True:
        port = secrets.choice(range(10_000, 32_000))
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind((host, port))
            return port


def make_keys(base: Path) -> Path:
    """Make a client's key and a host's; return the client's."""
    for name in ("client", "host"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(base / name)],
            check=True,
        )
    return base / "client"


@functools.cache
def _penalizes(sshd: str) -> bool:
    """Return whether this server refuses addresses that misbehave: OpenSSH from 9.8 on."""
    tried = subprocess.run(
        [sshd, "-t", "-f", "/dev/null", "-o", "PerSourcePenalties=no"],
        capture_output=True,
        text=True,
        check=False,
    )
    return "Bad configuration option" not in tried.stderr


@contextlib.contextmanager
def openssh(
    base: Path,
    who: Account,
    *,
    max_sessions: int = 10,
    max_startups: str = "500:30:1000",
    extra: Sequence[str] = (),
    listen: str = "127.0.0.1",
    port: int | None = None,
    host: str = "127.0.0.1",
    enter: Sequence[str] = (),
) -> Iterator[Server]:
    """Run an OpenSSH server.

    Args:
        listen: Where it listens.
        host: Where to connect to.
        enter: What to put before its command, to run it in a network of its own.
    """
    sshd = find("sshd")
    assert sshd is not None
    if ROOT:
        Path("/run/sshd").mkdir(exist_ok=True)
    base.mkdir(parents=True, exist_ok=True)
    key = base / "client"
    if not key.exists():
        make_keys(base)
    authorized = base / "authorized_keys"
    authorized.write_text(key.with_suffix(".pub").read_text())
    authorized.chmod(0o644)
    port = port or free_port()
    log = base / f"sshd-{port}.log"
    lines = [
        *extra,  # the first value stands
        f"Port {port}",
        f"ListenAddress {listen}",
        f"HostKey {base / 'host'}",
        f"AuthorizedKeysFile {authorized}",
        f"PidFile {base / 'sshd.pid'}",
        "StrictModes no",
        "UsePAM no",
        "UseDNS no",
        "LogLevel VERBOSE",
        "Subsystem sftp internal-sftp",
        f"MaxSessions {max_sessions}",
        f"MaxStartups {max_startups}",
    ]
    if _penalizes(sshd):  # else tests that break logins shut out the tests after them
        lines.append("PerSourcePenalties no")
    config = base / f"sshd-{port}.conf"
    config.write_text("\n".join(lines) + "\n")
    process = subprocess.Popen(
        [*enter, sshd, "-D", "-f", str(config), "-E", str(log)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": SBIN},
        start_new_session=True,
    )
    yield from _serve(process, base, who, key, log, port, host)


@contextlib.contextmanager
def dropbear(base: Path, who: Account) -> Iterator[Server]:
    """Run a Dropbear server. The account's own authorized_keys is where it looks."""
    program, keygen = find("dropbear"), find("dropbearkey")
    assert program is not None
    assert keygen is not None
    base.mkdir(parents=True, exist_ok=True)
    key = make_keys(base)
    folder = who.home / ".ssh"
    folder.mkdir(exist_ok=True)
    (folder / "authorized_keys").write_text(key.with_suffix(".pub").read_text())
    for path in (folder, folder / "authorized_keys"):
        entry = pwd.getpwnam(who.user)
        os.chown(path, entry.pw_uid, entry.pw_gid)
    made = subprocess.run(
        [keygen, "-t", "ed25519", "-f", str(base / "dropbear")],
        check=True,
        capture_output=True,
        text=True,
    )
    public = next(line for line in made.stdout.splitlines() if line.startswith("ssh-ed25519"))
    (base / "host.pub").write_text(public + "\n")
    port = free_port()
    log = base / "dropbear.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [
                program,
                "-F",
                "-E",
                "-r",
                str(base / "dropbear"),
                "-p",
                f"127.0.0.1:{port}",
                "-P",
                str(base / "dropbear.pid"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={"PATH": SBIN},
            start_new_session=True,
        )
    yield from _serve(process, base, who, key, log, port)


def _serve(
    process: subprocess.Popen[bytes],
    base: Path,
    who: Account,
    key: Path,
    log: Path,
    port: int,
    host: str = "127.0.0.1",
) -> Iterator[Server]:
    known = base / f"known_hosts-{port}"
    host_key = " ".join((base / "host.pub").read_text().split()[:2])
    known.write_text(f"[127.0.*]:{port},[198.18.*]:{port},[::1]:{port} {host_key}\n")
    server = Server(process, host, port, base, who, key, known, log)
    try:
        wait_until(lambda: _accepts(process, host, port), "the server accepts")
        yield server
    finally:
        server.stop()


def _accepts(process: subprocess.Popen[bytes], host: str, port: int) -> bool:
    assert process.poll() is None, "the server ended at once"
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


def wait_until(condition: Any, what: str, timeout: float = 10.0) -> None:
    """Poll until something has come about; fail if it does not."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.01)


class Ticket:
    """What the engine would give along."""

    queued_s = 0.0
    attempts = 1

    def __init__(self) -> None:
        self.strains: list[BaseException] = []

    def settled(self, ending: Result | BaseException) -> None:
        """Not used: `execute` returns."""

    def began(self) -> None:
        """Not used."""

    def strained(self, error: BaseException) -> None:
        """Note it."""
        self.strains.append(error)


def run(
    backend: px.SSH,
    command: CommandLike,
    *,
    stop_after: float | None = None,
    stop: Stop | None = None,
    **options: Any,
) -> Result:
    """Run a command to its end; `stop_after` seconds it times out, as the engine does it."""
    stop = stop or Stop()
    timer = threading.Timer(stop_after or 0.0, stop.end, ["timeout"])
    timer.daemon = True
    if stop_after is not None:
        timer.start()
    try:
        return backend.execute(Command.of(command, **options), Ticket(), stop)
    finally:
        timer.cancel()
        if stop_after is not None:
            timer.join()


def running(word: str) -> list[str]:
    """Return the processes whose command line or environment has a word; the dead do not count."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            line = Path("/proc", name, "cmdline").read_bytes().replace(b"\0", b" ")
            state = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if word.encode() in line and state != "Z":
            found.append(f"{name}: {line.decode(errors='replace')}")
    return found


def end(word: str) -> None:
    """Kill the processes that `running` finds."""
    for line in running(word):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(line.partition(":")[0]), signal.SIGKILL)


class Cut:
    """A proxy on loopback that can stop to forward without a word, both ways."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._flows = threading.Event()
        self._flows.set()
        self._held: list[threading.Event] = []
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        self._closed = False

    def cut(self) -> None:
        """Forward nothing any more."""
        self._flows.clear()

    def forget(self) -> None:
        """Forward nothing of the connections there are, as a router does that forgot them."""
        self._held.append(self._flows)
        self.cut()
        self._flows = threading.Event()
        self._flows.set()

    def close(self) -> None:
        """End it and its threads."""
        self._closed = True
        for flows in (self._flows, *self._held):
            flows.set()
        for sock in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._sockets += [near, far]
            flows = self._flows
            for ends in ((near, far), (far, near)):
                thread = threading.Thread(target=self._forward, args=(*ends, flows), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _forward(self, source: socket.socket, sink: socket.socket, flows: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                flows.wait()
                if self._closed:
                    return
                sink.sendall(data)
            flows.wait()
            sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def listener(*, answer: bool) -> Iterator[int]:
    """Accept connections and say nothing (`answer` False), or close them at once."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as sock:
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    near, _ = sock.accept()
                except OSError:
                    return
                if answer:
                    near.close()
                else:
                    held.append(near)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield sock.getsockname()[1]
        finally:
            sock.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for near in held:
                near.close()
