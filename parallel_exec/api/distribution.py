"""Work spread over workers: round robin, least loaded, or whoever is free.

The workers of a balancer are one limiter (`Pool`): a task that gets its place there gets
its worker with it, and when it gives the place back, however it ended, the worker's load
goes down. So a load cannot leak, and choosing a worker for a task is one step under one
lock.
"""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Unpack, cast

from parallel_exec import reactor
from parallel_exec.api import many
from parallel_exec.api.closing import Closing
from parallel_exec.api.many import DEFAULT_CONCURRENCY, DEFAULTS, Many, ManyOptions, TaskLike
from parallel_exec.api.tasks import Task as Given
from parallel_exec.engine.task import Stoppable, Task
from parallel_exec.engine.work import Shell, name_of
from parallel_exec.environments.base import Backend
from parallel_exec.errors import ConfigError, HostError, NoWorkerError
from parallel_exec.limits import base
from parallel_exec.limits.base import Limit, Limiter, Request
from parallel_exec.limits.composed import AllOf
from parallel_exec.limits.rule import Verdict
from parallel_exec.reactor import Clock
from parallel_exec.text import plain
from parallel_exec.values import checks
from parallel_exec.values.command import Command
from parallel_exec.values.functions import is_function
from parallel_exec.values.notes import add_note
from parallel_exec.values.options import only_known, takes
from parallel_exec.values.outcome import Outcome, Outcomes, Status, run_failed

__all__ = [
    "LoadBalancer",
    "RoundRobinDistributor",
    "WorkerResult",
    "WorkerResults",
    "WorkerStatistics",
]

Strategy = Literal["least loaded", "two choices", "pull"]
PROBE_LONGEST_S = 60.0


class WorkerResult(NamedTuple):
    """What a task gave, and the worker that ran it."""

    worker: Any
    result: Any


class WorkerResults(NamedTuple):
    """What the tasks of one worker gave, in task order."""

    worker: Any
    results: list[Any]


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """How a worker does, at one moment.

    Attributes:
        worker: The worker, as it was given.
        name: What errors call it.
        state: "up"; "down": it failed to connect and gets nothing for a while; "probed":
            it was down and runs one task, which decides.
        running: How many tasks it runs.
        load: Their weights together.
        completed: How many tasks have ended on it, well or not.
        failures: How often in a row it has just failed to connect.
        last_error: What it failed with last, or None.
    """

    worker: Any
    name: str
    state: Literal["up", "down", "probed"]
    running: int
    load: float
    completed: int
    failures: int
    last_error: BaseException | None


class Worker:
    """One worker. Guarded by `base.LOCK`."""

    __slots__ = (
        "backend",
        "call",
        "capacity",
        "completed",
        "down_until",
        "error",
        "failures",
        "given",
        "load",
        "name",
        "owned",
        "pause_s",
        "probe",
        "running",
    )

    def __init__(self, given: Any, capacity: int) -> None:
        self.given = given
        self.capacity = capacity
        self.backend: Backend | None = None
        self.call: Callable[[Any], Any] | None = None
        self.owned = isinstance(given, str)
        if isinstance(given, str):
            given = _ssh(given)
        if isinstance(given, Backend):
            self.backend = given
            self.name = given.name
        elif is_function(given) and not isinstance(given, type):
            self.call = given
            self.name = name_of(given)
        else:
            raise checks.refuse("workers", given, "environments, host names or functions")
        self.running = 0
        self.load: float = 0
        self.completed = 0
        self.failures = 0
        self.error: BaseException | None = None
        self.down_until: float | None = None  # None: it is up
        self.pause_s = 0.0
        self.probe: Request | None = None

    def usable(self, now: float) -> bool:
        """Return whether it may be given a task, as far as its health goes."""
        return self.down_until is None or (self.probe is None and self.down_until <= now)


def _ssh(host: str) -> Any:
    """Return the environment of a host that is given by its name."""
    import parallel_exec

    ssh = getattr(parallel_exec, "SSH", None)
    if ssh is None:
        raise ConfigError(f"workers cannot be host names here, such as {host!r}: there is no SSH")
    return ssh(host)


