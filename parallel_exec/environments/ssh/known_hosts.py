"""The keys that hosts are known by: read once, indexed, shared, never rewritten.

Plain names are found by a dictionary. Hashed ones cannot be indexed, since each line
has a salt of its own: they are compared one by one, two microseconds each, once for each
name that is asked for. A file is read again when its size, time or inode changes.

The format is sshd(8)'s, "SSH_KNOWN_HOSTS FILE FORMAT".
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import logging
import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from parallel_exec.environments import room
from parallel_exec.environments.ssh.config_file import matches
from parallel_exec.errors import HostKeyError

__all__ = ["Entry", "HostKeys", "KnownHosts", "fingerprint", "host_names"]

_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))

log = logging.getLogger("parallel_exec")


class Entry(NamedTuple):
    """One key on one line. A named tuple: a file has thousands, and is read at the start.

    Attributes:
        marker: "", "@revoked" or "@cert-authority".
        key_type: The type as the line says it ("ssh-ed25519").
        key: The key in base64, as it stands there.
        file: The file, with `line` the place to look at.
    """

    marker: str
    key_type: str
    key: str
    file: str
    line: int

    @property
    def where(self) -> str:
        """The place as ``file:line``."""
        return f"{self.file}:{self.line}"


@dataclass(slots=True)
class HostKeys:
    """What is known about one host, from all of the files."""

    known: list[Entry] = field(default_factory=list)
    revoked: list[Entry] = field(default_factory=list)
    authorities: list[Entry] = field(default_factory=list)


@dataclass(slots=True)
class _File:
    signature: tuple[int, int, int]
    plain: dict[str, list[Entry]] = field(default_factory=dict)
    patterns: list[tuple[tuple[str, ...], Entry]] = field(default_factory=list)
    hashed: list[tuple[bytes, bytes, bytes, Entry]] = field(default_factory=list)
    # What the hashed lines have for a name, once somebody has asked. Guarded by nothing:
    # two threads that find the same at once write the same.
    asked: dict[str, list[Entry]] = field(default_factory=dict)


class KnownHosts:
    """The files of a process, each parsed once. Thread-safe.

    One lock: it guards `_files`. A file is parsed under it, so that many threads that
    connect at once read it once.
    """

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}
        self._lock = threading.Lock()
        self.reads = 0  # how often a file was parsed; tests count it

    def find(self, names: Iterable[str], paths: Iterable[str]) -> HostKeys:
        """Return the keys that `paths` hold for any of `names`."""
        found = HostKeys()
        wanted = [name.lower() for name in names]
        for path in paths:
            file = self._load(path)
            if file is None:
                continue
            for name in wanted:
                for entry in file.plain.get(name, ()):
                    _sort(found, entry)
                for patterns, entry in file.patterns:
                    if matches(patterns, name):
                        _sort(found, entry)
                if file.hashed:
                    for entry in _hashed(file, name):
                        _sort(found, entry)
        return found

    def verify(
        self,
        host: str,
        port: int,
        key_type: str,
        key: bytes,
        *,
        alias: str | None,
        user_files: Sequence[str],
        global_files: Sequence[str],
        accept_new: bool,
        hash_names: bool,
        revoked_keys: str | None = None,
    ) -> None:
        """Accept the key that a host has shown, or raise.

        Args:
            host: The name as connected to; `alias` replaces it, without the port.
            key_type: The type of the key ("ssh-ed25519").
            key: The key in the protocol's form.
            user_files: A new key is added to the first of them, if `accept_new`.
            global_files: Only read.
            accept_new: Whether the key of a host that has none is added and accepted.
            hash_names: Whether the name is hashed when it is added.
            revoked_keys: A file of keys that no host may show.

        Raises:
            HostKeyError: It is unknown, changed or revoked, or whether it is revoked
                cannot be told.
        """
        name = host_names(host, port, alias)[0]
        shown = base64.b64encode(key).decode()
        if revoked_keys is not None:
            _refuse_revoked(revoked_keys, name, key_type, shown, key)
        keys = self._look(host, port, alias, shown, [*user_files, *global_files])
        if _decide(keys, name, key_type, shown, key):
            return
        if not accept_new or not user_files:
            raise _unknown(keys, name, key_type, key, [*user_files, *global_files])
        self._add(user_files[0], name, key_type, shown, key, hash_names)

    def types(self, host: str, port: int, alias: str | None, paths: Iterable[str]) -> list[str]:
        """Return the types of the keys that a host is known by, to ask it for those."""
        keys = self._look(host, port, alias, None, list(paths))
        return list(dict.fromkeys(entry.key_type for entry in keys.known))

    def _look(
        self, host: str, port: int, alias: str | None, shown: str | None, paths: list[str]
    ) -> HostKeys:
        first, *others = host_names(host, port, alias)
        keys = self.find([first], paths)
        if others:
            rest = self.find(others, paths)
            keys.revoked += rest.revoked
            keys.authorities += rest.authorities
            if not keys.known:
                # As OpenSSH does: a key that is known without the port is good on any
                # port, but another key there is not a changed one.
                keys.known = [entry for entry in rest.known if shown in (None, entry.key)]
        return keys

    def _add(
        self, path: str, name: str, key_type: str, shown: str, key: bytes, hash_names: bool
    ) -> None:
        """Append one line, unless another process has done it meanwhile.

        The file is locked while it is read again and appended to with one write, and
        never rewritten, so no other line can be lost.
        """
        folder = os.path.dirname(path)
        try:
            if folder:
                os.makedirs(folder, mode=0o700, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HostKeyError(
                f"the key of {name} is new and cannot be added to {path}: {error.strerror}"
            ) from error
        try:
            with contextlib.suppress(OSError):  # no locks there; appending is still safe
                import fcntl  # not at import: Windows has none

                fcntl.flock(fd, fcntl.LOCK_EX)
            keys = self.find([name], [path])
            if _decide(keys, name, key_type, shown, key):
                return
            size = os.fstat(fd).st_size
            unfinished = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
            written = hash_name(name) if hash_names else name
            line = f"{written} {key_type} {shown}\n"
            try:
                os.write(fd, (("\n" if unfinished else "") + line).encode())
            except OSError as error:
                raise HostKeyError(
                    f"the key of {name} is new and cannot be added to {path}: {error.strerror}"
                ) from error
            log.info("added the %s key of %s to %s: %s", key_type, name, path, fingerprint(key))
        finally:
            os.close(fd)

    def _load(self, path: str) -> _File | None:
        path = os.path.expanduser(path)
        with self._lock:
            try:
                status = os.stat(path)
            except OSError:
                self._files.pop(path, None)
                return None
            signature = (status.st_mtime_ns, status.st_size, status.st_ino)
            known = self._files.get(path)
            if known is not None and known.signature == signature:
                return known
            try:
                with open(path, "rb") as file:
                    data = file.read()
            except OSError as error:
                if room.is_shortage(error):  # it is there: its hosts are not unknown
                    raise
                return None
            self.reads += 1
            self._files[path] = parsed = _parse(path, signature, data)
            return parsed


def host_names(host: str, port: int, alias: str | None) -> list[str]:
    """Return the names a host can be listed under, the exact one first."""
    if alias is not None:
        return [alias.lower()]
    host = host.lower()
    return [host] if port == 22 else [f"[{host}]:{port}", host]


def fingerprint(key: bytes) -> str:
    """Return a key's fingerprint as OpenSSH shows it."""
    digest = base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"


