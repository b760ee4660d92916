"""Key files: private keys in every format that OpenSSH reads, public halves, certificates.

Private keys are read once and shared as long as their file does not change.
"""

from __future__ import annotations

import base64
import binascii
import functools
import io
import logging
import os
import struct
import threading
from typing import Any

from parallel_exec.environments import room
from parallel_exec.environments.ssh import certificates
from parallel_exec.environments.ssh.border import paramiko, serialization
from parallel_exec.environments.ssh.certificates import (
    CERTIFICATE,
    Certificate,
    field_at,
    type_of,
)
from parallel_exec.environments.ssh.words import said
from parallel_exec.reactor import lifecycle
from parallel_exec.values.secret import Secret

__all__ = [
    "CERTIFICATE",
    "Certificate",
    "PrivateKey",
    "UnusableKeyError",
    "load_certificate",
    "load_key",
    "public_half",
]

log = logging.getLogger("parallel_exec")

LONGEST_FILE = 1 << 20  # as OpenSSH's limit of a key file
CURVES = ("secp256r1", "secp384r1", "secp521r1")

BEGIN = b"-----BEGIN "
OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"
MAGIC = b"openssh-key-v1\0"
# What key files begin with that nobody reads here, and what to do with them.
FOREIGN = {
    b"PuTTY-User-Key-File-": "is a PuTTY key: convert it by puttygen -O private-openssh",
    b"---- BEGIN SSH2 ENCRYPTED PRIVATE KEY": "is a key of ssh.com: convert it by ssh-keygen -i",
    b"SSH PRIVATE KEY FILE FORMAT 1": "is a key of SSH version 1, which no server takes any more",
    b"-----BEGIN DSA PRIVATE KEY": "is a DSA key, which is too weak: make an Ed25519 key",
    b"-----BEGIN PGP": "is a key of PGP: gpg-agent can hold it",
}
DSA = FOREIGN[b"-----BEGIN DSA PRIVATE KEY"]
SECURITY_KEY = "is a security key, which only an agent can use: load it by ssh-add"


class UnusableKeyError(Exception):
    """A file holds no key that can be used; `str` is a sentence that names it and says why."""


class PrivateKey:
    """A private key that signs here.

    Attributes:
        kind: Its type, like "ssh-ed25519".
        blob: Its public half, as the protocol has it.
    """

    def __init__(self, kind: str, blob: bytes, key: Any) -> None:
        self.kind = kind
        self.blob = blob
        self._key = key

    def sign(self, data: bytes, algorithm: str) -> bytes:
        """Return the signature of `data`, as the protocol has it."""
        signature: bytes = self._key.sign_ssh_data(data, algorithm).asbytes()
        return signature


# Private keys

_cache: dict[tuple[str, int, int, Secret | None], PrivateKey] = {}
_cache_lock = threading.Lock()  # guards _cache; a key is read under it, by one thread


def _after_fork_in_child() -> None:
    global _cache_lock
    _cache_lock = threading.Lock()


lifecycle.at_fork("ssh keys", _after_fork_in_child)


def load_key(path: str, passphrase: Secret | None) -> PrivateKey:
    """Return the private key in a file.

    Raises:
        FileNotFoundError: There is no such file.
        UnusableKeyError: It cannot be read, others can read it, or it holds no key that
            can be used.
    """
    path = os.path.expanduser(path)
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            # As in OpenSSH: somebody else's file is for its owner to protect.
            exposed = status.st_uid == os.getuid() and status.st_mode & 0o077
            place = (path, status.st_mtime_ns, status.st_size, passphrase)
            with _cache_lock:
                if exposed:
                    _private_text(path, file.read(LONGEST_FILE))  # else that is to be said
                    raise UnusableKeyError(_exposed(path, status.st_mode & 0o777))
                if place not in _cache:
                    _cache[place] = _parse(path, file.read(LONGEST_FILE), passphrase)
                return _cache[place]
    except FileNotFoundError:
        raise
    except OSError as error:
        if room.is_shortage(error):
            raise
        raise UnusableKeyError(f"{path} cannot be read: {error.strerror}") from None


@functools.lru_cache(maxsize=1024)
def _exposed(path: str, mode: int) -> str:
    told = f"{path} can be read by others (mode {mode:04o}) and is not used: chmod 600 {path}"
    log.warning("%s", told)  # once a process, the cache sees to that
    return told


def _private_text(path: str, data: bytes) -> bytes:
    """Return what a file has of a private key that can be used here."""
    text = data.lstrip()
    for beginning, fault in FOREIGN.items():
        if text.startswith(beginning):
            raise UnusableKeyError(f"{path} {fault}")
    if BEGIN not in text:
        if _public(data) is not None:
            raise UnusableKeyError(f"{path} is a public key, and no agent holds its private half")
        raise UnusableKeyError(f"{path} is no private key")
    text = text[text.index(BEGIN) :]
    kind = type_of(_openssh_public(text))
    if kind.startswith("sk-"):
        raise UnusableKeyError(f"{path} {SECURITY_KEY}")
    if kind == "ssh-dss":
        raise UnusableKeyError(f"{path} {DSA}")
    return text


