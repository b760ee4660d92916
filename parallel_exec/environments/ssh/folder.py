"""A local directory and what is below it, reached by descriptors.

The path that the user gave is followed as every program follows it. Below it each step is one
`openat` that follows no link: neither a host that is copied from, nor another user who may
write there, can lead out of it, whatever they do meanwhile. Names are bytes, as the system
has them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any, Self

__all__ = ["SMALL", "Folder", "Part", "temporary_name", "umask", "write_all"]

SMALL = 64 << 10
"""Bytes of a file that is kept in memory, rather than open, while it is under way."""

# O_PATH needs no right to read: what is written into a directory need not be listed.
_STEP = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
_LIST = os.O_DIRECTORY | os.O_CLOEXEC | os.O_RDONLY
# A pipe that has taken a file's place is not waited for.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_umask_lock = threading.Lock()  # guards the process's umask while it is looked up


class Folder:
    """A directory: the one that the user named, or one below it. For one thread.

    It is open while somebody holds it; the top one until it is closed.

    Attributes:
        name: Its name in its parent; the top one's path.
        parent: The directory that it is in; None for the top one.
    """

    __slots__ = ("_fd", "_holders", "name", "parent")

    def __init__(self, name: bytes, parent: Folder | None = None) -> None:
        self.name = name
        self.parent = parent
        self._fd = -1
        self._holders = 0

    @classmethod
    def top(cls, path: bytes) -> Folder:
        """Open the directory that the user named, to be closed.

        Raises:
            OSError: There is none.
        """
        made = cls(path)
        made._fd = os.open(path or b".", _STEP)
        made._holders = 1
        return made

    def close(self) -> None:
        """Close the top one."""
        self._let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def below(self, name: bytes) -> Folder:
        """Return a directory in this one, which need not exist yet."""
        return Folder(name, self)

    def path(self, name: bytes = b"") -> bytes:
        """Return its path, or that of a name in it, for people to read."""
        names = [name] if name else []
        folder: Folder | None = self
        while folder is not None:
            names.append(folder.name)
            folder = folder.parent
        return os.path.join(*reversed(names))

    @contextlib.contextmanager
    def held(self) -> Iterator[int]:
        """Keep it open, and give its descriptor."""
        fd = self._hold()
        try:
            yield fd
        finally:
            self._let_go()

    @contextlib.contextmanager
    def about(self, name: bytes = b"") -> Iterator[None]:
        """Say in an error of the system's which file it was."""
        try:
            yield
        except OSError as error:
            error.filename, error.filename2 = self.path(name), None
            raise

    def _hold(self) -> int:
        if not self._holders:
            way = [self]
            while not (above := _parent(way[-1]))._holders:
                way.append(above)
            fd, ours = above._fd, False
            try:
                for folder in reversed(way):
                    with folder.about():
                        step = os.open(folder.name, _STEP | os.O_NOFOLLOW, dir_fd=fd)
                    if ours:
                        os.close(fd)
                    fd, ours = step, True
            except BaseException:
                if ours:
                    os.close(fd)
                raise
            self._fd = fd
        self._holders += 1
        return self._fd

    def _let_go(self) -> None:
        self._holders -= 1
        if not self._holders:
            os.close(self._fd)

    # What is in it

    def entries(self) -> list[tuple[bytes, int]]:
        """Return the names in it, in order, and what kind each is, by `stat.S_IFMT`."""
        with self.held() as fd, self.about():
            reading = os.open(b".", _LIST, dir_fd=fd)
            try:
                with os.scandir(reading) as entries:
                    return sorted((os.fsencode(entry.name), _kind(entry)) for entry in entries)
            finally:
                os.close(reading)

    def status(self, name: bytes = b".") -> os.stat_result:
        """Return what is known about it or a name in it; a link is not followed."""
        with self.held() as fd, self.about(b"" if name == b"." else name):
            return os.stat(name, dir_fd=fd, follow_symlinks=False)

    def open(self, name: bytes) -> int:
        """Open a file in it for reading; return the descriptor.

        Raises:
            OSError: It is no regular file, or a link now.
        """
        with self.held() as fd, self.about(name):
            opened = os.open(name, _READ, dir_fd=fd)
            if not stat.S_ISREG(os.fstat(opened).st_mode):
                os.close(opened)
                raise OSError(errno.EINVAL, "is no regular file")
            return opened

    def link_at(self, name: bytes) -> bytes:
        """Return where a link in it leads."""
        with self.held() as fd, self.about(name):
            return os.readlink(name, dir_fd=fd)

    # Changes

    def make(self, mode: int) -> bool:
        """Make it, unless there is one; a link in its place gives way.

        Returns:
            Whether it is new.

        Raises:
            OSError: It cannot be made; something else is in its place.
        """
        with _parent(self).held() as fd, self.about():
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.name, mode, dir_fd=fd)
                return True
            there = os.stat(self.name, dir_fd=fd, follow_symlinks=False).st_mode
            if stat.S_ISDIR(there):
                return False
            if not stat.S_ISLNK(there):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            os.unlink(self.name, dir_fd=fd)
            os.mkdir(self.name, mode, dir_fd=fd)
            return True

    def settle(self, mode: int | None, times: tuple[int, int] | None) -> None:
        """Give the directory itself its mode and times, as far as they are given."""
        with self.held() as fd, self.about():
            opened = os.open(b".", _LIST, dir_fd=fd)
            try:
                if times is not None:
                    os.utime(opened, times)
                if mode is not None:
                    os.fchmod(opened, mode)
            finally:
                os.close(opened)

    def replaceable(self, name: bytes) -> os.stat_result | None:
        """Return what is known about what will be replaced by a file or a link, if there is any.

        Raises:
            OSError: It must not be: the device of root would be `/dev/null`.
        """
        with self.held() as fd, self.about(name):
            try:
                there = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                return None
            if stat.S_IFMT(there.st_mode) not in (stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR):
                raise OSError(errno.EINVAL, "neither a file nor a directory")
            return there  # a directory is not: the system says so

    def link(self, name: bytes, target: bytes) -> None:
        """Make a link, in the place of a file or a link there is."""
        temporary = temporary_name(name)
        self.replaceable(name)
        with self.held() as fd, self.about(name):
            os.symlink(target, temporary, dir_fd=fd)
            try:
                os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
            except BaseException:
                os.unlink(temporary, dir_fd=fd)
                raise