def hash_name(name: str, salt: bytes | None = None) -> str:
    """Return `name` as a hashed name, with a salt of its own."""
    salt = os.urandom(20) if salt is None else salt
    digest = hmac.digest(salt, name.encode(), "sha1")
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def _hashed(file: _File, name: str) -> list[Entry]:
    entries = file.asked.get(name)
    if entries is None:
        data = name.encode()
        sha1 = hashlib.sha1
        # HMAC with the padded key made beforehand (RFC 2104): half the time of `hmac`.
        entries = file.asked[name] = [
            entry
            for inner, outer, digest, entry in file.hashed
            if sha1(outer + sha1(inner + data).digest()).digest() == digest
        ]
    return entries


def _sort(found: HostKeys, entry: Entry) -> None:
    if entry.marker == "":
        found.known.append(entry)
    elif entry.marker == "@revoked":
        found.revoked.append(entry)
    else:
        found.authorities.append(entry)


def _decide(keys: HostKeys, name: str, key_type: str, shown: str, key: bytes) -> bool:
    """Return whether the key is known; raise if it is revoked or another one is known."""
    for entry in keys.revoked:
        if entry.key == shown:
            raise HostKeyError(
                f"the {key_type} key of {name} is revoked by {entry.where}: {fingerprint(key)}"
            )
    if any(entry.key == shown for entry in keys.known):
        return True
    for entry in keys.known:
        if entry.key_type == key_type:
            raise HostKeyError(
                f"the {key_type} key of {name} has changed: it shows {fingerprint(key)},"
                f" {entry.where} has {_fingerprint_of(entry)}; someone may be listening in,"
                " or the host was set up anew: then remove that line"
            )
    if keys.known:
        entry = keys.known[0]
        raise HostKeyError(
            f"{name} shows a {key_type} key, {fingerprint(key)}, and is known by another type"
            f" of key only: {entry.where} has {entry.key_type} {_fingerprint_of(entry)}"
        )
    return False


