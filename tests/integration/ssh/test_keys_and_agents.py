"""Keys, certificates and agents: whoever logs in with OpenSSH's client logs in here."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from parallel_exec.errors import AuthenticationError
from tests.integration.ssh import server
from tests.integration.ssh.server import Account, Server, run


@pytest.fixture(scope="module")
def trusting(base: Path, who: Account) -> Iterator[Server]:
    """A server that takes the key `client`, and whatever its authority has signed."""
    folder = base / "trusting"
    folder.mkdir()
    for name in ("ca", "foreign"):
        keygen("-t", "ed25519", "-N", "", "-f", folder / name)
    with server.openssh(folder, who, extra=[f"TrustedUserCAKeys {folder}/ca.pub"]) as running:
        yield running


@pytest.fixture(autouse=True)
def _close(trusting: Server) -> Iterator[None]:
    yield
    trusting.close()


def keygen(*words: object) -> None:
    """Run ssh-keygen."""
    subprocess.run(["ssh-keygen", "-q", *map(str, words)], check=True, capture_output=True)


def sign(trusting: Server, key: Path, *, by: str = "ca", valid: str = "-1m:+1d") -> Path:
    """Make a certificate for a key, beside it."""
    user = trusting.account.user
    keygen("-s", trusting.base / by, "-I", "x", "-n", user, "-V", valid, f"{key}.pub")
    return Path(f"{key}-cert.pub")


def key_of(trusting: Server, folder: Path, name: str = "key") -> Path:
    """Return a copy of the key that the server takes."""
    for tail in ("", ".pub"):
        shutil.copy(f"{trusting.key}{tail}", folder / f"{name}{tail}")
    return folder / name


def new_key(folder: Path, name: str = "other", *words: str) -> Path:
    """Return a key that the server does not know."""
    size = ("-b", "2048") if "rsa" in words else ()
    keygen("-N", "", "-f", folder / name, *(words or ("-t", "ed25519")), *size)
    return folder / name


@contextlib.contextmanager
def also_taken(trusting: Server, key: Path) -> Iterator[None]:
    """Have the server take another key for a while."""
    authorized = trusting.base / "authorized_keys"
    before = authorized.read_text()
    authorized.write_text(before + Path(f"{key}.pub").read_text())
    try:
        yield
    finally:
        authorized.write_text(before)


def both(trusting: Server, folder: Path, *lines: str) -> tuple[bool, bool]:
    """Return whether OpenSSH and whether this library logs in with a configuration."""
    config = folder / "config"
    known = f"UserKnownHostsFile {trusting.known_hosts}"
    config.write_text("\n  ".join(["Host *", known, "GlobalKnownHostsFile none", *lines]) + "\n")
    client = ["ssh", "-F", str(config), "-o", "BatchMode=yes", "-p", str(trusting.port)]
    theirs = subprocess.run(
        [*client, f"{trusting.account.user}@127.0.0.1", "echo in"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    backend = trusting.backend(identity_file=None, known_hosts=None, config=config)
    try:
        ours = run(backend, "echo in").text() == "in\n"
    except AuthenticationError:
        ours = False
    finally:
        backend.close()  # else the next one would share its connection
    return theirs.stdout == "in\n", ours


Add = Callable[..., None]
IN = (True, True)
OUT = (False, False)


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Add]:
    """An agent without keys; returns a function that gives it one."""
    path = tmp_path / "agent.sock"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    server.wait_until(path.exists, "the agent listens")
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    monkeypatch.delenv("SSH_ASKPASS", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)

    def add(*words: object) -> None:
        subprocess.run(["ssh-add", "-q", *map(str, words)], check=True)

    yield add
    process.terminate()
    process.wait(10)


@pytest.fixture
def no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """No agent."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.mark.usefixtures("no_agent")
@pytest.mark.parametrize("fault", ["foreign", "expired", "early", "junk", "empty", "another key's"])
def test_certificate_that_is_not_taken_hides_no_key(
    trusting: Server, tmp_path: Path, fault: str
) -> None:
    """The plain key logs in, as if it was alone."""
    key = key_of(trusting, tmp_path)
    beside = Path(f"{key}-cert.pub")
    if fault == "foreign":
        sign(trusting, key, by="foreign")
    elif fault == "expired":
        sign(trusting, key, valid="-9d:-1d")
    elif fault == "early":
        sign(trusting, key, valid="+1d:+9d")
    elif fault == "another key's":
        sign(trusting, new_key(tmp_path)).rename(beside)
    else:
        beside.write_text({"junk": "junk", "empty": ""}[fault])
    assert both(trusting, tmp_path, f"IdentityFile {key}", "IdentitiesOnly yes") == IN