class Distributed:
    """A task for whichever worker it gets; see `engine.task.Work`."""

    __slots__ = (
        "_command",
        "_label",
        "abandonable",
        "is_command",
        "pinned",
        "threaded",
        "timeout",
        "tried",
        "what",
        "worker",
    )

    exempt = False

    def __init__(self, item: Any) -> None:
        given = item if isinstance(item, Given) else Given(item)
        what = self.what = given.what
        self._command: Command | None = None
        if isinstance(what, str | list | tuple | Command):
            try:
                self._command = Command.of(what)
            except ConfigError:  # it may mean something to a function
                if isinstance(what, Command):
                    raise
        timeout: Any = given.timeout
        if timeout is None and self._command is not None:
            timeout = self._command.timeout
        self.timeout: float | None = timeout
        self._label = given.label
        self.pinned: Worker | None = None
        self.worker: Worker | None
        self.tried: dict[Worker, int] = {}

        self.assign(None)

    def assign(self, worker: Worker | None) -> None:
        """Take note of whose it is."""
        self.worker = worker
        self.threaded = self.abandonable = worker is not None and worker.call is not None
        self.is_command = not self.threaded

    def call(self, task: Task) -> Any:
        assert self.worker is not None
        assert self.worker.call is not None
        return self.worker.call(self.what)

    def start(self, task: Task) -> Stoppable:
        worker = self.worker
        if worker is None:
            pool = next(part for part in task.parts if isinstance(part, Pool))
            return self._refuse(task, pool.no_worker())
        assert worker.backend is not None
        command = self._command
        if command is None:
            wanted = f"a command, since worker {worker.name} is an environment"
            return self._refuse(task, checks.refuse("task", self.what, wanted))
        if command.timeout != self.timeout:
            command = command.replace(timeout=self.timeout)
        return Shell(command, worker.backend).start(task)

    def _refuse(self, task: Task, error: BaseException) -> Stoppable:
        task.run.clock.post(task.run.ended, task, None, error)
        return task

    def label(self) -> str:
        if self._label is not None:
            return self._label
        if self._command is not None:
            return str(self._command)
        if callable(self.what):
            return name_of(self.what)
        text = repr(self.what)
        return text if len(text) <= 80 else text[:77] + "..."