def _refuse_revoked(path: str, name: str, key_type: str, shown: str, key: bytes) -> None:
    """Raise if a file of revoked keys has the key, or cannot be understood."""
    try:
        with open(os.path.expanduser(path), "rb") as file:
            data = file.read()
    except OSError as error:
        raise HostKeyError(
            f"whether the {key_type} key of {name} is revoked cannot be told: RevokedHostKeys"
            f" {path}: {error.strerror}"
        ) from error
    if data.startswith(b"SSHKRL\n"):
        raise HostKeyError(
            f"whether the {key_type} key of {name} is revoked cannot be told: RevokedHostKeys"
            f" {path} is a key revocation list, which is not understood; plain keys are"
        )
    for number, line in enumerate(data.split(b"\n"), 1):
        if shown.encode() in line.split():
            raise HostKeyError(
                f"the {key_type} key of {name} is revoked by {path}:{number}: {fingerprint(key)}"
            )


def _unknown(
    keys: HostKeys, name: str, key_type: str, key: bytes, files: Sequence[str]
) -> HostKeyError:
    places = " or ".join(files) if files else "no known_hosts file"
    message = (
        f"the {key_type} key of {name} is unknown: {fingerprint(key)} is not in {places};"
        " compare it with the host's own, then add it (or use accept_new=True)"
    )
    if keys.authorities:
        message += f"; {keys.authorities[0].where} has a @cert-authority, which is not understood"
    return HostKeyError(message)


def _fingerprint_of(entry: Entry) -> str:
    try:
        return fingerprint(base64.b64decode(entry.key))
    except binascii.Error:
        return "an unreadable key"


def _parse(path: str, signature: tuple[int, int, int], data: bytes) -> _File:
    file = _File(signature)
    reported = False
    for number, raw in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
        words = raw.split(None, 4)
        if not words or words[0].startswith("#"):
            continue
        marker = words.pop(0) if words[0].startswith("@") else ""
        if len(words) < 3:
            log.warning("%s:%d is no line of a known_hosts file", path, number)
            continue
        names, key_type, key = words[:3]
        if marker not in ("", "@revoked", "@cert-authority"):
            log.warning("%s:%d has the marker %s, which is not understood", path, number, marker)
            continue
        if marker == "@cert-authority" and not reported:
            reported = True
            log.warning(
                "%s:%d has a @cert-authority: host certificates are not understood, its hosts"
                " need their plain keys listed",
                path,
                number,
            )
        entry = Entry(marker, key_type, key, path, number)
        if names.startswith("|1|"):
            _add_hashed(file, names, entry)
        elif "*" in names or "?" in names or "!" in names:
            file.patterns.append((tuple(names.split(",")), entry))
        else:
            for name in names.lower().split(","):
                file.plain.setdefault(name, []).append(entry)
    return file


def _add_hashed(file: _File, names: str, entry: Entry) -> None:
    try:
        _, _, salt, digest = names.split("|")
        key = binascii.a2b_base64(salt).ljust(64, b"\0")
        wanted = binascii.a2b_base64(digest)
    except (ValueError, binascii.Error):
        log.warning("%s has a hashed name that cannot be read", entry.where)
        return
    file.hashed.append((key.translate(_INNER), key.translate(_OUTER), wanted, entry))
