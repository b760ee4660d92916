"""Input on its way from a user's file to a command."""

from __future__ import annotations

import io
import os
import select
import stat
from typing import Any

__all__ = ["CHUNK", "FileReader"]

CHUNK = 1 << 16


class FileReader:
    """Reads a user's file chunk by chunk, as it comes; to be used by one thread, which it
    may block for as long as the file likes.

    Args:
        file: Anything with ``read``; what it gives may be str.
        encoding: How str becomes bytes.
        chunk: How many bytes are asked for at once.

    Attributes:
        at_hand: Whether a read never waits for anybody: a regular file, or memory.
    """

    def __init__(self, file: Any, encoding: str, chunk: int = CHUNK) -> None:
        # `read` waits until it has all that it was asked for: a line from a pipe would
        # not be passed on before the pipe ends.
        self._read = getattr(file, "read1", None) or file.read
        self._encoding = encoding
        self._chunk = chunk
        self._fd = _descriptor(file)
        self.at_hand = _is_at_hand(file)

    @property
    def waits(self) -> bool:
        """Whether a read that waits ends when `wanted_by` says so."""
        return self._fd >= 0

    def read(self, wanted_by: int = -1) -> bytes:
        """Return the next chunk; b"" is the end.

        Args:
            wanted_by: The write end of a pipe. If nobody reads that any more, the answer
                is the end, and the file is left as it is: what comes later is somebody
                else's.
        """
        while True:
            if self._fd >= 0 and not self._ready(wanted_by):
                return b""
            chunk = self._read(self._chunk)
            if chunk is None and self._fd >= 0:  # it does not block; it will be waited for
                continue
            if chunk is None:
                raise BlockingIOError("the input file has nothing to read yet")
            return chunk.encode(self._encoding) if isinstance(chunk, str) else chunk

    def _ready(self, wanted_by: int) -> bool:
        """Wait until there is something to read; return False if nobody wants it."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if wanted_by >= 0:
            poll.register(wanted_by, 0)  # tells the end of its readers all the same
        return all(fd != wanted_by for fd, _ in poll.poll())


def _descriptor(file: Any) -> int:
    """Return the descriptor that tells when `file` can be read, or -1.

    For Python's own classes over a pipe, a terminal or a socket alone: in others a read
    may take more, or less, than what the descriptor has.
    """
    raw = getattr(file, "raw", file) if isinstance(file, io.BufferedReader) else file
    if not isinstance(raw, io.FileIO):
        return -1
    kind = os.fstat(raw.fileno()).st_mode
    pollable = stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or stat.S_ISCHR(kind)
    return raw.fileno() if pollable else -1


def _is_at_hand(file: Any) -> bool:
    if isinstance(file, io.BytesIO):
        return True
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except (OSError, AttributeError, ValueError, TypeError):
        return False