class Pool(Limiter):
    """The workers as one limiter: a place is a place at a worker."""

    judges = True
    lends = False

    def __init__(
        self,
        workers: Sequence[Worker],
        strategy: str,
        failures: int,
        probe_after: float,
        clock: Clock | None,
    ) -> None:
        super().__init__()
        self.workers = workers
        self._strategy = strategy
        self._failures = failures
        self._probe_after = probe_after
        self._own_clock = clock
        self._next = 0  # where the search begins: equals take turns
        self._hopeless: Request | None = None  # let through without a worker, to fail

    @property
    def limit(self) -> int:
        """How many tasks run at once, if all workers are up."""
        return sum(worker.capacity for worker in self.workers)

    @property
    def _clock(self) -> Clock:
        return self._own_clock or reactor.get()

    def no_worker(self) -> NoWorkerError:
        """Return the error for a task that no worker is left for."""
        with base.LOCK:
            errors = {w.name: w.error for w in self.workers if w.error is not None}
        told = "; ".join(f"{name}: {type(e).__name__}: {e}" for name, e in errors.items())
        return NoWorkerError(f"no worker is left ({told})", errors=errors)

    def all_down(self) -> bool:
        """Return whether no worker may be given anything now."""
        now = self._clock.now()
        with base.LOCK:
            return not any(worker.usable(now) for worker in self.workers)

    def _is_hopeless(self) -> bool:
        """Return whether there is nothing to wait for: all are down, and none runs anything.
        Then one task after the other is let through, and the first that fails ends its run.
        """
        if self._hopeless is not None:
            return False
        now = self._clock.now()
        return not any(worker.usable(now) or worker.running for worker in self.workers)

    # The limiter

    def _room(self, weight: float) -> bool:
        return any(self._free(worker, None) for worker in self.workers)

    def _fits(self, request: Request) -> bool:
        if self._paused:
            return False
        return self._choice(request) is not None or self._is_hopeless()

    def _admits(self, request: Request) -> bool:
        if _work(request).pinned is not None:  # the others in line want another worker
            return self._fits(request)
        return super()._admits(request)

    def _taken(self, request: Request) -> None:
        work = _work(request)
        worker = self._choice(request)
        work.assign(worker)
        if worker is None:
            self._hopeless = request
            return
        worker.running += 1
        worker.load += request.weight
        if worker.down_until is not None:
            worker.probe = request
        self._next = (self.workers.index(worker) + 1) % len(self.workers)

    def _returned(self, request: Request, verdict: Verdict, now: float) -> None:
        worker = _work(request).worker
        if self._hopeless is request:
            self._hopeless = None
        if worker is None or not worker.running:  # the latter in a forked child
            return
        worker.running -= 1
        worker.load = worker.load - request.weight if worker.running else 0
        worker.completed += 1
        if worker.probe is request:  # it was cancelled, and has decided nothing
            worker.probe = None

    def _grant(self, granted: list[Request], *, borrowers: bool = False) -> None:
        super()._grant(granted)
        # Those that wait for a certain worker do not hold up the others, and are not held
        # up by them.
        if self._line and any(_work(request).pinned for _, _, request in self._line):
            for _, _, request in list(self._line):
                if request._line is self and self._fits(request):
                    base.grant_or_move(request, granted, self)

    def _forked(self) -> None:
        super()._forked()
        self._hopeless = None
        for worker in self.workers:
            worker.running, worker.load, worker.probe = 0, 0, None

    def judge(self, request: Request, outcome: Outcome[Any]) -> Verdict:
        """Take note of how a worker did."""
        worker, error = _work(request).worker, outcome.reason
        if worker is None or outcome.status == "cancelled":
            return "neither"
        with base.LOCK:
            if isinstance(error, HostError | ConnectionError):
                self._failed(worker, error, request)
                return "overload"
            if worker.down_until is None or worker.probe is request:
                worker.failures = 0
                worker.down_until = worker.probe = None
                worker.pause_s = 0.0
        return "success"

    def _failed(self, worker: Worker, error: BaseException, request: Request) -> None:
        worker.error = error
        worker.failures += 1
        probed = worker.probe is request
        if probed or (worker.down_until is None and worker.failures >= self._failures):
            worker.pause_s = min(worker.pause_s * 2 or self._probe_after, PROBE_LONGEST_S)
            worker.probe = None
            when = worker.down_until = self._clock.now() + worker.pause_s
            base.alarms.append(lambda: self._clock.call_at(when, base.regrant, self))

    def again(self, request: Request, outcome: Outcome[Any]) -> float | BaseException | None:
        """Have another worker try what a worker that failed has surely not run."""
        work, error = _work(request), outcome.reason
        assert work.worker is not None
        surely_not_run = isinstance(error, HostError | ConnectionRefusedError)
        if not surely_not_run and not cast(Task, request).repeatable:
            return None
        with base.LOCK:
            work.tried[work.worker] = work.tried.get(work.worker, 0) + 1
            work.pinned = None
            now = self._clock.now()
            left = any(
                worker.usable(now) and work.tried.get(worker, 0) < self._failures
                for worker in self.workers
            )
        if left:
            return 0.0
        never_run = all(
            isinstance(e, HostError | ConnectionRefusedError)
            for e in (*outcome.attempt_errors, error)
        )
        return self.no_worker() if never_run else None

    # Choosing, with the lock held

    def _free(self, worker: Worker, work: Distributed | None) -> bool:
        if worker.down_until is None:
            if worker.running >= worker.capacity:
                return False
        elif not worker.usable(self._clock.now()):
            return False
        return work is None or work.tried.get(worker, 0) < self._failures

    def _choice(self, request: Request) -> Worker | None:
        """Return the worker for a task, or None if there is none for it now."""
        work = _work(request)
        outer = self._around(request)
        if outer is not None:
            return outer
        pinned = work.pinned
        if pinned is not None:
            if self._free(pinned, work):
                return pinned
            if pinned.usable(self._clock.now()):
                return None  # it is busy
        count = len(self.workers)
        free = [
            worker
            for worker in (self.workers[(self._next + at) % count] for at in range(count))
            if self._free(worker, work)
        ]
        if work.tried:
            fewest = min((work.tried.get(worker, 0) for worker in free), default=0)
            free = [worker for worker in free if work.tried.get(worker, 0) == fewest]
        if self._strategy == "two choices" and len(free) > 2:
            free = random.sample(free, 2)
        return min(free, key=_load, default=None)

    def _around(self, request: Request) -> Worker | None:
        """Return the worker of the task that waits for this one: it waits in turn, so
        this one needs no place of its own.
        """
        parent = request.parent
        while parent is not None:
            if parent.held and parent._lending and self in parent.parts:
                worker = _work(parent).worker
                if worker is not None and worker.down_until is None:
                    return worker
            parent = parent.parent
        return None


def _load(worker: Worker) -> float:
    return worker.load


