"""Work spread over workers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.errors import (
    AuthenticationError,
    ConfigError,
    ConnectError,
    ConnectionLostError,
    DeadlineExceededError,
)
from parallel_exec.testing import FakeClock


def echo(task: Any) -> Any:
    """A worker."""
    return task


def other(task: Any) -> Any:
    """Another one."""
    return task


class Sick:
    """A worker that fails with the errors given, then is well."""

    def __init__(self, *errors: BaseException, name: str = "sick") -> None:
        self.errors = list(errors)
        self.calls: list[Any] = []
        self.__qualname__ = name

    def __call__(self, task: Any) -> Any:
        self.calls.append(task)
        if self.errors:
            raise self.errors.pop(0)
        return task


def dead(name: str = "dead") -> Sick:
    """Return a worker that never can be reached."""
    return Sick(*[ConnectError(f"{name} is not there") for _ in range(1000)], name=name)


def pairs(count: int) -> list[tuple[int, float]]:
    """Return so many tasks of weight 1."""
    return [(number, 1) for number in range(count)]


def test_tasks_go_to_the_least_loaded_worker() -> None:
    """Weights count: while one runs a heavy task the other gets the light ones."""
    lights_done = threading.Semaphore(0)

    def work(task: str) -> str:
        if task == "heavy":
            for _ in range(3):
                assert lights_done.acquire(timeout=10)
        else:
            lights_done.release()
        return task

    first, second = Sick(name="first"), Sick(name="second")
    workers = [lambda task: work(first(task)), lambda task: work(second(task))]
    balancer = px.LoadBalancer(workers)
    results = balancer.execute_many([("heavy", 5), ("a", 1), ("b", 1), ("c", 1)])
    assert [result for _, result in results] == ["heavy", "a", "b", "c"]
    assert (first.calls, sorted(second.calls)) == (["heavy"], ["a", "b", "c"])
    assert results[0].worker is workers[0]
    assert list(balancer.loads.values()) == [0, 0]


def test_tasks_are_given_as_mappings_too() -> None:
    """A mapping has the command and, if need be, its weight; other mappings are tasks."""
    balancer = px.LoadBalancer([lambda task: task])
    given = [{"command": "light", "weight": 1}, {"command": "plain"}, {"size": 3}, ("pair", 2)]
    results = balancer.execute_many(given)
    assert [result for _, result in results] == ["light", "plain", {"size": 3}, "pair"]
    (answer,) = px.LoadBalancer([px.Local()]).execute_many([{"command": "echo hello"}])
    assert answer.result.text() == "hello\n"
    with pytest.raises(ConfigError, match=r"weight must be .* not -1"):
        balancer.execute_many([{"command": "wrong", "weight": -1}])


def test_execute_says_who_ran_it() -> None:
    """The answer is a pair that unpacks."""
    worker, result = px.LoadBalancer([echo]).execute("task", weight=2)
    assert (worker, result) == (echo, "task")


def test_commands_run_in_environments() -> None:
    """An environment runs commands; the result is that of a command."""
    local = px.Local()
    (answer,) = px.LoadBalancer([local]).execute_many([("echo hello", 1)])
    assert answer.worker is local
    assert answer.result.text() == "hello\n"


def test_a_function_as_a_task_for_an_environment_is_an_error() -> None:
    """An environment cannot call functions, and says so."""
    with pytest.raises(ConfigError, match="task must be a command, since worker local"):
        px.LoadBalancer([px.Local()]).execute(lambda: None)


def test_capacity_bounds_each_worker() -> None:
    """No worker runs more at once than its capacity."""
    lock = threading.Lock()
    inside: Counter[str] = Counter()
    most: Counter[str] = Counter()

    def worker(name: str) -> Callable[[Any], None]:
        def work(_: Any) -> None:
            with lock:
                inside[name] += 1
                most[name] = max(most[name], inside[name])
            with lock:
                inside[name] -= 1

        return work

    px.LoadBalancer([worker("a"), worker("b")], capacity=[1, 3]).execute_many(pairs(200))
    assert most["a"] == 1
    assert 1 <= most["b"] <= 3


def test_a_slow_worker_does_not_hold_the_run_when_tasks_are_pulled() -> None:
    """While one worker is stuck with a task, the other does all the rest."""
    rest_done = threading.Event()
    count = 0

    def slow(task: int) -> int:
        assert rest_done.wait(10)
        return task

    def quick(task: int) -> int:
        nonlocal count
        count += 1
        if count == 19:
            rest_done.set()
        return task

    results = px.LoadBalancer([slow, quick], strategy="pull").execute_many(pairs(20))
    assert Counter(worker for worker, _ in results) == {slow: 1, quick: 19}


def test_pull_takes_the_heaviest_first() -> None:
    """So that what is left for the end is light; results keep the order of the tasks."""
    worker = Sick()
    results = px.LoadBalancer([worker], strategy="pull").execute_many(
        [("a", 1), ("b", 3), ("c", 2), ("d", 3)]
    )
    assert worker.calls == ["b", "d", "c", "a"]
    assert [result for _, result in results] == ["a", "b", "c", "d"]


def test_two_choices_reach_every_worker() -> None:
    """Drawn at random, but none is left out for long."""
    balancer = px.LoadBalancer([Sick(name=name) for name in "abcd"], strategy="two choices")
    results = balancer.execute_many(pairs(200))
    assert len(Counter(id(worker) for worker, _ in results)) == 4


def test_what_did_not_run_goes_to_another_worker() -> None:
    """A worker that cannot be reached costs no task; after a few failures it gets none."""
    gone = dead()
    balancer = px.LoadBalancer([gone, echo], capacity=1, clock=FakeClock(100.0))
    assert [result for _, result in balancer.execute_many(pairs(20))] == list(range(20))
    assert len(gone.calls) == 3
    state = balancer.statistics()[0]
    assert (state.state, state.failures, state.load) == ("down", 3, 0)
    assert isinstance(state.last_error, ConnectError)


def test_what_may_have_run_is_reported() -> None:
    """A connection that was lost leaves it open whether the task ran: it is not repeated."""
    lost = Sick(ConnectionLostError("gone"))
    with pytest.raises(ConnectionLostError) as caught:
        px.LoadBalancer([lost, echo]).execute("task")
    assert lost.calls == ["task"]
    assert "worker: sick" in caught.value.__notes__


def test_what_is_safe_to_repeat_is_repeated() -> None:
    """A task that says so goes to another worker even if it may have run."""
    lost = Sick(ConnectionLostError("gone"))
    answer = px.LoadBalancer([lost, echo]).execute(px.Task("task", safe_to_repeat=True))
    assert answer == (echo, "task")
    assert lost.calls == ["task"]


def test_a_tasks_own_failure_says_nothing_about_the_worker() -> None:
    """A command that fails, or a function that raises, does not take a worker out."""
    balancer = px.LoadBalancer([px.Local()])
    outcomes = balancer.execute_many_settled([("exit 1", 1)] * 10)
    assert len(outcomes.rejected) == 10
    assert balancer.statistics()[0].state == "up"


def test_a_worker_is_probed_by_a_single_task_and_comes_back() -> None:
    """After a while it gets one task; if that succeeds it is up again."""
    clock = FakeClock(100.0)
    sick = Sick(*[ConnectError("no") for _ in range(4)])
    balancer = px.LoadBalancer([sick], failures=3, probe_after=5, clock=clock)

    def state() -> str:
        return balancer.statistics()[0].state

    with pytest.raises(px.errors.NoWorkerError):
        balancer.execute(1)
    assert (state(), len(sick.calls)) == ("down", 3)
    clock.advance(4.9)
    with pytest.raises(px.errors.NoWorkerError):
        balancer.execute(2)
    assert len(sick.calls) == 3
    clock.advance(0.1)
    with pytest.raises(px.errors.NoWorkerError):
        balancer.execute(3)  # the probe, which fails: twice the wait
    assert (state(), len(sick.calls)) == ("down", 4)
    clock.advance(9.9)
    with pytest.raises(px.errors.NoWorkerError):
        balancer.execute(4)
    assert len(sick.calls) == 4
    clock.advance(0.1)
    assert balancer.execute(5).result == 5
    assert state() == "up"


def test_all_workers_down_is_an_error_that_names_each_ones_last() -> None:
    """It comes at once, and what has not begun is skipped."""
    workers = [dead("a"), Sick(*[AuthenticationError("no key") for _ in range(9)], name="b")]
    balancer = px.LoadBalancer(workers, capacity=1, clock=FakeClock(100.0))
    outcomes = balancer.execute_many_settled(pairs(50))
    assert len(outcomes) == 50
    assert outcomes.fulfilled == ()
    assert len(outcomes.skipped) >= 44
    errors = [o.reason for o in outcomes if isinstance(o.reason, px.errors.NoWorkerError)]
    assert len(errors) == 1
    assert {name: str(error) for name, error in errors[0].errors.items()} == {
        "a": "a is not there",
        "b": "no key",
    }
    assert "a: ConnectError: a is not there; b: AuthenticationError: no key" in str(errors[0])
    with pytest.raises(px.errors.NoWorkerError):
        balancer.execute_many(pairs(3))
    assert list(balancer.loads.values()) == [0, 0]


def test_a_worker_dying_in_the_middle_loses_no_task_and_repeats_none() -> None:
    """Tasks it had done stay done; the others go elsewhere, each once."""
    done: list[int] = []
    alive = True

    def mortal(task: int) -> int:
        if not alive:
            raise ConnectError("it has died")
        return steady(task)

    def steady(task: int) -> int:
        nonlocal alive
        done.append(task)
        alive = alive and len(done) < 20
        return task

    balancer = px.LoadBalancer([mortal, steady], capacity=2, clock=FakeClock(100.0))
    results = balancer.execute_many(pairs(100))
    assert [result for _, result in results] == list(range(100))
    assert sorted(done) == list(range(100))


def test_what_comes_when_all_workers_are_down_is_skipped() -> None:
    """One task fails with what each worker last failed with; the others did not begin."""
    balancer = px.LoadBalancer([dead()], capacity=4, clock=FakeClock(100.0))
    with pytest.raises(px.errors.NoWorkerError):
        balancer.execute(0)
    outcomes = balancer.execute_many_settled(pairs(20))
    assert (len(outcomes.rejected), len(outcomes.skipped)) == (1, 19)
    assert balancer.execute_many_settled(pairs(1)).rejected


def test_what_still_runs_goes_on_when_all_workers_are_down() -> None:
    """Connections that are refused now are no reason to stop what has one."""
    down = threading.Event()

    def work(task: int) -> int:
        if task:
            raise ConnectError("refused")
        assert down.wait(10)
        px.CancelToken.current().raise_if_cancelled()
        return task

    balancer = px.LoadBalancer([work], capacity=2, clock=FakeClock(100.0))
    outcomes = balancer.execute_many_settled(pairs(20), on_outcome=lambda outcome: down.set())
    assert outcomes[0].result() == (work, 0)
    assert outcomes.rejected
    assert len(outcomes.skipped) >= 15


def test_loads_do_not_leak() -> None:
    """However tasks end, no load stays behind: failed, over time, stopped by a deadline."""

    def work(task: str) -> None:
        if task == "fail":
            raise ValueError(task)
        if task == "hang":
            px.CancelToken.current().wait(10)
            px.CancelToken.current().raise_if_cancelled()

    balancer = px.LoadBalancer([work, work], capacity=2)
    outcomes = balancer.execute_many_settled([("fail", 2), ("ok", 1)] * 10)
    assert len(outcomes.rejected) == 10
    balancer.execute_many_settled([("hang", 3)], timeout=0.01)
    with pytest.raises(DeadlineExceededError):
        balancer.execute_many([("hang", 3)] * 10, deadline=0.05)
    assert balancer.loads == {work: 0}
    assert [state.running for state in balancer.statistics()] == [0, 0]


def test_a_nested_call_of_the_same_balancer_does_not_wait_for_itself() -> None:
    """A task that hands work to its own, full balancer gets through."""
    balancer: px.LoadBalancer

    def work(task: int) -> int:
        return task if task == 0 else balancer.execute(task - 1).result + 1

    balancer = px.LoadBalancer([work], capacity=1)
    assert balancer.execute(3).result == 3
    assert balancer.loads == {work: 0}


def test_round_robin_deals_out_in_turn() -> None:
    """The task at place i goes to the worker at place i modulo their number."""
    distributor = px.RoundRobinDistributor([echo, other])
    assert distributor.distribute(["a", "b", "c", "d", "e"]) == [
        (echo, ["a", "c", "e"]),
        (other, ["b", "d"]),
    ]
    assert distributor.distribute(["f", "g"]) == [(echo, ["g"]), (other, ["f"])]


def test_round_robin_does_not_let_a_busy_worker_hold_up_another() -> None:
    """Tasks that were dealt to one wait for it; those of the others go on."""
    rest_done = threading.Event()
    quick = Sick()

    def slow(task: int) -> int:
        assert rest_done.wait(10)
        return task

    def fast(task: int) -> int:
        quick(task)
        if len(quick.calls) == 10:
            rest_done.set()
        return task

    first, second = px.RoundRobinDistributor([slow, fast], capacity=1).distribute(range(20))
    assert first.results == list(range(0, 20, 2))
    assert second.results == list(range(1, 20, 2))


def test_round_robin_goes_around_a_dead_worker() -> None:
    """Its tasks stand with the worker that ran them; it gets an empty list."""
    gone = dead()
    results = px.RoundRobinDistributor([gone, echo], capacity=1).distribute(range(6))
    assert results == [(gone, []), (echo, [0, 1, 2, 3, 4, 5])]


def test_round_robin_may_pull() -> None:
    """With `pull` a stuck worker keeps the one task that it has."""
    rest_done = threading.Event()
    quick = Sick()

    def slow(task: int) -> int:
        assert rest_done.wait(10)
        return task

    def fast(task: int) -> int:
        quick(task)
        if len(quick.calls) == 9:
            rest_done.set()
        return task

    results = px.RoundRobinDistributor([slow, fast], capacity=1, pull=True).distribute(range(10))
    assert [len(answers) for _, answers in results] == [1, 9]


def test_the_first_failure_stops_the_rest_and_names_its_worker() -> None:
    """`distribute` and `execute_many` raise it, with notes."""

    def work(task: int) -> int:
        return 1 // task

    with pytest.raises(ZeroDivisionError) as caught:
        px.RoundRobinDistributor([work]).distribute([1, 0, 2])
    assert any(note.startswith("task 1") for note in caught.value.__notes__)
    assert any(note.startswith("worker: ") for note in caught.value.__notes__)


def test_failures_that_are_tolerated_are_raised_in_the_end() -> None:
    """With `max_failures` all tasks are run, and none is left out of the answer in silence."""

    def work(task: int) -> int:
        done.append(task)
        return 1 // task

    done: list[int] = []
    with pytest.raises(px.errors.RunFailedError, match="1 of 3 tasks failed"):
        px.LoadBalancer([work]).execute_many(pairs(3), max_failures=1)
    with pytest.raises(px.errors.RunFailedError) as caught:
        px.RoundRobinDistributor([work]).distribute(range(3), max_failures=1)
    assert sorted(done) == [0, 0, 1, 1, 2, 2]
    (error,) = caught.value.exceptions
    assert any(note.startswith("worker: ") for note in error.__notes__)


async def coroutine(task: Any) -> Any:
    """Cannot be a worker."""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: px.LoadBalancer([coroutine]), "workers must be environments"),
        (lambda: px.LoadBalancer([]), "workers must not be empty"),
        (lambda: px.LoadBalancer("host"), "workers must be a list"),
        (lambda: px.LoadBalancer([3]), "workers must be environments"),
        (lambda: px.LoadBalancer([echo], capacity=0), "capacity must be"),
        (lambda: px.LoadBalancer([echo], capacity=[1, 2]), "capacity must be"),
        (lambda: px.LoadBalancer([echo], strategy="best"), "strategy must be"),  # type: ignore[arg-type]
        (lambda: px.LoadBalancer([echo], failures=0), "failures must be"),
        (lambda: px.LoadBalancer([echo], probe_after=0), "probe_after must be"),
        (lambda: px.LoadBalancer([echo]).execute_many("ab"), "tasks must be"),
        (lambda: px.LoadBalancer([echo]).execute(1, weight=0), "weight must be"),
        (lambda: px.LoadBalancer([echo]).execute("a", weight="3"), "weight must be"),  # type: ignore[arg-type]
        (lambda: px.LoadBalancer([echo]).execute("a", weight=None), "weight must be"),  # type: ignore[arg-type]
    ],
)
def test_unusable_arguments_are_refused(make: Callable[[], object], message: str) -> None:
    """The message names the parameter."""
    with pytest.raises(ConfigError, match=message):
        make()
