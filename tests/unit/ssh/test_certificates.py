"""Certificates of hosts: what proves a key, and what does not."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parallel_exec.environments.ssh import certificates
from parallel_exec.environments.ssh.known_hosts import KnownHosts
from parallel_exec.errors import HostKeyError

Make = Callable[..., tuple[bytes, bytes]]


def keygen(path: Path, *words: str) -> Path:
    """Make a key and return its path."""
    if not path.exists():
        subprocess.run(
            ["ssh-keygen", "-q", "-N", "", "-C", "", "-f", str(path), *words], check=True
        )
    return path


def blob(path: Path) -> bytes:
    """Return the public key or certificate in a file, in the protocol's form."""
    return base64.b64decode(path.read_text().split()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, another one, and a host's key."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("authority", "other", "host"):
        keygen(folder / name, "-t", "ed25519")
    return folder


def sign(folder: Path, *words: str, ca: str = "authority", key: str = "host") -> bytes:
    """Return a certificate for the host's key."""
    certificate = folder / f"{key}-cert.pub"
    certificate.unlink(missing_ok=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-s", str(folder / ca), "-I", "id", *words, str(folder / key)],
        check=True,
    )
    return blob(certificate)


def known_line(folder: Path, names: str, name: str, marker: str = "@cert-authority ") -> str:
    """Return a line of known_hosts for a key of the folder."""
    return f"{marker}{names} {' '.join((folder / f'{name}.pub').read_text().split()[:2])}\n"


def check(
    folder: Path, certificate: bytes | None, known: str, *, key: str = "host", **more: Any
) -> None:
    """Have the certificate of host web.example verified, by these known_hosts."""
    path = folder / "known_hosts"
    path.write_text(known)
    shown = blob(folder / f"{key}.pub")
    settings = {
        "alias": None,
        "user_files": [str(path)],
        "global_files": [],
        "accept_new": False,
        "hash_names": False,
        **more,
    }
    kind = certificates.type_of(shown)
    KnownHosts().verify("Web.example", 22, kind, shown, certificate=certificate, **settings)


@pytest.mark.parametrize("names", ["web.example", "*.example,!db.*", "x,WEB.*"])
@pytest.mark.parametrize("principals", ["web.example", "a,web.example"])
def test_certificate_proves_a_key(folder: Path, names: str, principals: str) -> None:
    """By an authority for the host, for a name that is the host's."""
    certificate = sign(folder, "-h", "-n", principals, "-V", "-1h:+1h")
    check(folder, certificate, known_line(folder, names, "authority"))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["-n", "web.example"], "not for a host"),
        (["-h", "-n", "other.example"], "is for 'other.example'"),
        (["-h", "-n", "WEB.example"], "is for"),
        (["-h", "-n", "*.example,*"], "is for"),
        (["-h"], "is for no name at all"),
        (["-h", "-n", "web.example", "-V", "-2h:-1h"], "has expired"),
        (["-h", "-n", "web.example", "-V", "+1h:+2h"], "not valid before"),
        (["-h", "-n", "web.example", "-O", "critical:x@y=z"], "critical options"),
        (["-h", "-n", "web.example", "-O", "critical:x@y"], "critical options"),
    ],
)
def test_certificate_that_proves_nothing(folder: Path, words: list[str], why: str) -> None:
    """It is an error, also where new keys are accepted, unless the key itself is known."""
    certificate = sign(folder, *words)
    known = known_line(folder, "*", "authority")
    with pytest.raises(HostKeyError, match=why):
        check(folder, certificate, known, accept_new=True)
    check(folder, certificate, known + known_line(folder, "*", "host", ""))


def test_authority_that_is_not_known(folder: Path) -> None:
    """Its certificate is as good as none: only a key that is known by itself will do."""
    certificate = sign(folder, "-h", "-n", "web.example", ca="other")
    for known in (
        known_line(folder, "*", "authority"),
        known_line(folder, "db", "other") + known_line(folder, "*", "authority"),
        known_line(folder, "*", "other", ""),
        "",
    ):
        with pytest.raises(HostKeyError):
            check(folder, certificate, known, accept_new=True)
    check(
        folder,
        certificate,
        known_line(folder, "*", "authority") + known_line(folder, "web.example", "host", ""),
    )


@pytest.mark.parametrize("name", ["host", "authority"])
def test_revoked(folder: Path, name: str) -> None:
    """The key or the authority, by a line or by a file of revoked keys."""
    certificate = sign(folder, "-h", "-n", "web.example")
    known = known_line(folder, "*", "authority")
    check(folder, certificate, known)
    with pytest.raises(HostKeyError, match="revoked"):
        check(folder, certificate, known + known_line(folder, "*.example", name, "@revoked "))
    check(folder, certificate, known + known_line(folder, "other", name, "@revoked "))
    revoked = folder / "revoked"
    revoked.write_text((folder / f"{name}.pub").read_text())
    with pytest.raises(HostKeyError, match="revoked"):
        check(folder, certificate, known, revoked_keys=str(revoked))


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa-256", "ecdsa-384", "ecdsa-521"], ids=str)
def test_every_type_signs(folder: Path, kind: str) -> None:
    """Authorities and keys of all types but security keys; RSA not by SHA-1."""
    words = ["-t", kind.partition("-")[0]]
    if "-" in kind:
        words += ["-b", kind.partition("-")[2]]
    keygen(folder / f"ca-{kind}", *words)
    keygen(folder / f"host-{kind}", *words)
    known = known_line(folder, "*", f"ca-{kind}")
    certificate = sign(folder, "-h", "-n", "web.example", ca=f"ca-{kind}", key=f"host-{kind}")
    check(folder, certificate, known, key=f"host-{kind}")
    if kind == "rsa":
        weak = sign(folder, "-h", "-n", "web.example", "-t", "ssh-rsa", ca="ca-rsa", key="host-rsa")
        with pytest.raises(HostKeyError, match="not signed"):
            check(folder, weak, known, key="host-rsa")


def test_no_byte_of_it_can_change(folder: Path) -> None:
    """Whatever is changed, left out or put behind, it proves nothing; no other error comes."""
    good = sign(folder, "-h", "-n", "web.example", "-V", "-1h:+1h")
    known = known_line(folder, "*", "authority")
    made = [bytes([*good[:n], good[n] ^ 1 << n % 8, *good[n + 1 :]]) for n in range(len(good))]
    made += [good[:n] for n in range(0, len(good), 7)] + [good + b"\0", b"", good * 2]
    for certificate in made:
        with pytest.raises(HostKeyError):
            check(folder, certificate, known)
    check(folder, good, known)
    with pytest.raises(HostKeyError):  # for another key
        check(folder, good, known, key="other")