@pytest.mark.usefixtures("no_agent")
def test_error_says_what_is_wrong_with_certificates(trusting: Server, tmp_path: Path) -> None:
    """The dates, or that there is none in the file."""
    key, other = new_key(tmp_path), new_key(tmp_path, "second")
    sign(trusting, key, valid="-9d:-1d")
    Path(f"{other}-cert.pub").write_text("junk")
    with pytest.raises(AuthenticationError) as refused:
        run(trusting.backend(identity_file=[key, other]), "true")
    assert f"tried: {key}, {key}-cert.pub, {other}, keyboard" in str(refused.value)
    assert f"{key}-cert.pub has expired on " in str(refused.value)
    assert f"{other}-cert.pub is no certificate" in str(refused.value)


@pytest.mark.usefixtures("no_agent")
@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_certificate_beside_a_key(trusting: Server, tmp_path: Path, kind: str) -> None:
    """It logs in where the key alone does not."""
    key = new_key(tmp_path, "other", "-t", kind)
    assert both(trusting, tmp_path, f"IdentityFile {key}") == OUT
    sign(trusting, key)
    assert both(trusting, tmp_path, f"IdentityFile {key}") == IN


@pytest.mark.usefixtures("no_agent")
def test_certificate_file_of_the_configuration(trusting: Server, tmp_path: Path) -> None:
    """It goes with the key that it is for, wherever it lies; its tokens are filled in."""
    key = new_key(tmp_path)
    sign(trusting, key).rename(tmp_path / f"for-{trusting.account.user}")
    assert both(trusting, tmp_path, f"IdentityFile {key}") == OUT
    lines = (f"IdentityFile {key}", f"CertificateFile {tmp_path}/for-%r")
    assert both(trusting, tmp_path, *lines) == IN
    backend = trusting.backend(config=tmp_path / "config", identity_file=key)
    assert run(backend, "echo in").text() == "in\n"
    wrong = new_key(tmp_path, "wrong")
    with pytest.raises(AuthenticationError, match=f"there is no key for {tmp_path}/for-"):
        run(trusting.backend(config=tmp_path / "config", identity_file=wrong), "true")


def test_certificate_file_for_a_key_of_the_agent(
    trusting: Server, tmp_path: Path, agent: Add
) -> None:
    """The agent signs."""
    key = new_key(tmp_path)
    certificate = sign(trusting, key).rename(tmp_path / "certificate")
    agent(key)
    key.unlink()
    assert both(trusting, tmp_path, f"CertificateFile {certificate}") == IN


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_agent_has_the_key_and_a_file_the_certificate(
    trusting: Server, tmp_path: Path, agent: Add, kind: str
) -> None:
    """The agent signs for the certificate."""
    key = new_key(tmp_path, "other", "-t", kind)
    agent(key)
    assert both(trusting, tmp_path, f"IdentityFile {key}") == OUT
    sign(trusting, key)
    assert both(trusting, tmp_path, f"IdentityFile {key}") == IN
    backend = trusting.backend(identity_file=key)
    assert run(backend, "echo in").text() == "in\n"


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_agent_holds_a_certificate(trusting: Server, tmp_path: Path, agent: Add, kind: str) -> None:
    """It is offered without any file; also to one that names its key only."""
    key = new_key(tmp_path, "other", "-t", kind)
    certificate = sign(trusting, key)
    agent(key)
    certificate.unlink()
    key.rename(tmp_path / "away")
    assert both(trusting, tmp_path) == IN
    assert run(trusting.backend(identity_file=key), "echo in").text() == "in\n"


