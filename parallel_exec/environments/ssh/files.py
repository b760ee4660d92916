"""Files and directories, to a host and from it.

What is written gets a temporary name beside its own and is renamed when it is whole, so
that a broken transfer leaves what was there before. Files go over one connection, several
at a time, a tree level by level.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import secrets
import stat
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import IO, Any

from parallel_exec.environments.base import Stop
from parallel_exec.environments.ssh.channel import RefusedError
from parallel_exec.environments.ssh.connection import BrokenError
from parallel_exec.environments.ssh.pool import HostPool
from parallel_exec.environments.ssh.sftp import (
    FLAG_CREATE,
    FLAG_NEW,
    FLAG_READ,
    FLAG_WRITE,
    NO_SUCH_FILE,
    PERMISSION_DENIED,
    Attributes,
    NoSftpError,
    Sftp,
    StatusError,
    Steps,
    StoppedError,
)
from parallel_exec.errors import (
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    FileTransferError,
    TaskCancelledError,
    TaskTimeoutError,
)
from parallel_exec.values.transfer import Transfer

__all__ = ["Progress", "get", "put"]

log = logging.getLogger("parallel_exec")

IN_FLIGHT = 8 << 20  # bytes asked for and not yet there
FILES_AT_ONCE = 64  # small ones take four round trips each

Progress = Callable[[int, int | None], object]
Path = str | os.PathLike[str]


def put(
    pool: HostPool,
    name: str,
    source: Path | IO[bytes],
    target: Path,
    *,
    preserve: bool,
    progress: Progress | None,
    timeout: float,
    stop: Stop,
) -> Transfer:
    """Copy a local file, directory or file object to the host. See `SSH.put`."""
    with _session(pool, name, timeout, stop) as sftp:
        job = _Job(sftp, name, preserve, progress)
        path = _remote(target)
        with job.cleared(pool):
            if not isinstance(source, str | os.PathLike):
                job.total = _size_left(source)
                sftp.run_all([job.put_object(source, path, None)], 1)
                return job.finished(repr(source), os.fspath(target))
            local = os.fspath(source)
            try:
                status = os.stat(local)
                if stat.S_ISDIR(status.st_mode):
                    job.total = _size_below(local) if progress is not None else None
                    job.put_directory(local, path.rstrip(b"/") or b"/")
                elif not stat.S_ISREG(status.st_mode):  # a pipe may have nobody at its other end
                    raise FileTransferError(
                        f"{local} is neither a file nor a directory", environment=name
                    )
                else:
                    job.total = status.st_size
                    if path.endswith(b"/") or sftp.run(job.is_directory(path)):
                        path = path.rstrip(b"/") + b"/" + os.fsencode(os.path.basename(local))
                    sftp.run_all([job.put_file(local, path)], 1)
            except OSError as error:
                raise _local_error(name, error) from error
            return job.finished(local, os.fspath(target))


def get(
    pool: HostPool,
    name: str,
    source: Path,
    target: Path | IO[bytes],
    *,
    preserve: bool,
    progress: Progress | None,
    timeout: float,
    stop: Stop,
) -> Transfer:
    """Copy a file or directory from the host. See `SSH.get`."""
    with _session(pool, name, timeout, stop) as sftp:
        job = _Job(sftp, name, preserve, progress)
        path = _remote(source)
        with job.about(path):
            attributes = sftp.run(sftp.stat(path))
            if attributes is None:
                raise StatusError(NO_SUCH_FILE, "no such file")
        assert attributes is not None
        try:
            if not isinstance(target, str | os.PathLike):
                job.total = attributes.size
                sftp.run_all([job.get_object(path, target, attributes)], 1)
                return job.finished(os.fspath(source), repr(target))
            local = os.fspath(target).replace("{host}", pool.settings.destination.host)
            if _is_folder(attributes):
                job.get_directory(path.rstrip(b"/") or b"/", local)
            else:
                job.total = attributes.size
                if local.endswith("/") or os.path.isdir(local):
                    local = os.path.join(local, os.fsdecode(os.path.basename(path)))
                os.makedirs(os.path.dirname(local) or ".", exist_ok=True)
                sftp.run_all([job.get_file(path, local, attributes)], 1)
        except OSError as error:
            raise _local_error(name, error) from error
        return job.finished(os.fspath(source), local)


@contextlib.contextmanager
def _session(pool: HostPool, name: str, timeout: float, stop: Stop) -> Iterator[Sftp]:
    """Open an SFTP session, and say of every failure what it means."""
    began = time.monotonic()

    def wanted() -> bool:
        return stop.reason is None

    try:
        for attempt in range(8):
            lease = pool.lease(wanted=wanted, register=stop.on_change)
            if lease is None:
                raise StoppedError
            try:
                try:
                    channel = lease.transport.open_command(timeout, wanted, stop.on_change)
                except RefusedError as error:
                    pool.refused(lease.connection)
                    if attempt == 7:
                        raise ConnectError(f"{name} opens no session: {error}") from error
                    stop.wait(0.02 * 2**attempt if lease.connection.used == 1 else 0)
                    continue
                except BrokenError as error:
                    pool.drop(lease.connection)
                    if attempt >= 3:
                        raise ConnectError(f"{name}: {error}") from error
                    continue
                except TimeoutError as error:
                    pool.drop(lease.connection)
                    if lease.connection.made_at < began:
                        continue  # see `Running._get_channel`
                    raise ConnectTimeoutError(
                        f"{name} opened no channel within {timeout:g} s", environment=name
                    ) from error
                if channel is None:
                    raise StoppedError
                sftp = Sftp(channel, max(timeout, 60.0), lambda: stop.reason is not None)
                try:
                    sftp.begin()
                    yield sftp
                finally:
                    sftp.close()
                return
            finally:
                lease.give_back()
    except NoSftpError as error:
        raise FileTransferError(f"{name}: {error}", environment=name) from error
    except struct.error as error:
        raise FileTransferError(
            f"{name}: its SFTP server gave an answer that cannot be read: {error}", environment=name
        ) from error
    except BrokenError as error:
        raise ConnectionLostError(
            f"the transfer with {name} broke: {error}", environment=name
        ) from error
    except StoppedError:
        if stop.reason == "timeout":
            took = time.monotonic() - began
            raise TaskTimeoutError(
                f"the transfer with {name} timed out after {took:.3g} s", environment=name
            ) from None
        raise TaskCancelledError(
            f"the transfer with {name} was cancelled", environment=name
        ) from None


class _Job:
    """One call of `put` or `get`: counts, tells progress, and does the work."""

    def __init__(self, sftp: Sftp, name: str, preserve: bool, progress: Progress | None) -> None:
        self._sftp = sftp
        self._name = name
        self._preserve = preserve
        self._progress = progress
        self._began = time.monotonic()
        self._files = 0
        self._bytes = 0
        self._in_flight = 0
        self._begun: set[bytes] = set()  # temporary files on the host
        self.total: int | None = None

    def finished(self, source: str, target: str) -> Transfer:
        """Return the account of it."""
        return Transfer(
            self._name, source, target, self._files, self._bytes, time.monotonic() - self._began
        )

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._progress is not None:
            try:
                self._progress(self._bytes, self.total)
            except Exception:
                log.exception("a callback for progress raised: %r", self._progress)

    @contextlib.contextmanager
    def about(self, path: bytes) -> Iterator[None]:
        """Say in errors which file it was."""
        try:
            yield
        except StatusError as error:
            known = {NO_SUCH_FILE: "no such file", PERMISSION_DENIED: "permission denied"}
            text = known.get(error.code, str(error))
            raise FileTransferError(
                f"{self._name}:{os.fsdecode(path)}: {text}", environment=self._name
            ) from error

    def is_directory(self, path: bytes) -> Steps[bool]:
        """Return whether there is a directory on the host."""
        with self.about(path):
            attributes = yield from self._sftp.stat(path)
        return attributes is not None and _is_folder(attributes)

    # To the host

    @contextlib.contextmanager
    def cleared(self, pool: HostPool) -> Iterator[None]:
        """Leave no temporary file: if the host cannot be told now, then when it can."""
        left = pool.take_left_files()
        try:
            self._begun.update(left)
            self._remove_begun()
            yield
        except BaseException:
            with contextlib.suppress(BrokenError, StoppedError):
                self._sftp.hurry(10.0)
                self._remove_begun()
            raise
        finally:
            pool.leave_files(self._begun)

    def _remove_begun(self) -> None:
        def remove(path: bytes) -> Steps[None]:
            with contextlib.suppress(StatusError):  # it may never have come to be
                yield from self._sftp.remove(path)
            self._begun.discard(path)

        self._sftp.run_all([remove(path) for path in self._begun], FILES_AT_ONCE)

    def put_directory(self, local: str, path: bytes) -> None:
        """Copy a directory and what is in it; what else is there stays."""
        sftp = self._sftp
        made: set[bytes] = set()
        folders: list[tuple[str, bytes]] = []
        level = [(local, path)]
        while level:
            sftp.run_all((self._make_directory(there, made) for _, there in level), FILES_AT_ONCE)
            folders += level
            below: list[tuple[str, bytes]] = []
            sftp.run_all(self._put_entries(level, made, below), FILES_AT_ONCE)
            level = below
        if self._preserve:  # last: what is put into a directory changes its times
            for here, there in reversed(folders):
                with self.about(there):
                    sftp.run(sftp.set(there, _attributes_of(os.stat(here))))

    def _make_directory(self, path: bytes, made: set[bytes]) -> Steps[None]:
        with self.about(path):
            try:
                yield from self._sftp.make_directory(path)
                made.add(path)
            except StatusError:
                if not (yield from self.is_directory(path)):
                    raise

    def _put_entries(
        self, level: list[tuple[str, bytes]], made: set[bytes], below: list[tuple[str, bytes]]
    ) -> Iterator[Steps[None]]:
        """Yield the steps for each file; note the directories `below`."""
        for folder, path in level:
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    there = path.rstrip(b"/") + b"/" + os.fsencode(entry.name)
                    if entry.is_symlink():
                        yield self._put_link(entry.path, there)
                    elif entry.is_dir():
                        below.append((entry.path, there))
                    elif entry.is_file():
                        yield self.put_file(entry.path, there, new=path in made)
                    else:
                        log.warning("%s is neither a file nor a directory: not copied", entry.path)

    def _put_link(self, local: str, path: bytes) -> Steps[None]:
        with self.about(path):
            temporary = self._begin(path)
            yield from self._sftp.make_link(temporary, os.fsencode(os.readlink(local)))
            yield from self._sftp.replace(temporary, path)
            self._begun.discard(temporary)

    def _begin(self, path: bytes) -> bytes:
        """Return a temporary name, to be removed unless it is done with."""
        temporary = _temporary(path)
        self._begun.add(temporary)
        return temporary

    def put_file(self, local: str, path: bytes, *, new: bool = False) -> Steps[None]:
        """Copy one file. `new`: nothing can be there."""
        with open(local, "rb", buffering=0) as file:
            yield from self.put_object(file, path, os.fstat(file.fileno()), new=new)

    def put_object(
        self,
        file: IO[bytes] | Any,
        path: bytes,
        status: os.stat_result | None,
        *,
        new: bool = False,
    ) -> Steps[None]:
        """Copy what `file` gives."""
        sftp = self._sftp
        with self.about(path):
            attributes = Attributes()
            if status is not None and self._preserve:
                attributes = _attributes_of(status)
            elif not new:
                # What replaces a file may be read by the same people as that.
                before = yield from sftp.stat(path)
                if before is not None and before.mode is not None:
                    attributes = Attributes(mode=before.mode & 0o7777)
            temporary = self._begin(path)
            first = Attributes(mode=attributes.mode)
            handle = yield from sftp.open(temporary, FLAG_WRITE | FLAG_CREATE | FLAG_NEW, first)
            yield from self._write(file, handle)
            # The order of requests for one file is kept.
            asked = []
            if attributes.mode is not None or attributes.modified is not None:
                asked.append(sftp.ask_fset(handle, attributes))
            asked.append(sftp.ask_shut(handle))
            for number in asked:
                sftp.done((yield number))
            yield from sftp.replace(temporary, path)
            self._begun.discard(temporary)
        self._files += 1

    def _write(self, file: Any, handle: bytes) -> Steps[None]:
        sftp = self._sftp
        offset = 0
        waiting: deque[tuple[int, int]] = deque()
        while True:
            data = file.read(sftp.write_size)
            if isinstance(data, str):
                data = data.encode()
            if data:
                waiting.append((sftp.ask_write(handle, offset, bytes(data)), len(data)))
                offset += len(data)
                self._in_flight += len(data)
            while waiting and (not data or (self._in_flight >= IN_FLIGHT and len(waiting) > 1)):
                number, size = waiting.popleft()
                sftp.done((yield number))
                self._in_flight -= size
                self._count(size)
            if not data:
                return

    # From the host

    def get_directory(self, path: bytes, local: str) -> None:
        """Copy a directory and what is in it; what else is there stays."""
        sftp = self._sftp
        folders: list[tuple[bytes, str]] = []
        os.makedirs(local, exist_ok=True)
        level = [(path, local)]
        while level:
            folders += level
            below: list[tuple[bytes, str]] = []
            found: deque[tuple[bytes, str, Attributes]] = deque()
            sftp.run_all(
                (self._list(there, here, below, found) for there, here in level), FILES_AT_ONCE
            )
            sftp.run_all(self._get_entries(found), FILES_AT_ONCE)
            level = below
        if self._preserve:
            for there, here in reversed(folders):
                with self.about(there):
                    known = sftp.run(sftp.stat(there))
                if known is not None:
                    _apply(here, known)

    def _list(
        self,
        path: bytes,
        local: str,
        below: list[tuple[bytes, str]],
        found: deque[tuple[bytes, str, Attributes]],
    ) -> Steps[None]:
        """Note what is in a directory: directories in `below`, all else in `found`."""
        with self.about(path):
            names = yield from self._sftp.listing(path)
        for name, attributes in names:
            if b"/" in name or name in (b"", b".", b".."):  # a server that means harm
                raise FileTransferError(
                    f"{self._name}:{os.fsdecode(path)} has a file with the name {name!r}",
                    environment=self._name,
                )
            there = path.rstrip(b"/") + b"/" + name
            here = os.path.join(local, os.fsdecode(name))
            if _is_folder(attributes):
                if os.path.islink(here):
                    os.unlink(here)
                # Before any link of this directory is made: none can take its place.
                os.makedirs(here, exist_ok=True)
                below.append((there, here))
            else:
                found.append((there, here, attributes))

    def _get_entries(self, found: deque[tuple[bytes, str, Attributes]]) -> Iterator[Steps[None]]:
        while found:
            there, here, attributes = found.popleft()
            mode = attributes.mode or 0
            if stat.S_ISLNK(mode):
                yield self._get_link(there, here)
            elif stat.S_ISREG(mode):
                yield self.get_file(there, here, attributes)
            else:
                log.warning("%s is neither a file nor a directory: not copied", there)

    def _get_link(self, path: bytes, local: str) -> Steps[None]:
        with self.about(path):
            target = yield from self._sftp.read_link(path)
        temporary = os.fsdecode(_temporary(os.fsencode(local)))
        os.symlink(target, os.fsencode(temporary))
        try:
            os.replace(temporary, local)
        except OSError:
            os.unlink(temporary)
            raise

    def get_file(self, path: bytes, local: str, known: Attributes) -> Steps[None]:
        """Copy one file. `known` is what is known about it."""
        temporary = os.fsdecode(_temporary(os.fsencode(local)))
        try:
            with open(temporary, "xb", buffering=0) as file:
                yield from self.get_object(path, file, known)
            if self._preserve:
                _apply(temporary, known)
            elif os.path.exists(local):
                os.chmod(temporary, stat.S_IMODE(os.stat(local).st_mode))
            os.replace(temporary, local)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise

    def get_object(self, path: bytes, file: IO[bytes] | Any, known: Attributes) -> Steps[None]:
        """Copy one file's bytes to `file`."""
        with self.about(path):
            handle = yield from self._sftp.open(path, FLAG_READ)
            yield from self._read(handle, known.size or 0, file)
            yield from self._sftp.shut(handle)
        self._files += 1

    def _read(self, handle: bytes, size: int, file: Any) -> Steps[None]:
        """Read to the end, many requests ahead as far as the size is known."""
        sftp = self._sftp
        asked = 0
        probing = False
        waiting: deque[tuple[int, int, int]] = deque()
        window = 2
        while True:
            while not waiting or (len(waiting) < window and self._in_flight < IN_FLIGHT):
                length = min(sftp.read_size, size - asked)
                if length > 0:
                    waiting.append((sftp.ask_read(handle, asked, length), asked, length))
                    asked += length
                    self._in_flight += length
                elif not probing:
                    # The size may be a lie, as in /proc, or the file has grown: read on.
                    waiting.append((sftp.ask_read(handle, asked, sftp.read_size), asked, 0))
                    probing = True
                else:
                    break
            number, offset, length = waiting.popleft()
            data = sftp.data((yield number))
            self._in_flight -= length
            window *= 2
            if not data:
                for number, _, length in waiting:
                    sftp.data((yield number))
                    self._in_flight -= length
                return
            if length and len(data) < length:  # a short answer: ask for what is missing first
                rest = length - len(data)
                begin = offset + len(data)
                waiting.appendleft((sftp.ask_read(handle, begin, rest), begin, rest))
                self._in_flight += rest
            elif not length:
                asked += len(data)
                probing = False
            _write_all(file, data)
            self._count(len(data))


