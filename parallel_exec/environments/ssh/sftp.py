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
from typing import TypeVar

from parallel_exec.environments.ssh.channel import CommandChannel
from parallel_exec.environments.ssh.connection import BrokenError
from parallel_exec.environments.ssh.sftp_packets import (
    ATTRS,
    CLOSE,
    DATA,
    EOF,
    EXTENDED,
    EXTENDED_REPLY,
    FSETSTAT,
    HANDLE,
    INIT,
    LSTAT,
    MKDIR,
    NAME,
    NO_SUCH_FILE,
    OK,
    OPEN,
    OPENDIR,
    READ,
    READDIR,
    READLINK,
    REMOVE,
    RENAME,
    SETSTAT,
    STAT,
    STATUS,
    SYMLINK,
    VERSION,
    WRITE,
    Attributes,
    NonsenseError,
    Reader,
    StatusError,
    packed,
)

__all__ = ["LATER", "Answer", "NoSftpError", "Sftp", "Steps", "StoppedError"]

USUAL_SIZE = 32 * 1024
LARGEST_SIZE = 255 * 1024
LARGEST_ANSWER = (256 << 10) + 1024  # OpenSSH takes and sends 256 KiB at most
SHORT_ANSWER = 64 << 10  # where neither a file's bytes nor a listing were asked for
NO_NAMES = bytes(4)
LITTLE_ROOM = 64 << 10  # bytes: a full disk may have some that one write has not taken
LATER = 0  # yielded in a request's place: go on once others have, or after a while
WHILE_S = 0.1
SENT_AT_ONCE = 128 * 1024  # bytes to write that are not held back for others to join

T = TypeVar("T")
Answer = tuple[int, bytes]  # its kind, and what follows the number
Steps = Generator[int, Answer, T]


class NoSftpError(Exception):
    """The host has no SFTP server, or what it has does not speak SFTP."""


class StoppedError(Exception):
    """It shall not go on."""


