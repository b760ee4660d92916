"""The controller around a rule: what it tells the rule, what it does with the answers."""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec import reactor
from parallel_exec.environments.base import Execution, Ticket
from parallel_exec.errors import (
    AuthenticationError,
    CommandFailedError,
    ConfigError,
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    DeadlineExceededError,
    HostError,
    TaskCancelledError,
    TaskTimeoutError,
)
from parallel_exec.limits import base
from parallel_exec.limits.rule import Sample
from tests.unit.limits.asking import Asker


class Noting:
    """A rule that does what the test says, and remembers its samples."""

    def __init__(self, initial: int, min_limit: int, max_limit: int | None, **_: object) -> None:
        self.limit: float = initial
        self.reason = "initial"
        self.samples: list[Sample] = []
        self.bounds: tuple[int, int | None] = (min_limit, max_limit)

    def update(self, sample: Sample) -> None:
        """Remember it."""
        self.samples.append(sample)

    def set_bounds(self, minimum: int, maximum: int | None) -> None:
        """Remember them."""
        self.bounds = (minimum, maximum)
        self.limit = max(self.limit, minimum)
        if maximum is not None:
            self.limit = min(self.limit, maximum)


def noting(initial: int = 2, **arguments: Any) -> tuple[px.AIMDController, Noting]:
    """Return a controller and its rule."""
    controller = px.AIMDController(initial, 1, 10, rule=Noting, **arguments)
    rule = controller._rule
    assert isinstance(rule, Noting)
    return controller, rule


