"""SFTP, version 3, as far as files are concerned, with requests in flight.

draft-ietf-secsh-filexfer-02, and OpenSSH's extensions ``posix-rename@openssh.com`` and
``limits@openssh.com``. Requests of 255 KiB, where the server takes them, need an eighth
of the work of the usual 32 KiB.
"""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import TypeVar

from parallel_exec.environments.ssh.channel import CommandChannel
from parallel_exec.environments.ssh.connection import BrokenError
from parallel_exec.text import SAID, plain

__all__ = ["Answer", "Attributes", "NoSftpError", "Sftp", "StatusError", "Steps", "StoppedError"]

INIT, VERSION, OPEN, CLOSE, READ, WRITE = 1, 2, 3, 4, 5, 6
LSTAT, FSTAT, SETSTAT, FSETSTAT, OPENDIR, READDIR = 7, 8, 9, 10, 11, 12
REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME, READLINK, SYMLINK = 13, 14, 15, 16, 17, 18, 19, 20
STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED, EXTENDED_REPLY = 101, 102, 103, 104, 105, 200, 201

FLAG_READ, FLAG_WRITE, FLAG_CREATE, FLAG_TRUNCATE, FLAG_NEW = 1, 2, 8, 16, 32

OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE = 0, 1, 2, 3, 4

USUAL_SIZE = 32 * 1024
LARGEST_SIZE = 255 * 1024
LARGEST_ANSWER = 1 << 20
SENT_AT_ONCE = 128 * 1024  # bytes to write that are not held back for others to join

T = TypeVar("T")
Answer = tuple[int, bytes]  # its kind, and what follows the number
Steps = Generator[int, Answer, T]