def _work(request: Request) -> Distributed:
    return cast(Distributed, cast(Task, request).work)


class _Distributor(Closing):
    """What the distributors have in common: workers, and how they do."""

    def __init__(
        self,
        workers: Iterable[Any],
        capacity: int | Sequence[int],
        strategy: str,
        failures: int,
        probe_after: float,
        clock: Clock | None,
    ) -> None:
        if isinstance(workers, str) or not isinstance(workers, Iterable):
            raise checks.refuse("workers", workers, "a list of workers")
        given = list(workers)
        if not given:
            raise ConfigError("workers must not be empty")
        if isinstance(capacity, list | tuple):
            capacities = [checks.count("capacity", one) for one in capacity]
            if len(capacities) != len(given):
                raise checks.refuse("capacity", capacity, "one number, or one for each worker")
        else:
            capacities = [checks.count("capacity", capacity)] * len(given)
        checks.count("failures", failures)
        probe_after = checks.seconds("probe_after", probe_after)
        made = [Worker(one, room) for one, room in zip(given, capacities, strict=True)]
        names: dict[str, int] = {}
        for worker in made:
            number = names[worker.name] = names.get(worker.name, 0) + 1
            if number > 1:
                worker.name = f"{worker.name} ({number})"
        self._workers = made
        self._pool = Pool(made, strategy, failures, probe_after, clock)

    @property
    def workers(self) -> tuple[Any, ...]:
        """The workers, as they were given."""
        return tuple(worker.given for worker in self._workers)

    @property
    def loads(self) -> dict[Any, float]:
        """The weight of what each worker runs now, by worker."""
        with base.LOCK:
            loads: dict[Any, float] = {}
            for worker in self._workers:
                loads[worker.given] = loads.get(worker.given, 0) + worker.load
            return loads

    def statistics(self) -> tuple[WorkerStatistics, ...]:
        """Return how each worker does; the objects do not change any more."""
        with base.LOCK:
            return tuple(
                WorkerStatistics(
                    worker=worker.given,
                    name=worker.name,
                    state=_state(worker),
                    running=worker.running,
                    load=worker.load,
                    completed=worker.completed,
                    failures=worker.failures,
                    last_error=worker.error,
                )
                for worker in self._workers
            )

    def close(self) -> None:
        """Close the connections to workers that were given by their names. Idempotent."""
        for worker in self._workers:
            if worker.owned and worker.backend is not None:
                worker.backend.close()

    def _prepare(
        self,
        items: Iterable[Any],
        name: str,
        options: ManyOptions,
        make: Callable[[Any], Distributed] = Distributed,
        *,
        first: Status | None = None,
    ) -> Many:
        if options.get("executor") is not None:
            raise checks.refuse("executor", options["executor"], "None: workers run the tasks")
        limit: Limit = self._pool
        if options.get("concurrency") is not None:
            limit = AllOf(self._pool, many.limit_of(options["concurrency"]))
        options["concurrency"] = limit

        def is_over(status: Status) -> bool:
            if status == "fulfilled" or not self._pool.all_down():
                return False
            of = run()
            return of is not None and not of.is_busy()

        prepared = Many(items, make, name, options, first=first, also=is_over)
        run = weakref.ref(prepared.run)  # which has this rule: no circle keeps what it gave
        return prepared

    @staticmethod
    def _run(prepared: Many) -> list[Task]:
        """Run all tasks; return them in their order, or raise what failed first."""
        done, error = _done(prepared)
        if error is not None:
            try:
                raise error
            finally:
                del prepared, done, error  # see `many.gather`
        return done


def _done(prepared: Many) -> tuple[list[Task], BaseException | None]:
    """Run all tasks; return them in their order, and what is to be raised."""
    with closing(prepared.settled()) as settled:
        done = sorted(settled, key=_index)
    culprit = prepared.run.culprit
    if culprit is not None and prepared.tolerated is None:
        return done, _named(culprit)
    if prepared.run.failure is not None:
        return done, prepared.run.failure
    failed = [task for task in done if task.error is not None]
    if failed:
        return done, run_failed([_outcome(task) for task in failed], of=prepared.count)
    return done, None


def _state(worker: Worker) -> Literal["up", "down", "probed"]:
    if worker.down_until is None:
        return "up"
    return "down" if worker.probe is None else "probed"