def test_public_half_chooses_a_key_of_the_agent(
    trusting: Server, tmp_path: Path, agent: Add
) -> None:
    """`IdentityFile x.pub` with `IdentitiesOnly`; without the agent the error says so."""
    key = key_of(trusting, tmp_path)
    agent(new_key(tmp_path))
    agent(key)
    key.unlink()
    lines = (f"IdentityFile {key}.pub", "IdentitiesOnly yes")
    assert both(trusting, tmp_path, *lines) == IN
    backend = trusting.backend(identity_file=f"{key}.pub")
    assert run(backend, "echo in").text() == "in\n"
    with pytest.raises(AuthenticationError, match=r"key\.pub is a public key, and no agent holds"):
        run(trusting.backend(identity_file=f"{key}.pub", agent=False), "true")


def test_agent_that_refuses_to_sign_with_one_key(
    trusting: Server, tmp_path: Path, agent: Add
) -> None:
    """The next one is tried; the error names the agent and the key."""
    unconfirmed = new_key(tmp_path, "unconfirmed", "-t", "rsa")
    agent("-c", unconfirmed)
    with also_taken(trusting, unconfirmed):
        with pytest.raises(AuthenticationError, match=r"agent at .* refused to sign.* ssh-rsa"):
            run(trusting.backend(identity_file=None), "true")
        agent(key_of(trusting, tmp_path))
        assert both(trusting, tmp_path) == IN


@pytest.mark.usefixtures("no_agent")
@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
@pytest.mark.parametrize("form", ["PKCS8", "PEM"])
@pytest.mark.parametrize("word", ["", "open sesame"])
def test_formats_of_keys(trusting: Server, tmp_path: Path, kind: str, form: str, word: str) -> None:
    """Each logs in; the right passphrase opens it, and what is said of others is true."""
    key = tmp_path / "key"
    size = ("-b", "2048") if kind == "rsa" else ()
    keygen("-t", kind, "-m", form, "-N", word, "-f", key, *size)
    with also_taken(trusting, key):
        backend = trusting.backend(identity_file=key, passphrase=word or "of another key")
        assert run(backend, "echo in").text() == "in\n"
        if word:
            Path(f"{key}.pub").unlink()
            with pytest.raises(AuthenticationError, match="cannot be read with this passphrase"):
                run(trusting.backend(identity_file=key, passphrase="wrong"), "true")
            with pytest.raises(AuthenticationError, match="encrypted and there is no passphrase"):
                run(trusting.backend(identity_file=key), "true")
        elif form == "PKCS8":
            assert both(trusting, tmp_path, f"IdentityFile {key}") == IN


@pytest.mark.usefixtures("no_agent")
@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_key_that_others_can_read_is_refused(trusting: Server, tmp_path: Path, mode: int) -> None:
    """As OpenSSH does; the error says what to do, and having done that logs in."""
    key = key_of(trusting, tmp_path)
    key.chmod(mode)
    assert both(trusting, tmp_path, f"IdentityFile {key}") == OUT
    with pytest.raises(AuthenticationError, match=rf"others \(mode {mode:04o}\).* chmod 600 {key}"):
        run(trusting.backend(identity_file=key), "true")
    key.chmod(0o400)
    assert both(trusting, tmp_path, f"IdentityFile {key}") == IN


def test_exposed_key_file_is_no_matter_where_the_agent_signs(
    trusting: Server, tmp_path: Path, agent: Add
) -> None:
    """Only its public half is needed then."""
    key = key_of(trusting, tmp_path)
    agent(key)
    key.chmod(0o644)
    assert both(trusting, tmp_path, f"IdentityFile {key}", "IdentitiesOnly yes") == IN


@pytest.fixture
def mute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], None]]:
    """An agent that takes connections and says what a test wants, which may be nothing."""
    path = tmp_path / "mute.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(10)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    held: list[socket.socket] = []
    words = [b""]

    def accept() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            held.append(near)
            near.sendall(words[0])

    def says(what: bytes) -> None:
        words[0] = what

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield says
    listener.shutdown(socket.SHUT_RDWR)
    for sock in (listener, *held):
        sock.close()
    thread.join(10)


