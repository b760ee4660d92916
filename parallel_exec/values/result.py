"""What one command produced."""

from __future__ import annotations

import json
from dataclasses import field
from typing import Any, Literal

from parallel_exec.errors import (
    CommandFailedError,
    CommandIdleError,
    CommandTimeoutError,
    ConnectionLostError,
    OutputLimitError,
    ParallelExecError,
    TaskCancelledError,
)
from parallel_exec.text import SAID, plain
from parallel_exec.values.command import UTF_8, Command
from parallel_exec.values.frozen import frozen
from parallel_exec.values.secret import mask

__all__ = ["Result", "Stopped", "lines_of"]

Stopped = Literal["timeout", "idle", "cancel", "output", "lost"]

LOOKED_AT = 16384  # bytes of the output's end in which its last line is looked for


@frozen
class Result:
    """What one command produced, whole or up to the moment it was stopped.

    Attributes:
        command: The command that ran.
        environment: The name of the place it ran in.
        stdout: Its standard output, byte for byte.
        stderr: Its standard error.
        exit_code: The status it exited with; None if a signal ended it or no
            status is known.
        signal: The name of the signal that ended it ("SIGTERM"), else None.
        stopped: Why it was stopped from here: "timeout", "idle" (it printed nothing for
            its `idle_timeout`), "cancel", "output" (too much of it), "lost"
            (its end is unknown: the connection broke, or it was to be ended and the host
            did not say that it has); None if it ended by itself.
        started_at: When it started, in seconds since the epoch, as `time.time`.
        duration_s: Seconds from start to end.
        queued_s: Seconds it waited for its turn before that.
        attempts: How many tries it took, this one included.
        cause: Why its end is unknown, if it is.
    """

    command: Command
    environment: str
    stdout: bytes = field(repr=False)
    stderr: bytes = field(repr=False)
    exit_code: int | None
    signal: str | None
    stopped: Stopped | None
    started_at: float
    duration_s: float
    queued_s: float
    attempts: int
    cause: str | None = None

    @property
    def ok(self) -> bool:
        """Whether it ended by itself with exit status 0."""
        return self.exit_code == 0 and self.stopped is None

    @property
    def timed_out(self) -> bool:
        """Whether it was ended for being over its `timeout` or its `idle_timeout`."""
        return self.stopped in ("timeout", "idle")

    @property
    def truncated(self) -> bool:
        """Whether it was ended for printing more than `max_output_bytes`."""
        return self.stopped == "output"

    def text(self, encoding: str | None = None, errors: str = "replace") -> str:
        """Return stdout as text; bytes that do not decode are replaced by default."""
        return self.stdout.decode(encoding or self.command.encoding, errors)

    def lines(self, encoding: str | None = None, errors: str = "replace") -> list[str]:
        """Return the lines of stdout without their line ends."""
        return lines_of(self.text(encoding, errors))

    def json(self) -> Any:
        """Return stdout parsed as JSON.

        Raises:
            ValueError: It is no JSON (`json.JSONDecodeError`); the message names the command
                and shows how the output begins.
        """
        try:
            return json.loads(self.stdout)
        except json.JSONDecodeError as error:
            began = plain(error.doc, SAID) if error.doc else "nothing"
            said = f"{plain(self.command)} printed no JSON but {began}: {error.msg}"
            raise json.JSONDecodeError(said, error.doc, error.pos) from None
        except UnicodeDecodeError as error:
            said = f"{plain(self.command)} printed no JSON: {error}"
            raise json.JSONDecodeError(said, "", 0) from None

    def check(self) -> Result:
        """Return this result if `ok`.

        Raises:
            CommandError, TaskCancelledError, ConnectionLostError: It is not.
        """
        error = self.error(check=True)
        if error is not None:
            raise error
        return self

    def error(self, *, check: bool) -> ParallelExecError | None:
        """Return the error that this result stands for, if it does for one.

        Args:
            check: Whether an exit status or a signal counts.
        """
        where = f"on {plain(self.environment)}"
        command = plain(self.command)
        if self.stopped == "timeout":
            limit = self.command.timeout
            after = f"{limit:g} s" if limit is not None else f"{self.duration_s:.3g} s"
            return CommandTimeoutError(
                f"timed out {where} after {after}: {command}{self._tail()}", result=self
            )
        if self.stopped == "idle":
            quiet = f"{self.command.idle_timeout:g} s" if self.command.idle_timeout else "too long"
            return CommandIdleError(
                f"printed nothing {where} for {quiet} and was ended: {command}{self._tail()}",
                result=self,
            )
        if self.stopped == "output":
            return OutputLimitError(
                f"printed more than {self.command.max_output_bytes} bytes {where} and was"
                f" ended: {command}",
                result=self,
            )
        if self.stopped == "cancel":
            return TaskCancelledError(
                f"was cancelled {where} after {self.duration_s:.3g} s: {command}",
                result=self,
                environment=self.environment,
                attempts=self.attempts,
            )
        if self.stopped == "lost":
            because = plain(self.cause or "the connection was lost", SAID)
            return ConnectionLostError(
                f"the end is not known {where}: {because}; it may still run there: {command}",
                result=self,
                environment=self.environment,
                attempts=self.attempts,
            )
        if check and not self.ok:
            return CommandFailedError(
                f"{self._ending()} {where}: {command}{self._tail()}", result=self
            )
        return None

    def _ending(self) -> str:
        if self.signal is not None:
            return f"was ended by {self.signal}"
        if self.exit_code is None:
            return "ended without a known exit status"
        return f"exited with {self.exit_code}"

    def _tail(self) -> str:
        """Return the last line that it printed, for the message: of stderr, or of stdout where
        stderr is empty, since some tools say there why they failed.
        """
        encoding = self.command.encoding
        secrets = self.command.secrets()
        for printed in (self.stderr, self.stdout):
            # Enough for the last line; a character of no encoding is cut in the middle.
            begin = max(len(printed) - LOOKED_AT, 0) & ~3
            if not secrets:
                text = printed[begin:].decode(encoding, "replace")
            elif encoding == UTF_8:
                text = mask(printed, secrets).decode(encoding, "replace")
            else:
                text = mask(printed[begin:].decode(encoding, "replace").encode(), secrets).decode()
            lines = text.strip().splitlines()
            if lines:
                return f": {plain(lines[-1], SAID, end=True)}"
        return ""


def lines_of(text: str) -> list[str]:
    r"""Split `text` at line feeds; a carriage return before one belongs to it."""
    lines = text.replace("\r\n", "\n").split("\n")
    if lines[-1] == "":
        lines.pop()
    return lines
