"""SSH servers on loopback that do what no honest one does.

A behaviour is a small class over `Honest`, which answers as sshd would; it overrides the one
thing that it does otherwise:

    class StatusAfterClose(Honest):
        def command(self, session: Session) -> None:
            session.answer(status=0)
            session.request("exit-status", 1)

    def test_it(hostile: Serve) -> None:
        host = hostile(StatusAfterClose()).host(connect_timeout=5)
        host.run("true", timeout=3)

What happens before keys are exchanged is overridden in `raw`, in bytes. The fixture `hostile`
closes the hosts and the servers, and fails a test whose behaviour does not come to an end.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import parallel_exec as px
from parallel_exec.environments.ssh.border import common, packet, paramiko

__all__ = [
    "METHODS",
    "Honest",
    "Hostile",
    "Line",
    "Serve",
    "Session",
    "message",
    "packet_in_clear",
]

METHODS = "password,publickey,keyboard-interactive"
VERSION = "SSH-2.0-OpenSSH_9.9"
ENDS_WITHIN_S = 10.0

_NONCE = re.compile(rb"PX[0-9a-f]{16}")
_GONE = (OSError, EOFError, paramiko.SSHException)


def message(kind: bytes, *parts: bytes | str | bool | int) -> Any:
    """Return a message of a type (`cMSG_...`) with these fields."""
    made = paramiko.Message()
    made.add_byte(kind)
    for part in parts:
        if isinstance(part, bool):
            made.add_boolean(part)
        elif isinstance(part, int):
            made.add_int(part)
        else:
            made.add_string(part)
    return made


class Line:
    """A connection in bytes, before anything of SSH."""

    def __init__(self, sock: socket.socket, over: threading.Event) -> None:
        self.sock = sock
        self.over = over  # set when the server is closed

    def send(self, data: bytes) -> None:
        """Send bytes; nothing happens if the client has gone."""
        with contextlib.suppress(OSError):
            self.sock.sendall(data)

    def receive(self, size: int = 65536) -> bytes:
        """Return what comes next; b"" once the client has gone."""
        try:
            return self.sock.recv(size)
        except OSError:
            return b""

    def wait(self) -> None:
        """Read until the client has gone."""
        while self.receive():
            pass

    def stay(self) -> None:
        """Neither read nor write until the server is closed."""
        self.over.wait()


class Session:
    """A command or subsystem that a client has asked for, in a thread of its own.

    Attributes:
        line: What the client's login shell would get; the name of a subsystem.
        server: Where it happens.
    """

    def __init__(self, server: Hostile, channel: Any, line: bytes) -> None:
        self.server = server
        self.channel = channel
        self.transport = channel.transport
        self.line = line

    @property
    def nonce(self) -> bytes:
        """The word that the client looks for in the output."""
        found = _NONCE.search(self.line)
        assert found is not None, self.line
        return found[0]

    def begin(self, pid: bytes = b"99999") -> None:
        """Say, as the shell does, that the command has started."""
        self.out(self.nonce + b" " + pid + b"\n")
        self.err(self.nonce + b" ok\n")

    def out(self, data: bytes) -> None:
        """Write to stdout, within the client's window."""
        self.channel.sendall(data)

    def err(self, data: bytes) -> None:
        """Write to stderr."""
        self.channel.sendall_stderr(data)

    def request(self, kind: str | bytes, *parts: bytes | str | bool | int) -> None:
        """Send a request on the channel, whatever its state."""
        self.send(
            message(common.cMSG_CHANNEL_REQUEST, self.channel.remote_chanid, kind, False, *parts)
        )

    def answer(
        self, out: bytes = b"", *, status: int | None = 0, pid: bytes = b"99999", close: bool = True
    ) -> None:
        """Do all that an honest host does."""
        self.begin(pid)
        self.out(out)
        if status is not None:
            self.request("exit-status", status)
        if close:
            self.channel.close()

    def send(self, made: Any) -> None:
        """Send a message of any kind, whatever the client's window; raise once it has gone."""
        if not self.transport.is_active():
            raise EOFError
        self.transport._send_user_message(made)

    def send_raw(self, data: bytes) -> None:
        """Put bytes on the line, past encryption."""
        self.transport.sock.sendall(data)

    def deaf(self) -> None:
        """Read nothing from this client any more."""
        self.transport.packetizer.deaf.set()

    def wait(self) -> None:
        """Wait until the client has gone, or the server is closed."""
        while self.transport.is_active() and not self.server.over.wait(0.05):
            pass

    def stay(self) -> None:
        """Wait until the server is closed."""
        self.server.over.wait()


