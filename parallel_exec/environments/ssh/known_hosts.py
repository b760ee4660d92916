"""The keys that hosts are known by: read once, indexed, shared, never rewritten.

A file is read again when its size, time or inode changes. Certificates of hosts are
checked against the ``@cert-authority`` lines, keys against the others.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import os
import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from parallel_exec.environments import room
from parallel_exec.environments.ssh import certificates
from parallel_exec.environments.ssh.certificates import CERTIFICATE
from parallel_exec.environments.ssh.known_hosts_file import Entry, KnownHostsFile, hash_name
from parallel_exec.errors import HostKeyError

__all__ = ["Entry", "HostKeys", "KnownHosts", "fingerprint", "hash_name", "host_names"]

log = logging.getLogger("parallel_exec")

PLAIN = re.compile(r"[^\s,*?!|#@]+")


@dataclass(slots=True)
class HostKeys:
    """What is known about one host, from all of the files."""

    known: list[Entry] = field(default_factory=list)
    revoked: list[Entry] = field(default_factory=list)
    authorities: list[Entry] = field(default_factory=list)


class KnownHosts:
    """The files of a process, each parsed once. Thread-safe.

    One lock: it guards `_files`. A file is parsed under it, so that many threads that
    connect at once read it once.
    """

    def __init__(self) -> None:
        self._files: dict[str, KnownHostsFile] = {}
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
                for entry in file.find(name):
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
        certificate: bytes | None = None,
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
            certificate: The certificate for the key that the host has shown, in the
                protocol's form.

        Raises:
            HostKeyError: It is unknown, changed or revoked, whether it is revoked cannot
                be told, or its certificate is no proof.
        """
        name = host_names(host, port, alias)[0]
        if revoked_keys is not None:
            _refuse_listed(revoked_keys, name, key_type, key)
        keys = self._look(host, port, alias, key, [*user_files, *global_files])
        _refuse_revoked(keys, name, key_type, key)
        if certificate is not None:
            made = certificates.parse(certificate)
            if made is None or made.key != key:
                raise HostKeyError(f"{name} shows a certificate that cannot be read")
            if revoked_keys is not None:
                _refuse_listed(revoked_keys, name, "authority's", made.authority)
            _refuse_revoked(keys, name, "authority's", made.authority)
            if any(entry.key == key for entry in keys.known):
                return  # by itself, whatever its certificate is worth: as in OpenSSH
            _refuse_unproven(made, keys, name, alias or host)
            return
        if _decide(keys, name, key_type, key):
            return
        if not accept_new or not user_files:
            raise _unknown(keys, name, key_type, key, [*user_files, *global_files])
        self._add(user_files[0], name, key_type, key, hash_names)

    def algorithms(
        self, host: str, port: int, alias: str | None, paths: Iterable[str], ours: Sequence[str]
    ) -> tuple[str, ...]:
        """Return the algorithms for a host's key in the order in which to ask for them.

        As in OpenSSH, those of `ours` that what is known of the host can be checked with
        come first, each in its place: a line with a stale key of one type does not hide
        the right key of another. On a port of its own only lines with that port count for
        that. Certificates are asked for where an authority is known.
        """
        paths = list(paths)
        exact = self.find(host_names(host, port, alias)[:1], paths)
        known = {entry.key_type for entry in exact.known}
        if not self._look(host, port, alias, None, paths).authorities:
            ours = [name for name in ours if not name.endswith(CERTIFICATE)] or ours

        def can_be_checked(algorithm: str) -> bool:
            if algorithm.endswith(CERTIFICATE):
                return bool(exact.authorities)
            return ("ssh-rsa" if algorithm.startswith("rsa-") else algorithm) in known

        return tuple(sorted(ours, key=lambda algorithm: not can_be_checked(algorithm)))

    def _look(
        self, host: str, port: int, alias: str | None, shown: bytes | None, paths: list[str]
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

    def _add(self, path: str, name: str, key_type: str, key: bytes, hash_names: bool) -> None:
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
            _refuse_revoked(keys, name, key_type, key)
            if _decide(keys, name, key_type, key):
                return
            size = os.fstat(fd).st_size
            unfinished = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
            # A name with signs that mean something there would stand for others, too.
            written = name if PLAIN.fullmatch(name) and not hash_names else hash_name(name)
            line = f"{written} {key_type} {base64.b64encode(key).decode()}\n"
            try:
                os.write(fd, (("\n" if unfinished else "") + line).encode())
            except OSError as error:
                raise HostKeyError(
                    f"the key of {name} is new and cannot be added to {path}: {error.strerror}"
                ) from error
            log.info("added the %s key of %s to %s: %s", key_type, name, path, fingerprint(key))
        finally:
            os.close(fd)

    def _load(self, path: str) -> KnownHostsFile | None:
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
            self._files[path] = parsed = KnownHostsFile(path, signature, data)
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


def _sort(found: HostKeys, entry: Entry) -> None:
    if entry.marker == "":
        found.known.append(entry)
    elif entry.marker == "@revoked":
        found.revoked.append(entry)
    else:
        found.authorities.append(entry)


def _refuse_revoked(keys: HostKeys, name: str, key_type: str, key: bytes) -> None:
    """Raise if a ``@revoked`` line has the key."""
    for entry in keys.revoked:
        if entry.key == key:
            raise HostKeyError(
                f"the {key_type} key of {name} is revoked by {entry.where}: {fingerprint(key)}"
            )


def _refuse_unproven(
    certificate: certificates.Certificate, keys: HostKeys, name: str, host: str
) -> None:
    """Raise if a certificate does not prove its key, by an authority that is known."""
    signed_by = [entry for entry in keys.authorities if entry.key == certificate.authority]
    if not signed_by:
        raise HostKeyError(
            f"the certificate of {name} is signed by {fingerprint(certificate.authority)}, which"
            " no @cert-authority for that host has"
        )
    problem = certificate.host_problem(host)
    if problem is not None:
        raise HostKeyError(
            f"the certificate of {name} {problem}; it is signed by the @cert-authority of"
            f" {signed_by[0].where}: {fingerprint(certificate.authority)}"
        )


def _decide(keys: HostKeys, name: str, key_type: str, key: bytes) -> bool:
    """Return whether the key is known; raise if another one is known."""
    if any(entry.key == key for entry in keys.known):
        return True
    for entry in keys.known:
        if entry.key_type == key_type:
            raise HostKeyError(
                f"the {key_type} key of {name} has changed: it shows {fingerprint(key)},"
                f" {entry.where} has {fingerprint(entry.key)}; someone may be listening in,"
                " or the host was set up anew: then remove that line"
            )
    if keys.known:
        entry = keys.known[0]
        raise HostKeyError(
            f"{name} shows a {key_type} key, {fingerprint(key)}, and is known by another type"
            f" of key only: {entry.where} has {entry.key_type} {fingerprint(entry.key)}"
        )
    return False


def _refuse_listed(path: str, name: str, key_type: str, key: bytes) -> None:
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
    shown = base64.b64encode(key)
    for number, line in enumerate(data.split(b"\n"), 1):
        if shown in line.split():
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
        message += f"; it has no certificate by the @cert-authority of {keys.authorities[0].where}"
    return HostKeyError(message)
