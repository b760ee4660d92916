"""Output on its way from a command to its user: kept, limited, written, split into lines."""

from __future__ import annotations

import codecs
import io
import os
import threading
import time
from collections.abc import Callable

from parallel_exec.environments.redirect import write_all
from parallel_exec.reactor import report
from parallel_exec.reactor.lifecycle import STARTING
from parallel_exec.reactor.mailbox import Mailbox
from parallel_exec.values.command import Command
from parallel_exec.values.streams import INHERIT

__all__ = ["LineSplitter", "Output"]

LONGEST_LINE = 1 << 20  # an unfinished line is handed over at this many bytes
BACKLOG = 1 << 20  # bytes that may wait for slow callbacks before reading pauses

STDOUT, STDERR = 0, 1
NOTHING = (b"", b"")


class LineSplitter:
    """Splits one stream of bytes into lines of text, whatever its chunks are."""

    def __init__(self, encoding: str, longest: int = LONGEST_LINE) -> None:
        self._encoding = encoding
        self._longest = longest
        # Bytes cannot be split at b"\n" in every encoding (UTF-16), so text is split.
        # Those where it works, almost all, take the faster way.
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._rest: list[str] = []  # of the line that has not ended
        self._rest_size = 0
        self._continued = False  # whether the beginning of that line was handed over

    def feed(self, data: bytes, *, final: bool = False) -> list[str]:
        r"""Take more bytes; return the lines they complete, without "\n" or "\r\n".

        A line that grows longer than allowed is returned in pieces, all but the last of
        them as long as allowed.
        """
        text = self._decoder.decode(data, final)
        *lines, rest = text.split("\n")
        if lines:
            lines[0] = "".join((*self._rest, lines[0]))
            if "\r" in text or lines[0].endswith("\r"):
                lines = [line.removesuffix("\r") for line in lines]
            if len(lines[0]) > self._longest or len(text) > self._longest:
                lines = [piece for line in lines for piece in self._pieces(line)]
            if self._continued and not lines[0]:
                del lines[0]  # the whole line but its end has been handed over
            self._rest.clear()
            self._rest_size = 0
            self._continued = False
        if rest:
            self._rest.append(rest)
            self._rest_size += len(rest)
        if self._rest_size >= self._longest:
            *pieces, rest = self._pieces("".join(self._rest), always=True)
            lines += pieces
            self._rest[:] = (rest,) if rest else ()
            self._rest_size = len(rest)
            self._continued = True
        if final and self._rest:
            lines.append("".join(self._rest))
            self._rest.clear()
        return lines

    def _pieces(self, line: str, *, always: bool = False) -> list[str]:
        """Return a line in pieces; with `always`, the last is shorter than allowed."""
        size = self._longest
        end = len(line) + 1 if always else max(1, len(line))
        return [line[at : at + size] for at in range(0, end, size)]


