"""Getting there: ways to log in, jump hosts, proxy commands, configuration, IPv6."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from parallel_exec.errors import (
    AuthenticationError,
    ConnectError,
    ConnectionLostError,
    HostKeyError,
)
from tests.integration.ssh.server import ROOT, Cut, Server, free_port, run


@pytest.fixture
def keys(sshd: Server, tmp_path: Path) -> Iterator[Path]:
    """Keys of every type, one of them with a passphrase, that the server takes."""
    authorized = sshd.base / "authorized_keys"
    before = authorized.read_text()
    for kind, word in (("ed25519", ""), ("ecdsa", ""), ("rsa", ""), ("ed25519", "open sesame")):
        path = tmp_path / (kind if not word else "locked")
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", word, "-f", str(path)], check=True)
        with authorized.open("a") as file:
            file.write(path.with_suffix(".pub").read_text())
    yield tmp_path
    authorized.write_text(before)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_key_types(sshd: Server, keys: Path, kind: str) -> None:
    """Each logs in alone."""
    assert run(sshd.backend(identity_file=keys / kind, agent=False), "echo in").text() == "in\n"


def test_passphrase(sshd: Server, keys: Path) -> None:
    """The right one opens the key; without or with a wrong one the error says so."""
    locked = keys / "locked"
    backend = sshd.backend(identity_file=locked, passphrase="open sesame", agent=False)
    assert run(backend, "echo in").text() == "in\n"
    with pytest.raises(AuthenticationError, match="encrypted and there is no passphrase"):
        run(sshd.backend(identity_file=locked, agent=False), "true")
    with pytest.raises(AuthenticationError, match="cannot be read with this passphrase"):
        run(sshd.backend(identity_file=locked, passphrase="wrong", agent=False), "true")


@pytest.fixture
def agent(keys: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An agent that holds the RSA key."""
    started = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True)
    found = re.search(r"SSH_AUTH_SOCK=([^;]+);.*SSH_AGENT_PID=(\d+)", started.stdout, re.DOTALL)
    assert found is not None
    monkeypatch.setenv("SSH_AUTH_SOCK", found[1])
    subprocess.run(["ssh-add", "-q", str(keys / "rsa")], check=True)
    yield
    os.kill(int(found[2]), 15)


@pytest.mark.usefixtures("agent")
def test_agent(sshd: Server, keys: Path) -> None:
    """Its key logs in without a file, unless the agent shall not be asked."""
    (keys / "rsa").unlink()
    assert run(sshd.backend(identity_file=None, config=False), "echo in").text() == "in\n"
    assert run(sshd.backend(identity_file=keys / "rsa"), "echo in").text() == "in\n"
    with pytest.raises(AuthenticationError):
        run(sshd.backend(identity_file=keys / "rsa", agent=False), "true")


@pytest.mark.skipif(not ROOT, reason="needs root, to make an account whose password is known")
def test_password(make_sshd) -> None:  # type: ignore[no-untyped-def]
    """A right one, a wrong one, and none."""
    server = make_sshd(extra=["PubkeyAuthentication no"])
    right = server.backend(password=server.account.password)
    assert run(right, "echo in").text() == "in\n"
    with pytest.raises(AuthenticationError, match=r"tried: .*password"):
        run(server.backend(password="wrong"), "true")
    with pytest.raises(AuthenticationError, match="the host wants"):
        run(server.backend(), "true")


@pytest.mark.skipif(not ROOT, reason="needs root, to make an account whose password is known")
def test_keyboard_interactive(make_sshd) -> None:  # type: ignore[no-untyped-def]
    """Dialogs as PAM has them."""
    server = make_sshd(
        extra=["UsePAM yes", "PasswordAuthentication no", "KbdInteractiveAuthentication yes"]
    )
    backend = server.backend(password=server.account.password, identity_file=None, agent=False)
    assert run(backend, "echo in").text() == "in\n"


@pytest.mark.skipif(not ROOT, reason="needs root, to make an account whose password is known")
def test_key_and_password_together(make_sshd) -> None:  # type: ignore[no-untyped-def]
    """A server that wants both gets both."""
    server = make_sshd(extra=["AuthenticationMethods publickey,password"])
    assert run(server.backend(password=server.account.password), "echo in").text() == "in\n"


