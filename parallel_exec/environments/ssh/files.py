"""Files and directories, to a host and from it.

What is written gets a temporary name beside its own and is renamed when it is whole, so
that a broken transfer leaves what was there before.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import secrets
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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

__all__ = ["Progress", "Transfer", "get", "put"]

log = logging.getLogger("parallel_exec")

IN_FLIGHT = 8 << 20  # bytes asked for and not yet there

Progress = Callable[[int, int | None], object]
Path = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Transfer:
    """What was transferred.

    Attributes:
        environment: The host.
        source: Where it came from; a file object as its repr.
        target: Where it went.
        files: How many files.
        bytes: How many bytes in them.
        duration_s: How long it took.
    """

    environment: str
    source: str
    target: str
    files: int
    bytes: int
    duration_s: float


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
    """Copy a local file, directory or file object to the host. See `SSHBackend.put`."""
    with _session(pool, name, timeout, stop) as sftp:
        job = _Job(sftp, name, preserve, progress)
        path = _remote(target)
        if not isinstance(source, str | os.PathLike):
            job.total = _size_left(source)
            job.put_object(source, path, None)
            return job.finished(repr(source), os.fspath(target))
        local = os.fspath(source)
        try:
            status = os.stat(local)
            is_folder = stat.S_ISDIR(status.st_mode)
            job.total = _size_below(local) if is_folder and progress else status.st_size
            if not is_folder and (path.endswith(b"/") or job.is_directory(path)):
                path = path.rstrip(b"/") + b"/" + os.fsencode(os.path.basename(local))
            if is_folder:
                job.put_directory(local, path.rstrip(b"/") or b"/")
            else:
                job.put_file(local, path)
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
    """Copy a file or directory from the host. See `SSHBackend.get`."""
    with _session(pool, name, timeout, stop) as sftp:
        job = _Job(sftp, name, preserve, progress)
        path = _remote(source)
        with job.about(path):
            attributes = sftp.stat(path)
            if attributes is None:
                raise StatusError(NO_SUCH_FILE, "no such file")
        assert attributes is not None
        try:
            if not isinstance(target, str | os.PathLike):
                job.total = attributes.size
                job.get_object(path, target)
                return job.finished(os.fspath(source), repr(target))
            local = os.fspath(target).replace("{host}", pool.settings.destination.host)
            if _is_folder(attributes):
                job.get_directory(path.rstrip(b"/") or b"/", local)
            else:
                job.total = attributes.size
                if local.endswith("/") or os.path.isdir(local):
                    local = os.path.join(local, os.fsdecode(os.path.basename(path)))
                os.makedirs(os.path.dirname(local) or ".", exist_ok=True)
                job.get_file(path, local)
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
                stop.on_change(channel.poke)
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

    def is_directory(self, path: bytes) -> bool:
        """Return whether there is a directory on the host."""
        with self.about(path):
            attributes = self._sftp.stat(path)
        return attributes is not None and _is_folder(attributes)

    # To the host

    def put_directory(self, local: str, path: bytes) -> None:
        """Copy a directory and what is in it; what else is there stays."""
        with self.about(path):
            if not self.is_directory(path):
                self._sftp.make_directory(path)
        with os.scandir(local) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                there = path.rstrip(b"/") + b"/" + os.fsencode(entry.name)
                if entry.is_symlink():
                    self._put_link(entry.path, there)
                elif entry.is_dir():
                    self.put_directory(entry.path, there)
                elif entry.is_file():
                    self.put_file(entry.path, there)
                else:
                    log.warning("%s is neither a file nor a directory: not copied", entry.path)
        if self._preserve:
            with self.about(path):
                self._sftp.set(path, _attributes_of(os.stat(local)))

    def _put_link(self, local: str, path: bytes) -> None:
        with self.about(path):
            temporary = _temporary(path)
            self._sftp.make_link(temporary, os.fsencode(os.readlink(local)))
            try:
                self._sftp.replace(temporary, path)
            except BaseException:
                self._discard(temporary)
                raise

    def put_file(self, local: str, path: bytes) -> None:
        """Copy one file."""
        with open(local, "rb", buffering=0) as file:
            self.put_object(file, path, os.fstat(file.fileno()))

    def put_object(self, file: IO[bytes] | Any, path: bytes, status: os.stat_result | None) -> None:
        """Copy what `file` gives."""
        sftp = self._sftp
        temporary = _temporary(path)
        with self.about(path):
            if status is not None and self._preserve:
                attributes = _attributes_of(status)
            else:
                # What replaces a file may be read by the same people as that.
                before = sftp.stat(path)
                mode = before.mode & 0o7777 if before and before.mode is not None else None
                attributes = Attributes(mode=mode)
            first = Attributes(mode=attributes.mode)
            handle = sftp.open(temporary, FLAG_WRITE | FLAG_CREATE | FLAG_NEW, first)
            try:
                self._write(file, handle)
                if attributes.mode is not None or attributes.modified is not None:
                    sftp.fset(handle, attributes)
                sftp.shut(handle)
                sftp.replace(temporary, path)
            except BaseException:
                self._discard(temporary)
                raise
        self._files += 1

    def _write(self, file: Any, handle: bytes) -> None:
        sftp = self._sftp
        offset = 0
        most = max(2, IN_FLIGHT // sftp.write_size)
        waiting: deque[tuple[int, int]] = deque()
        while True:
            data = file.read(sftp.write_size)
            if isinstance(data, str):
                data = data.encode()
            if data:
                waiting.append((sftp.ask_write(handle, offset, bytes(data)), len(data)))
                offset += len(data)
                sftp.flush()
            while waiting and (not data or len(waiting) >= most):
                number, size = waiting.popleft()
                sftp.done(number)
                self._count(size)
            if not data:
                return

    def _discard(self, path: bytes) -> None:
        """Remove what was begun, if the host can still be told."""
        with contextlib.suppress(StatusError, BrokenError, StoppedError):
            self._sftp.hurry(10.0)
            self._sftp.remove(path)

    # From the host

    def get_directory(self, path: bytes, local: str) -> None:
        """Copy a directory and what is in it; what else is there stays."""
        os.makedirs(local, exist_ok=True)
        with self.about(path):
            names = self._sftp.listing(path)
        for name, attributes in names:
            if b"/" in name or name in (b"", b".", b".."):  # a server that means harm
                raise FileTransferError(
                    f"{self._name}:{os.fsdecode(path)} has a file with the name {name!r}",
                    environment=self._name,
                )
            there = path.rstrip(b"/") + b"/" + name
            here = os.path.join(local, os.fsdecode(name))
            mode = attributes.mode or 0
            if stat.S_ISLNK(mode):
                self._get_link(there, here)
            elif stat.S_ISDIR(mode):
                if os.path.islink(here):
                    os.unlink(here)
                self.get_directory(there, here)
            elif stat.S_ISREG(mode):
                self.get_file(there, here)
            else:
                log.warning("%s is neither a file nor a directory: not copied", there)
        if self._preserve:
            with self.about(path):
                known = self._sftp.stat(path)
            if known is not None:
                _apply(local, known)

    def _get_link(self, path: bytes, local: str) -> None:
        with self.about(path):
            target = self._sftp.read_link(path)
        temporary = os.fsdecode(_temporary(os.fsencode(local)))
        os.symlink(target, os.fsencode(temporary))
        os.replace(temporary, local)

    def get_file(self, path: bytes, local: str) -> None:
        """Copy one file."""
        temporary = os.fsdecode(_temporary(os.fsencode(local)))
        try:
            with open(temporary, "xb", buffering=0) as file:
                known = self.get_object(path, file)
            if self._preserve:
                _apply(temporary, known)
            elif os.path.exists(local):
                os.chmod(temporary, stat.S_IMODE(os.stat(local).st_mode))
            os.replace(temporary, local)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise

    def get_object(self, path: bytes, file: IO[bytes] | Any) -> Attributes:
        """Copy one file's bytes to `file`."""
        with self.about(path):
            handle = self._sftp.open(path, FLAG_READ)
            known = self._sftp.fstat(handle)
            self._read(handle, known.size or 0, file)
            self._sftp.shut(handle)
        self._files += 1
        return known

    def _read(self, handle: bytes, size: int, file: Any) -> None:
        """Read to the end, many requests ahead as far as the size is known."""
        sftp = self._sftp
        most = max(2, IN_FLIGHT // sftp.read_size)
        asked = 0
        waiting: deque[tuple[int, int, int]] = deque()
        window = 2
        while True:
            while len(waiting) < window and asked < size:
                length = min(sftp.read_size, size - asked)
                waiting.append((sftp.ask_read(handle, asked, length), asked, length))
                asked += length
            if not waiting:
                # The size may be a lie, as in /proc, or the file has grown: read on.
                waiting.append((sftp.ask_read(handle, asked, sftp.read_size), asked, 0))
            number, offset, length = waiting.popleft()
            data = sftp.data(number)
            window = min(most, window * 2)
            if not data:
                for number, _, _ in waiting:
                    sftp.data(number)
                return
            if length and len(data) < length:  # a short answer: ask for what is missing first
                missing = (
                    sftp.ask_read(handle, offset + len(data), length - len(data)),
                    offset + len(data),
                    length - len(data),
                )
                waiting.appendleft(missing)
            elif not length:
                asked += len(data)
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
    where = f"{error.filename}: " if error.filename is not None else ""
    return FileTransferError(
        f"the transfer with {name} failed here: {where}{error.strerror or error}",
        environment=name,
    )