class Output:
    """What a command prints: keeps it, counts it, writes it, hands its lines to callbacks.

    `take` and `close` are called by the one thread that reads the command's output. Writes
    to files, which may block, and callbacks are made in a thread of the command's own, in
    order. When they fall behind, `full` is true and the reader shall pause until `resume`
    is called, from any thread.

    Attributes:
        live: Whether somebody waits for its lines, or a file.
        error: Why a file could not be written, once it could not; `resume` is called then.
        heard: When the last of it came, in monotonic seconds; counted for `idle_timeout`.

    One lock: it guards the backlog's counter; callbacks are made outside of it.
    """

    __slots__ = (
        "_backlog",
        "_calls",
        "_capture",
        "_kept",
        "_left",
        "_lock",
        "_mailbox",
        "_resume",
        "_files",
        "_splitters",
        "_targets",
        "_timed",
        "error",
        "heard",
        "live",
    )

    def __init__(self, command: Command, resume: Callable[[], object]) -> None:
        capture = command.capture
        self._capture = (capture and command.stdout is None, capture and command.stderr is None)
        self._targets = (command.stdout, command.stderr)
        self._files: list[int] | None = None
        self.error: OSError | None = None
        self._kept: list[bytes | io.BytesIO] | tuple[bytes, bytes] = NOTHING
        self._left = command.max_output_bytes
        self._timed = command.idle_timeout is not None
        self.heard = 0.0
        self._mailbox: Mailbox | None = None
        self.live = command.on_stdout is not None or command.on_stderr is not None
        if self.live:
            self._open_mailbox(resume)
            self._splitters = (LineSplitter(command.encoding), LineSplitter(command.encoding))
        self._calls = (command.on_stdout, command.on_stderr)

    def _open_mailbox(self, resume: Callable[[], object]) -> None:
        # Kept only here: it belongs to what has this output, which would be in a circle.
        self._resume = resume
        if self._mailbox is None:
            self._mailbox = Mailbox("parallel_exec lines")
            self._lock = threading.Lock()
            self._backlog = 0

    def write_to(self, stream: int, fd: int, resume: Callable[[], object]) -> None:
        """Have what comes on a stream written to a file, before the first of it comes.

        Args:
            stream: STDOUT or STDERR.
            fd: The file; closed in the end, but for one of the program's own streams.
            resume: As for the class.
        """
        if self._files is None:
            self._files = [-1, -1]
        self._files[stream] = fd
        self.live = True
        self._open_mailbox(resume)

    def take(self, stream: int, data: bytes) -> bool:
        """Take bytes of STDOUT or STDERR; return False if they are more than the limit.

        What is within the limit is kept and handed on all the same.
        """
        within = True
        if self._timed:
            self.heard = time.monotonic()
        if self._left is not None and self._targets[stream] != INHERIT:
            if len(data) > self._left:
                data = data[: self._left]
                within = False
            self._left -= len(data)
        if self._capture[stream]:
            self._keep(stream, data)
        if self._mailbox is not None and self._handed_on(stream):
            with self._lock:
                self._backlog += len(data)
            self._mailbox.put(self._call, stream, data, False)
        return within

    def _handed_on(self, stream: int) -> bool:
        """Return whether what comes on a stream goes to a callback or a file."""
        written = self._files is not None and self._files[stream] >= 0
        return written or self._calls[stream] is not None

    def _keep(self, stream: int, data: bytes) -> None:
        """Mostly there is one piece, or none; more of them go where they need not be copied."""
        if isinstance(self._kept, tuple):
            self._kept = [b"", b""]
        kept = self._kept[stream]
        if not kept:
            self._kept[stream] = data
            return
        if isinstance(kept, bytes):
            first, kept = kept, io.BytesIO()
            kept.write(first)
            self._kept[stream] = kept
        kept.write(data)

    def discards(self, stream: int) -> bool:
        """Return whether nobody wants to know what comes on a stream."""
        wanted = self._capture[stream] or self._left is not None or self._timed
        return not wanted and not self._handed_on(stream)

    @property
    def full(self) -> bool:
        """Whether callbacks are so far behind that reading shall pause.

        Not where they have no thread: a command that is not read does not end, and it may
        be its end that makes room for one.
        """
        return self._mailbox is not None and self._backlog > BACKLOG and not self._mailbox.starved

    def quiet_since(self) -> float:
        """Return since when nothing has come; what waits for slow callbacks comes now."""
        if self.full:
            self.heard = time.monotonic()
        return self.heard

    def close(self, done: Callable[[], object]) -> None:
        """Call `done` when all is written and the last callback has returned: at once if there
        is neither file nor callback.
        """
        if self._mailbox is None:
            done()
            return
        for stream in (STDOUT, STDERR):
            if self._calls[stream] is not None:
                self._mailbox.put(self._call, stream, b"", True)
        if self._files is not None:
            self._mailbox.put(self.close_files)
        self._mailbox.put(done)

    def close_files(self) -> None:
        """Close its files, where none is written any more or none was. Idempotent."""
        with STARTING:  # not during a fork, whose child closes them, too
            files, self._files = self._files, None
            for fd in files or ():
                if fd > 2:
                    os.close(fd)

    def kept(self) -> tuple[bytes, bytes]:
        """Return what was captured of STDOUT and STDERR."""
        if self._kept is NOTHING:
            return NOTHING
        out, err = (kept if isinstance(kept, bytes) else kept.getvalue() for kept in self._kept)
        return out, err

    def _call(self, stream: int, data: bytes, final: bool) -> None:
        if self._files is not None and self._files[stream] >= 0 and self.error is None:
            try:
                write_all(self._files[stream], data)
            except OSError as error:
                self.error = OSError(error.errno, error.strerror, self._targets[stream])
                self._resume()
        call = self._calls[stream]
        if call is not None:
            for line in self._splitters[stream].feed(data, final=final):
                try:
                    call(line)
                except BaseException:  # a SystemExit, too: the command's end is told after this
                    report("a callback for output raised: %r", call)
        with self._lock:
            was_full = self._backlog > BACKLOG
            self._backlog -= len(data)
            resume = was_full and self._backlog <= BACKLOG
        if resume:
            self._resume()