@pytest.mark.usefixtures("agent")
@pytest.mark.skipif(not ROOT, reason="needs root, to make an account whose password is known")
def test_ways_to_log_in_have_openssh_s_order(make_sshd, keys: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Keys of the agent, of the files, then the dialog, then the password; the error names
    each of them that was refused.
    """
    server = make_sshd(extra=["UsePAM yes", "KbdInteractiveAuthentication yes"])
    config = tmp_path / "config"
    config.write_text(f"Host *\n  IdentityFile {keys}/ed25519\n  IdentityFile {keys}/ecdsa\n")
    backend = server.backend(config=config, identity_file=None, password="wrong")
    files = rf"{keys}/ed25519, {keys}/ecdsa"
    order = rf"tried: agent key ssh-rsa, {files}, keyboard-interactive, password"
    with pytest.raises(AuthenticationError, match=order):
        run(backend, "true")
    config.write_text(config.read_text() + "  IdentitiesOnly yes\n")
    with pytest.raises(AuthenticationError, match=rf"tried: {files}\)"):
        run(server.backend(config=config, identity_file=None), "true")


def test_many_hosts_share_one_connection_to_the_jump_host(make_sshd, sshd: Server, who) -> None:  # type: ignore[no-untyped-def]
    """Twenty hosts behind it, one login there."""
    bastion = make_sshd()
    trust = _trust(bastion, sshd)
    inner = make_sshd(listen="0.0.0.0")
    trust = _trust(bastion, inner)
    _allow(bastion, inner)
    names = [f"{who.user}@127.0.0.{n}:{inner.port}" for n in range(1, 21)]
    backends = [
        bastion.backend(name, jump=bastion.destination, known_hosts=str(trust)) for name in names
    ]
    with ThreadPoolExecutor(20) as threads:
        results = list(threads.map(lambda backend: run(backend, "echo through"), backends))
    assert [result.text() for result in results] == ["through\n"] * 20
    assert bastion.logins() == 1
    bastion.close()


def test_several_hops(make_sshd) -> None:  # type: ignore[no-untyped-def]
    """Each one is reached from the one before it."""
    servers = [make_sshd() for _ in range(3)]
    trust = _trust(*servers)
    for server in servers[1:]:
        _allow(servers[0], server)
    backend = servers[0].backend(
        servers[2].destination,
        jump=[servers[0].destination, servers[1].destination],
        known_hosts=str(trust),
    )
    assert run(backend, "echo far").text() == "far\n"
    assert [server.logins() for server in servers] == [1, 1, 1]


def test_jump_host_that_does_not_reach_it(sshd: Server) -> None:
    """The error says who could not reach whom."""
    port = free_port()
    backend = sshd.backend(f"x@127.0.0.1:{port}", jump=sshd.destination)
    with pytest.raises(ConnectError, match=rf"does not reach 127\.0\.0\.1:{port}"):
        run(backend, "true")


def _trust(*servers: Server) -> Path:
    known = servers[0].base / "known-all"
    known.write_text("".join(server.known_hosts.read_text() for server in servers))
    return known


def _allow(first: Server, other: Server) -> None:
    (other.base / "authorized_keys").write_text(first.key.with_suffix(".pub").read_text())


def test_configuration_names_everything(sshd: Server, tmp_path: Path) -> None:
    """An alias with host, port, user, key, trust and ciphers; through Include and Match."""
    (tmp_path / "part").write_text(
        f"Host *.lan\n  Port {sshd.port}\n  IdentityFile {sshd.key}\n"
        f"  UserKnownHostsFile {sshd.known_hosts}\n  Ciphers aes256-ctr\n"
        "  KexAlgorithms ecdh-sha2-nistp256\n"
    )
    config = tmp_path / "config"
    config.write_text(
        f"Include {tmp_path}/part\n"
        f"Match originalhost box.lan\n  HostName 127.0.0.1\n  User {sshd.account.user}\n"
    )
    backend = sshd.backend("box.lan", config=config, identity_file=None, known_hosts=None)
    assert run(backend, "echo configured").text() == "configured\n"
    assert backend._pool is not None
    transport = backend._pool._connections[0].transport
    assert transport.remote_cipher == "aes256-ctr"
    assert transport._preferred_kex == ("ecdh-sha2-nistp256",)


def test_configuration_decides_about_trust(sshd: Server, tmp_path: Path) -> None:
    """Files of known hosts, an alias, new keys: but never a key that has changed."""
    key = " ".join((sshd.base / "host.pub").read_text().split()[:2])
    other = sshd.key.with_suffix(".pub").read_text()
    config, known = tmp_path / "config", tmp_path / "known"
    (tmp_path / "global").write_text(f"box {key}\n")
    (tmp_path / "changed").write_text(f"[127.0.0.1]:{sshd.port} {other}")
    config.write_text(
        f"Host aliased\n  HostName 127.0.0.1\n  HostKeyAlias box\n  UserKnownHostsFile {known}\n"
        f"  GlobalKnownHostsFile {tmp_path}/global\n"
        f"Host new\n  HostName 127.0.0.1\n  StrictHostKeyChecking accept-new\n"
        f"  UserKnownHostsFile {known}\n"
        f"Host changed\n  HostName 127.0.0.1\n  StrictHostKeyChecking no\n"
        f"  UserKnownHostsFile {tmp_path}/changed\n"
        f"Host *\n  Port {sshd.port}\n  User {sshd.account.user}\n  HashKnownHosts yes\n"
    )
    trust = {"config": config, "known_hosts": None}
    assert run(sshd.backend("aliased", **trust), "echo known").text() == "known\n"
    assert not known.exists()
    assert run(sshd.backend("new", **trust), "echo new").text() == "new\n"
    assert known.read_text().startswith("|1|")
    with pytest.raises(HostKeyError, match="has changed"):
        run(sshd.backend("changed", **trust), "true")


def test_configuration_decides_about_silence(sshd: Server, tmp_path: Path) -> None:
    """ServerAliveInterval and ServerAliveCountMax."""
    cut = Cut(sshd.port)
    config, known = tmp_path / "config", tmp_path / "known"
    known.write_text(f"box {sshd.known_hosts.read_text().split(' ', 1)[1]}")
    config.write_text(
        f"Host *\n  HostName 127.0.0.1\n  Port {cut.port}\n  HostKeyAlias box\n"
        f"  UserKnownHostsFile {known}\n  ServerAliveInterval 1\n  ServerAliveCountMax 1\n"
    )
    try:
        backend = sshd.backend(f"{sshd.account.user}@box", config=config, known_hosts=None)
        future = backend.submit("cat; sleep 1000; true", on_stdout=lambda line: cut.forget(),
                                input="x\n")  # fmt: skip
        with pytest.raises(ConnectionLostError, match="silent for"):
            future.result(60)
    finally:
        backend.close()
        cut.close()


def test_proxy_jump_of_the_configuration(make_sshd, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """By alias, with the alias's own settings."""
    bastion, inner = make_sshd(), make_sshd()
    trust = _trust(bastion, inner)
    _allow(bastion, inner)
    config = tmp_path / "config"
    config.write_text(
        f"Host bastion\n  HostName 127.0.0.1\n  Port {bastion.port}\n"
        f"Host inner\n  HostName 127.0.0.1\n  Port {inner.port}\n  ProxyJump bastion\n"
        f"Host *\n  User {bastion.account.user}\n"
    )
    backend = bastion.backend("inner", config=config, known_hosts=str(trust))
    assert run(backend, "echo through").text() == "through\n"
    assert bastion.logins() == 1


def test_proxy_command(sshd: Server, tmp_path: Path) -> None:
    """Its tokens are filled in, and it ends with the connection."""
    script = tmp_path / "forward.py"
    script.write_text(
        "import os, socket, sys, threading\n"
        "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "def up():\n"
        "    while d := os.read(0, 65536): s.sendall(d)\n"
        "    s.shutdown(1)\n"
        "threading.Thread(target=up, daemon=True).start()\n"
        "while d := s.recv(65536): os.write(1, d)\n"
    )
    config = tmp_path / "config"
    config.write_text(f"Host *\n  ProxyCommand python3 {script} %h %p\n")
    assert run(sshd.backend(config=config), "echo proxied").text() == "proxied\n"


def test_proxy_command_that_fails(sshd: Server, tmp_path: Path) -> None:
    """A failure to connect."""
    config = tmp_path / "config"
    config.write_text("Host *\n  ProxyCommand exit 1\n  ConnectTimeout 1\n")
    with pytest.raises(ConnectError):
        run(sshd.backend(config=config), "true")


def test_ipv6(make_sshd) -> None:  # type: ignore[no-untyped-def]
    """By address in brackets."""
    server = make_sshd(extra=["ListenAddress ::1"])
    backend = server.backend(f"{server.account.user}@[::1]:{server.port}")
    assert run(backend, "echo six").text() == "six\n"
