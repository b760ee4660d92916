"""What `put` and `get` have in common: one call, its account and its errors."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from parallel_exec.environments import room
from parallel_exec.environments.ssh.sftp import LATER, Sftp, Steps
from parallel_exec.environments.ssh.sftp_packets import (
    NO_SUCH_FILE,
    PERMISSION_DENIED,
    StatusError,
)
from parallel_exec.errors import FileTransferError
from parallel_exec.reactor import report
from parallel_exec.text import plain
from parallel_exec.values.transfer import Transfer

__all__ = ["FILES_AT_ONCE", "IN_FLIGHT", "PLAIN_MODE", "Copying", "Progress", "last_name", "shown"]


IN_FLIGHT = 8 << 20  # bytes asked for and not yet there
FILES_AT_ONCE = 64  # small ones take four round trips each
PLAIN_MODE = 0o777  # what is taken over of a mode: no set-id bit, and no sticky one

SHORTAGE_S = 30.0  # how long a call waits for other calls to give a descriptor back
LONGEST_SHOWN = 1000  # characters of a path in an error: the end, which says most

T = TypeVar("T")
Progress = Callable[[int, int | None], object]


class Copying:
    """One call of `put` or `get`: counts, and tells progress.

    Attributes:
        in_flight: Bytes that are under way.
        total: How many bytes there will be, or None.
    """

    def __init__(self, sftp: Sftp, name: str, preserve: bool, progress: Progress | None) -> None:
        self.sftp = sftp
        self.name = name
        self.preserve = preserve
        self._progress = progress
        self._began = time.monotonic()
        self.files = 0
        self._bytes = 0
        self.in_flight = 0
        self.total: int | None = None

    def finished(self, source: str, target: str) -> Transfer:
        """Return the account of it."""
        return Transfer(
            self.name, source, target, self.files, self._bytes, time.monotonic() - self._began
        )

    def count(self, size: int) -> None:
        """Count bytes that have been copied."""
        self._bytes += size
        if self._progress is not None:
            try:
                self._progress(self._bytes, self.total)
            except Exception:
                report("a callback for progress raised: %r", self._progress)

    def failed(self, path: bytes, why: str) -> FileTransferError:
        """Return the error for a file on the host."""
        return FileTransferError(f"{self.name}:{shown(path)}: {why}", environment=self.name)

    def patiently(self, act: Callable[[], T]) -> Steps[T]:
        """Do something of this machine's that needs a descriptor, once there is one.

        Files of this call that are under way give theirs back, and so do unused connections
        and other calls, unless they wait as well. Where none does, the system's refusal is
        raised.
        """
        give_up_at = 0.0
        while True:
            try:
                return act()
            except OSError as error:
                if error.errno not in room.SHORTAGE:
                    raise
                if not self.sftp.busy:
                    now = time.monotonic()
                    give_up_at = give_up_at or now + SHORTAGE_S
                    if now > give_up_at or not room.get().pause(_at_once, own=1):
                        raise
            yield LATER

    @contextlib.contextmanager
    def about(self, path: bytes) -> Iterator[None]:
        """Say in errors which file on the host it was."""
        try:
            yield
        except StatusError as error:
            known = {NO_SUCH_FILE: "no such file", PERMISSION_DENIED: "permission denied"}
            raise self.failed(path, known.get(error.code, str(error))) from error


def _at_once(seconds: float) -> None:
    """Do not wait: the session does."""


def last_name(path: bytes) -> bytes | None:
    """Return the name that a copy keeps in a directory.

    None for a path that has none of its own, like ``site/``, ``.`` or ``..``: what it holds is
    copied, into the directory itself.
    """
    name = os.path.basename(path)
    return None if name in (b"", b".", b"..") else name


def shown(path: str | bytes) -> str:
    """Return a path for people to read: escaped, and cut if it is very long."""
    return plain(os.fsdecode(path), LONGEST_SHOWN, end=True)