def test_mute_agent(trusting: Server, mute: Callable[[bytes], None]) -> None:
    """It counts against `connect_timeout`: the login goes on without it, or it is named."""
    mute(b"")
    began = time.monotonic()
    assert run(trusting.backend(connect_timeout=3), "echo in").text() == "in\n"
    with pytest.raises(AuthenticationError, match=r"the agent at .*mute\.sock did not answer"):
        run(trusting.backend(connect_timeout=1, identity_file="/no/such/key"), "true")
    assert time.monotonic() - began < 9  # it was 10 s for each


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (b"\x00\x00\x00\x01\x05", "does not say what keys it holds"),
        (b"\xff\xff\xff\xff\x0c", "gave an answer of 4294967295 bytes"),
        (b"\x00\x00\x00\x05\x0c\xff\xff\xff\xff", "says that it holds 4294967295 keys"),
        (b"\x00\x00\x00\x05\x0c\x00\x00\x00\x03", "gave a broken answer"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "gave an answer of 1213486160 bytes"),
    ],
)
def test_agent_that_talks_nonsense(
    trusting: Server, mute: Callable[[bytes], None], words: bytes, what: str
) -> None:
    """The login goes on without it, and an error says what it did."""
    mute(words)
    assert run(trusting.backend(), "echo in").text() == "in\n"
    with pytest.raises(AuthenticationError, match=rf"the agent at .*mute\.sock {what}"):
        run(trusting.backend(identity_file="/no/such/key"), "true")


def test_agent_that_lists_a_key_and_never_signs(
    trusting: Server, mute: Callable[[bytes], None]
) -> None:
    """The same: the file's key logs in."""
    blob = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20" + bytes(32)
    held = len(blob).to_bytes(4, "big") + blob + b"\x00\x00\x00\x00"
    body = b"\x0c\x00\x00\x00\x01" + held
    mute(len(body).to_bytes(4, "big") + body)
    config = trusting.base / "with-key"
    config.write_text(f"IdentityFile {trusting.key}\n")
    backend = trusting.backend(identity_file=None, config=config, connect_timeout=3)
    assert run(backend, "echo in").text() == "in\n"