class Part:
    """A new file, under a temporary name until it is whole. Nobody else can read it till then.

    A small one is kept in memory until it is finished: of thousands that are under way none
    needs a descriptor meanwhile.
    """

    def __init__(self, folder: Folder, name: bytes) -> None:
        self._folder = folder
        self._name = name
        self._small: list[bytes] = []
        self._size = 0
        self._file: FileIO | None = None
        self._temporary = b""
        self._dir = -1

    @property
    def crowded(self) -> bool:
        """Whether it is more than should be kept in memory, and is to be opened."""
        return self._file is None and self._size > SMALL

    def write(self, data: bytes) -> None:
        """Write more to it."""
        if self._file is None:
            self._small.append(data)
            self._size += len(data)
            return
        with self._folder.about(self._name):
            write_all(self._file, data)

    def open(self) -> None:
        """Open it, unless it is open.

        Raises:
            OSError: It cannot be; it can be tried again.
        """
        if self._file is not None:
            return
        self._temporary = temporary_name(self._name)
        fd = self._folder._hold()
        try:
            with self._folder.about(self._name):
                self._file = FileIO(os.open(self._temporary, _NEW, 0o600, dir_fd=fd), "w")
        except BaseException:
            self._folder._let_go()
            raise
        self._dir = fd
        data, self._small = b"".join(self._small), []
        self.write(data)

    def finish(self, mode: int, times: tuple[int, int] | None, *, keep: bool) -> None:
        """Give it its own name, in the place of a file or a link there is.

        Args:
            mode: Its mode.
            times: When it was read and changed last; None for now.
            keep: Whether it keeps the mode of a file of the user's that it replaces. It is
                never more open than a file of somebody else's there.
        """
        self.open()
        assert self._file is not None
        with self._folder.about(self._name):
            before = self._folder.replaceable(self._name)
            if keep and before is not None and stat.S_ISREG(before.st_mode):
                ours = before.st_uid == os.geteuid()
                mode = before.st_mode & (0o777 if ours else mode)
            try:
                os.fchmod(self._file.fileno(), mode)
            except PermissionError:  # a file system without modes
                if not keep:
                    raise
            if times is not None:
                os.utime(self._file.fileno(), times)
            self._file.close()
            os.rename(self._temporary, self._name, src_dir_fd=self._dir, dst_dir_fd=self._dir)
        self._leave()

    def discard(self) -> None:
        """Remove it, unless it is finished. Idempotent."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary, dir_fd=self._dir)
        self._leave()

    def _leave(self) -> None:
        self._file = None
        self._folder._let_go()


def write_all(file: Any, data: bytes) -> None:
    """Write all of it, to a file object that may take less at a time."""
    view = memoryview(data)
    while view:
        written = file.write(view)
        if written is None or written >= len(view):
            return
        view = view[written:]


def temporary_name(name: bytes) -> bytes:
    """Return the name under which a file grows beside its own."""
    return b"." + name[:200] + b"." + secrets.token_hex(4).encode() + b".part"


def umask() -> int:
    """Return the process's umask."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        status = Path("/proc/self/status").read_bytes()
        return int(status.partition(b"\nUmask:")[2].split(None, 1)[0], 8)
    # Elsewhere it is known only by setting it. What another thread makes in between is more
    # private than it should be, rather than less.
    with _umask_lock:
        known = os.umask(0o077)
        os.umask(known)
    return known


def _parent(folder: Folder) -> Folder:
    assert folder.parent is not None, "the top one is open until it is closed"
    return folder.parent


def _kind(entry: os.DirEntry[str]) -> int:
    if entry.is_symlink():
        return stat.S_IFLNK
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    return stat.S_IFREG if entry.is_file(follow_symlinks=False) else 0