class LoadBalancer(_Distributor):
    """Runs each task at the worker that has the least to do.

    Workers are environments, host names (each becomes an `SSH`, closed by `close`), or
    functions that take the task. A worker that fails to connect `failures` times in a row
    is taken out, and given a single task after a while, which decides whether it is back.
    What it surely did not run goes to the other workers; what it may have run fails, unless
    it is a `Task` with ``safe_to_repeat=True``.

    Args:
        workers: At least one.
        capacity: How many tasks a worker runs at once: a number for all or a list of
            numbers. None: `DEFAULT_CONCURRENCY`, or 1 if the strategy is "pull".
        strategy: "least loaded": tasks begin in their order, each at the worker with the
            least weight. "two choices": the same among two workers drawn at random,
            which is nearly as even and keeps several balancers that share workers from
            all choosing the same (M. Mitzenmacher: The Power of Two Choices in
            Randomized Load Balancing, 2001). "pull": the heaviest task goes first, to
            whoever is free; so a slow worker gets few of them.
        failures: After how many failures in a row a worker is taken out.
        probe_after: Seconds after which it is tried again; twice as many after each probe
            that failed, 60 at most.
        clock: The time; the library's own by default.

    Raises:
        ConfigError: An argument cannot be used.

    **Thread safety:** yes; calls at the same time share the loads.
    """

    @only_known
    def __init__(
        self,
        workers: Iterable[Any],
        *,
        capacity: int | Sequence[int] | None = None,
        strategy: Strategy = "least loaded",
        failures: int = 3,
        probe_after: float = 5.0,
        clock: Clock | None = None,
    ) -> None:
        if strategy not in ("least loaded", "two choices", "pull"):
            wanted = '"least loaded", "two choices" or "pull"'
            raise checks.refuse("strategy", strategy, wanted)
        if capacity is None:
            capacity = 1 if strategy == "pull" else DEFAULT_CONCURRENCY
        super().__init__(workers, capacity, strategy, failures, probe_after, clock)
        self._heaviest_first = strategy == "pull"

    @takes(ManyOptions, **DEFAULTS)
    def execute(
        self, task: TaskLike | Any, weight: float = 1, **options: Unpack[ManyOptions]
    ) -> WorkerResult:
        """Run one task at a worker.

        Args:
            task: A command; or whatever the workers take, if they are functions.
            weight: How much it adds to the load of its worker.
            **options: See `ManyOptions`.

        Returns:
            A pair: the worker, and what it gave.

        Raises:
            ConfigError: An argument cannot be used; nothing ran.
            NoWorkerError: Every worker is down; nothing ran.
            BaseException: What the task failed with; a note names the worker.

        **Blocking:** until the task has ended.
        """
        checks.number("weight", weight)  # a pair with a string would be a command of two words
        return self.execute_many([(task, weight)], **options)[0]

    @takes(ManyOptions, **DEFAULTS)
    def execute_many(
        self,
        tasks: Iterable[tuple[Any, float] | Mapping[str, Any] | TaskLike | Any],
        **options: Unpack[ManyOptions],
    ) -> list[WorkerResult]:
        """Run tasks at the workers; the first failure stops the rest and is raised.

        Args:
            tasks: Pairs of a task and its weight, or mappings such as
                ``{"command": "make", "weight": 5}``; without a weight it is 1. A task
                alone has the weight 1, too.
            **options: See `ManyOptions`; `concurrency` counts over all workers.

        Returns:
            A pair (worker, result) for each task, in task order.

        Raises:
            NoWorkerError: Every worker is down and runs nothing; the rest is skipped.
            RunFailedError: Tasks failed, but not more than `max_failures`.
            BaseException: The first failure of a task; notes name the task and the worker.

        **Blocking:** until every task has ended.
        """
        done = self._run(
            self._prepare(self._given(tasks), "execute_many", options, first="rejected")
        )
        return [_result(task) for task in done]

    @takes(ManyOptions, **DEFAULTS)
    def execute_many_settled(
        self,
        tasks: Iterable[tuple[Any, float] | Mapping[str, Any] | TaskLike | Any],
        **options: Unpack[ManyOptions],
    ) -> Outcomes[WorkerResult]:
        """Run tasks at the workers; return how each ended, whatever happens to any.

        Args:
            tasks: As for `execute_many`.
            **options: As for `execute_many`.

        Returns:
            An outcome for each task, in task order; its value is a pair (worker, result).
            When every worker is down and runs nothing, what has not begun is ``skipped``.

        **Blocking:** until every task has ended.
        """
        prepared = self._prepare(self._given(tasks), "execute_many_settled", options)
        with closing(prepared.settled()) as settled:
            done = sorted(settled, key=_index)
        return Outcomes(_outcome(task) for task in done)

    def _given(self, tasks: Iterable[Any]) -> Iterable[Any]:
        if isinstance(tasks, Mapping):
            given = list(many.labelled({name: _weighted(task) for name, task in tasks.items()}))
        else:
            checks.sequence_of_tasks("tasks", tasks)
            if not isinstance(tasks, Sequence):
                return map(_weighted, tasks)
            given = [_weighted(task) for task in tasks]
        if self._heaviest_first:
            given = [replace(task, priority=task.priority or task.weight) for task in given]
        return given