class Forwarding:
    """An agent's socket in front of a real one, that sees what is asked and can refuse to sign."""

    def __init__(self, path: Path, real: str) -> None:
        self.signs = 0
        self.mute = False
        self._real = real
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(10)
        self._sockets = [self._listener]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, function: Callable[..., None], *given: socket.socket) -> None:
        self._threads.append(threading.Thread(target=function, args=given, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._real)
                self._sockets += [near, far]
                self._start(self._forward, near, far)

    def _forward(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while request := near.recv(65536):
                if request[4] == 13:
                    self.signs += 1
                    if self.mute:
                        continue
                far.sendall(request)
                near.sendall(far.recv(65536))

    def close(self) -> None:
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture
def forwarding(agent: Add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forwarding]:
    """What stands in front of the agent that the fixture `agent` fills."""
    made = Forwarding(tmp_path / "forwarding.sock", os.environ["SSH_AUTH_SOCK"])
    yield made
    made.close()


def test_agent_signs_only_with_keys_that_the_host_wants(
    trusting: Server, tmp_path: Path, agent: Add, forwarding: Forwarding
) -> None:
    """It may ask its user for each signature."""
    for number in range(3):
        agent(new_key(tmp_path, f"unknown-{number}"))
    agent(key_of(trusting, tmp_path))
    config = tmp_path / "config"
    config.write_text(f"IdentityAgent {tmp_path}/forwarding.sock\n")
    backend = trusting.backend(identity_file=None, config=config)
    assert run(backend, "echo in").text() == "in\n"
    assert forwarding.signs == 1


def test_file_takes_the_place_of_an_agent_that_does_not_sign(
    trusting: Server, tmp_path: Path, agent: Add, forwarding: Forwarding
) -> None:
    """Also where both have the same key, and for its certificate."""
    agent(key_of(trusting, tmp_path))
    forwarding.mute = True
    config = tmp_path / "config"
    config.write_text(f"IdentityAgent {tmp_path}/forwarding.sock\n")
    backend = trusting.backend(config=config, connect_timeout=3)
    assert run(backend, "echo in").text() == "in\n"
    other = new_key(tmp_path)
    sign(trusting, other)
    agent("-d", key_of(trusting, tmp_path))
    agent(other)
    backend = trusting.backend(identity_file=other, config=config, connect_timeout=3)
    assert run(backend, "echo in").text() == "in\n"
    assert forwarding.signs == 2


def test_key_without_a_public_half_beside_it_that_the_agent_holds_too(
    trusting: Server, tmp_path: Path, agent: Add
) -> None:
    """It is offered once, and offered at all."""
    key = new_key(tmp_path, "pem", "-t", "ecdsa", "-m", "PEM")
    with also_taken(trusting, key):
        agent(key)
        Path(f"{key}.pub").unlink()
        assert both(trusting, tmp_path, f"IdentityFile {key}", "IdentitiesOnly yes") == IN


def test_agent_that_is_not_there(
    trusting: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asks it, and a login that is refused says so."""
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "gone"))
    assert run(trusting.backend(), "echo in").text() == "in\n"
    with pytest.raises(AuthenticationError, match=r"the agent at .*gone cannot be asked: No such"):
        run(trusting.backend(identity_file="/no/such/key"), "true")


def test_many_logins_ask_the_agent_at_once(trusting: Server, tmp_path: Path, agent: Add) -> None:
    """Its queue of connections may be full for a moment."""
    agent(key_of(trusting, tmp_path))
    path = os.environ["SSH_AUTH_SOCK"]
    held = []
    try:
        for _ in range(200):
            sock = socket.socket(socket.AF_UNIX)
            held.append(sock)
            sock.setblocking(False)
            sock.connect(path)
    except BlockingIOError:
        pass
    try:
        assert run(trusting.backend(identity_file=None), "echo in").text() == "in\n"
    finally:
        for sock in held:
            sock.close()


FAULTS = ("none", "ca", "foreign", "expired", "junk", "host", "another key's")


def spoilt(trusting: Server, folder: Path, chance: random.Random, name: str) -> list[str]:
    """Make a key with what may go with it, and give it to the agent or not; return its lines."""
    key = folder / name
    if chance.random() < 0.3:
        key_of(trusting, folder, name)
    else:
        new_key(folder, name, "-t", chance.choice(["ed25519", "ecdsa"]))
    fault = chance.choice(FAULTS)
    if fault in ("ca", "foreign"):
        sign(trusting, key, by=fault)
    elif fault == "expired":
        sign(trusting, key, valid="-9d:-1d")
    elif fault == "junk":
        Path(f"{key}-cert.pub").write_text("ssh-ed25519 junk\n")
    elif fault == "host":
        keygen("-s", trusting.base / "ca", "-I", "x", "-h", f"{key}.pub")
    elif fault == "another key's":
        sign(trusting, new_key(folder, f"of-{name}")).rename(f"{key}-cert.pub")
    if chance.random() < 0.4:
        shutil.copy(key, folder / f"for-agent-{name}")
        subprocess.run(["ssh-add", "-q", str(folder / f"for-agent-{name}")], check=True)
    lines = [f"IdentityFile {key}{chance.choice(['', '', '.pub', '-cert.pub'])}"]
    if fault != "none" and chance.random() < 0.3:
        Path(f"{key}-cert.pub").rename(folder / f"moved-{name}")
        lines.append(f"CertificateFile {folder}/moved-{name}")
    if chance.random() < 0.2:
        key.chmod(0o644)
    for path in (key, Path(f"{key}.pub")):
        if chance.random() < 0.2:
            path.unlink()
    return lines


@pytest.mark.usefixtures("agent")
def test_whoever_logs_in_by_openssh_logs_in_here(trusting: Server, tmp_path: Path) -> None:
    """With keys, certificates and agents in whatever state that chance makes."""
    seed = random.randrange(10**9)
    chance = random.Random(seed)
    for number in range(6):
        folder = tmp_path / str(number)
        folder.mkdir()
        subprocess.run(["ssh-add", "-q", "-D"], check=True, capture_output=True)
        lines = ["IdentitiesOnly yes"] if chance.random() < 0.4 else []
        for name in ("first", "second", "third")[: chance.randint(1, 3)]:
            lines += spoilt(trusting, folder, chance, name)
        chance.shuffle(lines)
        theirs, ours = both(trusting, folder, *lines)
        assert ours or not theirs, (seed, number, lines)