def _write_all(file: Any, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = file.write(view)
        if written is None or written >= len(view):
            return
        view = view[written:]


def _temporary(path: bytes) -> bytes:
    folder, slash, name = path.rpartition(b"/")
    return folder + slash + b"." + name[:200] + b"." + secrets.token_hex(4).encode() + b".part"


def _remote(path: Path) -> bytes:
    """Return a path on the host; one that is not absolute starts at the home directory."""
    text = os.fsencode(os.fspath(path))
    if text == b"~":
        return b"."
    return text.removeprefix(b"~/") or b"."


def _is_folder(attributes: Attributes) -> bool:
    return attributes.mode is not None and stat.S_ISDIR(attributes.mode)


def _attributes_of(status: os.stat_result) -> Attributes:
    return Attributes(
        mode=stat.S_IMODE(status.st_mode),
        accessed=int(status.st_atime),
        modified=int(status.st_mtime),
    )


def _apply(path: str, known: Attributes) -> None:
    if known.mode is not None:
        os.chmod(path, stat.S_IMODE(known.mode))
    if known.accessed is not None and known.modified is not None:
        os.utime(path, (known.accessed, known.modified))


def _size_left(file: Any) -> int | None:
    try:
        here = file.tell()
        end = file.seek(0, io.SEEK_END)
        file.seek(here)
    except (OSError, AttributeError, ValueError):
        return None
    return int(end - here)


def _size_below(folder: str) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                status = os.lstat(os.path.join(path, name))
                total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


def _local_error(name: str, error: OSError) -> BaseException:
    """Return what a failure on this machine's side means."""
    if isinstance(error, FileTransferError | ConnectionLostError | ConnectError | TimeoutError):
        return error
    # Of two names the first is a temporary one.
    path = error.filename if error.filename2 is None else error.filename2
    where = f"{os.fsdecode(path)}: " if path is not None else ""
    return FileTransferError(
        f"the transfer with {name} failed here: {where}{error.strerror or error}",
        environment=name,
    )