class StatusError(Exception):
    """The server refused a request.

    Attributes:
        code: Its status; `FAILURE` stands for everything it has no name for.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(plain(text, SAID))
        self.code = code


class NoSftpError(Exception):
    """The host has no SFTP server, or what it has does not speak SFTP."""


class StoppedError(Exception):
    """It shall not go on."""


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
            flags |= 4
            rest += struct.pack(">I", self.mode)
        if self.accessed is not None and self.modified is not None:
            flags |= 8
            rest += struct.pack(">II", self.accessed & 0xFFFFFFFF, self.modified & 0xFFFFFFFF)
        return struct.pack(">I", flags) + rest


class Sftp:
    """One SFTP session on a channel of its own. For one thread.

    What it does is written as steps: generators that ask, yield the number of the
    request and are sent the answer. `run` takes one to its end; `run_all` takes many,
    several at once, so that their requests are on the way together.

    Args:
        channel: An open channel; it is finished by `close`.
        timeout: Seconds without an answer after which the session is given up.
        stopped: Asked while waiting; True raises `StoppedError`.
    """

    def __init__(
        self, channel: CommandChannel, timeout: float, stopped: Callable[[], bool]
    ) -> None:
        self._channel = channel
        self._timeout = timeout
        self._stopped = stopped
        self._number = 0
        self._out: list[bytes] = []
        self._unsent = 0
        self._answers: dict[int, Answer] = {}
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 4
        self._broken = False
        self._extensions: dict[bytes, bytes] = {}
        self.read_size = self.write_size = USUAL_SIZE
        channel.take = self._take

    def begin(self) -> None:
        """Agree on the version and the sizes.

        Raises:
            NoSftpError: There is no SFTP server.
        """
        hello = struct.pack(">IBI", 5, INIT, 3)
        sent = self._channel.start_subsystem("sftp", hello)
        self._out.append(hello[sent:])
        try:
            _, body = self._wait(-1)
        except BrokenError as error:
            if self._channel.request_refused or self._channel.ended:
                raise NoSftpError("it has no SFTP server") from error
            raise
        rest = body[4:]
        while rest:
            name, rest = _string(rest)
            value, rest = _string(rest)
            self._extensions[name] = value
        if b"limits@openssh.com" in self._extensions:
            kind, answer = self._wait(self._ask(EXTENDED, _packed(b"limits@openssh.com")))
            if kind == EXTENDED_REPLY and len(answer) >= 32:
                _, reads, writes, _ = struct.unpack(">QQQQ", answer[:32])
                self.read_size = max(USUAL_SIZE, min(LARGEST_SIZE, reads))
                self.write_size = max(USUAL_SIZE, min(LARGEST_SIZE, writes))

    def hurry(self, timeout: float) -> None:
        """Go on although stopped, to clean up, but no longer than that without an answer."""
        self._stopped = lambda: False
        self._timeout = timeout

    def close(self) -> None:
        """End the session."""
        channel = self._channel
        if "dropbear" in channel.transport.remote_version:
            # Should the server's process end after its channel, some Dropbears take that for
            # the end of the next one: see `pool._sessions`.
            with contextlib.suppress(BrokenError):
                channel.send_some(b"", final=True)
                with channel.changed:
                    channel.changed.wait_for(lambda: channel.ended_by_peer or channel.closed, 5.0)
        channel.finish()

    # Steps, one or many

    def run(self, steps: Steps[T]) -> T:
        """Take `steps` to their end and return what they return."""
        try:
            number = next(steps)
            while True:
                number = steps.send(self._wait(number))
        except StopIteration as end:
            value: T = end.value
            return value

    def run_all(self, many: Iterable[Steps[object]], at_once: int) -> None:
        """Take many steps to their ends, up to `at_once` of them at a time.

        They are begun in their order, each when there is room for it. What one of them
        raises is raised; the others are closed then.
        """
        source = iter(many)
        waiting: dict[int, Steps[object]] = {}

        def go_on(steps: Steps[object], answer: Answer | None) -> None:
            try:
                number = next(steps) if answer is None else steps.send(answer)
            except StopIteration:
                return
            waiting[number] = steps

        try:
            more = True
            while more or waiting:
                while more and len(waiting) < at_once:
                    steps = next(source, None)
                    if steps is None:
                        more = False
                    else:
                        go_on(steps, None)
                if waiting:
                    self.flush()
                    self._turn(lambda: not waiting.keys().isdisjoint(self._answers))
                    for number in [number for number in waiting if number in self._answers]:
                        go_on(waiting.pop(number), self._answers.pop(number))
        finally:
            for steps in waiting.values():
                steps.close()

    # Requests that go out now and are answered later

    def ask_read(self, handle: bytes, offset: int, size: int) -> int:
        """Ask for bytes; `data` tells what the answer holds."""
        return self._ask(READ, _packed(handle) + struct.pack(">QI", offset, size))

    def data(self, answer: Answer) -> bytes:
        """Return the bytes asked for; none at the end of the file."""
        kind, body = answer
        if kind == DATA:
            return body[4:]
        self._status(answer, allowed=(EOF,))
        return b""

    def ask_write(self, handle: bytes, offset: int, data: bytes) -> int:
        """Have bytes written; `done` tells whether they were."""
        head = _packed(handle) + struct.pack(">QI", offset, len(data))
        return self._ask(WRITE, head, data)

    def ask_fset(self, handle: bytes, attributes: Attributes) -> int:
        """Have mode and times of an open file set."""
        return self._ask(FSETSTAT, _packed(handle) + attributes.packed())

    def ask_shut(self, handle: bytes) -> int:
        """Have a handle closed."""
        return self._ask(CLOSE, _packed(handle))

    def done(self, answer: Answer) -> None:
        """Raise if a request was refused."""
        self._status(answer)

    # Steps

    def open(self, path: bytes, flags: int, attributes: Attributes | None = None) -> Steps[bytes]:
        """Open a file; return its handle."""
        packed = (attributes or Attributes()).packed()
        answer = yield self._ask(OPEN, _packed(path) + struct.pack(">I", flags) + packed)
        return self._string_answer(answer, HANDLE)

    def shut(self, handle: bytes) -> Steps[None]:
        """Close a handle."""
        self.done((yield self.ask_shut(handle)))

    def stat(self, path: bytes, *, follow: bool = True) -> Steps[Attributes | None]:
        """Return a path's attributes, or None if there is nothing."""
        answer = yield self._ask(STAT if follow else LSTAT, _packed(path))
        if answer[0] == ATTRS:
            return _attributes(answer[1])[0]
        self._status(answer, allowed=(NO_SUCH_FILE,))
        return None

    def set(self, path: bytes, attributes: Attributes) -> Steps[None]:
        """Set mode and times of a path."""
        self.done((yield self._ask(SETSTAT, _packed(path) + attributes.packed())))

    def make_directory(self, path: bytes) -> Steps[None]:
        """Make a directory."""
        self.done((yield self._ask(MKDIR, _packed(path) + Attributes().packed())))

    def remove(self, path: bytes) -> Steps[None]:
        """Remove a file."""
        self.done((yield self._ask(REMOVE, _packed(path))))

    def replace(self, old: bytes, new: bytes) -> Steps[None]:
        """Rename a file over another one, at once where the server can."""
        if b"posix-rename@openssh.com" in self._extensions:
            name = _packed(b"posix-rename@openssh.com")
            self.done((yield self._ask(EXTENDED, name + _packed(old) + _packed(new))))
            return
        try:
            self.done((yield self._ask(RENAME, _packed(old) + _packed(new))))
        except StatusError:
            # Version 3 does not rename over a file: for a moment there is none.
            yield from self.remove(new)
            self.done((yield self._ask(RENAME, _packed(old) + _packed(new))))

    def read_link(self, path: bytes) -> Steps[bytes]:
        """Return where a symbolic link leads."""
        answer = yield self._ask(READLINK, _packed(path))
        if answer[0] != NAME:
            self._status(answer)
        return _string(answer[1][4:])[0]

    def make_link(self, path: bytes, target: bytes) -> Steps[None]:
        """Make a symbolic link at `path`."""
        # OpenSSH has the two the other way round than the draft, and all follow it.
        self.done((yield self._ask(SYMLINK, _packed(target) + _packed(path))))

    def listing(self, path: bytes) -> Steps[list[tuple[bytes, Attributes]]]:
        """Return the names in a directory, without "." and "..", and what they are."""
        answer = yield self._ask(OPENDIR, _packed(path))
        handle = self._string_answer(answer, HANDLE)
        found: list[tuple[bytes, Attributes]] = []
        while True:
            answer = yield self._ask(READDIR, _packed(handle))
            kind, body = answer
            if kind != NAME:
                self._status(answer, allowed=(EOF,))
                break
            (count,) = struct.unpack(">I", body[:4])
            rest = body[4:]
            for _ in range(count):
                name, rest = _string(rest)
                _, rest = _string(rest)
                attributes, rest = _attributes(rest)
                if name not in (b".", b".."):
                    found.append((name, attributes))
        yield from self.shut(handle)
        return sorted(found, key=lambda item: item[0])

    # The wire

    def _ask(self, kind: int, body: bytes, data: bytes = b"") -> int:
        self._number = number = (self._number + 1) & 0xFFFFFFFF
        head = struct.pack(">IBI", 5 + len(body) + len(data), kind, number)
        self._out.append(head + body + data)
        self._unsent += len(data)
        if self._unsent >= SENT_AT_ONCE:
            self.flush()
        return number

    def flush(self) -> None:
        """Send what has been asked; wait for the window, take answers meanwhile."""
        if not self._out:
            return
        out = memoryview(b"".join(self._out))
        self._out.clear()
        self._unsent = 0
        channel = self._channel
        while out:
            sent = channel.send_some(out, final=False)
            out = out[sent:]
            if out and not sent:
                if channel.closed:  # there may be room for more, but nobody takes it
                    raise BrokenError(self._why())
                try:
                    self._turn(lambda: channel.out_window_size > 0)
                except StoppedError:
                    # Half a request has gone out: what follows must begin with its rest.
                    self._out.insert(0, bytes(out))
                    raise

    def _wait(self, number: int) -> Answer:
        """Return the answer to a request: its kind and what follows the number."""
        if number not in self._answers:
            self.flush()
            self._turn(lambda: number in self._answers)
        return self._answers.pop(number)

    def _turn(self, over: Callable[[], bool]) -> None:
        """Wait until something has come about."""
        channel = self._channel
        heard = time.monotonic()
        while True:
            with channel.changed:
                if self._stopped():  # also where the host is so fast that nothing waits
                    raise StoppedError
                while not over():
                    if self._stopped():
                        raise StoppedError
                    if channel.ended or channel.request_refused or self._broken:
                        raise BrokenError(self._why())
                    if channel.unacknowledged > channel.in_window_threshold:
                        break
                    left = max(heard, channel.transport.heard_at) + self._timeout
                    left -= time.monotonic()
                    if left <= 0:
                        raise BrokenError(f"no answer for {self._timeout:g} s")
                    channel.changed.wait(left)
                else:
                    return
            channel.acknowledge()

    def _why(self) -> str:
        if self._broken:
            return "it does not speak SFTP"
        transport = self._channel.transport
        return "the SFTP server ended" if transport.active else str(transport.reason())

    def _take(self, stream: int, data: bytes) -> None:
        """Take bytes, in the connection's reading thread."""
        if stream or self._broken:
            return
        self._parts.append(data)
        self._have += len(data)
        told = False
        while self._have >= self._need:
            joined = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            (length,) = struct.unpack_from(">I", joined)
            if length > LARGEST_ANSWER or length < 5:
                self._broken = told = True
                break
            end = 4 + length
            if len(joined) < end:
                self._parts, self._need = [joined], end
                break
            kind = joined[4]
            if kind == VERSION:
                self._answers[-1] = (kind, joined[5:end])
            else:
                (number,) = struct.unpack_from(">I", joined, 5)
                self._answers[number] = (kind, joined[9:end])
            told = True
            rest = joined[end:]
            self._parts, self._have, self._need = ([rest] if rest else []), len(rest), 4
        if told:
            with self._channel.changed:
                self._channel.changed.notify_all()

    def _status(self, answer: Answer, allowed: tuple[int, ...] = ()) -> None:
        kind, body = answer
        if kind != STATUS:
            raise BrokenError(f"an answer of a kind that was not asked for: {kind}")
        (code,) = struct.unpack_from(">I", body)
        if code == OK or code in allowed:
            return
        text = _string(body[4:])[0].decode("utf-8", "replace") if len(body) > 8 else ""
        raise StatusError(code, text or f"status {code}")

    def _string_answer(self, answer: Answer, wanted: int) -> bytes:
        if answer[0] != wanted:
            self._status(answer)
        return _string(answer[1])[0]


def _packed(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


def _string(data: bytes) -> tuple[bytes, bytes]:
    (length,) = struct.unpack_from(">I", data)
    return data[4 : 4 + length], data[4 + length :]


def _attributes(data: bytes) -> tuple[Attributes, bytes]:
    (flags,) = struct.unpack_from(">I", data)
    rest = data[4:]
    size = mode = accessed = modified = None
    if flags & 1:
        (size,) = struct.unpack_from(">Q", rest)
        rest = rest[8:]
    if flags & 2:
        rest = rest[8:]
    if flags & 4:
        (mode,) = struct.unpack_from(">I", rest)
        rest = rest[4:]
    if flags & 8:
        accessed, modified = struct.unpack_from(">II", rest)
        rest = rest[8:]
    if flags & 0x80000000:
        (count,) = struct.unpack_from(">I", rest)
        rest = rest[4:]
        for _ in range(2 * count):
            _, rest = _string(rest)
    return Attributes(size, mode, accessed, modified), rest
