"""Files from a host: what it says is believed as far as it stays below the target."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO

from parallel_exec.environments.ssh.copying import (
    FILES_AT_ONCE,
    IN_FLIGHT,
    PLAIN_MODE,
    Copying,
    Progress,
    last_name,
    shown,
)
from parallel_exec.environments.ssh.folder import Folder, Part, umask, write_all
from parallel_exec.environments.ssh.sftp import Sftp, Steps
from parallel_exec.environments.ssh.sftp_packets import (
    FLAG_READ,
    NO_SUCH_FILE,
    Attributes,
    NonsenseError,
    Reader,
    StatusError,
)
from parallel_exec.errors import HostAnswerError

__all__ = ["Download"]

log = logging.getLogger("parallel_exec")

READ_AHEAD = 1024  # requests for one file that are under way
LISTED_AT_ONCE = 1 << 20  # bytes of listings that are read before the files in them are copied
PIECE_COST = 4096  # bytes that the smallest answer counts for: each is a round trip
MANY_NAMES = 100_000  # beyond it, listings are read one after the other
MOST_NAMES = 1_000_000  # of a directory, and that are kept in all
LONGEST_PATH = 4096  # as long as a path can be on Linux; it bounds the depth
MOST_WARNINGS = 20

Write = Callable[[bytes], Steps[None]]


class _Directory:
    """A directory on the way: its listing is read in pieces.

    Attributes:
        folder: Where it goes.
        parent: The directory that it is in, if that is copied.
        attributes: What the host says about it.
        made: Whether it is new here.
        length: The length of its path on the host.
        left: Its own listing and the directories in it that are not copied yet.
        handle: The listing, once it is open.
        listed: Whether the listing has ended.
        count: How many names it has had.
        seen: What has been listed: hashes of names, and what kind each is.
    """

    __slots__ = (
        "attributes",
        "count",
        "folder",
        "handle",
        "left",
        "length",
        "listed",
        "made",
        "parent",
        "seen",
    )

    def __init__(
        self,
        folder: Folder,
        parent: _Directory | None,
        attributes: Attributes,
        made: bool,
        length: int,
    ) -> None:
        self.folder = folder
        self.parent = parent
        self.attributes = attributes
        self.made = made
        self.length = length
        self.left = 1
        self.handle: bytes | None = None
        self.listed = False
        self.count = 0
        self.seen: dict[int, int] = {}


class Download(Copying):
    """One call of `get`."""

    def __init__(self, sftp: Sftp, name: str, preserve: bool, progress: Progress | None) -> None:
        super().__init__(sftp, name, preserve, progress)
        self._umask = umask()
        self._listed = 0
        self._left_out = 0

    def attributes(self, path: bytes) -> Attributes:
        """Return what the host says about the source; a link is followed.

        Raises:
            FileTransferError: There is nothing, or neither a file nor a directory: a pipe or a
                device may have nothing to give for ever.
        """
        with self.about(path):
            found = self.sftp.run(self.sftp.stat(path))
            if found is None:
                raise StatusError(NO_SUCH_FILE, "no such file")
        if found.mode is not None and stat.S_IFMT(found.mode) not in (stat.S_IFREG, stat.S_IFDIR):
            raise self.failed(path, "neither a file nor a directory")
        if last_name(path) is None and not _is_folder(found):
            raise self.failed(path, "not a directory")
        return found

    def to_object(self, path: bytes, file: IO[bytes], known: Attributes) -> None:
        """Copy a file into a file object."""
        if _is_folder(known):
            raise self.failed(path, "a directory, and a file object takes a file")
        self.total = known.size
        self.sftp.run_all([self._content(path, _into_object(file), known)], 1)

    def to_path(self, path: bytes, local: bytes, known: Attributes) -> bytes:
        """Copy a file or a directory to a local path; return where it is now."""
        place = partial(_place, local, last_name(path))
        top, name = self.sftp.run(self.patiently(place))
        with top:
            if name is None:
                self._tree(path, _Directory(top, None, known, False, len(path)))
                return local.rstrip(b"/") or b"/"
            if _is_folder(known):
                folder = top.below(name)
                made = folder.make(self._first_mode(known))
                self._tree(path, _Directory(folder, None, known, made, len(path)))
            else:
                self.total = known.size
                self.sftp.run_all([self._file(path, top, name, known)], 1)
            return top.path(name)

    # Directories

    def _tree(self, path: bytes, root: _Directory) -> None:
        """Copy a directory and what is in it; what else is there stays.

        What is kept is bounded whatever the host lists: directories whose listing is open,
        and those found that have not been begun. The last found is the next begun.
        """
        waiting = [root]
        listing: list[_Directory] = []
        while waiting or listing:
            while waiting and len(listing) < FILES_AT_ONCE:
                listing.append(waiting.pop())
            kept = len(waiting) + sum(len(each.seen) for each in listing)
            if max(kept, *(each.count for each in listing)) > MOST_NAMES:
                raise self._refused(path, f"lists more than {MOST_NAMES:,} names")
            now = listing if kept < MANY_NAMES else listing[:1]
            pieces: deque[tuple[_Directory, Reader]] = deque()
            self._listed = 0
            self.sftp.run_all((self._list(path, each, pieces) for each in now), FILES_AT_ONCE)
            self.sftp.run_all(self._entries(path, pieces, waiting), FILES_AT_ONCE)
            for each in now:
                if each.listed:
                    self.sftp.run(self._done(each, root))
            listing = [each for each in listing if not each.listed]
        if self._left_out > MOST_WARNINGS:
            log.warning(
                "%s:%s: %d more that are neither files nor directories were not copied",
                *(self.name, shown(path), self._left_out - MOST_WARNINGS),
            )

    def _list(
        self, root: bytes, directory: _Directory, pieces: deque[tuple[_Directory, Reader]]
    ) -> Steps[None]:
        """Read on in a listing, until there is enough to do."""
        with self.about(_path(root, directory)):
            if directory.handle is None:
                path = _path(root, directory)
                directory.handle = yield from self.sftp.open_directory(path)
            while self._listed < LISTED_AT_ONCE:
                piece = yield from self.sftp.read_directory(directory.handle)
                if piece is None:
                    directory.listed = True
                    yield from self.sftp.shut(directory.handle)
                    return
                pieces.append((directory, piece))
                self._listed += piece.size + PIECE_COST

    def _entries(
        self,
        root: bytes,
        pieces: deque[tuple[_Directory, Reader]],
        waiting: list[_Directory],
    ) -> Iterator[Steps[None]]:
        """Yield the steps for each entry of listings; `waiting` gets the directories."""
        while pieces:
            directory, piece = pieces.popleft()
            base = _path(root, directory).rstrip(b"/") + b"/"
            for name, attributes in piece.entries():
                kind = stat.S_IFMT(attributes.mode or 0)
                if not self._is_new(base, directory, name, kind):
                    continue
                if kind == stat.S_IFDIR:
                    yield self._below(base, directory, name, attributes, waiting)
                elif kind == stat.S_IFLNK:
                    yield self._link(base + name, directory.folder, name)
                elif kind == stat.S_IFREG:
                    yield self._file(base + name, directory.folder, name, attributes)
                else:
                    self._leave_out(base + name)

    def _is_new(self, base: bytes, directory: _Directory, name: bytes, kind: int) -> bool:
        """Return whether a name is one to copy.

        The system may list a name twice while the directory changes: the first one counts. As
        two different things it does not.
        """
        directory.count += 1
        if name in (b".", b".."):
            return False
        if not name or b"/" in name or b"\0" in name:
            raise self._refused(base, f"has a file with the name {name!r}")
        seen = directory.seen.get(key := hash(name))
        if seen is None:
            directory.seen[key] = kind
        elif seen != kind:
            raise self._refused(base, f"has {name!r} twice, as different kinds of file")
        return seen is None

    def _below(
        self,
        base: bytes,
        directory: _Directory,
        name: bytes,
        attributes: Attributes,
        waiting: list[_Directory],
    ) -> Steps[None]:
        """Make a directory in another one, and have it wait to be copied."""
        length = len(base) + len(name)
        if length > LONGEST_PATH:
            raise self._refused(base, f"has directories beyond {LONGEST_PATH} characters of path")
        folder = directory.folder.below(name)
        mode = self._first_mode(attributes)
        made = yield from self.patiently(lambda: folder.make(mode))
        directory.left += 1
        waiting.append(_Directory(folder, directory, attributes, made, length))

    def _done(self, directory: _Directory | None, root: _Directory) -> Steps[None]:
        """Settle each directory that has nothing left to do: the listing of one has ended."""
        while directory is not None:
            directory.left -= 1
            if directory.left:
                return
            mode = (directory.attributes.mode or 0o700) & PLAIN_MODE
            times = _times(directory.attributes)
            settle = directory.folder.settle
            # A directory that was there and that the user named keeps what it has.
            if self.preserve and (directory.made or directory is not root or _named(root)):
                yield from self.patiently(partial(settle, mode, times))
            elif directory.made and mode & 0o700 != 0o700:
                yield from self.patiently(partial(settle, mode & ~self._umask, None))
            directory = directory.parent

    # Files and links

    def _link(self, path: bytes, folder: Folder, name: bytes) -> Steps[None]:
        with self.about(path):
            target = yield from self.sftp.read_link(path)
        if not target or b"\0" in target:
            raise self._refused(path, f"is a link to {target!r}")
        yield from self.patiently(lambda: folder.link(name, target))

    def _file(self, path: bytes, folder: Folder, name: bytes, known: Attributes) -> Steps[None]:
        """Copy one file. `known` is what is known about it."""
        part = Part(folder, name)
        try:
            yield from self._content(path, self._into(part), known)
            yield from self.patiently(part.open)
            mode = 0o600 if known.mode is None else known.mode & PLAIN_MODE
            if self.preserve:
                part.finish(mode, _times(known), keep=False)
            else:
                part.finish(mode & ~self._umask, None, keep=True)
        except BaseException:
            part.discard()
            raise

    def _content(self, path: bytes, write: Write, known: Attributes) -> Steps[None]:
        """Copy one file's bytes."""
        with self.about(path):
            handle = yield from self.sftp.open(path, FLAG_READ)
            yield from self._read(handle, known.size or 0, write)
            yield from self.sftp.shut(handle)
        self.files += 1

    def _read(self, handle: bytes, size: int, write: Write) -> Steps[None]:
        """Read to the end, many requests ahead as far as the size is known."""
        sftp = self.sftp
        asked = 0
        probing = False
        waiting: deque[tuple[int, int, int]] = deque()
        window = 2
        while True:
            while not waiting or (len(waiting) < window and self.in_flight < IN_FLIGHT):
                length = min(sftp.read_size, size - asked)
                if length > 0:
                    waiting.append((sftp.ask_read(handle, asked, length), asked, length))
                    asked += length
                    self.in_flight += length
                elif not probing:
                    # The size may be a lie, as in /proc, or the file has grown: read on.
                    waiting.append((sftp.ask_read(handle, asked, sftp.read_size), asked, 0))
                    probing = True
                else:
                    break
            number, offset, length = waiting.popleft()
            data = sftp.data((yield number))
            self.in_flight -= length
            window = min(2 * window, READ_AHEAD)
            if not data:
                for number, _, length in waiting:
                    sftp.data((yield number))
                    self.in_flight -= length
                return
            if len(data) > (length or sftp.read_size):
                raise NonsenseError(f"{len(data)} bytes of a file, where {length} were asked for")
            if length and len(data) < length:  # a short answer: ask for what is missing first
                rest = length - len(data)
                begin = offset + len(data)
                waiting.appendleft((sftp.ask_read(handle, begin, rest), begin, rest))
                self.in_flight += rest
            elif not length:
                asked += len(data)
                probing = False
            yield from write(data)
            self.count(len(data))

    def _into(self, part: Part) -> Write:
        """Return the steps that write to a new file."""

        def write(data: bytes) -> Steps[None]:
            part.write(data)
            if part.crowded:
                yield from self.patiently(part.open)

        return write

    # What the host says

    def _first_mode(self, attributes: Attributes) -> int:
        """Return a new directory's mode while it is filled; the system takes the umask off."""
        return ((attributes.mode or 0o700) & PLAIN_MODE) | 0o700

    def _refused(self, path: bytes, what: str) -> HostAnswerError:
        """Return the error for what no honest host says."""
        return HostAnswerError(f"{self.name}:{shown(path)} {what}", environment=self.name)

    def _leave_out(self, path: bytes) -> None:
        self._left_out += 1
        if self._left_out <= MOST_WARNINGS:
            log.warning(
                "%s:%s is neither a file nor a directory: not copied", self.name, shown(path)
            )


