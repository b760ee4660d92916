"""Certificates of users and hosts, and whether a host's can be trusted.

The format is OpenSSH's PROTOCOL.certkeys. paramiko knows certificates as blobs to send and
checks nothing in them.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from parallel_exec.environments.ssh.border import paramiko

__all__ = ["CERTIFICATE", "HOST", "USER", "Certificate", "field_at", "is_key", "parse", "type_of"]

CERTIFICATE = "-cert-v01@openssh.com"
USER, HOST = 1, 2
ALWAYS = (1 << 64) - 1
# How many fields the public key has in a certificate, between the nonce and the serial.
KEY_FIELDS = {
    "ssh-ed25519": 1,
    "ssh-rsa": 2,
    "ecdsa-sha2-nistp256": 2,
    "ecdsa-sha2-nistp384": 2,
    "ecdsa-sha2-nistp521": 2,
    "sk-ssh-ed25519@openssh.com": 2,
    "sk-ecdsa-sha2-nistp256@openssh.com": 3,
}
# Who may sign, and by which algorithms: as OpenSSH, none with SHA-1.
AUTHORITIES: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "ssh-ed25519": (paramiko.Ed25519Key, ("ssh-ed25519",)),
    "ssh-rsa": (paramiko.RSAKey, ("rsa-sha2-512", "rsa-sha2-256")),
    "ecdsa-sha2-nistp256": (paramiko.ECDSAKey, ("ecdsa-sha2-nistp256",)),
    "ecdsa-sha2-nistp384": (paramiko.ECDSAKey, ("ecdsa-sha2-nistp384",)),
    "ecdsa-sha2-nistp521": (paramiko.ECDSAKey, ("ecdsa-sha2-nistp521",)),
}


@dataclass(frozen=True, slots=True)
class Certificate:
    """Who signed for a key, for whom, until when.

    Attributes:
        kind: Its type, like "ssh-ed25519-cert-v01@openssh.com".
        blob: All of it, as the protocol has it.
        key: The public key that it is for, likewise.
        sort: `USER` or `HOST`, or what neither is.
        principals: The names that it is good for.
        after: When it begins to be valid, in seconds of the epoch.
        before: When it ends to be; `ALWAYS` for never.
        critical: The options that whoever checks it must understand, as they are encoded.
        authority: The public key of who signed it.
        signature: Its signature, over all that stands before it.
    """

    kind: str
    blob: bytes
    key: bytes
    sort: int
    principals: tuple[str, ...]
    after: int
    before: int
    critical: bytes
    authority: bytes
    signature: bytes

    def date_problem(self) -> str | None:
        """Return why it is not valid now, by this machine's clock; None if it is."""
        now = time.time()
        if now < self.after:
            return f"is not valid before {_date(self.after)}"
        return f"has expired on {_date(self.before)}" if now >= self.before else None

    def host_problem(self, name: str) -> str | None:
        """Return why it does not prove that its key is the key of host `name`.

        Whether its authority may sign for that host is for the caller to know.
        """
        if not self._is_signed():  # first: else nobody has said what it says
            return "is not signed by the authority that it names"
        if self.sort != HOST:
            return "is not for a host"
        if name.lower() not in self.principals:  # no patterns, as in OpenSSH
            shown = ", ".join(map(repr, self.principals[:5])) or "no name at all"
            return f"is for {shown[:200]}"
        problem = self.date_problem()
        if problem is not None:
            return problem
        return "has critical options, and none is known for hosts" if self.critical else None

    def _is_signed(self) -> bool:
        make, algorithms = AUTHORITIES.get(type_of(self.authority), (None, ()))
        if make is None or type_of(self.signature) not in algorithms:
            return False
        try:  # paramiko takes one that is too short, or has more behind it
            _, at = field_at(self.signature, 0)
            _, at = field_at(self.signature, at)
        except struct.error:
            return False
        if at != len(self.signature):
            return False
        signed = self.blob[: len(self.blob) - 4 - len(self.signature)]
        try:
            return bool(
                make(data=self.authority).verify_ssh_sig(signed, paramiko.Message(self.signature))
            )
        except Exception:  # whatever a made-up key or signature makes it raise
            return False


def parse(blob: bytes) -> Certificate | None:
    """Return a certificate; None if the bytes are something else, or more or less than one."""
    kind = type_of(blob)
    plain = kind.removesuffix(CERTIFICATE) + ("@openssh.com" if kind.startswith("sk-") else "")
    if not kind.endswith(CERTIFICATE) or plain not in KEY_FIELDS:
        return None
    try:
        _, at = field_at(blob, 0)
        _, begin = field_at(blob, at)  # the nonce
        at = begin
        for _ in range(KEY_FIELDS[plain]):
            _, at = field_at(blob, at)
        key = struct.pack(">I", len(plain)) + plain.encode() + blob[begin:at]
        _, sort = struct.unpack_from(">QI", blob, at)
        _, at = field_at(blob, at + 12)  # the key's id
        principals, at = field_at(blob, at)
        after, before = struct.unpack_from(">QQ", blob, at)
        critical, at = field_at(blob, at + 16)
        _, at = field_at(blob, at)  # extensions: none is for hosts
        _, at = field_at(blob, at)  # reserved
        authority, at = field_at(blob, at)
        signature, at = field_at(blob, at)
        names = tuple(name.decode() for name in _list(principals))
    except (struct.error, UnicodeDecodeError):
        return None
    if at != len(blob):
        return None
    return Certificate(kind, blob, key, sort, names, after, before, critical, authority, signature)


def is_key(blob: bytes, kind: str) -> bool:
    """Return whether bytes are a public key of that type, as far as its form tells."""
    if type_of(blob) != kind:
        return False
    if kind not in KEY_FIELDS:
        return True
    try:
        _, at = field_at(blob, 0)
        for _ in range(KEY_FIELDS[kind]):
            number, at = field_at(blob, at)
    except struct.error:
        return False
    return at == len(blob) and (kind != "ssh-ed25519" or len(number) == 32)


def _list(data: bytes) -> list[bytes]:
    items = []
    at = 0
    while at < len(data):
        item, at = field_at(data, at)
        items.append(item)
    return items


def _date(seconds: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return f"second {seconds}"


def type_of(blob: bytes) -> str:
    """Return the type of a public key, certificate or signature; "" if it has none."""
    try:
        return field_at(blob, 0)[0].decode("ascii")
    except (struct.error, UnicodeDecodeError):
        return ""


def field_at(data: bytes, at: int) -> tuple[bytes, int]:
    """Return the string that stands at a place, and the place behind it.

    Raises:
        struct.error: The bytes end before it does.
    """
    (size,) = struct.unpack_from(">I", data, at)
    end = at + 4 + size
    if end > len(data):
        raise struct.error("it ends too early")
    return data[at + 4 : end], end