class Sftp:
    """One SFTP session on a channel of its own. For one thread.

    What it does is written as steps: generators that ask, yield the number of the
    request and are sent the answer. `run` takes one to its end; `run_all` takes many,
    several at once, so that their requests are on the way together. Steps that cannot go on
    yield `LATER`, and do once others have.

    Args:
        channel: An open channel; it is finished by `close`.
        timeout: Seconds in which nothing is heard in the session after which it is given up,
            whatever else is heard from the host.
        stopped: Asked while waiting; True raises `StoppedError`.

    What the server may say is bounded by what it was asked: an answer to no question, or one
    that is longer than the question allows, ends the session with a `NonsenseError`.
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
        self._asked: dict[int, int] = {}  # questions under way: the longest answer to each
        self._answers: dict[int, Answer] = {}
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 9
        self._heard = time.monotonic()
        self._over_at: float | None = None
        self._nonsense: str | None = None
        self._extensions: dict[bytes, bytes] = {}
        self.read_size = self.write_size = USUAL_SIZE
        self.busy = False  # whether others wait for answers while steps of `run_all` go on
        channel.take = self._take

    def begin(self, within: float) -> None:
        """Agree on the version and the sizes, within so many seconds.

        Raises:
            NoSftpError: There is no SFTP server.
        """
        self._over_at = time.monotonic() + within
        hello = struct.pack(">IBI", 5, INIT, 3)
        self._asked[-1] = LARGEST_ANSWER
        sent = self._channel.start_subsystem("sftp", hello)
        self._out.append(hello[sent:])
        try:
            _, body = self._wait(-1)
        except BrokenError as error:
            if self._channel.request_refused or self._channel.ended:
                raise NoSftpError("it has no SFTP server") from error
            raise
        except NonsenseError as error:
            raise NoSftpError(
                "what its SFTP server says first is not SFTP; a start-up file of the login shell"
                " may print something"
            ) from error
        reader = Reader(body)
        version = reader.number()
        if version < 3:
            raise NoSftpError(f"its SFTP server speaks version {version}, 3 is needed")
        while reader.more:
            name = reader.string()
            self._extensions[name] = reader.string()
        if b"limits@openssh.com" in self._extensions:
            kind, answer = self._wait(self._ask(EXTENDED, packed(b"limits@openssh.com")))
            if kind == EXTENDED_REPLY:
                reader = Reader(answer)
                _, reads, writes = (reader.large_number() for _ in range(3))
                self.read_size = max(USUAL_SIZE, min(LARGEST_SIZE, reads))
                self.write_size = max(USUAL_SIZE, min(LARGEST_SIZE, writes))
        self._over_at = None

    def hurry(self, timeout: float) -> None:
        """Go on although stopped, to clean up, but no longer than that in all."""
        self._stopped = lambda: False
        self._over_at = time.monotonic() + timeout

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
                if number == LATER:
                    self._pause()
                    number = next(steps)
                else:
                    number = steps.send(self._wait(number))
        except StopIteration as end:
            value: T = end.value
            return value

    def run_all(self, many: Iterable[Steps[object]], at_once: int) -> None:
        """Take many steps to their ends, up to `at_once` of them at a time.

        They are begun in their order, each when there is room for it and none of those begun
        goes on `LATER`. What one of them raises is raised; the others are closed then.
        """
        source = iter(many)
        waiting: dict[int, Steps[object]] = {}
        later: list[Steps[object]] = []

        def go_on(steps: Steps[object], answer: Answer | None) -> None:
            try:
                number = next(steps) if answer is None else steps.send(answer)
            except StopIteration:
                return
            if number == LATER:
                later.append(steps)
            else:
                waiting[number] = steps

        try:
            more = True
            while more or waiting or later:
                while more and not later and len(waiting) < at_once:
                    self.busy = bool(waiting)
                    steps = next(source, None)
                    if steps is None:
                        more = False
                    else:
                        go_on(steps, None)
                if waiting:
                    self.flush()
                    self._turn(lambda: not waiting.keys().isdisjoint(self._answers))
                    for number in [number for number in waiting if number in self._answers]:
                        steps = waiting.pop(number)
                        self.busy = bool(waiting)
                        go_on(steps, self._answers.pop(number))
                elif later:
                    self._pause()
                for _ in range(len(later)):
                    self.busy = bool(waiting)
                    go_on(later.pop(0), None)
        finally:
            self.busy = False
            for steps in (*waiting.values(), *later):
                steps.close()

    def _pause(self) -> None:
        """Wait a while: nothing here is to be waited for."""
        with self._channel.changed:
            if not self._stopped():
                self._channel.changed.wait(WHILE_S)
            if self._stopped():
                raise StoppedError

    # Requests that go out now and are answered later

    def ask_read(self, handle: bytes, offset: int, size: int) -> int:
        """Ask for bytes; `data` tells what the answer holds."""
        where = packed(handle) + struct.pack(">QI", offset, size)
        return self._ask(READ, where, longest=max(size + 9, SHORT_ANSWER))

    def data(self, answer: Answer) -> bytes:
        """Return the bytes asked for; none at the end of the file."""
        kind, body = answer
        if kind == DATA:
            return Reader(body).string()
        self._refused(answer, EOF)
        return b""

    def ask_write(self, handle: bytes, offset: int, data: bytes) -> int:
        """Have bytes written; `done` tells whether they were."""
        head = packed(handle) + struct.pack(">QI", offset, len(data))
        return self._ask(WRITE, head, data)

    def ask_fset(self, handle: bytes, attributes: Attributes) -> int:
        """Have mode and times of an open file set."""
        return self._ask(FSETSTAT, packed(handle) + attributes.packed())

    def ask_shut(self, handle: bytes) -> int:
        """Have a handle closed."""
        return self._ask(CLOSE, packed(handle))

    def done(self, answer: Answer) -> None:
        """Raise if a request was refused."""
        kind, body = answer
        if kind != STATUS:
            raise NonsenseError(f"an answer of a kind that was not asked for: {kind}")
        error = Reader(body).status()
        if error.code != OK:
            raise error

    # Steps

    def open(self, path: bytes, flags: int, attributes: Attributes | None = None) -> Steps[bytes]:
        """Open a file; return its handle."""
        rest = struct.pack(">I", flags) + (attributes or Attributes()).packed()
        answer = yield self._ask(OPEN, packed(path) + rest)
        return self._string_answer(answer, HANDLE)

    def shut(self, handle: bytes) -> Steps[None]:
        """Close a handle."""
        self.done((yield self.ask_shut(handle)))

    def stat(self, path: bytes, *, follow: bool = True) -> Steps[Attributes | None]:
        """Return a path's attributes, or None if there is nothing."""
        answer = yield self._ask(STAT if follow else LSTAT, packed(path))
        if answer[0] == ATTRS:
            return Reader(answer[1]).attributes()
        self._refused(answer, NO_SUCH_FILE)
        return None

    def is_full(self, path: bytes) -> Steps[bool]:
        """Return whether the disk of a path has no room; False where the server does not say."""
        if b"statvfs@openssh.com" not in self._extensions:
            return False
        name = packed(b"statvfs@openssh.com")
        kind, body = yield self._ask(EXTENDED, name + packed(path))
        if kind != EXTENDED_REPLY:
            return False
        reader = Reader(body)
        numbers = [reader.large_number() for _ in range(8)]
        room, inodes, inodes_left = numbers[1] * numbers[4], numbers[5], numbers[7]
        return room < LITTLE_ROOM or (inodes > 0 and inodes_left == 0)

    def set(self, path: bytes, attributes: Attributes) -> Steps[None]:
        """Set mode and times of a path."""
        self.done((yield self._ask(SETSTAT, packed(path) + attributes.packed())))

    def make_directory(self, path: bytes, attributes: Attributes | None = None) -> Steps[None]:
        """Make a directory."""
        rest = (attributes or Attributes()).packed()
        self.done((yield self._ask(MKDIR, packed(path) + rest)))

    def remove(self, path: bytes) -> Steps[None]:
        """Remove a file."""
        self.done((yield self._ask(REMOVE, packed(path))))

    def replace(self, old: bytes, new: bytes) -> Steps[None]:
        """Rename a file over another one, at once where the server can."""
        if b"posix-rename@openssh.com" in self._extensions:
            name = packed(b"posix-rename@openssh.com")
            self.done((yield self._ask(EXTENDED, name + packed(old) + packed(new))))
            return
        try:
            yield from self._rename(old, new)
        except StatusError as error:
            # Version 3 does not rename over a file: for a moment there is none. It is put
            # aside rather than removed, since the second attempt may fail as well.
            aside = old + b".old"
            try:
                yield from self._rename(new, aside)
            except StatusError:  # there is none
                raise error from None
            try:
                yield from self._rename(old, new)
            except StatusError:
                yield from self._rename(aside, new)
                raise
            yield from self.remove(aside)

    def _rename(self, old: bytes, new: bytes) -> Steps[None]:
        self.done((yield self._ask(RENAME, packed(old) + packed(new))))

    def read_link(self, path: bytes) -> Steps[bytes]:
        """Return where a symbolic link leads."""
        answer = yield self._ask(READLINK, packed(path))
        if answer[0] != NAME:
            self._refused(answer)
        reader = Reader(answer[1])
        reader.number()
        return reader.string()

    def make_link(self, path: bytes, target: bytes) -> Steps[None]:
        """Make a symbolic link at `path`."""
        # OpenSSH has the two the other way round than the draft, and all follow it.
        self.done((yield self._ask(SYMLINK, packed(target) + packed(path))))

    def open_directory(self, path: bytes) -> Steps[bytes]:
        """Open a directory to read what is in it; return its handle."""
        return self._string_answer((yield self._ask(OPENDIR, packed(path))), HANDLE)

    def read_directory(self, handle: bytes) -> Steps[Reader | None]:
        """Return the next piece of a directory's listing, or None at its end.

        One answer is one piece: a listing has no bound, what is kept of it must have one.
        """
        answer = yield self._ask(READDIR, packed(handle), longest=LARGEST_ANSWER)
        kind, body = answer
        if kind == NAME:
            return Reader(body) if body != NO_NAMES else None
        self._refused(answer, EOF)
        return None

    # The wire

    def _ask(
        self, kind: int, body: bytes, data: bytes = b"", *, longest: int = SHORT_ANSWER
    ) -> int:
        self._number = number = (self._number + 1) & 0xFFFFFFFF
        self._asked[number] = longest
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
        self._heard = time.monotonic()
        while True:
            with channel.changed:
                if self._stopped():  # also where the host is so fast that nothing waits
                    raise StoppedError
                while not over():
                    if self._stopped():
                        raise StoppedError
                    if self._nonsense is not None:
                        raise NonsenseError(self._nonsense)
                    if channel.ended or channel.request_refused:
                        raise BrokenError(self._why())
                    if channel.unacknowledged > channel.in_window_threshold:
                        break
                    now = time.monotonic()
                    left = self._heard + self._timeout - now
                    if self._over_at is not None:
                        left = min(left, self._over_at - now)
                    if left <= 0:
                        raise BrokenError(f"no answer for {now - self._heard:.3g} s")
                    channel.changed.wait(left)
                else:
                    return
            channel.acknowledge()

    def _why(self) -> str:
        transport = self._channel.transport
        return "the SFTP server ended" if transport.active else str(transport.reason())

    def _take(self, stream: int, data: bytes) -> None:
        """Take bytes, in the connection's reading thread."""
        if stream or self._nonsense is not None:
            return
        self._heard = time.monotonic()
        self._parts.append(data)
        self._have += len(data)
        told = False
        while self._have >= self._need:
            joined = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            length, kind, number = struct.unpack_from(">IBI", joined)  # 9 bytes, the shortest
            if kind == VERSION:
                number = -1
            longest = self._asked.get(number, -1)
            if not 5 <= length <= longest:
                self._nonsense = _nonsense(length, longest)
                self._parts.clear()
                told = True
                break
            end = 4 + length
            if len(joined) < end:
                self._parts, self._need = [joined], end
                break
            del self._asked[number]
            self._answers[number] = (kind, joined[5 if kind == VERSION else 9 : end])
            told = True
            rest = joined[end:]
            self._parts, self._have, self._need = ([rest] if rest else []), len(rest), 9
        if told:
            with self._channel.changed:
                self._channel.changed.notify_all()

    def _refused(self, answer: Answer, *allowed: int) -> None:
        """Raise the refusal that came in the place of an answer, unless it is an `allowed` one."""
        try:
            self.done(answer)
        except StatusError as error:
            if error.code not in allowed:
                raise
        else:
            raise NonsenseError("that all went well, and not what was asked for")

    def _string_answer(self, answer: Answer, wanted: int) -> bytes:
        if answer[0] != wanted:
            self._refused(answer)
        return Reader(answer[1]).string()


def _nonsense(length: int, longest: int) -> str:
    """Return what is wrong with an answer, of which so much is known."""
    if longest < 0:
        return "an answer to nothing that was asked"
    if length < 5:
        return f"an answer of {length} bytes"
    return f"an answer of {length} bytes, where {longest} are the most"
