"""One unit of work, and the kinds of work there are."""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Protocol

from parallel_exec.engine.cancel import CancelToken
from parallel_exec.errors import CommandStartError, HostError
from parallel_exec.limits.base import Request, begin
from parallel_exec.reactor import Timer
from parallel_exec.reactor.mishaps import is_interrupt
from parallel_exec.values.outcome import Outcome, Status
from parallel_exec.values.result import Result

if TYPE_CHECKING:
    from concurrent.futures import Future
    from contextvars import Context

    from parallel_exec.engine.retry import RetryState
    from parallel_exec.engine.run import Run

__all__ = ["PENDING", "Stoppable", "Task", "Work"]

PENDING = object()  # what a call gives whose end will be reported later


class Stoppable(Protocol):
    """Something that runs and can be asked to end; see `environments.base.Execution`."""

    def end(self, reason: Any) -> None: ...
    def kill(self) -> None: ...


class Work(Protocol):
    """What a task does when its turn has come.

    Attributes:
        threaded: Whether it needs a thread: then `call` is called in one; its return or
            exception is the end, unless it is `PENDING`. Otherwise `start` is called,
            which never blocks, and the end is reported by `Run.ended`.
        abandonable: Whether its end may not come although it was asked for, so that the
            engine must give up on it after a while.
        exempt: Whether it runs already, so that no limit applies.
        is_command: Whether it is a command, for the default of a retry.
        timeout: Seconds for each try of it, or None for those of its run.
    """

    @property
    def threaded(self) -> bool: ...
    @property
    def abandonable(self) -> bool: ...
    @property
    def exempt(self) -> bool: ...
    @property
    def is_command(self) -> bool: ...
    @property
    def timeout(self) -> float | None: ...

    def call(self, task: Task) -> Any: ...
    def start(self, task: Task) -> Stoppable: ...
    def label(self) -> str: ...


class Task(Request):
    """A task on its way through the scheduler, which alone changes it.

    It is the request for its own place under the limit, and the ticket that an
    environment reports to.

    Attributes:
        index: Its place among the tasks of its run.
        work: What it does.
        state: "queued", "running", "ending" (asked to end), "waiting" (for its next try),
            "abandoned" (settled, but still running), "settled".
        attempt: The number of the try that runs or ran last; 0 before the first.
        status: How it ended, once it has.
        given: What the user gave; `Outcome.task`.
        repeatable: Whether the user says that running it twice does no harm.
    """

    __slots__ = (
        "_token",
        "abandoned",
        "attempt",
        "context",
        "ended_at",
        "ending",
        "error",
        "errors",
        "execution",
        "future",
        "given",
        "index",
        "queued_at",
        "repeatable",
        "retry",
        "run",
        "started_at",
        "state",
        "status",
        "timer",
        "value",
        "work",
    )

    run: Run

    def __init__(self, index: int, work: Work) -> None:
        super().__init__()
        self.index = index
        self.work = work
        self.given: Any = None
        self.repeatable = False
        self.state = "queued"
        self.attempt = 0
        self.ending: Any = None  # why it was asked to end: "timeout" or "cancel"
        self.execution: Stoppable | None = None
        self.timer: Timer | None = None
        self.retry: RetryState | None = None
        self.errors: tuple[BaseException, ...] = ()
        self.status: Status | None = None
        self.value: Any = None
        self.error: BaseException | None = None
        self.abandoned = False
        self.future: Future[Any] | None = None
        self.context: Context | None = None  # that of its run, if None
        self._token: CancelToken | None = None
        self.queued_at = 0.0
        self.started_at = 0.0
        self.ended_at = 0.0

    def label(self) -> str:
        """Return what reports and errors call it."""
        try:
            return self.work.label()
        except BaseException as error:  # somebody's `__repr__`: a name costs no outcome
            if is_interrupt(error):
                raise
            return type(self.work).__name__

    def token(self) -> CancelToken:
        """Return the token that the task's function sees."""
        token = self._token
        if token is None:
            token = self._token = CancelToken()
            if self.ending is not None:  # asked to end just before
                token.cancel(f"the task was ended ({self.ending})")
        return token

    def outcome(self) -> Outcome[Any]:
        """Return how it ended."""
        assert self.status is not None
        return Outcome(
            index=self.index,
            label=self.label(),
            status=self.status,
            value=self.value,
            reason=self.error,
            attempts=self.attempt,
            duration_s=self.ended_at - self.started_at if self.attempt else 0.0,
            attempt_errors=self.errors,
            abandoned=self.abandoned,
            task=self.given,
        )

    def try_outcome(self, value: Any, error: BaseException | None, now: float) -> Outcome[Any]:
        """Return how the try that has just ended did, as if there were no other."""
        status: Status = "fulfilled"
        if error is not None:
            status = "cancelled" if isinstance(error, CancelledError) else "rejected"
        return Outcome(
            index=self.index,
            label=self.label(),
            status=status,
            value=value,
            reason=error,
            attempts=self.attempt,
            duration_s=now - self.since,
            attempt_errors=self.errors,
            abandoned=self.abandoned,
            task=self.given,
        )

    def harmless(self, error: BaseException | None) -> bool:
        """See `Request.harmless`."""
        surely_not_run = isinstance(error, HostError | CommandStartError)
        return self.repeatable or (surely_not_run and self.work.is_command)

    @property
    def host(self) -> str | None:
        """The name of its environment, if it is a command: what `PerHost` goes by."""
        return getattr(self.work, "host", None)

    # As a request

    def granted(self) -> None:
        """Be told, by whoever released a place, that it is this task's now."""
        self.run.clock.post(self.run.granted, self)

    # As a ticket

    @property
    def queued_s(self) -> float:
        """Seconds it waited for its turn before this try."""
        return self.since - self.queued_at

    @property
    def attempts(self) -> int:
        """Which try this is, from 1."""
        return self.attempt

    def settled(self, ending: Result | BaseException) -> None:
        """Be told by the environment that the command has ended."""
        self.run.command_ended(self, ending)

    def began(self) -> None:
        """Be told by the environment that the command starts now."""
        begin(self)

    def strained(self, error: BaseException) -> None:
        """Be told by the environment that the command waits for room."""
        self.run.strained(self, error)

    # As what runs, for functions

    def end(self, reason: str) -> None:
        """Set the token that the function sees."""
        if self._token is not None:
            self._token.cancel(f"the task was ended ({reason})")

    def kill(self) -> None:
        """A function cannot be killed."""
