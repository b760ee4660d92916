"""The keys of hosts, against a real server and the OpenSSH client's own verdict."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import parallel_exec as px
from parallel_exec.environments.ssh.known_hosts import hash_name
from parallel_exec.errors import AuthenticationError, HostKeyError
from tests.integration.ssh.server import Server
from tests.unit.ssh.test_certificates import keygen, sign

needs_ssh = pytest.mark.skipif(
    shutil.which("ssh") is None, reason="needs OpenSSH's client: apt-get install openssh-client"
)


def public(path: Path) -> str:
    """Return a public key's type and text."""
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])


def client_trusts(server: Server, known: Path, *words: str) -> bool:
    """Return whether the OpenSSH client accepts the host's key."""
    done = subprocess.run(
        [
            *("ssh", "-F", "none", "-i", str(server.key), "-o", "IdentityAgent=none"),
            *("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"),
            *("-o", f"UserKnownHostsFile={known}", "-o", "GlobalKnownHostsFile=/dev/null"),
            *("-p", str(server.port), *words, f"{server.account.user}@127.0.0.1", "true"),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 or "Host key verification failed" in done.stderr, done.stderr
    return done.returncode == 0


def we_trust(server: Server, known: Path, **more: Any) -> bool:
    """Return whether the library does."""
    options = {**server.options, "known_hosts": str(known), "agent": False, **more}
    with px.SSH(server.destination, **options) as host:
        try:
            return host.run("true").ok
        except HostKeyError:
            return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with keys of a host and an authority."""
    folder = tmp_path_factory.mktemp("host_keys")
    for kind in ("ed25519", "rsa", "ecdsa"):
        keygen(folder / f"{kind}", "-t", kind)
        keygen(folder / f"stale-{kind}", "-t", kind)
    keygen(folder / "authority", "-t", "ed25519")
    return folder


@needs_ssh
@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_host_with_a_certificate(make_sshd: Any, folder: Path, kind: str) -> None:
    """It is trusted by its authority's line alone, as by the OpenSSH client."""
    sign(folder, "-h", "-n", "127.0.0.1", key=kind)
    server = make_sshd(
        extra=[f"HostKey {folder / kind}", f"HostCertificate {folder / kind}-cert.pub"]
    )
    known = folder / "known_hosts"
    for names, trusted in (
        ("127.0.*", True),
        (f"[127.0.0.1]:{server.port}", True),
        ("db", False),
    ):
        known.write_text(f"@cert-authority {names} {public(folder / 'authority')}\n")
        assert client_trusts(server, known) == trusted
        assert we_trust(server, known) == trusted
    known.write_text(
        f"@cert-authority * {public(folder / 'authority')}\n@revoked * {public(folder / kind)}\n"
    )
    assert not client_trusts(server, known)
    assert not we_trust(server, known)


@needs_ssh
@pytest.mark.parametrize(
    "words",
    [
        ["-h", "-n", "other"],
        ["-h", "-n", "127.0.0.1", "-V", "-2h:-1h"],
        ["-h", "-n", "127.0.0.1", "-O", "critical:x@y"],
        ["-h", "-n", "127.0.0.*"],
        ["-n", "127.0.0.1"],
    ],
    ids=["name", "date", "option", "pattern", "user"],
)
def test_certificate_and_the_clients_verdict(
    make_sshd: Any, folder: Path, words: list[str]
) -> None:
    """What is no proof to the OpenSSH client is none here; a key that is known may help."""
    sign(folder, *words, key="ed25519")
    server = make_sshd(
        extra=[f"HostKey {folder / 'ed25519'}", f"HostCertificate {folder / 'ed25519'}-cert.pub"]
    )
    known = folder / "known_hosts"
    for more in ("", f"* {public(folder / 'ed25519')}\n"):
        known.write_text(f"@cert-authority * {public(folder / 'authority')}\n{more}")
        assert we_trust(server, known) == client_trusts(server, known)


def test_certificate_of_a_key_that_the_host_lacks(make_sshd: Any, folder: Path) -> None:
    """Its signature of the exchange is checked against the key in the certificate."""
    sign(folder, "-h", "-n", "127.0.0.1", key="ed25519")
    server = make_sshd(extra=[f"HostKey {folder / 'stale-ed25519'}"])
    known = folder / "known_hosts"
    known.write_text(f"@cert-authority * {public(folder / 'authority')}\n")
    assert not we_trust(server, known)


def test_certificate_is_verified_before_a_password_is_sent(make_sshd: Any, folder: Path) -> None:
    """Nothing is offered to a host whose certificate is no proof."""
    sign(folder, "-h", "-n", "other", key="ed25519")
    server = make_sshd(
        extra=[f"HostKey {folder / 'ed25519'}", f"HostCertificate {folder / 'ed25519'}-cert.pub"]
    )
    known = folder / "known_hosts"
    known.write_text(f"@cert-authority * {public(folder / 'authority')}\n")
    backend = px.SSH(server.destination, **server.options | {"known_hosts": str(known)})
    with backend, pytest.raises(HostKeyError, match="is for 'other'") as caught:
        backend.run("true")
    assert not isinstance(caught.value, AuthenticationError)
    assert server.logins() == 0


NAMES = st.sampled_from(
    [
        *("127.0.0.1", "[127.0.0.1]:PORT", "[127.0.0.1]:*", "127.0.0.?", "*", "[*]:PORT"),
        *("*,!127.0.0.1", "*,![127.0.0.1]:PORT", "[127.0.0.1]:1", "web", "web,127.0.0.1"),
        *("[127.0.0.1]:22", "HASH 127.0.0.1", "HASH [127.0.0.1]:PORT", "HASH web", "127.0.0.1,"),
    ]
)
LINES = st.lists(
    st.tuples(
        st.sampled_from(["", "", "", "@revoked ", "@cert-authority ", "@other ", "# "]),
        NAMES,
        st.sampled_from(["ed25519", "rsa", "stale-ed25519", "stale-rsa", "stale-ecdsa"]),
        st.sampled_from(["", " comment here", " # x", "\t", "broken"]),
    ),
    max_size=4,
)


@needs_ssh
def test_known_hosts_and_the_clients_verdict(make_sshd: Any, folder: Path) -> None:
    """Random lines, right and stale, of several types: the host is trusted by both or none."""
    server = make_sshd(extra=[f"HostKey {folder / 'ed25519'}", f"HostKey {folder / 'rsa'}"])
    known = folder / "known_hosts"

    def line(marker: str, names: str, key: str, tail: str) -> str:
        names = names.replace("PORT", str(server.port))
        if names.startswith("HASH "):
            names = hash_name(names.removeprefix("HASH "))
        kind, text = public(folder / key).split()
        if tail == "broken":
            text, tail = text[:-8], ""
        return f"{marker}{names} {kind} {text}{tail}\n"

    @settings(
        max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(lines=LINES)
    def compare(lines: list[tuple[str, str, str, str]]) -> None:
        known.write_text("".join(line(*parts) for parts in lines))
        assert we_trust(server, known) == client_trusts(server, known)

    compare()


@needs_ssh
@pytest.mark.parametrize("order", [("stale-rsa", "ed25519"), ("ed25519", "stale-rsa")])
def test_stale_line_of_another_type(make_sshd: Any, folder: Path, order: tuple[str, str]) -> None:
    """It does not hide the right key, wherever it stands in the file."""
    server = make_sshd(extra=[f"HostKey {folder / 'ed25519'}", f"HostKey {folder / 'rsa'}"])
    known = folder / "known_hosts"
    known.write_text(
        "".join(f"[127.0.0.1]:{server.port} {public(folder / name)}\n" for name in order)
    )
    assert client_trusts(server, known)
    assert we_trust(server, known)
