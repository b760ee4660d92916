"""Files to a host."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import stat
from collections import deque
from collections.abc import Iterator
from typing import IO, Any

from parallel_exec.environments.ssh.connection import BrokenError
from parallel_exec.environments.ssh.copying import (
    FILES_AT_ONCE,
    IN_FLIGHT,
    PLAIN_MODE,
    Copying,
    Progress,
    last_name,
    shown,
)
from parallel_exec.environments.ssh.folder import SMALL, Folder, temporary_name
from parallel_exec.environments.ssh.pool import HostPool
from parallel_exec.environments.ssh.sftp import Sftp, Steps, StoppedError
from parallel_exec.environments.ssh.sftp_packets import (
    FLAG_CREATE,
    FLAG_NEW,
    FLAG_WRITE,
    Attributes,
    NonsenseError,
    StatusError,
)
from parallel_exec.errors import FileTransferError

__all__ = ["Upload"]

log = logging.getLogger("parallel_exec")

CLEANING_S = 10.0
MOST_LINKS = 40  # that lead to each other; Linux's own limit

_READ_PLAIN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Upload(Copying):
    """One call of `put`."""

    def __init__(self, sftp: Sftp, name: str, preserve: bool, progress: Progress | None) -> None:
        super().__init__(sftp, name, preserve, progress)
        self._begun: set[bytes] = set()  # temporary files on the host
        self._made: set[bytes] = set()  # directories there

    def from_object(self, file: IO[bytes], path: bytes) -> bytes:
        """Copy what a file object gives; return the path of the file on the host."""
        self.total = _size_left(file)
        return self._run(self._content(file, path, None))

    def from_path(self, local: bytes, path: bytes) -> bytes:
        """Copy a local file or directory; return where it is on the host."""
        status = os.stat(local)
        name = last_name(local)
        if stat.S_ISDIR(status.st_mode):
            self.total = _size_below(local) if self._progress is not None else None
            with self.sftp.run(self.patiently(lambda: Folder.top(local))) as top:
                path = self.sftp.run(self._place(path, name))
                self._tree(top, path, own=name is None)
                return path
        if not stat.S_ISREG(status.st_mode):  # a pipe may have nobody at its other end
            raise FileTransferError(
                f"{shown(local)} is neither a file nor a directory", environment=self.name
            )
        self.total = status.st_size
        assert name is not None, "a file's path does not end in /"
        path = self.sftp.run(self._place(path, name))
        with open(self.sftp.run(self.patiently(lambda: _open_plain(local))), "rb", 0) as file:
            return self._run(self._content(file, path, os.fstat(file.fileno())))

    def _run(self, steps: Steps[bytes]) -> bytes:
        """Take the steps of one file to their end, so that they are closed if they fail."""
        written: list[bytes] = []

        def one() -> Steps[None]:
            written.append((yield from steps))

        self.sftp.run_all([one()], 1)
        return written[0]

    def _place(self, path: bytes, name: bytes | None) -> Steps[bytes]:
        """Return where a copy goes; see `last_name` for `name`."""
        bare = path.rstrip(b"/") or b"/"
        if name is None:
            return bare
        if path.endswith(b"/") or last_name(path) is None or (yield from self._is_folder(path)):
            return bare.rstrip(b"/") + b"/" + name
        return bare

    def _is_folder(self, path: bytes) -> Steps[bool]:
        """Return whether there is a directory on the host."""
        with self.about(path):
            attributes = yield from self.sftp.stat(path)
        return _kind(attributes) == stat.S_IFDIR

    # Temporary files

    @contextlib.contextmanager
    def cleared(self, pool: HostPool) -> Iterator[None]:
        """Leave no temporary file: if the host cannot be told now, then when it can."""
        left = pool.take_left_files()
        try:
            self._begun.update(left)
            self._remove_begun()
            yield
        except BaseException:
            with contextlib.suppress(BrokenError, StoppedError, NonsenseError):
                self.sftp.hurry(CLEANING_S)
                self._remove_begun()
            raise
        finally:
            pool.leave_files(self._begun)

    def _remove_begun(self) -> None:
        def remove(path: bytes) -> Steps[None]:
            with contextlib.suppress(StatusError):  # it may never have come to be
                yield from self.sftp.remove(path)
            self._begun.discard(path)

        self.sftp.run_all([remove(path) for path in self._begun], FILES_AT_ONCE)

    def _begin(self, path: bytes) -> bytes:
        """Return a temporary name beside `path`, to be removed unless it is done with."""
        folder, slash, name = path.rpartition(b"/")
        temporary = folder + slash + temporary_name(name)
        self._begun.add(temporary)
        return temporary

    # Directories

    def _tree(self, top: Folder, path: bytes, *, own: bool) -> None:
        """Copy a directory and what is in it; what else is there stays.

        Args:
            top: The directory.
            path: Where to.
            own: Whether that is the directory that the user named: what was there keeps its
                mode and times.
        """
        sftp = self.sftp
        folders: list[tuple[Folder, bytes]] = []
        level = [(top, path)]
        while level:
            sftp.run_all((self._make(there, here) for here, there in level), FILES_AT_ONCE)
            folders += level
            below: list[tuple[Folder, bytes]] = []
            sftp.run_all(self._entries(level, below), FILES_AT_ONCE)
            level = below
        # Last: what is put into a directory changes its times, and may need its mode.
        for here, there in reversed(folders):
            if there in self._made or not (own and here is top):
                sftp.run(self._settle(there, here))

    def _make(self, path: bytes, local: Folder) -> Steps[None]:
        """Make a directory, unless there is one."""
        mode = (yield from self.patiently(local.status)).st_mode
        # Until it is full it can be written to. The host takes its umask off.
        attributes = Attributes(mode=(mode & PLAIN_MODE) | 0o700)
        with self.about(path):
            for again in (False, True):
                try:
                    yield from self.sftp.make_directory(path, attributes)
                    self._made.add(path)
                    return
                except StatusError:
                    if (yield from self._is_folder(path)):
                        return
                    if again or not (yield from self._make_above(path)):
                        raise

    def _make_above(self, path: bytes) -> Steps[bool]:
        """Make the directories that are missing above a path; return whether any was."""
        missing = []
        above = os.path.dirname(path.rstrip(b"/"))
        while above and (yield from self.sftp.stat(above)) is None:
            missing.append(above)
            above = os.path.dirname(above.rstrip(b"/"))
        for folder in reversed(missing):
            with self.about(folder):
                try:
                    yield from self.sftp.make_directory(folder)
                except StatusError:
                    if not (yield from self._is_folder(folder)):  # nor has another made it
                        raise
        return bool(missing)

    def _settle(self, path: bytes, local: Folder) -> Steps[None]:
        """Give a directory its mode and times."""
        status = yield from self.patiently(local.status)
        with self.about(path):
            if self.preserve:
                yield from self.sftp.set(path, _attributes_of(status))
            elif path in self._made and status.st_mode & 0o700 != 0o700:
                there = yield from self.sftp.stat(path)
                if there is not None and there.mode is not None:
                    mode = there.mode & status.st_mode & PLAIN_MODE
                    yield from self.sftp.set(path, Attributes(mode=mode))

    def _entries(
        self, level: list[tuple[Folder, bytes]], below: list[tuple[Folder, bytes]]
    ) -> Iterator[Steps[object]]:
        """Yield the steps for each file and link; note the directories `below`."""
        for folder, path in level:
            found: list[tuple[bytes, int]] = []
            yield self._look(folder, found)  # begun and over before the next steps are begun
            for name, kind in found:
                there = path.rstrip(b"/") + b"/" + name
                if kind == stat.S_IFLNK:
                    yield self._link(folder, name, there)
                elif kind == stat.S_IFDIR:
                    below.append((folder.below(name), there))
                elif kind == stat.S_IFREG:
                    yield self._file(folder, name, there, new=path in self._made)
                else:
                    log.warning(
                        "%s is neither a file nor a directory: not copied",
                        shown(folder.path(name)),
                    )

    def _look(self, folder: Folder, found: list[tuple[bytes, int]]) -> Steps[None]:
        """Find out what is in a local directory."""
        found += yield from self.patiently(folder.entries)

    def _link(self, folder: Folder, name: bytes, path: bytes) -> Steps[None]:
        target = yield from self.patiently(lambda: folder.link_at(name))
        with self.about(path):
            temporary = self._begin(path)
            yield from self.sftp.make_link(temporary, target)
            yield from self.sftp.replace(temporary, path)
            self._begun.discard(temporary)

    # Files

    def _file(self, folder: Folder, name: bytes, path: bytes, *, new: bool) -> Steps[bytes]:
        """Copy one file of a directory. `new`: nothing can be there."""
        fd = yield from self.patiently(lambda: folder.open(name))
        with open(fd, "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if status.st_size > SMALL:
                return (yield from self._content(file, path, status, new=new))
            with folder.about(name):
                small = file.readall()
        # None of thousands of small ones is open while it is under way.
        return (yield from self._content(io.BytesIO(small), path, status, new=new))

    def _content(
        self,
        file: IO[bytes] | Any,
        path: bytes,
        status: os.stat_result | None,
        *,
        new: bool = False,
    ) -> Steps[bytes]:
        """Copy what `file` gives; return the path that was written.

        A new file gets the mode of its source, less the host's umask. What replaces a file may
        be read by the same people as that. The temporary one is never more open.
        """
        sftp = self.sftp
        with self.about(path):
            before = None
            if not new:
                path, before = yield from self._there(path)
        with self.about(path):
            wanted = Attributes()
            if status is not None and self.preserve:
                wanted = _attributes_of(status)
            elif before is not None and before.mode is not None:
                wanted = Attributes(mode=before.mode & PLAIN_MODE)
            first = wanted.mode
            if first is None and status is not None:
                first = status.st_mode & PLAIN_MODE
            temporary, handle = yield from self._create(path, Attributes(mode=first))
            yield from self._write(file, handle)
            # The order of requests for one file is kept.
            asked = []
            if wanted != Attributes():
                asked.append(sftp.ask_fset(handle, wanted))
            asked.append(sftp.ask_shut(handle))
            for number in asked:
                sftp.done((yield number))
            yield from sftp.replace(temporary, path)
            self._begun.discard(temporary)
        self.files += 1
        return path

    def _there(self, path: bytes) -> Steps[tuple[bytes, Attributes | None]]:
        """Return the file to write, and what is there: a link is written through."""
        known = yield from self.sftp.stat(path, follow=False)
        if _kind(known) == stat.S_IFLNK:
            # The host follows it, or does not: in a directory that all may write to it does
            # not follow a link of another user.
            yield from self.sftp.stat(path)
        links = 0
        while _kind(known) == stat.S_IFLNK:
            links += 1
            if links > MOST_LINKS:
                raise self.failed(path, "too many links lead to each other")
            target = yield from self.sftp.read_link(path)
            path = os.path.join(os.path.dirname(path), target)
            known = yield from self.sftp.stat(path, follow=False)
        kind = _kind(known)
        if kind == stat.S_IFDIR:
            raise self.failed(path, "a directory is in the way")
        if kind not in (None, stat.S_IFREG):
            raise self.failed(path, "neither a file nor a directory")
        return path, known

    def _create(self, path: bytes, attributes: Attributes) -> Steps[tuple[bytes, bytes]]:
        """Open a temporary file; return its name and handle. Missing directories are made."""
        flags = FLAG_WRITE | FLAG_CREATE | FLAG_NEW
        temporary = self._begin(path)
        try:
            handle = yield from self.sftp.open(temporary, flags, attributes)
        except StatusError:
            if not (yield from self._make_above(path)):
                raise
            handle = yield from self.sftp.open(temporary, flags, attributes)
        return temporary, handle

    def _write(self, file: Any, handle: bytes) -> Steps[None]:
        sftp = self.sftp
        offset = 0
        waiting: deque[tuple[int, int]] = deque()
        while True:
            data = file.read(sftp.write_size)
            if isinstance(data, str):
                data = data.encode()
            if data:
                waiting.append((sftp.ask_write(handle, offset, bytes(data)), len(data)))
                offset += len(data)
                self.in_flight += len(data)
            while waiting and (not data or (self.in_flight >= IN_FLIGHT and len(waiting) > 1)):
                number, size = waiting.popleft()
                sftp.done((yield number))
                self.in_flight -= size
                self.count(size)
            if not data:
                return


def _open_plain(path: bytes) -> int:
    """Open a file, but wait for nobody should it be a pipe by now."""
    return os.open(path, _READ_PLAIN)


def _kind(attributes: Attributes | None) -> int | None:
    """Return what there is, by `stat.S_IFMT`; None for nothing, or if it is not said."""
    if attributes is None or attributes.mode is None:
        return None
    return stat.S_IFMT(attributes.mode)


def _attributes_of(status: os.stat_result) -> Attributes:
    return Attributes(
        mode=status.st_mode & PLAIN_MODE,
        accessed=int(status.st_atime),
        modified=int(status.st_mtime),
    )


def _size_left(file: Any) -> int | None:
    try:
        here = file.tell()
        end = file.seek(0, io.SEEK_END)
        file.seek(here)
    except (OSError, AttributeError, ValueError):
        return None
    return int(end - here)


def _size_below(folder: bytes) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                status = os.lstat(os.path.join(path, name))
                total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total
