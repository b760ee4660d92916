"""The scheduler's state machine: whatever happens in whatever order, the invariants hold."""

from __future__ import annotations

from typing import Any

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from parallel_exec.engine import scheduler as steps
from parallel_exec.engine.retry import RetryAgain
from parallel_exec.engine.scheduler import Scheduler
from parallel_exec.engine.task import Stoppable, Task
from parallel_exec.errors import TaskCancelledError
from parallel_exec.limits import base
from parallel_exec.limits.fixed import ConcurrencyLimiter
from parallel_exec.testing import FakeClock


class Nothing:
    """Work that ends when the test says so."""

    threaded = False
    exempt = False
    is_command = False
    timeout: float | None = None

    def __init__(self, abandonable: bool) -> None:
        self.abandonable = abandonable

    def call(self, task: Task) -> Any:
        raise NotImplementedError

    def start(self, task: Task) -> Stoppable:
        raise NotImplementedError

    def label(self) -> str:
        return "nothing"


class One:
    """One run: its scheduler, and what has been performed of its actions."""

    def __init__(self, limiter: ConcurrencyLimiter, clock: FakeClock, stops: bool) -> None:
        self.clock = clock
        self.scheduler = Scheduler(
            limiter, (lambda status: status == "rejected") if stops else None, listening=True
        )
        self.fed: list[Task] = []
        self.running: list[Task] = []
        self.told_to_end: list[Task] = []
        self.left: list[Task] = []
        self.waiting: list[Task] = []
        self.finished = 0

    def feed(self, weights: list[int]) -> None:
        tasks = []
        for weight in weights:
            task = Task(len(self.fed), Nothing(abandonable=weight == 1))
            task.weight = weight
            task.run = self  # type: ignore[assignment]
            self.fed.append(task)
            tasks.append(task)
        self.scheduler.feed(tasks, self.clock.now(), last=False)
        self.perform()

    def granted(self, task: Task) -> None:
        self.scheduler.granted(task, self.clock.now())
        self.perform()

    def perform(self) -> None:
        actions, self.scheduler.actions = self.scheduler.actions, []
        for verb, subject, _ in actions:
            if verb is steps.START:
                self.running.append(subject)
            elif verb is steps.AGAIN:
                self.waiting.append(subject)
            elif verb is steps.END:
                self.told_to_end.append(subject)
            elif verb is steps.TELL:
                base.tell(subject)
            elif verb is steps.FINISHED:
                self.finished += 1


ENDS: dict[str, BaseException | None] = {
    "value": None,
    "error": ValueError("no"),
    "cancelled": TaskCancelledError("stopped"),
}
runs = st.integers(0, 1)


class SchedulerMachine(RuleBasedStateMachine):
    """Two runs that share a limiter."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.limiter = ConcurrencyLimiter(3)
        self.most = 3
        self.runs = [One(self.limiter, self.clock, stops) for stops in (False, True)]

    @rule(of=runs, weights=st.lists(st.integers(1, 2), max_size=4))
    def tasks_are_fed(self, of: int, weights: list[int]) -> None:
        run = self.runs[of]
        if not run.scheduler.closed and not run.scheduler.finished:
            run.feed(weights)

    @rule(of=runs, which=st.integers(0, 50), end=st.sampled_from(sorted(ENDS)), again=st.booleans())
    def a_try_ends(self, of: int, which: int, end: str, again: bool) -> None:
        run = self.runs[of]
        if run.running:
            task = run.running.pop(which % len(run.running))
            error = ENDS[end]
            decision = RetryAgain(1.0) if again and error is not None else None
            run.scheduler.ended(
                task, task.attempt, 1, error, decision, base.NO_VERDICTS, self.clock.now()
            )
            run.perform()

    @rule(of=runs, which=st.integers(0, 50))
    def a_wait_is_over(self, of: int, which: int) -> None:
        run = self.runs[of]
        if run.waiting:
            run.scheduler.due(run.waiting.pop(which % len(run.waiting)), self.clock.now())
            run.perform()

    @rule(of=runs, which=st.integers(0, 50))
    def a_try_is_over_its_time(self, of: int, which: int) -> None:
        run = self.runs[of]
        if run.running:
            task = run.running[which % len(run.running)]
            run.scheduler.expired(task, task.attempt)
            run.perform()

    @rule(of=runs, which=st.integers(0, 50))
    def a_try_is_given_up(self, of: int, which: int) -> None:
        run = self.runs[of]
        if run.told_to_end:
            task = run.told_to_end[which % len(run.told_to_end)]
            if task.work.abandonable:
                run.scheduler.give_up(task, task.attempt, self.clock.now())
                run.perform()

    @rule(limit=st.integers(1, 5))
    def the_limit_changes(self, limit: int) -> None:
        self.limiter.limit = limit
        self.most = max(self.most, limit)

    @rule(of=runs)
    def the_input_ends(self, of: int) -> None:
        self.runs[of].scheduler.close()
        self.runs[of].perform()

    @rule(of=runs)
    def a_run_is_stopped(self, of: int) -> None:
        run = self.runs[of]
        run.scheduler.stop("cancelled", lambda: TaskCancelledError("enough"), self.clock.now())
        run.perform()

    @rule(of=runs)
    def a_run_is_killed(self, of: int) -> None:
        self.runs[of].scheduler.kill(self.clock.now())
        self.runs[of].perform()

    @rule()
    def time_goes_on(self) -> None:
        self.clock.advance(1)

    @invariant()
    def no_more_is_in_flight_than_the_limit_allows(self) -> None:
        held = sum(task.weight for run in self.runs for task in run.fed if task.held)
        assert held == self.limiter.in_flight
        assert held <= self.most

    @invariant()
    def what_runs_has_its_place(self) -> None:
        for run in self.runs:
            for task in run.running:
                assert task.held
            for task in run.waiting:
                assert not task.held

    @invariant()
    def each_task_is_settled_once_and_has_one_outcome(self) -> None:
        for run in self.runs:
            indices = [task.index for task in run.scheduler.settled]
            assert len(indices) == len(set(indices))
            for task in run.scheduler.settled:
                assert task.outcome().status == task.status
                assert task.index not in run.scheduler.live
            assert len(indices) + len(run.scheduler.live) == len(run.fed)

    @invariant()
    def nobody_waits_for_a_place_that_is_free(self) -> None:
        if self.limiter.in_flight == 0:
            assert self.limiter.waiting == 0
        for run in self.runs:
            queued = sum(task.state == "queued" for task in run.scheduler.live.values())
            assert run.scheduler.queued == queued

    @invariant()
    def a_run_finishes_once_and_only_when_all_is_settled(self) -> None:
        for run in self.runs:
            assert run.finished == run.scheduler.finished
            over = run.scheduler.closed and not run.scheduler.live
            assert run.scheduler.finished == over

    def teardown(self) -> None:
        for run in self.runs:
            run.scheduler.stop("closed", lambda: TaskCancelledError("left"), 0.0)
            run.perform()
        for run in self.runs:
            while run.running:
                task = run.running.pop()
                run.scheduler.ended(task, task.attempt, 1, None, None, base.NO_VERDICTS, 0.0)
                run.perform()
        for run in self.runs:
            assert run.scheduler.finished
            assert len(run.scheduler.settled) == len(run.fed)
        assert self.limiter.in_flight == 0
        assert self.limiter.waiting == 0


SchedulerMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None
)
TestScheduler = SchedulerMachine.TestCase
