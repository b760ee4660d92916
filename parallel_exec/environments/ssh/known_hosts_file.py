"""One known_hosts file: its bytes, and where in them the lines of a name are.

A line becomes objects when somebody asks for its name: a file of 100 MiB costs about twice
its size in memory. Plain names are found by a dictionary. Hashed ones cannot be indexed,
since each line has a salt of its own: they are compared one by one, two or three
microseconds each, once for each name that is asked for.

The format is sshd(8)'s, "SSH_KNOWN_HOSTS FILE FORMAT".
"""

from __future__ import annotations

import array
import base64
import binascii
import hashlib
import hmac
import io
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass

from parallel_exec.environments.ssh.certificates import is_key
from parallel_exec.environments.ssh.config_file import matches

__all__ = ["Entry", "KnownHostsFile", "Signature", "hash_name"]

_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))
SHA1_SIZE = 20
MARKERS = (b"", b"@revoked", b"@cert-authority")

log = logging.getLogger("parallel_exec")

Signature = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Entry:
    """One key on one line.

    Attributes:
        marker: "", "@revoked" or "@cert-authority".
        key_type: The key's type ("ssh-ed25519").
        key: The key in the protocol's form.
        file: The file that it stands in.
        place: Where in its bytes the line begins.
    """

    marker: str
    key_type: str
    key: bytes
    file: KnownHostsFile
    place: int

    @property
    def where(self) -> str:
        """The place as ``path:line``. In a large file it takes a moment to count the lines."""
        return self.file.where(self.place)


class KnownHostsFile:
    """A file as it was when it was read. Nothing in it changes, but for what was asked.

    Attributes:
        signature: Time, size and inode, to tell whether the file has changed.
    """

    def __init__(self, path: str, signature: Signature, data: bytes) -> None:
        self.signature = signature
        self._path = path
        self._data = data
        # Where the lines of a name begin: one place, or several.
        self._plain: dict[bytes, int | tuple[int, ...]] = {}
        self._patterns: list[tuple[tuple[str, ...], int]] = []
        self._hashes = bytearray()  # a salt and a hash for each hashed line, and the places
        self._hashed = array.array("Q")
        # What the hashed lines have for a name, once somebody has asked. Guarded by nothing:
        # two threads that find the same at once write the same.
        self._asked: dict[bytes, list[int]] = {}
        self._read()

    def find(self, name: str) -> Iterator[Entry]:
        """Yield the entries of a host, whose name is in small letters."""
        key = name.encode("utf-8", "surrogateescape")
        places = self._plain.get(key, ())
        found = [places] if isinstance(places, int) else list(places)
        found += [place for patterns, place in self._patterns if matches(patterns, name)]
        if self._hashed:
            found += self._among_hashed(key)
        for place in found:
            entry = self._entry(place)
            if entry is not None:
                yield entry

    def _read(self) -> None:
        place = 0
        for number, line in enumerate(io.BytesIO(self._data), 1):
            start = place
            place += len(line)
            words = line.split(None, 3)
            if not words or words[0].startswith(b"#"):
                continue
            marker = words.pop(0) if words[0].startswith(b"@") else b""
            if len(words) < 3 and len(line.split(None, 4)) < 4:
                log.warning("%s:%d is no line of a known_hosts file", self._path, number)
            elif marker not in MARKERS:
                shown = marker.decode(errors="replace")
                log.warning(
                    "%s:%d has the marker %s, which is not understood", self._path, number, shown
                )
            else:
                self._note(words[0], start, number)

    def _note(self, names: bytes, place: int, number: int) -> None:
        if names.startswith(b"|1|"):
            try:
                _, _, salt, digest = names.split(b"|")
                pair = binascii.a2b_base64(salt), binascii.a2b_base64(digest)
            except (ValueError, binascii.Error):
                pair = b"", b""
            if [len(part) for part in pair] != [SHA1_SIZE, SHA1_SIZE]:
                log.warning("%s:%d has a hashed name that cannot be read", self._path, number)
                return
            self._hashes += pair[0] + pair[1]
            self._hashed.append(place)
        elif b"*" in names or b"?" in names or b"!" in names:
            patterns = names.decode("utf-8", "surrogateescape").split(",")
            self._patterns.append((tuple(patterns), place))
        else:
            for name in names.lower().split(b","):
                known = self._plain.get(name)
                if known is None:
                    self._plain[name] = place
                else:
                    self._plain[name] = (*((known,) if isinstance(known, int) else known), place)

    def _among_hashed(self, name: bytes) -> list[int]:
        found = self._asked.get(name)
        if found is not None:
            return found
        sha1, hashes = hashlib.sha1, self._hashes
        found = []
        for number, place in enumerate(self._hashed):
            start = number * 2 * SHA1_SIZE
            middle = start + SHA1_SIZE
            # HMAC by hand (RFC 2104): it takes half the time of `hmac`.
            key = hashes[start:middle].ljust(64, b"\0")
            inner = sha1(key.translate(_INNER) + name).digest()
            wanted = hashes[middle : middle + SHA1_SIZE]
            if sha1(key.translate(_OUTER) + inner).digest() == wanted:
                found.append(place)
        self._asked[name] = found
        return found

    def _entry(self, place: int) -> Entry | None:
        """Return what the line at `place` has; None if its key is none, as for OpenSSH."""
        end = self._data.find(b"\n", place)
        words = self._data[place : None if end < 0 else end].split()
        marker = words.pop(0).decode() if words[0].startswith(b"@") else ""
        kind = words[1].decode(errors="replace")
        try:
            key = base64.b64decode(words[2])
        except (binascii.Error, ValueError):
            key = b""
        if not is_key(key, kind):
            log.warning("%s has a key that cannot be read", self.where(place))
            return None
        return Entry(marker, kind, key, self, place)

    def where(self, place: int) -> str:
        """Return a place in its bytes as ``path:line``."""
        before = self._data.count(b"\n", 0, place)
        return f"{self._path}:{before + 1}"


def hash_name(name: str, salt: bytes | None = None) -> str:
    """Return `name` as a hashed name, with a salt of its own."""
    salt = os.urandom(SHA1_SIZE) if salt is None else salt
    digest = hmac.digest(salt, name.encode(), "sha1")
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"