class Honest:
    """What a server does that is not hostile: it runs nothing, and says that all went well.

    One object serves all connections of a server, each in threads of its own.
    """

    version = VERSION
    methods = METHODS  # the ways to log in
    server: Hostile  # where it happens; set when that starts
    room: int | None = None  # bytes that the system takes of a connection before they are read
    window = 1 << 21  # bytes of input that a command may be sent before it takes any

    def raw(self, line: Line) -> bool:
        """Talk in bytes; return whether that was all, so that no handshake follows."""
        return False

    def prepare(self, transport: Any) -> None:
        """Change paramiko's transport before it starts."""

    def exchanged(self, transport: Any) -> None:
        """Do something when keys have been exchanged, in the server's reading thread."""

    def login(self, method: str, user: str, given: Any) -> bool | None:
        """Return whether a key or a password is let in; None if another one is wanted as well."""
        return True

    def ask(self, user: str) -> tuple[str, Sequence[tuple[str, bool]]] | bool:
        """Return the title and prompts of a keyboard-interactive login, or whether it is over."""
        return "", [("Password: ", False)]

    def answered(self, user: str, answers: list[str]) -> Any:
        """Return what follows on the answers: as `login`, or as `ask`."""
        return True

    def opening(self, transport: Any) -> bool:
        """Return whether a request to open a channel is answered."""
        return True

    def command(self, session: Session) -> None:
        """Run a command."""
        session.answer()

    def subsystem(self, session: Session) -> None:
        """Serve a subsystem."""
        session.channel.close()


Serve = Callable[..., "Hostile"]


class Hostile:
    """A server with a behaviour, on a free port of 127.0.0.1.

    Attributes:
        lines: What clients have asked to be run, in order.
        faults: What went wrong in a behaviour, other than that the client had gone.
        over: Set when the server is closed; whoever waits in a behaviour wakes up.
    """

    def __init__(self, behaviour: Honest, base: Path) -> None:
        self.behaviour = behaviour
        behaviour.server = self
        self.over = threading.Event()
        self.lines: list[bytes] = []
        self.faults: list[str] = []
        self.connections = 0
        self._base = base
        self._key = _key(str(base / "host"))
        self._hosts: list[px.SSH] = []
        self._lock = threading.Lock()  # guards the lists below
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._transports: list[Any] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=500)
        if behaviour.room is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, behaviour.room)
        self.port: int = self._listener.getsockname()[1]
        self.known_hosts = base / f"known-{self.port}"
        words = (base / "host.pub").read_text().split()[:2]
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {' '.join(words)}\n")
        self.start(self._accept)

    @property
    def destination(self) -> str:
        """Where to connect to."""
        return f"someone@127.0.0.1:{self.port}"

    @property
    def options(self) -> dict[str, Any]:
        """The options with which a client trusts the server and logs in by a key."""
        return {
            "identity_file": str(self._base / "client"),
            "known_hosts": str(self.known_hosts),
            "config": False,
            "agent": False,
        }

    def host(self, **options: Any) -> px.SSH:
        """Return an environment that trusts the server; closed at the end of the test."""
        made = px.SSH(self.destination, **{**self.options, **options})
        self._hosts.append(made)
        return made

    def close(self) -> None:
        """Close the clients, then end the server, its connections and threads."""
        try:
            while self._hosts:
                self._hosts.pop().close()
        finally:
            self._end()

    def _end(self) -> None:
        self.over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            sockets, transports = list(self._sockets), list(self._transports)
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for transport in transports:
            transport.close()
        for sock in sockets:
            sock.close()
        stuck = []
        for thread in list(self._threads):
            thread.join(ENDS_WITHIN_S)
            if thread.is_alive():
                stuck.append(thread.name)
        assert not stuck, f"the behaviour did not end: {stuck}"

    def start(self, function: Callable[..., object], *given: object) -> None:
        """Call a function in a thread that is joined at the end."""
        thread = threading.Thread(
            target=self._guarded,
            args=(function, *given),
            name=f"hostile {getattr(function, '__name__', '?')}",
            daemon=True,
        )
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def _guarded(self, function: Callable[..., object], *given: object) -> None:
        try:
            function(*given)
        except _GONE:
            pass  # the client has gone, or the server is closed
        except Exception:
            self.faults.append(traceback.format_exc())

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            self.connections += 1
            with self._lock:
                self._sockets.append(sock)
            self.start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        try:
            if self.behaviour.raw(Line(sock, self.over)):
                sock.close()
                return
            transport = _Transport(sock, self.over, self.behaviour)
            transport.local_version = self.behaviour.version
            transport.add_server_key(self._key)
            self.behaviour.prepare(transport)
            with self._lock:
                self._transports.append(transport)
            transport.start_server(server=_Interface(self))
        except BaseException:
            sock.close()
            raise