def _place(local: bytes, name: bytes | None) -> tuple[Folder, bytes | None]:
    """Return where a copy goes: a directory that is there, and the name in it.

    Args:
        local: The target.
        name: The name that the copy has in a directory. None: it is the directory.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return Folder.top(local), name
    above, own = os.path.split(local.rstrip(b"/"))
    if last_name(own) is None or (name is not None and local.endswith(b"/")):
        os.makedirs(local, exist_ok=True)
        return Folder.top(local), name
    os.makedirs(above or b".", exist_ok=True)
    return Folder.top(above), own


def _into_object(file: IO[bytes]) -> Write:
    """Return the steps that write to a file object: they ask nothing."""

    def write(data: bytes) -> Steps[None]:
        write_all(file, data)
        yield from ()

    return write


def _path(root: bytes, directory: _Directory) -> bytes:
    """Return a directory's path on the host."""
    names = []
    while directory.parent is not None:
        names.append(directory.folder.name)
        directory = directory.parent
    return b"/".join([root.rstrip(b"/") if names else root, *reversed(names)])


def _named(root: _Directory) -> bool:
    """Return whether the tree is a directory in the one that the user named."""
    return root.folder.parent is not None


def _is_folder(attributes: Attributes) -> bool:
    return attributes.mode is not None and stat.S_ISDIR(attributes.mode)


def _times(known: Attributes) -> tuple[int, int] | None:
    if known.accessed is None or known.modified is None:
        return None
    return known.accessed, known.modified
