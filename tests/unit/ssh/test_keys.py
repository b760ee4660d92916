"""Key files: what is said of those that cannot be used, and public halves."""

from __future__ import annotations

import base64
import logging
import struct
import subprocess
from pathlib import Path

import pytest

from parallel_exec.environments.ssh.keys import (
    UnusableKeyError,
    load_certificate,
    load_key,
    parse_certificate,
    public_half,
)
from parallel_exec.values.secret import Secret


def field(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def openssh(kind: bytes) -> str:
    """Return a private key in OpenSSH's format whose public half is of a type."""
    public = field(kind) + field(bytes(32)) + field(b"ssh:")
    private = struct.pack(">II", 7, 7) + public
    private += bytes(range(1, 9 - len(private) % 8))
    data = b"openssh-key-v1\0" + field(b"none") * 2 + field(b"") + struct.pack(">I", 1)
    body = base64.encodebytes(data + field(public) + field(private)).decode()
    return f"-----BEGIN OPENSSH PRIVATE KEY-----\n{body}-----END OPENSSH PRIVATE KEY-----\n"


def keygen(*words: object) -> None:
    subprocess.run(["ssh-keygen", "-q", *map(str, words)], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (openssh(b"sk-ssh-ed25519@openssh.com"), "is a security key, which only an agent can use"),
        (openssh(b"sk-ecdsa-sha2-nistp256@openssh.com"), "is a security key"),
        (openssh(b"ssh-dss"), "is a DSA key, which is too weak"),
        (openssh(b"ssh-strange"), "cannot be read: "),
        ("-----BEGIN DSA PRIVATE KEY-----\nAAAA\n", "is a DSA key, which is too weak"),
        ("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n", "is a PuTTY key: convert it"),
        ("PuTTY-User-Key-File-2: ssh-rsa\n", "is a PuTTY key: convert it by puttygen"),
        ("---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\n", "is a key of ssh.com: convert it"),
        ("SSH PRIVATE KEY FILE FORMAT 1.1\n\0", "is a key of SSH version 1"),
        ("ssh-ed25519 " + base64.b64encode(field(b"ssh-ed25519")).decode(), "is a public key"),
        ("", "is no private key"),
        ("\0\xff" * 100, "is no private key"),
        ("-----BEGIN RSA PRIVATE KEY-----\n", "cannot be read: "),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n", "cannot be read: "),
    ],
)
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_keys_that_cannot_be_used(tmp_path: Path, text: str, told: str, mode: int) -> None:
    """One sentence with the file and what it is, or that others can read it."""
    path = tmp_path / "key"
    path.write_text(text, encoding="latin-1")
    path.chmod(mode)
    told = told if mode == 0o600 or "is " in told else "can be read by others"
    with pytest.raises(UnusableKeyError) as refused:
        load_key(str(path), Secret("a passphrase"))
    assert str(refused.value).startswith(f"{path} {told}")
    assert str(refused.value).isprintable()
    assert "\n" not in str(refused.value)


def test_elliptic_curve_that_ssh_does_not_know(tmp_path: Path) -> None:
    """It is named."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    form = serialization.PrivateFormat.PKCS8
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(
        ec.generate_private_key(ec.SECP256K1()).private_bytes(
            serialization.Encoding.PEM, form, serialization.NoEncryption()
        )
    )
    with pytest.raises(UnusableKeyError, match="of a curve that SSH does not know: secp256k1"):
        load_key(str(path), None)


@pytest.mark.parametrize("cipher", ["aes256-ctr", "aes256-cbc", "aes256-gcm@openssh.com"])
def test_encrypted_keys(tmp_path: Path, cipher: str) -> None:
    """Each cipher is read, and no error holds the passphrase."""
    path = tmp_path / "key"
    keygen("-t", "ed25519", "-N", "S3CRET", "-Z", cipher, "-f", path)
    assert load_key(str(path), Secret("S3CRET")).kind == "ssh-ed25519"
    for wrong in ("S3CRET-not", "x\ud800S3CRET"):
        with pytest.raises(UnusableKeyError) as refused:
            load_key(str(path), Secret(wrong))
        assert str(refused.value) == f"{path} cannot be read with this passphrase"
        assert refused.value.__cause__ is None
        assert refused.value.__context__ is None


def test_public_half(tmp_path: Path) -> None:
    """Of the private key without its passphrase, of the public key, of the one beside it."""
    path = tmp_path / "key"
    keygen("-t", "ed25519", "-N", "S3CRET", "-f", path)
    words = Path(f"{path}.pub").read_text().split()
    wanted = ("ssh-ed25519", base64.b64decode(words[1]))
    assert public_half(str(path)) == wanted
    assert public_half(f"{path}.pub") == wanted
    path.unlink()
    assert public_half(str(path)) == wanted
    Path(f"{path}.pub").unlink()
    assert public_half(str(path)) is None


@pytest.mark.parametrize(
    "junk", ["", "junk", "ssh-ed25519 !!!", "ssh-ed25519 AAAA", "# x\n\n", "\0"]
)
def test_junk_has_no_public_half(tmp_path: Path, junk: str) -> None:
    """And is no certificate."""
    path = tmp_path / "key"
    path.write_text(junk)
    assert public_half(str(path)) is None
    with pytest.raises(UnusableKeyError, match="is no certificate"):
        load_certificate(str(path))


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_certificates(tmp_path: Path, kind: str) -> None:
    """A user's is understood, a host's is not one to log in with, nor is any part of one."""
    size = ["-b", "2048"] if kind == "rsa" else []
    for name in ("ca", "key"):
        keygen("-t", kind, *size, "-N", "", "-f", tmp_path / name)
    public = f"{tmp_path}/key.pub"
    keygen("-s", tmp_path / "ca", "-I", "x", "-n", "a,b", "-V", "20200101Z:20210101Z", public)
    made = load_certificate(f"{tmp_path}/key-cert.pub")
    half = public_half(public)
    assert half is not None
    assert made.key == half[1]
    assert made.date_problem() == "has expired on 2021-01-01 00:00 UTC"
    for size_of_it in range(len(made.blob) - 300):
        parse_certificate(made.blob[:size_of_it])
    keygen("-s", tmp_path / "ca", "-I", "x", "-n", "a", "-h", public)
    with pytest.raises(UnusableKeyError, match="is no certificate of a user"):
        load_certificate(f"{tmp_path}/key-cert.pub")


def test_exposed_key_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As a warning, since another key may let in."""
    path = tmp_path / "key"
    keygen("-t", "ed25519", "-N", "", "-f", path)
    load_key(str(path), None)  # which is kept, and is looked at again
    path.chmod(0o640)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with pytest.raises(UnusableKeyError, match="chmod 600"):
                load_key(str(path), None)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