class _Packetizer(packet.Packetizer):  # type: ignore[misc]
    """Can stop reading."""

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self.deaf = threading.Event()
        self.over: threading.Event

    def read_message(self) -> Any:
        """Read a message, and keep it for ever if nothing shall be read."""
        read: Any = packet.Packetizer.read_message(self)
        if self.deaf.is_set():
            self.over.wait()
            raise EOFError
        return read


class _Transport(paramiko.Transport):  # type: ignore[misc]
    """A server's side, quiet in the log."""

    def __init__(self, sock: socket.socket, over: threading.Event, behaviour: Honest) -> None:
        super().__init__(sock, packetizer_class=_Packetizer, default_window_size=behaviour.window)
        self.packetizer.over = over
        self.behaviour = behaviour
        self.daemon = True
        # What begins with a session: once the client has been told so, as with sshd.
        self.after_reply: list[Callable[[], object]] = []

    def _parse_newkeys(self, m: Any) -> None:
        paramiko.Transport._parse_newkeys(self, m)
        self.behaviour.exchanged(self)

    def _parse_channel_open(self, m: Any) -> None:
        if self.behaviour.opening(self):
            paramiko.Transport._parse_channel_open(self, m)

    def _log(self, level: int, msg: Any, *args: Any) -> None:
        pass

    def _send_user_message(self, data: Any) -> None:
        super()._send_user_message(data)
        if data.asbytes()[:1] == common.cMSG_CHANNEL_SUCCESS:
            while self.after_reply:
                self.after_reply.pop(0)()


class _Interface(paramiko.ServerInterface):  # type: ignore[misc]
    """What paramiko asks, passed on to the behaviour."""

    def __init__(self, server: Hostile) -> None:
        self._server = server
        self._behaviour = server.behaviour
        self._user = ""

    def get_allowed_auths(self, username: str) -> str:
        return self._behaviour.methods

    def check_auth_publickey(self, username: str, key: Any) -> int:
        return self._verdict(self._behaviour.login("publickey", username, key))

    def check_auth_password(self, username: str, password: str) -> int:
        return self._verdict(self._behaviour.login("password", username, password))

    def check_auth_interactive(self, username: str, submethods: str) -> Any:
        self._user = username
        return self._query(self._behaviour.ask(username))

    def check_auth_interactive_response(self, responses: list[str]) -> Any:
        return self._query(self._behaviour.answered(self._user, list(responses)))

    def check_channel_request(self, kind: str, chanid: int) -> int:
        code: int = paramiko.OPEN_SUCCEEDED
        return code

    def check_channel_pty_request(self, channel: Any, *terminal: Any) -> bool:
        return True

    def check_channel_exec_request(self, channel: Any, command: bytes) -> bool:
        self._server.lines.append(command)
        return self._begin(self._behaviour.command, channel, command)

    def check_channel_subsystem_request(self, channel: Any, name: str) -> bool:
        return self._begin(self._behaviour.subsystem, channel, name.encode())

    def _begin(self, function: Callable[[Session], None], channel: Any, line: bytes) -> bool:
        session = Session(self._server, channel, line)
        channel.transport.after_reply.append(lambda: self._server.start(function, session))
        return True

    @staticmethod
    def _verdict(accepted: bool | None) -> int:
        if accepted is None:
            return int(paramiko.AUTH_PARTIALLY_SUCCESSFUL)
        return int(paramiko.AUTH_SUCCESSFUL if accepted else paramiko.AUTH_FAILED)

    def _query(self, answer: Any) -> Any:
        if answer is None or isinstance(answer, bool):
            return self._verdict(answer)
        title, prompts = answer
        return paramiko.InteractiveQuery(title, "", *prompts)


def _key(path: str) -> Any:
    return paramiko.Ed25519Key.from_private_key_file(path)


def packet_in_clear(payload: bytes) -> bytes:
    """Return a message as a packet without encryption, as before the keys are exchanged."""
    padding = 8 - (len(payload) + 5) % 8
    padding += 8 if padding < 4 else 0
    return struct.pack(">IB", 1 + len(payload) + padding, padding) + payload + bytes(padding)