class Refusing(px.Runnable):
    """An environment that refuses its first commands, before they run."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.started = 0

    @property
    def name(self) -> str:
        """Its name."""
        return "refusing"

    def start(self, command: px.Command, ticket: Ticket) -> Execution:
        """Refuse, or have it run here."""
        self.started += 1
        if not self.errors:
            return px.Local().start(command, ticket)
        reactor.get().post(ticket.settled, self.errors.pop(0))
        return Nothing()

    def close(self) -> None:
        """Hold nothing."""


class Nothing:
    """What runs when nothing does."""

    def end(self, reason: object) -> None:
        """Do nothing."""

    def kill(self) -> None:
        """Do nothing."""


def failing(error: BaseException) -> Callable[[], None]:
    """Return a task that fails with `error`."""

    def task() -> None:
        raise error

    return task


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (ConnectError("refused"), "overload"),
        (ConnectTimeoutError("no answer"), "overload"),
        (ConnectionLostError("reset"), "overload"),
        (ConnectionRefusedError("refused"), "overload"),
        (ConnectionResetError("reset"), "overload"),
        (BlockingIOError(errno.EAGAIN, "no process"), "overload"),
        (OSError(errno.EMFILE, "no descriptor"), "overload"),
        (OSError(errno.ETIMEDOUT, "no answer"), "overload"),
        (TimeoutError("timed out"), "overload"),  # what a socket with a timeout raises
        (RuntimeError("can't start new thread"), "overload"),
        (RuntimeError("something else"), "neither"),
        (OSError(errno.ENOENT, "no file"), "neither"),
        (AuthenticationError("wrong key"), "neither"),
        (HostError("no"), "neither"),
        (ValueError("wrong"), "neither"),
        (TaskCancelledError("stopped"), "neither"),
        (TaskTimeoutError("slow"), "neither"),
        (DeadlineExceededError("slow"), "neither"),
    ],
    ids=repr,
)
def test_errors_are_sorted_by_what_they_say_of_the_load(error: Exception, verdict: str) -> None:
    """Refused, reset, timed out and out of resources are overload; the rest says nothing."""
    controller, rule = noting()
    px.all_settled([failing(error)], concurrency=controller)
    assert [sample.verdict for sample in rule.samples] == [verdict]


def test_a_name_that_does_not_resolve_is_no_overload() -> None:
    """It is a connect error whose cause is not load."""
    error = ConnectError("no such host")
    error.__cause__ = socket.gaierror()
    controller, rule = noting()
    px.all_settled([failing(error)], concurrency=controller)
    assert [sample.verdict for sample in rule.samples] == ["neither"]


def test_a_command_that_fails_says_nothing_about_load() -> None:
    """A status other than 0 is neither; 0 is a success."""
    controller, rule = noting(initial=1)
    px.all_settled(["exit 1", "true"], concurrency=controller)
    assert [sample.verdict for sample in rule.samples] == ["neither", "success"]


def test_timeouts_count_when_asked_for() -> None:
    """With `count_timeouts` a task over its time is an overload."""
    controller, rule = noting(count_timeouts=True)
    px.all_settled(["sleep 60"], concurrency=controller, timeout=0.01, kill_after=0)
    assert [sample.verdict for sample in rule.samples] == ["overload"]


def test_the_rule_learns_when_and_beside_whom_a_task_ran() -> None:
    """A sample has the times of the place, what was in flight, and whether others waited."""
    controller, rule = noting(initial=2)
    asker = Asker()
    first, second = asker.ask("a", controller), asker.ask("b", controller)
    base.release(first, {controller: "success"})
    asker.ask("c", controller)
    asker.ask("d", controller)
    base.release(second, {controller: "success"})
    seen = [(sample.in_flight, sample.waiting) for sample in rule.samples]
    assert seen == [(2, False), (2, True)]
    assert rule.samples[0].started_at == first.since
    assert rule.samples[0].ended_at >= first.since


def test_the_rules_limit_is_the_one_that_holds() -> None:
    """When it grows those who wait begin; the fraction does not count."""
    controller, rule = noting(initial=1)
    asker = Asker()
    first = asker.ask("a", controller)
    for name in "bcd":
        asker.ask(name, controller)
    rule.limit, rule.reason = 2.9, "growth"
    base.tell(base.release(first, {controller: "success"}))
    assert (asker.granted, controller.limit) == (["a", "b", "c"], 2)


def test_history_and_statistics_tell_what_happened() -> None:
    """Each change stands in the history, and no more than are to be remembered."""
    controller, rule = noting(initial=3, history=3)
    for limit, reason in [(4, "growth"), (4, "growth"), (2, "cut"), (3, "probe")]:
        rule.limit, rule.reason = limit, reason
        controller.run(lambda: None)
    assert [(change.limit, change.reason) for change in controller.history] == [
        (4, "growth"),
        (2, "cut"),
        (3, "probe"),
    ]
    times = [change.time_s for change in controller.history]
    assert times == sorted(times)
    statistics = controller.statistics()
    assert (statistics.limit, statistics.successes, statistics.in_flight) == (3, 4, 0)
    with pytest.raises(AttributeError):
        statistics.limit = 5  # type: ignore[misc]


def test_bounds_can_be_moved() -> None:
    """A smaller maximum brings the limit down at once, a larger minimum lets more begin."""
    controller, rule = noting(initial=5)
    controller.max_limit = 2
    assert (controller.limit, controller.max_limit, rule.bounds) == (2, 2, (1, 2))
    asker = Asker()
    for name in "abc":
        asker.ask(name, controller)
    controller.set_bounds(3, 7)
    assert (asker.granted, controller.limit) == (["a", "b", "c"], 3)


def test_a_command_that_was_refused_is_tried_again() -> None:
    """It surely did not run; the caller sees only that it took more attempts."""
    environment = Refusing(ConnectError("refused"), ConnectError("refused"))
    controller, _ = noting(initial=1)
    (outcome,) = px.all_settled([environment.command("echo hello")], concurrency=controller)
    assert outcome.result().text() == "hello\n"
    assert (outcome.attempts, len(outcome.attempt_errors)) == (3, 2)
    assert controller.statistics().retried == 2


def test_a_command_that_may_have_run_is_not_tried_again() -> None:
    """Unless its task says that this is safe."""
    lost = Refusing(ConnectionLostError("reset"))
    controller, _ = noting()
    (outcome,) = px.all_settled([lost.command("true")], concurrency=controller)
    assert isinstance(outcome.reason, ConnectionLostError)
    lost = Refusing(ConnectionLostError("reset"))
    task = px.Task(lost.command("true"), safe_to_repeat=True)
    assert px.all_settled([task], concurrency=controller).ok


def test_a_function_is_tried_again_only_if_that_is_safe() -> None:
    """A function that raised has run."""
    calls: list[int] = []

    def task() -> int:
        calls.append(1)
        if len(calls) % 2:
            raise ConnectionRefusedError("refused")
        return len(calls)

    controller, _ = noting()
    with pytest.raises(ConnectionRefusedError):
        controller.execute([task])
    calls.clear()
    assert controller.execute([px.Task(task, safe_to_repeat=True)]) == [2]


def test_retries_stay_within_the_budget() -> None:
    """A service that is away gets its reserve of retries, and not one more."""
    errors = [ConnectError("refused") for _ in range(1000)]
    environment = Refusing(*errors)
    controller, _ = noting(initial=2, retry_reserve=7)
    outcomes = px.all_settled([environment.command("true")] * 20, concurrency=controller)
    assert len(outcomes.rejected) == 20
    assert environment.started == 20 + 7
    statistics = controller.statistics()
    assert (statistics.retried, statistics.denied, statistics.budget) == (7, 20, 0)


def test_successes_earn_retries() -> None:
    """The budget is a share of the successes."""
    controller, _ = noting(retry_budget=0.25, retry_reserve=2)
    assert controller.statistics().budget == 2
    environment = Refusing(ConnectError("refused"))
    px.all([environment.command("true")], concurrency=controller)
    assert controller.statistics().budget == 1.25
    for _ in range(8):
        controller.run(lambda: None)
    assert controller.statistics().budget == 2


def test_the_users_retry_follows_when_the_budget_is_spent() -> None:
    """`retry=` is asked about what the controller leaves."""
    environment = Refusing(ConnectError("refused"), ConnectError("refused"))
    controller, _ = noting(retry_reserve=1)
    tasks = [environment.command("true")]
    outcomes = px.all_settled(tasks, concurrency=controller, retry=px.Retry(2, wait=0))
    assert outcomes.ok
    assert outcomes[0].attempts == 3


def test_classify_decides() -> None:
    """Its answer counts, whatever the outcome; None leaves it to the rules."""

    def classify(outcome: px.Outcome[Any]) -> Any:
        error = outcome.reason
        if isinstance(error, CommandFailedError) and error.result.exit_code == 75:
            return "overload"
        return "neither" if outcome.label == "echo hello" else None

    controller, rule = noting(initial=1, classify=classify)
    tasks: list[Any] = ["exit 75", "exit 1", "echo hello", "true", failing(ConnectError("refused"))]
    px.all_settled(tasks, concurrency=controller)
    verdicts = ["overload", "neither", "neither", "success", "overload"]
    assert [sample.verdict for sample in rule.samples] == verdicts


def test_classify_runs_neither_in_the_service_thread_nor_under_the_lock() -> None:
    """It may block, and use the limit itself."""
    threads = []

    def classify(_: px.Outcome[Any]) -> None:
        threads.append(threading.current_thread().name)
        controller.statistics()
        px.run("true")

    controller, _ = noting(classify=classify)
    px.all(["true", lambda: None], concurrency=controller)
    assert len(threads) == 2
    assert "parallel_exec" not in threads


@pytest.mark.parametrize("answer", ["fine", 3, [], ZeroDivisionError(), SystemExit()])
def test_a_classify_that_is_wrong_harms_no_task(
    answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    """What it raises or answers wrongly is logged, and counts as neither."""

    def classify(_: px.Outcome[Any]) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    controller, rule = noting(classify=classify)
    with caplog.at_level(logging.ERROR, "parallel_exec"):
        assert px.all([lambda: 5], concurrency=controller) == [5]
    assert [sample.verdict for sample in rule.samples] == ["neither"]
    assert "classify=" in caplog.text


def test_an_interrupt_while_an_end_is_judged_gives_the_place_back() -> None:
    """Ctrl-C reaches the user, and costs no place."""

    def classify(_: px.Outcome[Any]) -> Any:
        raise KeyboardInterrupt

    controller, rule = noting(classify=classify)
    with pytest.raises(KeyboardInterrupt), controller:
        pass
    assert controller.in_flight == 0
    assert [sample.verdict for sample in rule.samples] == ["neither"]


class Broken(Noting):
    """A rule that cannot cope with any sample."""

    def update(self, sample: Sample) -> None:
        """Raise."""
        raise ZeroDivisionError


class Nowhere(Noting):
    """A rule that answers with no limit at all."""

    def update(self, sample: Sample) -> None:
        """Lose it."""
        self.limit = float("nan")


@pytest.mark.parametrize("rule", [Broken, Nowhere])
def test_a_rule_that_is_wrong_harms_no_task(
    rule: type[Noting], caplog: pytest.LogCaptureFixture
) -> None:
    """What it raises is logged, and the limit stays where it was."""
    controller = px.AIMDController(2, rule=rule)
    with caplog.at_level(logging.ERROR, "parallel_exec"):
        assert px.all([lambda: 5] * 10, concurrency=controller) == [5] * 10
        assert controller.run(lambda: 6) == 6
    assert (controller.limit, controller.in_flight) == (2, 0)
    assert len(caplog.records) == 11
    assert "rule= raised" in caplog.text


def test_waiting_for_processes_or_threads_is_an_overload() -> None:
    """The task runs all the same; the rule learns of the strain."""

    class Strained(Refusing):
        def start(self, command: px.Command, ticket: Ticket) -> Execution:
            ticket.strained(BlockingIOError(errno.EAGAIN, "no process"))
            ticket.strained(HostError("all channels are in use"))  # says nothing
            return super().start(command, ticket)

    controller, rule = noting()
    assert px.all_settled([Strained().command("true")], concurrency=controller).ok
    assert [sample.verdict for sample in rule.samples] == ["overload", "success"]
    assert controller.statistics().strained == 1


def test_each_of_several_controllers_judges_for_itself() -> None:
    """Combined, one may call overload what says nothing to the other."""
    first, first_rule = noting(classify=lambda _: "overload")
    second, second_rule = noting()
    px.all([lambda: 1], concurrency=px.AllOf(first, second))
    assert [sample.verdict for sample in first_rule.samples] == ["overload"]
    assert [sample.verdict for sample in second_rule.samples] == ["success"]


def test_it_is_used_like_any_limit() -> None:
    """As `with`, as decorator, by `run`, and what fails under it is judged, too."""
    controller, rule = noting()
    with controller:
        assert controller.in_flight == 1
    assert controller(lambda: 5)() == 5
    with pytest.raises(ConnectionRefusedError), controller:
        raise ConnectionRefusedError
    assert controller.run(lambda: 6) == 6
    verdicts = ["success", "success", "overload", "success"]
    assert [sample.verdict for sample in rule.samples] == verdicts
    assert controller.in_flight == 0


def test_execute_runs_tasks_under_it() -> None:
    """The seed's way: values in task order, a future among them is waited for."""
    future: Future[int] = Future()
    future.set_result(3)
    controller = px.AIMDController()
    assert controller.execute([lambda: 1, lambda: 2, future]) == [1, 2, 3]
    assert controller.statistics().successes == 2