class RoundRobinDistributor(_Distributor):
    """Deals tasks out to workers, one after the other.

    Workers and their health: as for `LoadBalancer`. The task at place i goes to the worker
    at place i modulo the number of workers, and to another only if that one is down. The
    next call goes on where the last has ended.

    Args:
        workers: At least one.
        capacity: How many tasks a worker runs at once: a number for all or a list.
        pull: Whether a task goes to whoever is free instead, so that a slow worker does
            not hold up the rest.
        failures: After how many failures in a row a worker is taken out.
        probe_after: Seconds after which it is tried again.
        clock: The time; the library's own by default.

    Raises:
        ConfigError: An argument cannot be used.

    **Thread safety:** yes.
    """

    @only_known
    def __init__(
        self,
        workers: Iterable[Any],
        *,
        capacity: int | Sequence[int] = DEFAULT_CONCURRENCY,
        pull: bool = False,
        failures: int = 3,
        probe_after: float = 5.0,
        clock: Clock | None = None,
    ) -> None:
        if not isinstance(pull, bool):
            raise checks.refuse("pull", pull, "True or False")
        super().__init__(workers, capacity, "least loaded", failures, probe_after, clock)
        self._pull = pull
        self._turn = 0

    @takes(ManyOptions, **DEFAULTS)
    def distribute(
        self, tasks: Iterable[TaskLike | Any], **options: Unpack[ManyOptions]
    ) -> list[WorkerResults]:
        """Run tasks, dealt out to the workers; the first failure stops the rest.

        Args:
            tasks: Commands; or whatever the workers take, if they are functions.
            **options: See `ManyOptions`; `concurrency` counts over all workers.

        Returns:
            A pair (worker, results) for each worker, in the order of the workers. A task
            that went to another than it was dealt to stands with the one that ran it.

        Raises:
            NoWorkerError: Every worker is down and runs nothing; the rest is skipped.
            RunFailedError: Tasks failed, but not more than `max_failures`.
            BaseException: The first failure of a task; notes name the task and the worker.

        **Blocking:** until every task has ended.
        """
        given = many.labelled(tasks)

        def make(item: Any) -> Distributed:
            work = Distributed(item)
            if not self._pull:
                work.pinned = self._workers[self._turn]
                self._turn = (self._turn + 1) % len(self._workers)
            return work

        done = self._run(self._prepare(given, "distribute", options, make, first="rejected"))
        results: dict[Worker | None, list[Any]] = {worker: [] for worker in self._workers}
        for task in done:
            results[_work(task).worker].append(task.value)
        return [WorkerResults(worker.given, results[worker]) for worker in self._workers]


def _weighted(item: Any) -> Given:
    """Return a task with its weight, from one of the forms that `execute_many` takes."""
    task, weight = item, None
    if isinstance(item, tuple) and len(item) == 2 and not isinstance(item[1], str):
        task, weight = item
    elif isinstance(item, Mapping) and "command" in item and item.keys() <= {"command", "weight"}:
        task, weight = item["command"], item.get("weight")
    given = task if isinstance(task, Given) else Given(task)
    return given if weight is None else replace(given, weight=weight)


def _index(task: Task) -> int:
    return task.index


def _result(task: Task) -> WorkerResult:
    worker = _work(task).worker
    assert worker is not None
    return WorkerResult(worker.given, task.value)


def _named(task: Task) -> BaseException:
    """Return the error of a task, with the notes that name it and its worker."""
    error = many.named(task)
    worker = _work(task).worker
    if worker is not None:
        add_note(error, f"worker: {plain(worker.name)}")
    return error


def _outcome(task: Task) -> Outcome[WorkerResult]:
    if task.error is not None:
        _named(task)
        return task.outcome()
    return replace(task.outcome(), value=_result(task))
