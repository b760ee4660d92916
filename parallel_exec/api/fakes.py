"""An environment that runs nothing, and a clock that stands still."""

from __future__ import annotations

import heapq
import itertools
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from parallel_exec import reactor
from parallel_exec.api.environments import Runnable
from parallel_exec.environments import redirect
from parallel_exec.environments.base import EndReason, Ticket, report_beginning
from parallel_exec.errors import CommandStartError, ExecutorClosedError
from parallel_exec.reactor import Clock, Timer
from parallel_exec.values.command import Command
from parallel_exec.values.result import Result, Stopped
from parallel_exec.values.streams import INHERIT, MERGED

__all__ = ["FakeClock", "FakeEnvironment", "FakeReply"]


class FakeClock:
    """Time that goes on when it is told to.

    Give it as ``clock=`` where there is such a parameter. What is due is called inside of
    `advance`, in the thread that calls it.

    **Thread safety:** none; for tests in one thread.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._timers: list[Timer] = []
        self._order = itertools.count()

    def now(self) -> float:
        """Return the time in seconds."""
        return self._now

    def call_at(self, when: float, call: Callable[..., object], *args: Any) -> Timer:
        """Have `call` made when the time is `when`."""
        timer = Timer(when, next(self._order), call, args)
        heapq.heappush(self._timers, timer)
        return timer

    def post(self, call: Callable[..., object], *args: Any) -> None:
        """Call `call` now."""
        call(*args)

    def advance(self, seconds: float) -> None:
        """Let time go on, and make the calls that become due, each at its own time."""
        end = self._now + seconds
        while self._timers and self._timers[0].when <= end:
            timer = heapq.heappop(self._timers)
            self._now = max(self._now, timer.when)
            if timer.call is not None:
                timer.call(*timer.args)
        self._now = end


@dataclass(frozen=True, slots=True)
class FakeReply:
    """How a fake environment answers a command.

    Attributes:
        stdout: What it prints; text is encoded as the command says.
        stderr: The same for standard error.
        exit_code: Its status; None if `signal` ended it.
        signal: The name of the signal that ended it, as "SIGKILL", or None.
        error: An error to end with in place of a result: a `HostError`, say.
        delay_s: Seconds until the answer. It can be ended meanwhile, and it prints nothing
            meanwhile: a command with a shorter `idle_timeout` is ended by that.
    """

    stdout: str | bytes = b""
    stderr: str | bytes = b""
    exit_code: int | None = 0
    signal: str | None = None
    error: BaseException | None = None
    delay_s: float = 0.0


Reply = FakeReply | str | bytes | int | BaseException
Replies = Mapping[str, Reply] | Callable[[Command], Reply]


class FakeEnvironment(Runnable):
    """An environment that runs nothing: it answers commands and remembers them.

    Args:
        replies: Answers by the words of the command, as `str(command)` gives them, or a
            function of the `Command`. An answer is a `FakeReply`, text for its stdout, a
            number for its exit status, or an error. What is not listed exits with 127.
        name: What results and errors call it.
        clock: For delays; real time by default.

    Attributes:
        commands: The words of the commands that were started, in order.

    **Thread safety:** yes, with the real clock.
    """

    def __init__(
        self, replies: Replies | None = None, *, name: str = "fake", clock: Clock | None = None
    ) -> None:
        self._replies: Replies = {} if replies is None else replies
        self._name = name
        self._clock = clock
        self._closed = False
        self._running: set[_FakeExecution] = set()
        self.commands: list[str] = []

    @property
    def name(self) -> str:
        """What results and errors call it."""
        return self._name

    def start(self, command: Command, ticket: Ticket) -> _FakeExecution:
        """See `parallel_exec.Environment.start`."""
        clock = self._clock or reactor.get()
        execution = _FakeExecution(self, command, ticket, clock)
        if self._closed:
            clock.post(ticket.settled, ExecutorClosedError("this environment has been closed"))
            return execution
        try:
            redirect.check_folders(command, self._name)
        except CommandStartError as error:
            clock.post(ticket.settled, error)
            return execution
        self.commands.append(str(command.replace(label=None)))
        self._running.add(execution)
        report_beginning(ticket)
        delay, quiet = execution.reply.delay_s, command.idle_timeout
        if quiet is None or delay < quiet:
            execution.timer = clock.call_at(clock.now() + delay, execution.answer)
        else:
            execution.timer = clock.call_at(clock.now() + quiet, execution.fall_silent)
        return execution

    def close(self) -> None:
        """End what still runs. Idempotent."""
        self._closed = True
        for execution in list(self._running):
            execution.end("cancel")

    def reply_to(self, command: Command) -> FakeReply:
        """Return the answer to a command."""
        if callable(self._replies):
            reply = self._replies(command)
        else:
            words = str(command.replace(label=None))
            reply = self._replies.get(words, FakeReply(stderr="not found", exit_code=127))
        if isinstance(reply, str | bytes):
            return FakeReply(stdout=reply)
        if isinstance(reply, int):
            return FakeReply(exit_code=reply)
        if isinstance(reply, BaseException):
            return FakeReply(error=reply)
        return reply


class _FakeExecution:
    """A command that is being answered."""

    def __init__(
        self, environment: FakeEnvironment, command: Command, ticket: Ticket, clock: Clock
    ) -> None:
        self._environment = environment
        self._command = command
        self._ticket = ticket
        self._clock = clock
        self._began = clock.now()
        self._over = False
        self.reply = environment.reply_to(command)
        self.timer: Timer | None = None

    def answer(self) -> None:
        """Report the end."""
        self._settle(None)

    def fall_silent(self) -> None:
        """Report that it has printed nothing for too long."""
        self._settle("idle")

    def end(self, reason: EndReason) -> None:
        """See `parallel_exec.environments.base.Execution.end`."""
        self._clock.post(self._settle, reason)

    def kill(self) -> None:
        """See `parallel_exec.environments.base.Execution.kill`."""

    def _settle(self, stopped: Stopped | None) -> None:
        if self._over:
            return
        self._over = True
        if self.timer is not None:
            self.timer.cancel()
        self._environment._running.discard(self)
        reply = self.reply
        if reply.error is not None and stopped is None:
            self._ticket.settled(reply.error)
            return
        printed = (self._bytes(reply.stdout), self._bytes(reply.stderr))
        try:
            stdout, stderr = self._divert(*(printed if stopped is None else (b"", b"")))
        except OSError as error:
            self._ticket.settled(error)
            return
        self._ticket.settled(
            Result(
                command=self._command,
                environment=self._environment.name,
                stdout=stdout,
                stderr=stderr,
                exit_code=reply.exit_code if stopped is None and reply.signal is None else None,
                signal=reply.signal if stopped is None else "SIGTERM",
                stopped=stopped,
                started_at=time.time(),
                duration_s=self._clock.now() - self._began,
                queued_s=self._ticket.queued_s,
                attempts=self._ticket.attempts,
            )
        )

    def _divert(self, *printed: bytes) -> tuple[bytes, bytes]:
        """Write what goes elsewhere; return what is left for the result."""
        command, name = self._command, self._environment.name
        left = list(printed)
        if command.stderr == MERGED:
            left = [b"".join(printed), b""]
        for stream, where in enumerate((command.stdout, command.stderr)):
            if where is None or (stream, where) == (1, MERGED):
                continue
            if where == INHERIT:
                redirect.write_all(redirect.inherited(stream, command, name), left[stream])
            else:
                fd = redirect.open_file(stream, command, name)
                try:
                    redirect.write_all(fd, left[stream])
                finally:
                    os.close(fd)
            left[stream] = b""
        return left[0], left[1]

    def _bytes(self, text: str | bytes) -> bytes:
        if isinstance(text, bytes):
            return text
        # What cannot be encoded must not cost the answer.
        return text.encode(self._command.encoding, "backslashreplace")