def test_the_default_rule_finds_the_capacity() -> None:
    """Against a service of 4 places that refuses the fifth, no task fails."""
    places = threading.Semaphore(4)
    away = threading.Event()

    def task() -> None:
        if not places.acquire(blocking=False):
            raise ConnectionRefusedError("full")
        away.wait(0.001)
        places.release()

    controller = px.AIMDController(1, 1, 100)
    controller.execute([px.Task(task, safe_to_repeat=True) for _ in range(300)])
    assert controller.statistics().successes == 300
    assert 2 <= controller.limit <= 8
    assert {change.reason for change in controller.history} >= {"initial", "slow start", "cut"}


def test_constants_reach_the_rule() -> None:
    """Whatever else is given by name is the rule's."""
    controller = px.AIMDController(8, 1, 10, rule=px.Step, down=3)
    with pytest.raises(ConnectionRefusedError), controller:
        raise ConnectionRefusedError
    assert controller.limit == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"initial": 0}, "initial must be"),
        ({"initial": 11}, "initial must be between"),
        ({"min_limit": 0}, "min_limit must be"),
        ({"max_limit": 4, "min_limit": 5}, "max_limit must be"),
        ({"rule": 5}, "rule must be"),
        ({"rule": lambda *_: 5}, "rule cannot be made"),
        ({"unknown": 5}, "rule cannot be made"),
        ({"classify": 5}, "classify must be"),
        ({"count_timeouts": 1}, "count_timeouts must be"),
        ({"retry_budget": -1}, "retry_budget must be"),
        ({"retry_reserve": -1}, "retry_reserve must be"),
        ({"history": 0}, "history must be"),
    ],
)
def test_unusable_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    """The message names the parameter."""
    with pytest.raises(ConfigError, match=message):
        px.AIMDController(**arguments)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ((0, 10), "min_limit must be"),
        ((None, 10), "min_limit must be"),
        ((1, 2.5), "max_limit must be"),
        ((5, 4), "max_limit must be a whole number of at least 5"),
    ],
)
def test_unusable_bounds_are_refused(bounds: tuple[Any, Any], message: str) -> None:
    """The message names what was set, and nothing is changed."""
    controller = px.AIMDController()
    with pytest.raises(ConfigError, match=message):
        controller.set_bounds(*bounds)
    assert (controller.min_limit, controller.max_limit, controller.limit) == (1, 10, 5)


def test_execute_takes_no_other_limit() -> None:
    """It is the limit."""
    with pytest.raises(ConfigError, match="concurrency must be left out"):
        px.AIMDController().execute([lambda: 1], concurrency=3)
