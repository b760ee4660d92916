"""The seam between the engine and the places where commands run.

A backend is told to start a command and reports once, when it has ended. It needs
no thread for that if it has a better way; one that can only block derives from
`BlockingBackend`. `tests/conformance.py` holds what every backend must do.
"""

from __future__ import annotations

import contextlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

from parallel_exec import reactor
from parallel_exec.errors import CommandStartError, ExecutorClosedError
from parallel_exec.reactor import busy
from parallel_exec.text import plain
from parallel_exec.values.command import Command
from parallel_exec.values.result import Result

__all__ = [
    "Backend",
    "BlockingBackend",
    "EndReason",
    "Execution",
    "Stop",
    "Ticket",
    "wait_for_starts",
]

EndReason = Literal["timeout", "cancel"]


class Ticket(Protocol):
    """What the engine gives along with a command: whom to tell, and what it knows.

    Attributes:
        queued_s: Seconds the command waited for its turn; for `Result.queued_s`.
        attempts: Which try this is, from 1; for `Result.attempts`.
    """

    @property
    def queued_s(self) -> float: ...
    @property
    def attempts(self) -> int: ...

    def settled(self, ending: Result | BaseException) -> None:
        """Report the end, exactly once, from any thread.

        A command that ran gives a `Result`, also when it was stopped
        (`Result.stopped` says why) or the connection broke; one that never ran
        gives the error: `CommandStartError`, `HostError`.
        """

    def began(self) -> None:
        """Report that the command starts now; rates count it from here. From any thread, as
        often as you like; the first time counts.
        """

    def strained(self, error: BaseException) -> None:
        """Report that the command has to wait for descriptors, processes or channels."""


def report_beginning(ticket: Ticket) -> None:
    """Call ``ticket.began()``, if it has that: a wrapper of somebody's own may not."""
    began = getattr(ticket, "began", None)
    if began is not None:
        began()


class Execution(Protocol):
    """A command on its way."""

    def end(self, reason: EndReason) -> None:
        """Begin to end it and everything it started: TERM, after `kill_after` KILL.

        Returns at once, from any thread; the end is reported to the ticket. The
        first reason stands. Doing it twice, or after the end, changes nothing.
        """

    def kill(self) -> None:
        """Skip what is left of `kill_after`: KILL now. For `end` already called."""


@runtime_checkable
class Backend(Protocol):
    """A place where commands run."""

    @property
    def name(self) -> str:
        """What results and errors call it."""

    def start(self, command: Command, ticket: Ticket) -> Execution:
        """Start `command`, or begin to; never wait, never raise. Thread-safe."""

    def close(self) -> None:
        """End what still runs, give back what is held. Idempotent."""


class Stop:
    """Whether, and why, a blocking command shall end.

    Attributes:
        reason: "timeout" or "cancel" once it shall end, else None.
        killed: Whether `kill_after` shall no longer be waited for.
        ended_at: When `reason` was set, in monotonic seconds; 0 before.
    """

    def __init__(self) -> None:
        self.reason: EndReason | None = None
        self.killed = False
        self.ended_at = 0.0
        self._event = threading.Event()
        self._wake: Callable[[], object] = lambda: None

    def on_change(self, wake: Callable[[], object]) -> None:
        """Have `wake` called, from any thread, when `reason` or `killed` changes.

        It is called at once if the stop is already requested.
        """
        self._wake = wake
        if self.reason is not None:
            self._wake()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the command shall end; return whether it shall."""
        return self._event.wait(timeout)

    def end(self, reason: EndReason) -> None:
        """See `Execution.end`."""
        if self.reason is None:
            self.ended_at = time.monotonic()
            self.reason = reason
            self._event.set()
            self._wake()

    def kill(self) -> None:
        """See `Execution.kill`."""
        self.killed = True
        self._wake()


class BlockingBackend(ABC):
    """A backend that can only block: each command gets a thread for its time.

    Attributes:
        tells_beginning: Whether `execute` calls ``ticket.began()``, when the command starts.
            If not, it counts as started when `execute` is called.
    """

    tells_beginning = False

    @property
    @abstractmethod
    def name(self) -> str:
        """What results and errors call it."""

    @abstractmethod
    def execute(self, command: Command, ticket: Ticket, stop: Stop) -> Result:
        """Run `command` to its end and return its result, in a thread of its own.

        When `stop.reason` is set, end the command and everything it started (TERM,
        after `command.kill_after` or at once if `stop.killed`, KILL) and return the
        partial result with `stopped` set to the reason. A raised exception means
        that nothing ran.
        """

    @abstractmethod
    def close(self) -> None:
        """End what still runs, give back what is held. Idempotent."""

    def close_unused(self) -> bool:
        """Close it if nothing was ever used, without waiting; return whether it is closed.

        Once what was submitted before has begun (`wait_for_starts`). A group of many hosts
        closes those of them first.
        """
        return False

    def starting(self, stop: Stop) -> None:  # noqa: B027 - it need not
        """Take note of a command that `execute` will be called with; never wait."""

    def refused(self, stop: Stop) -> None:  # noqa: B027 - it need not
        """Take note that `execute` will not be called with it: there is no thread for it."""

    def start(self, command: Command, ticket: Ticket) -> Execution:
        """See `Backend.start`."""
        stop = Stop()
        self.starting(stop)
        self._launch(command, ticket, stop)
        return stop

    def _launch(self, command: Command, ticket: Ticket, stop: Stop) -> None:
        """Begin to execute `command` in a thread, as soon as there is one to be had."""

        def work() -> None:
            busy.begin(stop)
            try:
                if not self.tells_beginning:
                    report_beginning(ticket)
                ending: Result | BaseException = self.execute(command, ticket, stop)
            except BaseException as error:
                ending = error
            busy.end(stop)
            ticket.settled(ending)

        if stop.reason is not None:
            work()  # it begins nothing any more
            return
        thread = reactor.Thread(target=work, name=f"parallel_exec {self.name}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # out of threads: wait and go on
            loop = reactor.get()
            if reactor.starts_no_more_threads(error):
                refusal = ExecutorClosedError(
                    f"did not start ({plain(error)}): {plain(command)}", environment=self.name
                )
                self.refused(stop)
                loop.post(ticket.settled, refusal)
                return
            if not busy.may_give_back():
                what = f"{command} cannot be started: {error}"
                self.refused(stop)
                loop.post(ticket.settled, CommandStartError(what, environment=self.name))
                return
            ticket.strained(error)
            loop.call_at(loop.now() + 0.05, self._launch, command, ticket, stop)


def wait_for_starts() -> None:
    """Wait until what was submitted before has begun, so that it is ended, not refused."""
    service = reactor.get()
    if service.inside():
        return
    begun = threading.Event()
    with contextlib.suppress(RuntimeError):  # no thread starts any more: nothing does
        service.post(begun.set)
        begun.wait()


def clock() -> float:
    """Return monotonic seconds, the time that durations are measured in."""
    return time.monotonic()
