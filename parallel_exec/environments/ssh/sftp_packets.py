"""What SFTP, version 3, looks like in bytes.

draft-ietf-secsh-filexfer-02. What a server sends is read with every length checked, in one
pass: an answer of many entries takes linear time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from parallel_exec.text import SAID, plain

__all__ = ["Attributes", "NonsenseError", "Reader", "StatusError", "packed"]

INIT, VERSION, OPEN, CLOSE, READ, WRITE = 1, 2, 3, 4, 5, 6
LSTAT, FSTAT, SETSTAT, FSETSTAT, OPENDIR, READDIR = 7, 8, 9, 10, 11, 12
REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME, READLINK, SYMLINK = 13, 14, 15, 16, 17, 18, 19, 20
STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED, EXTENDED_REPLY = 101, 102, 103, 104, 105, 200, 201

FLAG_READ, FLAG_WRITE, FLAG_CREATE, FLAG_TRUNCATE, FLAG_NEW = 1, 2, 8, 16, 32

OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE = 0, 1, 2, 3, 4

HAS_SIZE, HAS_OWNER, HAS_MODE, HAS_TIMES, HAS_MORE = 1, 2, 4, 8, 0x80000000

NUMBER = struct.Struct(">I")
LARGE_NUMBER = struct.Struct(">Q")


class NonsenseError(Exception):
    """The server has said what no SFTP server may say."""


class StatusError(Exception):
    """The server refused a request.

    Attributes:
        code: Its status; `FAILURE` stands for everything it has no name for.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(plain(text, SAID))
        self.code = code


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is known about a file; None where the server does not say."""

    size: int | None = None
    mode: int | None = None
    accessed: int | None = None
    modified: int | None = None

    def packed(self) -> bytes:
        """Return them as the protocol has them; the size is never set."""
        flags, rest = 0, b""
        if self.mode is not None:
            flags |= HAS_MODE
            rest += NUMBER.pack(self.mode)
        if self.accessed is not None and self.modified is not None:
            flags |= HAS_TIMES
            rest += struct.pack(">II", self.accessed & 0xFFFFFFFF, self.modified & 0xFFFFFFFF)
        return NUMBER.pack(flags) + rest


def packed(text: bytes) -> bytes:
    """Return a string as the protocol has it."""
    return NUMBER.pack(len(text)) + text


class Reader:
    """Reads one answer from its beginning to its end.

    Every method raises `NonsenseError` if the answer is shorter than it says.
    """

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def size(self) -> int:
        """How many bytes the answer has."""
        return len(self._data)

    @property
    def more(self) -> bool:
        """Whether there is something left."""
        return self._at < len(self._data)

    def number(self) -> int:
        """Return the next number, of 32 bits."""
        return int(NUMBER.unpack_from(self._data, self._skip(4))[0])

    def large_number(self) -> int:
        """Return the next number, of 64 bits."""
        return int(LARGE_NUMBER.unpack_from(self._data, self._skip(8))[0])

    def string(self) -> bytes:
        """Return the next string."""
        length = self.number()
        start = self._skip(length)
        return self._data[start : start + length]

    def attributes(self) -> Attributes:
        """Return the attributes that come next."""
        flags = self.number()
        size = mode = accessed = modified = None
        if flags & HAS_SIZE:
            size = self.large_number()
        if flags & HAS_OWNER:
            self._skip(8)
        if flags & HAS_MODE:
            mode = self.number()
        if flags & HAS_TIMES:
            accessed, modified = self.number(), self.number()
        if flags & HAS_MORE:
            for _ in range(2 * self.number()):
                self._skip(self.number())
        return Attributes(size, mode, accessed, modified)

    def entries(self) -> Iterator[tuple[bytes, Attributes]]:
        """Yield names and what they are, as a listing has them, each when it is asked for."""
        for _ in range(self.number()):
            name = self.string()
            self._skip(self.number())  # the line that "ls -l" would show
            yield name, self.attributes()

    def status(self) -> StatusError:
        """Return what a status says."""
        code = self.number()
        text = self.string().decode("utf-8", "replace") if self.more else ""
        return StatusError(code, text or f"status {code}")

    def _skip(self, size: int) -> int:
        """Go on by `size` bytes; return where they begin."""
        start, self._at = self._at, self._at + size
        if self._at > len(self._data):
            raise NonsenseError(f"an answer that ends {self._at - len(self._data)} bytes early")
        return start
