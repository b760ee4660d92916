"""One call that runs many tasks: performs what the scheduler decides.

Who does what. The calling thread reads input that is at hand, hands it over and waits; it
changes no shared state, so that a KeyboardInterrupt in it can only end the run (`drive`).
Input that may block is read by a thread of its own (`reading`). Steps are
made by whoever brings an event: the thread of a function that has returned, the service
thread for commands, timers and input. A step is made with the run's lock held, and what it
decides is performed after the lock is released. A worker thread that settles its task gets
the next one in the same step.

Nobody waits for the lock: who finds it taken leaves the step to the thread that has it
(`_step`; flat combining, Hendler and others, SPAA 2010). Threads that wait for a lock which
is taken and released every few microseconds would be woken in vain each time.

Locks: `Run._lock` guards the scheduler's state. While it is held, `limits.base.LOCK` may be
taken, and nothing else.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures.thread import BrokenThreadPool
from contextvars import Context, copy_context
from itertools import islice
from typing import Any

from parallel_exec import reactor
from parallel_exec.engine import scheduler as steps
from parallel_exec.engine.cancel import Callback, CancelToken
from parallel_exec.engine.events import Event, Listener, RunFinished, RunStarted
from parallel_exec.engine.future import TaskFuture, settle
from parallel_exec.engine.reading import Reader
from parallel_exec.engine.retry import GiveUp, RetryAgain, RetryPlan
from parallel_exec.engine.scheduler import Scheduler, StopRule
from parallel_exec.engine.task import PENDING, Stoppable, Task
from parallel_exec.errors import (
    CommandStartError,
    DeadlineExceededError,
    ExecutorClosedError,
    HostError,
    TaskCancelledError,
)
from parallel_exec.limits import base
from parallel_exec.limits.base import Limit, Limiter
from parallel_exec.limits.rule import Verdict
from parallel_exec.reactor import Clock, busy, report
from parallel_exec.reactor.mailbox import Mailbox
from parallel_exec.text import plain
from parallel_exec.values.notes import begin_anew
from parallel_exec.values.result import Result

__all__ = ["Run"]

log = logging.getLogger("parallel_exec")

SLOW_S = 0.001  # a task that took longer to be read than this is not waited for
LAST = (steps.RESOLVE, steps.FINISHED)  # of the actions of a step, in this order
SETTLES_S = 1.0  # how long to wait for the service thread, which may be held up
OUT_OF_THREADS_S = 0.05  # how long to wait before a thread is asked for again
WORD_S = 1.0  # how long an end is waited for without a word
NAMED = 3  # how many tasks are named then
OWN_FRAMES = 3  # from `Run._call` to the function of a task: that, `_called`, `Work.call`


class Worker:
    """A thread that calls functions, one after the other, and waits in between."""

    __slots__ = ("gate", "parked", "task", "thread")

    def __init__(self) -> None:
        self.task: Task | None = None
        self.parked = False  # whether it is among those that wait for a task
        self.gate = threading.Lock()
        self.gate.acquire()
        self.thread: threading.Thread | None = None


class Run:
    """The tasks of one call, or of one executor.

    Args:
        limit: How many run at once.
        retry: Which failures are tried again, or None.
        timeout: Seconds for each try, or None.
        kill_after: Seconds that a function is given to end before it is left behind.
        deadline: Seconds for the whole, or None.
        stop_rule: Asked after every task whether the run stops with it.
        listeners: Who is told of events.
        quiet: Whether they want only those that something out of the ordinary makes.
        clock: The time; the service thread's, except in tests.
        each: Whether the calling thread wants every task as it settles.
        background: Whether nobody drives it: tasks are given by `begin` and settle
            their futures.
        label: How events call the run.
        subject: What they say it was called with.
        total: How many tasks there will be, if that is known.
        thread_name: Names each thread.
        initialize: Called first in each thread. If it raises, the run is broken: it stops
            and calls nothing more.
    """

    def __init__(
        self,
        limit: Limit,
        *,
        retry: RetryPlan | None = None,
        timeout: float | None = None,
        kill_after: float = 5.0,
        deadline: float | None = None,
        stop_rule: StopRule | None = None,
        listeners: Iterable[Listener] = (),
        quiet: bool = False,
        clock: Clock | None = None,
        each: bool = False,
        background: bool = False,
        label: str = "run",
        subject: str = "",
        total: int | None = None,
        thread_name: Callable[[], str] = lambda: "parallel_exec worker",
        initialize: Callable[[], object] | None = None,
    ) -> None:
        self.limit = limit
        self.retry = retry
        self.timeout = timeout
        self.kill_after = kill_after
        self.deadline = deadline
        self.clock = clock or reactor.get()
        self.label = label
        self.subject = subject
        self.total = total
        self._thread_name = thread_name
        self._initialize = initialize
        self.context: Context = copy_context()
        self.parent = base.current.get()
        self._failure: BaseException | None = None
        self._listeners = tuple(listeners)
        self._prepares = retry is not None or timeout is not None  # see `_begin`
        self._scheduler = Scheduler(
            limit,
            stop_rule,
            listening=bool(self._listeners),
            quiet=quiet,
            keep=not background,
        )
        self._each = each or (bool(self._listeners) and not quiet)
        self._background = background
        self._lock = threading.Lock()
        self._bell = threading.Lock()  # released to wake the calling thread
        self._bell.acquire()
        self._rung = False
        self._inbox: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()  # steps
        self._launched: deque[tuple[Task, int, Stoppable]] = deque()  # what no step knows of yet
        self._hungry = True  # whether the tasks that are handed over must be told of
        self._low_water = -1  # wake the calling thread for input when so few tasks are live
        self._workers: set[Worker] = set()
        self._parked: list[Worker] = []
        self._starved: deque[Task] = deque()
        self._mailbox = Mailbox("parallel_exec callbacks")
        self._reader: Reader | None = None  # of input that may block
        self._read = 0  # how many tasks have been read
        self._deadline_timer: reactor.Timer | None = None
        self._began = 0.0
        self.delivered = 0  # how many settled tasks the user has been given

    @property
    def culprit(self) -> Task | None:
        """The task that made the run stop, if one did."""
        return self._scheduler.culprit

    @property
    def failure(self) -> BaseException | None:
        """What ended the run early, if that was not one of its tasks: a deadline, a cancel."""
        if self._failure is None and self._scheduler.left_out:
            self._failure = TaskCancelledError(self._scheduler.no_more or "")
        return self._failure

    def is_busy(self) -> bool:
        """Return whether a task runs. For stop rules, which are asked within a step."""
        return any(task.state in ("running", "ending") for task in self._scheduler.live.values())

    # The calling thread

    def drive(
        self,
        tasks: Iterator[Task],
        *,
        window: Callable[[], int],
        at_hand: bool,
        cancel: Iterable[CancelToken] = (),
        acknowledge: bool = True,
    ) -> Generator[Task, None, None]:
        """Run `tasks`; yield them as they settle, in that order.

        Args:
            tasks: Read no further than `window` ahead of what has been yielded.
            window: Asked how many may be read and not yet yielded.
            at_hand: Whether reading never blocks and has no effect, so that tasks may be
                read many at a time, in this thread, and to the end when the run stops early.
                If not, they are read one by one in a thread of their own.
            cancel: Tokens that stop the run.
            acknowledge: Whether a task that has been yielded makes room for another. If
                not, `delivered` is to be raised when it has.

        **Cancellation:** leaving the iterator, by whatever exception, ends the run and
        waits for its end. A second KeyboardInterrupt does not wait for `kill_after`.
        """
        if isinstance(self.clock, reactor.Reactor) and self.clock.inside():
            raise RuntimeError("a blocking call was made in the service thread of parallel_exec")
        self._see_to_service()
        base.refuse_reentry()
        reactor.refuse_when_finalizing()
        callbacks: list[Callback] = []
        error: BaseException | None = None
        over = False  # whether everything had ended when it was left
        lending = False
        try:
            tokens = list(cancel)
            if self.parent is not None:
                tokens.append(CancelToken.current())
            base.lend(self.parent)
            lending = True
            self._began = self.clock.now()
            if self.deadline is not None:
                self.clock.post(self._await_deadline, self.deadline)
            callbacks += self._listen_to(tokens)
            try:
                self._tell(RunStarted(self.total, self.label, self.subject))
                if at_hand:
                    yield from self._settle_all(tasks, window, acknowledge)
                else:
                    yield from self._settle_read(tasks, window, acknowledge)
                error = self.failure
            except BaseException as raised:
                error = raised
                over = self._scheduler.finished
                raise
            finally:
                self._shut()
        finally:
            self._shut()  # again: an interrupt may have come before the first had begun
            if lending:
                base.lend_no_more(self.parent)
            for callback in callbacks:
                callback.close()
            self._deliver()
            if isinstance(error, GeneratorExit) and self.delivered == self._read and over:
                error = None  # it was left when all had been given out
            self._tell(self._ending(error))
            error = None  # its traceback has this frame, and with it all results
            self._reader = None
            # Circles, in which what tasks gave or failed with would live on.
            self._scheduler.settled.clear()
            culprit = self._scheduler.culprit
            if culprit is not None and culprit.state == "settled":
                del culprit.run

    def _settle_all(
        self, tasks: Iterator[Task], window: Callable[[], int], acknowledge: bool
    ) -> Iterator[Task]:
        """Run tasks that are at hand; yield them as they settle."""
        state = self._scheduler
        settled = state.settled
        exhausted = False
        slow = False  # whether the next tasks were long in the making
        while True:
            width = window()
            self._low_water = width - max(1, width // 4)
            while not exhausted and not (slow and settled):
                if state.stopping is not None:
                    width = sys.maxsize  # read to its end, so that each has its outcome
                room = width - (self._read - self.delivered)
                if room <= 0:
                    break
                asked = time.monotonic()
                chunk = list(islice(tasks, room))
                slow = time.monotonic() - asked > SLOW_S
                exhausted = len(chunk) < room
                self._read += len(chunk)
                self._hand_over(chunk, exhausted)
                del chunk  # else what they give would be kept as long as this waits
            if exhausted:
                self._low_water = -1
            batch = len(settled)
            for _ in range(batch):
                if acknowledge:
                    self.delivered += 1
                yield settled.popleft()
            self._deliver()
            if not batch:
                if state.finished and not settled:
                    return
                self._await_bell()

    def _settle_read(
        self, tasks: Iterator[Task], window: Callable[[], int], acknowledge: bool
    ) -> Iterator[Task]:
        """Run tasks whose input may block; yield them as they settle."""
        state = self._scheduler
        settled = state.settled
        reader = self._reader = Reader(
            tasks,
            room=lambda: window() - (self._read - self.delivered),
            hand_over=self._hand_over_read,
            ring=self._ring,
            context=self.context.copy(),
            parent=self.parent,
        )
        self.clock.post(reader.start)
        stopped = False
        while True:
            width = window()
            enough = max(1, width // 4)
            self._low_water = -1 if reader.over else width - enough
            has_read = reader.here and not stopped and not settled and reader.read_here()
            if state.stopping is not None and not stopped:
                if state.stopping == "no more" and not reader.over:
                    state.left_out = True
                reader.stop()
                self._hand_over([], True)
                stopped = True
            batch = len(settled)
            for _ in range(batch):
                if acknowledge:
                    self.delivered += 1
                yield settled.popleft()
            self._deliver()
            reader.wake(enough)
            if batch or has_read:
                continue
            if reader.error is not None and state.stopping is None:
                error, reader.error = reader.error, None
                try:
                    raise error
                finally:
                    del error, reader
            if state.finished and not settled:
                return
            self._await_bell()

    def _hand_over_read(self, tasks: list[Task], last: bool) -> None:
        self._read += len(tasks)
        self._hand_over(tasks, last)

    def _shut(self) -> None:
        """End what still runs and wait until everything has ended. Returns whatever
        interrupts come; the first of them is raised afterwards.
        """
        interrupt: BaseException | None = None
        while True:
            try:
                if sys.is_finalizing():
                    return  # commands have been ended, and no thread runs any more
                if not self._scheduler.finished:
                    self.clock.post(self._stop, "closed", _left)
                if isinstance(self.clock, reactor.Reactor) and self.clock.inside():
                    return  # a forgotten iterator, collected in the service thread
                self._rung = False  # an interrupt may have come before it was noted
                if self._reader is not None:
                    self._reader.stop()
                said_at: float | None = time.monotonic() + WORD_S
                while not self._scheduler.finished:
                    if said_at is None:
                        self._await_bell()
                    elif not self._await_bell(max(0.0, said_at - time.monotonic())):
                        said_at = None
                        self._say_what_is_waited_for()
                for worker in list(self._workers):
                    thread = worker.thread
                    if thread is not None and not self._left_behind(worker):
                        thread.join()
                break
            except BaseException as raised:
                interrupt = interrupt or raised
                self.clock.post(self._kill)
        if interrupt is not None:
            try:
                raise interrupt
            finally:
                del interrupt  # its traceback has this frame

    @staticmethod
    def _left_behind(worker: Worker) -> bool:
        task = worker.task
        return task is not None and task.abandoned

    def _ending(self, error: BaseException | None) -> RunFinished:
        counts = dict(self._scheduler.counts)
        lasted = self.clock.now() - self._began
        return RunFinished(lasted, error, self.label, self.subject, counts)

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:
                report("a listener raised: %r", listener)

    def _deliver(self) -> None:
        events = self._scheduler.events
        while events:
            self._tell(events.popleft())

    def begin(
        self, tasks: list[Task], *, cancel: Iterable[CancelToken] = (), last: bool = True
    ) -> None:
        """Run `tasks` in the background; they settle their futures.

        Args:
            tasks: Each with its future.
            cancel: Tokens that stop the run.
            last: Whether no others will come.
        """
        base.refuse_reentry()
        reactor.refuse_when_finalizing()
        self._see_to_service()
        tokens = list(cancel)
        if self.parent is not None and last:
            tokens.append(CancelToken.current())
        for callback in self._listen_to(tokens):
            for task in tasks:
                assert task.future is not None
                task.future.add_done_callback(_closer(callback))
        if self._listeners:
            self._began = self.clock.now()
            self._tell(RunStarted(self.total, self.label, self.subject))
        self._hand_over(tasks, last)

    def _listen_to(self, tokens: Iterable[CancelToken]) -> Iterator[Callback]:
        for token in tokens:
            stop = _Canceller(self, token)
            yield token.on_cancel(stop)
            yield token.on_stop_starting(stop)

    def _see_to_service(self) -> None:
        """Have the service thread run before anything is left to it, or raise."""
        if isinstance(self.clock, reactor.Reactor):
            reactor.at_work()

    def cancel_futures(self) -> None:
        """Cancel the futures of the tasks that have not begun; these are then skipped."""
        self.settle_down()
        with self._lock:  # between two steps; makes none itself, as nothing in this thread does
            tasks = list(self._scheduler.live.values())
            for step, arguments in list(self._inbox):
                if step == self._fed:
                    tasks += arguments[0]
        for task in tasks:
            future = task.future  # None when it has been settled meanwhile
            if future is not None and task.state != "running":  # that has a thread
                future.cancel()
        self.clock.post(self._skip_queued, _not_begun)

    def settle_down(self) -> None:
        """Wait until what has been handed over has begun, as far as there is room for it."""
        if self.clock_thread():
            return
        done = threading.Event()
        self.clock.post(done.set)
        done.wait(SETTLES_S)

    def threads(self) -> set[threading.Thread]:
        """Return the threads that call functions, or wait for one to call."""
        threads = [worker.thread for worker in list(self._workers)]
        return {thread for thread in threads if thread is not None}

    def close(self) -> None:
        """Say that no more tasks will come. Returns at once."""
        self._hand_over([], True)

    def drain(self) -> None:
        """Wait as `join` does, at the exit of the interpreter: where it starts no threads
        any more (Python 3.12), what needs one is called in this one.
        """
        while not self._scheduler.finished:
            task = self._next_starved()
            if task is None:
                if self._bell.acquire(timeout=OUT_OF_THREADS_S):
                    self._rung = False
                continue
            worker = Worker()
            worker.task = task
            worker.thread = threading.current_thread()
            self._workers.add(worker)
            self._work(worker)
        self.join()

    def join(self) -> None:
        """Wait until every task has ended, after `close`, and every thread too.

        Raises:
            RuntimeError: This is one of those threads.
        """
        this = threading.current_thread()
        for worker in list(self._workers):
            if worker.thread is this:
                raise RuntimeError(f"cannot wait for the end of {self.label} in a call of its own")
        while not self._scheduler.finished:
            self._await_bell()
        self._ring()  # somebody else may wait, too
        for worker in list(self._workers):
            thread = worker.thread
            if thread is not None:
                thread.join()

    def _skip_queued(self, error: Callable[[], BaseException]) -> None:
        self._step(self._fed, [], False)  # what has been handed over is skipped, too
        self._step(self._scheduler.skip_queued, error, self.clock.now())

    def _hand_over(self, tasks: list[Task], last: bool) -> None:
        """Put tasks where the next step finds them; see that there is a next step."""
        self._inbox.append((self._fed, (tasks, last)))
        # While tasks wait for a place, there will be one. A step says that none wait
        # before it looks into the inbox a last time, so one of the two sees the other. Those
        # that can borrow a place do not wait for that one: it may be waiting for them.
        if self._hungry or any(task.parent is not None for task in tasks):
            self.clock.post(self._step, self._fed, [], False)

    # The service thread

    def _await_deadline(self, deadline: float) -> None:
        error = DeadlineExceededError(f"the run was over its deadline of {deadline:g} s")
        self._deadline_timer = self.clock.call_at(
            self._began + deadline, self._stop, "deadline", lambda: error, error
        )

    def _fed(self, tasks: list[Task], last: bool) -> None:
        """Take in what has been handed over. A step."""
        for task in tasks:
            task.run = self
            if self.parent is not None and task.parent is None:
                task.parent = self.parent
        self._scheduler.feed(tasks, self.clock.now(), last=last)

    def _stop(
        self,
        reason: steps.Reason,
        error: Callable[[], BaseException],
        failure: BaseException | None = None,
    ) -> None:
        self._step(self._stopped, reason, error, failure)

    def _stopped(
        self,
        reason: steps.Reason,
        error: Callable[[], BaseException],
        failure: BaseException | None,
    ) -> None:
        """Stop, unless that has begun. A step."""
        if failure is not None and not self._scheduler.ending:
            self._failure = failure
        self._scheduler.stop(reason, error, self.clock.now())
        self._ring()

    def _kill(self) -> None:
        self._step(self._scheduler.kill, self.clock.now())

    def granted(self, task: Task) -> None:
        """A place under the limit has come free for `task`."""
        self._step(self._scheduler.granted, task, self.clock.now())

    def _due(self, task: Task) -> None:
        self._step(self._scheduler.due, task, self.clock.now())

    def _expired(self, task: Task, attempt: int) -> None:
        self._step(self._scheduler.expired, task, attempt)

    def give_up(self, task: Task, attempt: int, what: str = steps.STILL_RUNS) -> None:
        """Leave a try behind that was asked to end and has not, or may not have."""
        self._step(self._scheduler.give_up, task, attempt, self.clock.now(), what)

    # Any thread

    def cancel(self, reason: str | None = None) -> None:
        """Stop the run. Returns at once; from anywhere, signal handlers included."""
        message = reason or "the run was cancelled"
        failure = TaskCancelledError(message)
        self.clock.post(self._stop, "cancelled", lambda: TaskCancelledError(message), failure)

    def stop_starting(self, reason: str | None = None) -> None:
        """Begin nothing more. Returns at once; from anywhere, signal handlers included."""
        if self._scheduler.no_more is None:
            self._scheduler.no_more = reason or "nothing more was to begin"
            self.clock.post(self._step, self._starts_no_more)

    def _starts_no_more(self) -> None:
        """Skip what has not begun. A step."""
        self._scheduler.stop_starting(self.clock.now())
        self._ring()

    def command_ended(self, task: Task, ending: Result | BaseException) -> None:
        """An environment reports the end of a command."""
        error: BaseException | None
        if isinstance(ending, Result):
            error = None if ending.ok else ending.error(check=ending.command.check)
            self.attempt_ended(task, task.attempt, ending, error)
        else:
            self.attempt_ended(task, task.attempt, None, ending)

    def strained(self, task: Task, error: BaseException) -> None:
        """An environment reports that a command has to wait for room."""
        log.debug("%s waits for room: %s", plain(task.label()), plain(error))
        if isinstance(error, OSError | RuntimeError) and not isinstance(error, HostError):
            for part in task.parts:
                part.strained(task)

    def ended(self, task: Task, value: Any, error: BaseException | None) -> None:
        """The try of a task that runs now has ended; in whatever thread."""
        self.attempt_ended(task, task.attempt, value, error)

    def attempt_ended(
        self,
        task: Task,
        attempt: int,
        value: Any,
        error: BaseException | None,
        worker: Worker | None = None,
    ) -> Task | None:
        """A try of a task has ended; in whatever thread. Settle it, or have another follow;
        return a task for `worker`; see `_step`.
        """
        foreign = self.retry is not None and self.retry.foreign
        judged = False
        for part in task.parts:
            if part.judges:
                judged = True
                foreign = foreign or part.foreign
        if foreign and self.clock_thread():
            self._foreign(self.attempt_ended, task, attempt, value, error)
            return None
        now = self.clock.now()
        decision: RetryAgain | GiveUp | None = None
        verdicts = base.NO_VERDICTS
        # The one place in which a try is judged. Whatever that raises, the try has ended, and
        # its outcome is its own.
        try:
            if error is not None or task.ending is not None:
                if error is not None:
                    begin_anew(error, task.since)
                value, error = steps.seen(task, value, error)
            if judged:
                verdicts, decision = self._judged(task, value, error, now)
            if self.retry is not None and task.retry is not None and decision is None:
                decision = task.retry.after(value, error, now)
        except BaseException:
            report("the end of a try could not be judged: %s", task.label())
            decision, verdicts = None, base.NO_VERDICTS
        ended = self._scheduler.ended
        return self._step(
            ended, task, attempt, value, error, decision, verdicts, now, worker=worker
        )

    def clock_thread(self) -> bool:
        """Return whether this is the service thread, where no foreign code may run."""
        return isinstance(self.clock, reactor.Reactor) and self.clock.inside()

    def _judged(
        self, task: Task, value: Any, error: BaseException | None, now: float
    ) -> tuple[Mapping[Limiter, Verdict], RetryAgain | GiveUp | None]:
        """Ask the limiters of a task what the end of its try means, and whether another
        follows.
        """
        outcome = task.try_outcome(value, error, now)
        verdicts: dict[Limiter, Verdict] = {}
        answer: float | BaseException | None = None
        for part in task.parts:
            if part.judges:
                try:
                    verdicts[part] = part.judge(task, outcome)
                    if answer is None and verdicts[part] == "overload":
                        answer = part.again(task, outcome)
                except BaseException:  # it costs its own verdict, and no retry
                    report("a limiter could not judge a try: %r", part)
        if isinstance(answer, BaseException):
            return verdicts, GiveUp(answer)
        return verdicts, None if answer is None else RetryAgain(answer)

    def _foreign(self, call: Callable[..., object], *args: Any) -> None:
        """Call what may run code that is not ours, off the service thread."""
        self._mailbox.put(call, *args)

    # Steps

    def _step(
        self, step: Callable[..., object], *args: Any, worker: Worker | None = None
    ) -> Task | None:
        """Make a step and do what it decides, or leave it to the thread that makes one now.

        Args:
            step: Changes the scheduler's state.
            *args: What it is called with.
            worker: The worker whose thread this is, if it wants another task.

        Returns:
            A task for `worker`, which has to see to the inbox afterwards. If the step was
            left to another thread, the worker has been parked meanwhile.
        """
        mine: Task | None = None
        if self._lock.acquire(False):
            try:
                _make(step, args)
                actions = self._take()
            finally:
                self._lock.release()
            mine = self._perform(actions, worker)
        else:
            if worker is not None:  # first, since the step may have a task for it
                self._park(worker)
            self._inbox.append((step, args))
        # Who has the lock looks again after it has released it, so one of the two sees to it.
        # A worker does so when it has forgotten its value: starting a thread blocks.
        while worker is None and self._inbox and self._lock.acquire(False):
            try:
                actions = self._take()
            finally:
                self._lock.release()
            self._perform(actions)
        return mine

    def _take(self) -> list[steps.Action]:
        """Make the steps that were left to this thread, and take what was decided. With
        the lock held.
        """
        state = self._scheduler
        inbox = self._inbox
        while True:
            while inbox:
                _make(*inbox.popleft())
            self._hungry = not state.queued or state.stopping is not None
            if not inbox:
                break
        launched = self._launched
        while launched:  # after all that may ask one of them to end: see `_launch`
            state.launched(*launched.popleft())
        actions, state.actions = state.actions, []
        if state.settled and (
            self._each or len(state.live) <= self._low_water or state.stopping is not None
        ):
            self._ring()
        return actions

    def _ring(self) -> None:
        """Wake the calling thread, if it waits; once, until it has looked."""
        if not self._rung:
            self._rung = True
            try:
                self._bell.release()
            except RuntimeError:
                pass  # another thread has just rung

    def _await_bell(self, timeout: float = -1) -> bool:
        """Wait until there is something to look at, since the last look began; return whether
        there is, or `timeout` seconds have passed.
        """
        reactor.refuse_when_finalizing()
        if not self._bell.acquire(timeout=timeout):
            return False
        self._rung = False
        return True

    def _say_what_is_waited_for(self) -> None:
        """Tell whoever has pressed Ctrl-C, or left an iterator, why that takes its time."""
        tasks = [task for task in list(self._scheduler.live.values()) if task.attempt]
        if not tasks:
            return
        names = ", ".join(plain(task.label()) for task in tasks[:NAMED])
        more = f" and {len(tasks) - NAMED} more" if len(tasks) > NAMED else ""
        patience = ""
        if any(task.work.abandonable for task in tasks):
            patience = f"; functions are left behind after kill_after, {self.kill_after:g} s"
        log.warning("%s waits for what still runs: %s%s%s", self.label, names, more, patience)

    # Performing

    def _perform(self, actions: list[steps.Action], worker: Worker | None = None) -> Task | None:
        """Do what a step decided; return a task for `worker` to call, if there is one."""
        mine: Task | None = None
        if self._background and self._scheduler.events:
            self._foreign(self._deliver)
        if self._background and len(actions) > 1:
            # Futures last: starting a thread blocks, and nothing of ours may refer to a value
            # for long after whoever waits for it has got it.
            actions.sort(key=_resolved_last)
        for verb, subject, argument in actions:
            if (
                verb is steps.START
                and worker is not None
                and mine is None
                and subject.work.threaded
            ):
                mine = subject
                continue
            try:
                if verb is not steps.START:
                    self._do(verb, subject, argument)
                elif subject.work.threaded:
                    self._hand_out(subject)
                else:
                    self._launch(subject)
            except BaseException as error:
                # Somebody's environment or limit breaks the rule never to raise here, or a
                # callback raises SystemExit: that is not to cost the actions that follow.
                report("an action failed: %s %r", verb, subject)
                if verb is steps.START:
                    self.clock.post(self.attempt_ended, subject, subject.attempt, None, error)
        return mine

    def _do(self, verb: str, subject: Any, argument: Any) -> None:
        if verb is steps.END:
            self._end(subject, argument)
        elif verb is steps.AGAIN:
            subject.timer = self.clock.call_at(self.clock.now() + argument, self._due, subject)
        elif verb is steps.GIVE_UP_AFTER:
            subject.timer = self.clock.call_at(
                self.clock.now() + self.kill_after, self.give_up, subject, argument
            )
            if subject.state != "ending":  # it has ended meanwhile
                subject.timer.cancel()
        elif verb is steps.KILL:
            if subject.execution is not None:
                subject.execution.kill()
        elif verb is steps.TELL:
            base.tell(subject)
        elif verb is steps.RESOLVE:
            self._resolve(subject)
        else:
            self._finished()

    def _end(self, task: Task, reason: str) -> None:
        if task.execution is not None:
            task.execution.end(reason)
        elif task in self._starved:  # it has no thread yet, and needs none any more
            self._starved.remove(task)
            error = TaskCancelledError(f"was cancelled before it started: {plain(task.label())}")
            self.ended(task, None, error)

    def _begin(self, task: Task) -> None:
        """Prepare a try: its timeout and its retry."""
        if self.retry is not None and task.retry is None:
            task.retry = self.retry.begin(task.work.is_command, task.since)
        timeout = task.work.timeout if task.work.timeout is not None else self.timeout
        if timeout is not None and timeout != math.inf:
            task.timer = self.clock.call_at(
                self.clock.now() + timeout, self._expired, task, task.attempt
            )

    def _launch(self, task: Task) -> None:
        """Begin a try that needs no thread."""
        if self.retry is not None and self.retry.foreign and self.clock_thread():
            self._foreign(self._perform, [(steps.START, task, None)])
            self._foreign(self._step, self._fed, [], False)
            return
        if self._prepares or task.work.timeout is not None:
            self._begin(task)
        attempt = task.attempt
        execution = task.work.start(task)
        # For the next step, whichever that is. One that has just been made may have asked the
        # task to end without knowing how: one of the two sees the other.
        self._launched.append((task, attempt, execution))
        if task.ending is not None:
            self._inbox.append((self._fed, ([], False)))

    def _hand_out(self, task: Task) -> None:
        """Have a try called by a worker: one that waits, or a new one."""
        try:
            worker = self._parked.pop()
        except IndexError:
            self._hire(task)
        else:
            worker.task = task
            worker.gate.release()

    def _hire(self, task: Task) -> None:
        worker = Worker()
        worker.task = task
        worker.thread = reactor.Thread(
            target=self._work, args=(worker,), name=self._thread_name(), daemon=True
        )
        self._workers.add(worker)
        try:
            worker.thread.start()
        except RuntimeError as error:  # out of threads: wait and go on
            worker.thread = None
            self._workers.discard(worker)
            exits = reactor.starts_no_more_threads(error)
            if exits and not self._background:
                # The interpreter exits: there will be no thread any more.
                refusal = ExecutorClosedError(
                    f"did not start ({plain(error)}): {plain(task.label())}"
                )
                self.clock.post(self.ended, task, None, refusal)
                return
            if not exits and not busy.may_give_back():
                # The program has them all: waiting could never help.
                what = f"cannot be started ({plain(error)}): {plain(task.label())}"
                self.clock.post(self.ended, task, None, CommandStartError(what))
                return
            self._starved.append(task)
            self.strained(task, error)
            self.clock.call_at(self.clock.now() + OUT_OF_THREADS_S, self._feed_starved)

    def _feed_starved(self) -> None:
        try:
            self._hand_out(self._starved.popleft())
        except IndexError:
            pass

    def _work(self, worker: Worker) -> None:
        """Call functions until there are no more: the life of a worker thread."""
        try:
            if self._initialize is not None and not self._initialized(worker):
                return
            while True:
                task = worker.task
                if task is None:
                    return
                attempt = task.attempt
                value, error = self._call(task)
                worker.task = following = None
                if value is not PENDING:
                    following = self.attempt_ended(task, attempt, value, error, worker)
                del task, value, error
                if self._inbox:
                    self._step(self._fed, [], False)
                if following is not None:
                    worker.task = following
                    del following
                elif not self._another(worker):  # not by `worker.task`: others set that, too
                    return
        finally:
            self._workers.discard(worker)
            del self  # what a function raised refers to this frame, and the run to that

    def _initialized(self, worker: Worker) -> bool:
        assert self._initialize is not None
        try:
            self._initialize()
        except BaseException as error:
            report("the initializer of a thread raised", level=logging.CRITICAL)
            task = worker.task
            self._break(error)
            if task is not None:
                self.ended(task, None, _broken())
            return False
        return True

    def _break(self, error: BaseException) -> None:
        self._failure = error
        self._step(self._scheduler.close)
        self._step(self._scheduler.skip_queued, _broken, self.clock.now())

    def _next_starved(self) -> Task | None:
        try:
            return self._starved.popleft()
        except IndexError:
            return None

    def _park(self, worker: Worker) -> None:
        """Let others give `worker` a task, or send it away."""
        worker.parked = True
        self._parked.append(worker)

    def _another(self, worker: Worker) -> bool:
        """Wait for another task; return False if there will be none."""
        if not worker.parked:
            worker.task = self._next_starved()
            if worker.task is not None:
                return True
            self._park(worker)
        if self._scheduler.finished:
            self._dismiss()  # those who parked after that was done
        worker.gate.acquire()
        worker.parked = False
        return worker.task is not None

    def _dismiss(self) -> None:
        """Send the workers away that wait for a task."""
        while True:
            try:
                self._parked.pop().gate.release()
            except IndexError:
                return

    def _call(self, task: Task) -> tuple[Any, BaseException | None]:
        future = task.future
        busy.begin(threading.get_ident())
        try:
            if (
                future is not None
                and task.attempt == 1
                and not future.set_running_or_notify_cancel()
            ):
                return None, TaskCancelledError(
                    f"was cancelled before it started: {plain(task.label())}"
                )
            if self._initialize is not None and self.failure is not None:
                return None, _broken()
            if self._prepares or task.work.timeout is not None:
                self._begin(task)
            task.execution = task
            if task.ending is not None:
                return None, TaskCancelledError(
                    f"was cancelled before it started: {plain(task.label())}"
                )
            return (task.context or self.context).copy().run(_called, task), None
        except BaseException as error:
            _leave_out_own_frames(error)
            del self, task, future  # this frame as well
            return None, error
        finally:
            busy.end(threading.get_ident())

    def _resolve(self, task: Task) -> None:
        """Settle the future of a task."""
        future = task.future
        assert future is not None
        if isinstance(future, TaskFuture) and self.clock_thread():
            future.settle_without_callbacks(task)
        else:
            settle(future, task)

    def _finished(self) -> None:
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        if self._background and self._listeners:
            self._foreign(self._tell, self._ending(self.failure))
        self._dismiss()
        self._ring()


def _leave_out_own_frames(error: BaseException) -> None:
    """Take the frames between `Run._call` and the function of a task out of a traceback.

    They hold the task, which holds the error: a circle, in which all that the function held
    would wait for the cycle collector. The function's own frame refers to them, too.
    """
    traceback = error.__traceback__
    for at in range(OWN_FRAMES):
        if traceback is None:
            break
        if at > 0:  # the first is still being executed
            traceback.tb_frame.clear()
        traceback = traceback.tb_next
    BaseException.with_traceback(error, traceback)


def _resolved_last(action: steps.Action) -> int:
    return LAST.index(action[0]) + 1 if action[0] in LAST else 0


def _make(step: Callable[..., object], args: tuple[Any, ...]) -> None:
    """Make a step. What it raises is told of: the steps that follow are not to be lost."""
    try:
        step(*args)
    except BaseException:
        report("a step failed: %r", step)


def _called(task: Task) -> Any:
    base.current.set(task)
    base.begin(task)
    return task.work.call(task)


def _left() -> BaseException:
    return TaskCancelledError("skipped: the call was left")


def _not_begun() -> BaseException:
    return TaskCancelledError("it was cancelled before it began")


def _broken() -> BaseException:
    return BrokenThreadPool("the initializer of a thread raised; see the log")


def _closer(callback: Callback) -> Callable[[object], None]:
    """Return what takes `callback` back when a future is done."""
    return lambda _: callback.close()


class _Canceller:
    """What a token calls to stop a run."""

    __slots__ = ("_run", "_token")

    def __init__(self, run: Run, token: CancelToken) -> None:
        self._run = run
        self._token = token

    def __call__(self) -> None:
        if self._token.cancelled:
            self._run.cancel(self._token.reason)
        else:
            self._run.stop_starting(self._token.reason)