def _parse(path: str, data: bytes, passphrase: Secret | None) -> PrivateKey:
    text = _private_text(path, data)
    loaded, fault = _decode(text, None)
    if isinstance(fault, TypeError):  # it is encrypted
        if passphrase is None:
            raise UnusableKeyError(f"{path} is encrypted and there is no passphrase")
        loaded, fault = _decode(text, passphrase)
        # Each cipher has an error of its own for that.
        if loaded is None and type(fault).__name__ != "UnsupportedAlgorithm":
            raise UnusableKeyError(f"{path} cannot be read with this passphrase")
    if loaded is None:
        raise UnusableKeyError(f"{path} cannot be read: {said(str(fault))}")
    return _wrapped(path, loaded)


def _decode(text: bytes, passphrase: Secret | None) -> tuple[Any, Exception | None]:
    """Return the key, or why there is none: an error without the frames that held secrets."""
    load = serialization.load_pem_private_key
    if text.startswith(OPENSSH):
        load = serialization.load_ssh_private_key
    try:
        return load(text, None if passphrase is None else passphrase.reveal().encode()), None
    except Exception as error:  # of several kinds, and OpenSSL's own
        error.__traceback__ = error.__context__ = error.__cause__ = None
        return None, error


def _wrapped(path: str, loaded: Any) -> PrivateKey:
    if "DSA" in type(loaded).__name__:
        raise UnusableKeyError(f"{path} {DSA}")
    curve = getattr(loaded, "curve", None)
    if curve is not None and curve.name not in CURVES:
        raise UnusableKeyError(f"{path} is of a curve that SSH does not know: {curve.name}")
    encoding, public = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    try:
        words = loaded.public_key().public_bytes(encoding, public).split()
    except Exception:
        words = [b""]
    kind = words[0].decode()
    if curve is not None:
        key = paramiko.ECDSAKey(vals=(loaded, loaded.public_key()))
    elif kind == "ssh-rsa":
        key = paramiko.RSAKey(key=loaded)
    elif kind == "ssh-ed25519":
        # Which is only read as OpenSSH writes it.
        form, nothing = serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        written = loaded.private_bytes(serialization.Encoding.PEM, form, nothing)
        key = paramiko.Ed25519Key.from_private_key(io.StringIO(written.decode()))
    else:
        raise UnusableKeyError(f"{path} is of a type that SSH does not know")
    return PrivateKey(kind, base64.b64decode(words[1]), key)


# Public halves


def public_half(path: str) -> tuple[str, bytes] | None:
    """Return the type and the public half of a key file, without a passphrase; None if unknown.

    The file may hold the private key, the public one or a certificate; else there may be
    a file beside it that ends in ``.pub``.
    """
    path = os.path.expanduser(path)
    for name in (path, f"{path}.pub"):
        data = _contents(name)
        if data is None:
            continue
        if BEGIN in data:
            blob = _openssh_public(data[data.index(BEGIN) :])
            if blob:
                return type_of(blob), blob
        found = _public(data)
        if found is not None:
            return found
    return None


def load_certificate(path: str) -> Certificate:
    """Return the certificate in a file.

    Raises:
        FileNotFoundError: There is no such file.
        UnusableKeyError: It holds no certificate of a user.
    """
    path = os.path.expanduser(path)
    if not os.path.exists(path):
        raise FileNotFoundError(path)
    found = _public(_contents(path) or b"")
    if found is None or not found[0].endswith(CERTIFICATE):
        raise UnusableKeyError(f"{path} is no certificate")
    made = parse_certificate(found[1])
    if made is None:
        raise UnusableKeyError(f"{path} is no certificate of a user")
    return made


def parse_certificate(blob: bytes) -> Certificate | None:
    """Return a user's certificate; None if the bytes are something else."""
    made = certificates.parse(blob)
    return made if made is not None and made.sort == certificates.USER else None


def _contents(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read(LONGEST_FILE)
    except OSError:
        return None


def _public(data: bytes) -> tuple[str, bytes] | None:
    """Return the type and the blob of a public key as OpenSSH writes it."""
    for line in data.splitlines()[:100]:
        words = line.split()
        if len(words) >= 2 and not words[0].startswith(b"#"):
            try:
                blob = base64.b64decode(words[1], validate=True)
            except (binascii.Error, ValueError):
                return None
            kind = type_of(blob)
            return (kind, blob) if kind and kind.encode() == words[0] else None
    return None


def _openssh_public(text: bytes) -> bytes:
    """Return the public half that OpenSSH's format has in clear before the private one."""
    if not text.startswith(OPENSSH):
        return b""
    body, end, _ = text.removeprefix(OPENSSH).partition(b"-----END OPENSSH PRIVATE KEY-----")
    try:
        data = base64.b64decode(body)
        if not end or not data.startswith(MAGIC):
            return b""
        at = len(MAGIC)
        for _ in range(3):  # the cipher, how its key is derived, from what
            _, at = field_at(data, at)
        blob, _ = field_at(data, at + 4)
    except (binascii.Error, ValueError, struct.error):
        return b""
    return blob
