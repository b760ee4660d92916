"""The life of the tasks of one run: a state machine that performs nothing itself.

    queued ──> running ──> settled
       ^          │  ^ │
       │          v  │ └──> ending ──> settled
       └─── waiting ─┘         └─────> abandoned ──> (its place is given back)

`queued` waits for a place under the limit; `waiting` for its next try, with neither place
nor thread; `ending` was asked to end. Every event is a method, called with the run's lock
held. It changes state, appends settled tasks and events, and leaves what is to be done
outside of the lock in `actions`, a list of (verb, task or requests, argument).

Settled tasks and events are appended under the lock, so their order is the order of the
steps; actions may be performed in any order by any thread, each thread its own. The two
that can meet, START and END of one try, are told apart by whoever performs START: it
looks whether the task was asked to end meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, Literal

from parallel_exec.engine.events import Event, TaskFinished, TaskRetrying, TaskStarted
from parallel_exec.engine.retry import GiveUp, RetryAgain
from parallel_exec.engine.task import Stoppable, Task
from parallel_exec.errors import ConnectionLostError, TaskCancelledError, TaskTimeoutError
from parallel_exec.limits import base
from parallel_exec.limits.base import Limit, Limiter, Request
from parallel_exec.limits.rule import Verdict
from parallel_exec.text import plain
from parallel_exec.values.outcome import Status

__all__ = [
    "AGAIN",
    "END",
    "FINISHED",
    "GIVE_UP_AFTER",
    "KILL",
    "RESOLVE",
    "START",
    "TELL",
    "Scheduler",
    "StopRule",
    "seen",
]

Action = tuple[str, Any, Any]
START = "start"  # (task, None): begin a try
END = "end"  # (task, reason): ask the try to end
KILL = "kill"  # (task, None): do not wait for `kill_after` any more
STILL_RUNS = "could not be ended and still runs"
GIVE_UP_AFTER = "give up after"  # (task, attempt): abandon it if it has not ended by then
AGAIN = "again"  # (task, seconds): begin the next try after that
TELL = "tell"  # (requests, None): places were granted to others
RESOLVE = "resolve"  # (task, None): settle its future
FINISHED = "finished"  # (None, None): every task is settled and no more will come

StopRule = Callable[[Status], bool]
Reason = Literal["failed", "won", "cancelled", "deadline", "closed", "no more"]


class NoLimit:
    """The limit of what runs already."""

    def parts(self, request: Request) -> tuple[base.Limiter, ...]:
        return ()


NO_LIMIT = NoLimit()


def seen(task: Task, value: Any, error: BaseException | None) -> tuple[Any, BaseException | None]:
    """Return what a try that ended with `value` or `error` counts as.

    What was asked to end and failed, failed because of that. A function that returned
    all the same after its timeout was over it; one that returned after a cancel was not
    stopped by it. What a command was stopped by is known to its environment, and also that
    nobody knows whether it has ended.
    """
    ending = task.ending
    if task.work.is_command and isinstance(error, ConnectionLostError):
        return value, error
    if ending == "timeout" and not isinstance(error, TaskTimeoutError):
        if error is None and task.work.is_command:
            return value, None
        over = TaskTimeoutError(
            f"was over its timeout: {plain(task.label())}", attempts=task.attempt
        )
        over.__cause__ = error
        return None, over
    if ending == "cancel" and error is not None and not isinstance(error, TaskCancelledError):
        stopped = TaskCancelledError(f"was cancelled: {plain(task.label())}", attempts=task.attempt)
        stopped.__cause__ = error
        return None, stopped
    return value, error


def _because(reason: Reason, index: int, label: str) -> TaskCancelledError:
    """Return the error of a task that was skipped because of another."""
    ended = "failed" if reason == "failed" else "came first"
    return TaskCancelledError(f"skipped: task {index} {ended}: {plain(label)}")


class Scheduler:
    """The state of one run. Every method is one step.

    Args:
        limit: What decides how many run at once.
        stop_rule: Asked after every settled task whether the run stops with it.
        listening: Whether events are wanted.
        quiet: Whether only those are that something out of the ordinary makes.
        keep: Whether settled tasks are kept for somebody to take.

    Attributes:
        actions: What is to be performed; the caller takes the list.
        settled: The tasks that have ended, in the order in which they did.
        events: What happened, in order.
        live: The tasks that have not, by index.
        queued: How many of them wait for a place.
        stopping: Why nothing begins any more, or None.
        ending: Whether what runs was asked to end, too.
        no_more: Why nothing is to begin any more; any thread may set it at any time.
        left_out: Whether a task was skipped for that reason.
        culprit: The task that made it stop, if one did.
        closed: Whether no more tasks will come.
        killed: Whether nothing is waited for any more.
        counts: How many tasks ended with each status, if anybody listens.
        finished: Whether every task is settled, none is abandoned meanwhile apart.
    """

    def __init__(
        self,
        limit: Limit,
        stop_rule: StopRule | None,
        *,
        listening: bool,
        quiet: bool = False,
        keep: bool = True,
    ) -> None:
        self.limit = limit
        self.stop_rule = stop_rule
        self.listening = listening
        self.telling = listening and not quiet
        self.keep = keep
        self.actions: list[Action] = []
        self.settled: deque[Task] = deque()
        self.events: deque[Event] = deque()
        self.live: dict[int, Task] = {}
        self.queued = 0
        self.stopping: Reason | None = None
        self.ending = False
        self.no_more: str | None = None
        self.left_out = False
        self.stop_error: Callable[[], BaseException] | None = None
        self.culprit: Task | None = None
        self.closed = False
        self.killed = False
        self.finished = False
        self.counts: dict[Status, int] = {}

    def feed(self, tasks: list[Task], now: float, *, last: bool) -> None:
        """Take in tasks; `last` says that no more will come."""
        live = self.live
        limited = []
        for task in tasks:
            task.queued_at = now
            live[task.index] = task
            if self.stopping is not None:
                self._skip(task, now)
            elif self._find_parts(task, now):
                limited.append(task)
        if self.stopping is not None:
            for task in limited:
                self._skip(task, now)
            limited = []
        placed = base.acquire_each(limited)
        self.queued += len(limited) - len(placed)
        for task in placed:
            self._start(task)
        if last:
            self.closed = True
        self._finish_if_over()

    def launched(self, task: Task, attempt: int, execution: Stoppable) -> None:
        """What can be asked to end a try is known now. It may have ended already."""
        if task.attempt == attempt and task.state in ("running", "ending"):
            task.execution = execution
            if task.ending is not None:  # it was asked to end while it was being started
                self.actions.append((END, task, task.ending))
                if self.killed:
                    self.actions.append((KILL, task, None))

    def granted(self, task: Task, now: float) -> None:
        """A place has come free for `task`."""
        self.queued -= 1
        if self.stopping is not None:
            self._release(task)
            self._skip(task, now)
            self._finish_if_over()
        else:
            self._start(task)

    def ended(
        self,
        task: Task,
        attempt: int,
        value: Any,
        error: BaseException | None,
        decision: RetryAgain | GiveUp | None,
        verdicts: Mapping[Limiter, Verdict],
        now: float,
    ) -> None:
        """A try has ended with `value` or `error` (see `seen`); `decision` is what the
        retry policy says of it, `verdicts` what it means to the limiters that judge.
        """
        if task.attempt != attempt or task.state not in ("running", "ending", "abandoned"):
            return
        if task.state == "abandoned":
            task.state = "settled"
        elif error is None and decision is None:
            self._settle(task, "fulfilled", value, None, now)
        else:
            self._tried(task, value, error, decision, now)
        try:
            # Not before: if the run stops with this task, its place is not for the next one.
            if task.held:
                self._release(task, verdicts)
        finally:  # a limit that is the user's may have raised
            if not self.live:
                self._finish_if_over()

    def _tried(
        self,
        task: Task,
        value: Any,
        error: BaseException | None,
        decision: RetryAgain | GiveUp | None,
        now: float,
    ) -> None:
        """Settle `task`, or have it wait for its next try."""
        if error is not None:
            task.errors += (error,)
        cancelled = isinstance(error, CancelledError) or task.ending == "cancel"
        begins = self.stopping is None and self.no_more is None
        if isinstance(decision, RetryAgain) and begins and not cancelled:
            self._wait(task, decision.delay_s, error)
            return
        if isinstance(decision, GiveUp):
            value, error = decision.value, decision.error
        if error is None:
            self._settle(task, "fulfilled", value, None, now)
        else:
            status: Status = "cancelled" if isinstance(error, CancelledError) else "rejected"
            self._settle(task, status, None, error, now)

    def due(self, task: Task, now: float) -> None:
        """The wait of `task` between two tries is over."""
        if task.state == "waiting":
            task.timer = None
            task.queued_at = now
            task.state = "queued"
            if self._find_parts(task, now):
                if base.acquire_each((task,)):
                    self._start(task)
                else:
                    self.queued += 1
            self._finish_if_over()

    def expired(self, task: Task, attempt: int) -> None:
        """A try of `task` is over its timeout."""
        if task.attempt == attempt and task.state == "running":
            self._end(task, "timeout")

    def give_up(self, task: Task, attempt: int, now: float, what: str = STILL_RUNS) -> None:
        """A try that was asked to end has not: it is left behind with its place.

        Args:
            task: Whose try it is.
            attempt: Its number.
            now: The time.
            what: What is known of it, for the error.
        """
        if task.attempt != attempt or task.state != "ending":
            return
        message = f"{what}: {plain(task.label())}"
        error: TaskTimeoutError | TaskCancelledError
        if task.ending == "timeout":
            error = TaskTimeoutError(message)
        else:
            error = TaskCancelledError(message)
        error.abandoned = True
        task.abandoned = True
        task.errors += (error,)
        self._settle(
            task, "rejected" if task.ending == "timeout" else "cancelled", None, error, now
        )
        task.state = "abandoned"
        self._finish_if_over()

    def stop(self, reason: Reason, error: Callable[[], BaseException], now: float) -> None:
        """End the run: what runs is asked to end, what has not begun is skipped. It is
        finished when it is closed, since tasks may be on their way that are skipped then.

        Args:
            reason: Why; "closed" closes it as well.
            error: Makes the error of the tasks that are skipped.
            now: The time.
        """
        if reason == "closed":
            self.closed = True
        if not self.ending and not self.finished:
            self.stopping = reason
            self.ending = True
            for task in list(self.live.values()):
                if task.state == "running":
                    self._end(task, "cancel")
            self.skip_queued(error, now)
        self._finish_if_over()

    def stop_starting(self, now: float) -> None:
        """Let what runs go on, make no other tries, and skip what has not begun: `no_more`
        has been set.
        """
        if self.stopping is None and not self.finished:
            self.stopping = "no more"
            self.skip_queued(self._no_more_error, now)
        self._finish_if_over()

    def _no_more_error(self) -> BaseException:
        self.left_out = True
        return TaskCancelledError(self.no_more or "")

    def skip_queued(self, error: Callable[[], BaseException], now: float) -> None:
        """Skip what has not begun, and what waits for its next try.

        Args:
            error: Makes the error of each.
            now: The time.
        """
        self.stop_error = error
        for task in list(self.live.values()):
            if task.state == "waiting":
                self._skip(task, now)
            elif task.state == "queued":
                waited, granted = base.withdraw(task)
                self._serve(granted)
                if waited:
                    self.queued -= 1
                    self._skip(task, now)
                # else it has been granted and will be told: `granted` sees to it
        self._finish_if_over()

    def kill(self, now: float) -> None:
        """Wait for nothing any more: KILL what is ending."""
        self.killed = True
        for task in list(self.live.values()):
            if task.state == "ending":
                self.actions.append((KILL, task, None))
                if task.work.abandonable:
                    self.give_up(task, task.attempt, now)

    def close(self) -> None:
        """No more tasks will come."""
        self.closed = True
        self._finish_if_over()

    # Steps within steps

    def _find_parts(self, task: Task, now: float) -> bool:
        """Ask the limit in what `task` needs a place. An error, from code of the user's, ends
        that task alone; return whether there was none.
        """
        try:
            task.parts = (NO_LIMIT if task.work.exempt else self.limit).parts(task)
        except BaseException as error:
            self._settle(task, "rejected", None, error, now)
            return False
        return True

    def _start(self, task: Task) -> None:
        if self.no_more is not None:
            self.stop_starting(task.since)
            self._release(task)
            self._skip(task, task.since)
            return
        task.state = "running"
        task.ending = None
        task.attempt += 1
        task.started_at = task.started_at or task.since
        if self.telling:
            self.events.append(TaskStarted(task.index, task.label(), task.attempt))
        self.actions.append((START, task, None))

    def _end(self, task: Task, reason: str) -> None:
        task.state = "ending"
        task.ending = reason
        if task.timer is not None:  # of its timeout
            task.timer.cancel()
            task.timer = None
        self.actions.append((END, task, reason))
        if task.work.abandonable:
            self.actions.append((GIVE_UP_AFTER, task, task.attempt))

    def _wait(self, task: Task, delay: float, error: BaseException | None) -> None:
        task.state = "waiting"
        if task.timer is not None:
            task.timer.cancel()
            task.timer = None
        task.execution = None
        task._token = None
        if self.listening:
            reason = error or ValueError("its value asks for another try")
            self.events.append(TaskRetrying(task.index, task.label(), task.attempt, delay, reason))
        self.actions.append((AGAIN, task, delay))

    def _release(self, task: Task, verdicts: Mapping[Limiter, Verdict] = base.NO_VERDICTS) -> None:
        granted = base.release(task, verdicts)
        if granted:
            self._serve(granted)

    def _serve(self, granted: list[Request]) -> None:
        """Start those of this run that were granted a place; have the others told."""
        others = []
        for request in granted:
            if (
                isinstance(request, Task)
                and self.live.get(request.index) is request
                and self.stopping is None
            ):
                self.queued -= 1
                self._start(request)
            else:
                others.append(request)
        if others:
            self.actions.append((TELL, others, None))

    def _skip(self, task: Task, now: float) -> None:
        assert self.stop_error is not None
        error = self.stop_error()
        if task.errors:
            error.__cause__ = task.errors[-1]
        status: Status = "cancelled" if task.attempt else "skipped"
        self._settle(task, status, None, error, now, left_out=True)

    def _settle(
        self,
        task: Task,
        status: Status,
        value: Any,
        error: BaseException | None,
        now: float,
        *,
        left_out: bool = False,
    ) -> None:
        task.state = "settled"
        if task.timer is not None:
            task.timer.cancel()
            task.timer = None
        task.execution = None  # which has the task: no circle keeps what was captured
        task.status = status
        task.value = value
        task.error = error
        task.ended_at = now
        del self.live[task.index]
        if self.keep:
            self.settled.append(task)
        if self.listening:
            self.counts[status] = self.counts.get(status, 0) + 1
        if self.telling:
            self.events.append(TaskFinished(task.outcome()))
        if task.future is not None:
            self.actions.append((RESOLVE, task, None))
        if self.ending or left_out or self.stop_rule is None:
            return
        if self.stop_rule(status):
            self.culprit = task
            reason: Reason = "won" if status == "fulfilled" else "failed"
            self.stop(reason, partial(_because, reason, task.index, task.label()), now)

    def _finish_if_over(self) -> None:
        if not self.finished and not self.live and self.closed:
            self.finished = True
            self.actions.append((FINISHED, None, None))
