"""Tests of the decision whether a task is tried again; time is a number here."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import pytest
import tenacity
from hypothesis import given, strategies as st

from parallel_exec.engine.retry import GiveUp, Retry, RetryAgain, RetryLike, RetryPlan, policy
from parallel_exec.errors import (
    AuthenticationError,
    CommandNotFoundError,
    CommandStartError,
    ConfigError,
    ConnectError,
    ConnectionLostError,
    HostError,
    HostKeyError,
    SudoError,
    TaskCancelledError,
    TaskTimeoutError,
)

Ending = BaseException | Any


def plan_of(retry: RetryLike) -> RetryPlan:
    plan = policy(retry)
    assert plan is not None
    return plan


def drive(
    retry: RetryLike, endings: Iterable[Ending], *, is_command: bool = False, try_s: float = 0.0
) -> tuple[list[float], GiveUp]:
    """Play a task whose tries end like `endings`; return its waits and its end."""
    now = 100.0
    state = plan_of(retry).begin(is_command, now)
    delays: list[float] = []
    for ending in endings:
        now += try_s
        if isinstance(ending, BaseException):
            decision = state.after(None, ending, now)
        else:
            decision = state.after(ending, None, now)
        if isinstance(decision, GiveUp):
            return delays, decision
        delays.append(decision.delay_s)
        now += decision.delay_s
    raise AssertionError("the policy wants more tries than there are endings")


def is_retried(retry: RetryLike, error: BaseException, *, is_command: bool = False) -> bool:
    decision = plan_of(retry).begin(is_command, 0.0).after(None, error, 0.0)
    return isinstance(decision, RetryAgain)


def raised(error: BaseException) -> BaseException:
    """Return `error` as one that has been raised, with its traceback."""
    try:
        raise error
    except BaseException as caught:
        return caught


def abandoned() -> TaskTimeoutError:
    error = TaskTimeoutError("too long")
    error.abandoned = True
    return error


# How many tries


def test_attempts_counts_the_first_try() -> None:
    """Three attempts are two waits and then the last error itself."""
    errors = [ValueError(n) for n in range(9)]
    delays, end = drive(Retry(attempts=3, wait=1), errors)
    assert delays == [1.0, 1.0]
    assert end.error is errors[2]


def test_a_value_ends_the_tries() -> None:
    """A try that gives a value after failures makes the task fulfilled with it."""
    delays, end = drive(Retry(attempts=5, wait=0), [ValueError(), ValueError(), "value"])
    assert (len(delays), end) == (2, GiveUp(None, "value"))


def test_a_falsy_value_is_a_value() -> None:
    """None as a value is accepted and is no failure."""
    assert drive(Retry(), [None])[1] == GiveUp(None, None)


def test_one_attempt_needs_no_plan() -> None:
    """With one attempt nothing is tried again, so the engine has nothing to ask."""
    assert policy(Retry(attempts=1)) is None
    assert policy(None) is None


def test_attempts_none_has_no_limit() -> None:
    """Without a limit on attempts the hundredth failure is tried again."""
    delays, end = drive(Retry(attempts=None, wait=0), [*[ValueError()] * 100, "value"])
    assert (len(delays), end.value) == (100, "value")


def test_max_time_starts_no_try_after_it() -> None:
    """With tries of 2 s and waits of 1 s, the tries within 7 s start at 0, 3 and 6."""
    errors = [ValueError(n) for n in range(9)]
    delays, end = drive(Retry(attempts=None, wait=1, max_time=7), errors, try_s=2.0)
    assert (len(delays), end.error) == (2, errors[2])


@given(
    attempts=st.integers(1, 8),
    wait=st.none() | st.floats(0, 20),
    max_time=st.none() | st.floats(0.1, 60),
    try_s=st.floats(0, 5),
    failures=st.integers(0, 12),
)
def test_no_policy_goes_past_its_limits(
    attempts: int, wait: float | None, max_time: float | None, try_s: float, failures: int
) -> None:
    """Whatever the policy: never more tries than attempts, none that starts after max_time."""
    retry = Retry(attempts, wait=wait, max_time=max_time)
    if policy(retry) is None:
        assert attempts == 1
        return
    errors = [ValueError(n) for n in range(failures)]
    delays, end = drive(retry, [*errors, "value"], try_s=try_s)
    tries = len(delays) + 1
    assert tries <= attempts
    if max_time is not None and delays:
        assert sum(delays) + try_s * len(delays) <= max_time + 1e-6
    if end.error is None:
        assert (tries, end.value) == (failures + 1, "value")
    else:
        assert end.error is errors[tries - 1]


# The wait


def test_the_default_wait_is_full_jitter_under_a_doubling_ceiling() -> None:
    """Waits fill the whole range from 0 to 1, 2, 4 ... seconds, and never exceed 30."""
    seen: list[list[float]] = [[] for _ in range(8)]
    for _ in range(300):
        delays, _end = drive(Retry(attempts=9), [ValueError()] * 9)
        for delays_of_try, delay in zip(seen, delays, strict=True):
            delays_of_try.append(delay)
    for n, delays in enumerate(seen):
        ceiling = min(30.0, 2.0**n)
        assert 0 <= min(delays) < 0.1 * ceiling
        assert 0.9 * ceiling < max(delays) <= ceiling


def test_wait_may_be_a_timedelta() -> None:
    """A timedelta is as good as seconds, for `wait` and for `max_time`."""
    assert Retry(wait=timedelta(seconds=2)).wait == 2.0
    assert Retry(max_time=timedelta(minutes=1)).max_time == 60.0


def test_wait_may_be_a_function_of_the_attempt() -> None:
    """The function hears the number of the try that failed, from 1."""
    delays, _ = drive(Retry(attempts=4, wait=float), [ValueError()] * 4)
    assert delays == [1.0, 2.0, 3.0]


def test_wait_may_be_a_wait_of_tenacity() -> None:
    """A wait object of tenacity is used as it is."""
    wait = tenacity.wait_incrementing(start=5, increment=10) + tenacity.wait_fixed(1)
    assert drive(Retry(attempts=3, wait=wait), [ValueError()] * 3)[0] == [6.0, 16.0]


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf, "1", True])
def test_a_wait_function_with_a_bad_answer_fails_its_task(bad: Any) -> None:
    """A wait that is no duration must not reach a timer: the task ends, saying why."""
    error = ValueError("first")
    _, end = drive(Retry(wait=lambda attempt: bad), [error])
    assert isinstance(end.error, ConfigError)
    assert str(end.error).startswith("wait must be")
    assert end.error.__context__ is error


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_a_tenacity_wait_with_a_bad_answer_fails_its_task(bad: float) -> None:
    """The same holds for what a tenacity object answers."""
    _, end = drive(tenacity.Retrying(wait=lambda call: bad), [ValueError()])
    assert isinstance(end.error, ConfigError)


# Which errors


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (HostError("no host"), True),
        (ConnectError("no route"), True),
        (AuthenticationError("wrong password"), False),
        (SudoError("wrong password"), False),
        (HostKeyError("changed"), False),
        (ConnectionLostError("lost"), False),
        (TaskTimeoutError("late"), False),
        (CommandStartError("refused"), False),
        (CommandNotFoundError("no such program"), False),
        (RuntimeError("other"), False),
    ],
)
def test_by_default_only_a_command_that_did_not_run_is_tried_again(
    error: BaseException, again: bool
) -> None:
    """Of a command's errors only a host's says that surely nothing ran."""
    assert is_retried(Retry(), error, is_command=True) is again


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (RuntimeError("any"), True),
        (AuthenticationError("wrong password"), False),
        (HostKeyError("changed"), False),
        (ConnectionLostError("lost"), True),
        (TaskTimeoutError("late, but ended"), True),
        (abandoned(), False),
        (ConfigError("bad argument"), False),
        (CommandNotFoundError("no such program"), False),
        (SystemExit(1), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_by_default_a_function_is_tried_again_after_any_exception(
    error: BaseException, again: bool
) -> None:
    """A function's errors are retried, unless it still runs or can only fail the same way."""
    assert is_retried(Retry(), error) is again


@pytest.mark.parametrize("is_command", [True, False])
def test_on_takes_types(is_command: bool) -> None:
    """A type, a tuple or a list of them replaces the default for commands and functions."""
    for on in (LookupError, (OSError, LookupError), [LookupError]):
        assert is_retried(Retry(on=on), KeyError(), is_command=is_command)
        assert not is_retried(Retry(on=on), ValueError(), is_command=is_command)


def test_on_takes_a_predicate() -> None:
    """A function of the error decides; what it answers is taken as true or false."""
    retry = Retry(on=lambda error: str(error) == "again")
    assert is_retried(retry, ValueError("again"))
    assert not is_retried(retry, ValueError("no"))


def test_on_takes_a_retry_of_tenacity() -> None:
    """A retry object of tenacity may also judge values."""
    retry = Retry(attempts=2, wait=0, on=tenacity.retry_if_result(lambda value: value < 0))
    assert drive(retry, [-1, 7])[1] == GiveUp(None, 7)
    _, end = drive(retry, [-1, -2])
    assert isinstance(end.error, tenacity.RetryError)
    error = ValueError()
    assert drive(retry, [error])[1].error is error
    once = Retry(attempts=1, on=tenacity.retry_if_result(lambda value: value < 0))
    assert isinstance(drive(once, [-1])[1].error, tenacity.RetryError)


@pytest.mark.parametrize("on", [Exception, OSError, ValueError, ConfigError])
def test_a_start_error_is_not_tried_again_for_a_wider_type(on: type[Exception]) -> None:
    """A program that does not exist stays missing, although its error is an OSError."""
    assert not is_retried(Retry(on=on), CommandNotFoundError("none"), is_command=True)


@pytest.mark.parametrize(
    "on", [CommandStartError, (ValueError, CommandNotFoundError), lambda error: True]
)
def test_a_start_error_is_tried_again_if_asked(on: Any) -> None:
    """Naming the class, or a predicate, asks for it."""
    assert is_retried(Retry(on=on), CommandNotFoundError("none"), is_command=True)


@pytest.mark.parametrize(
    "retry",
    [
        Retry(on=BaseException),
        Retry(on=TaskCancelledError),
        Retry(on=lambda error: True),
        Retry(on=tenacity.retry_always),
        tenacity.Retrying(retry=tenacity.retry_always),
    ],
)
def test_a_cancelled_task_is_never_tried_again(retry: RetryLike) -> None:
    """Who cancels wants an end, whatever the policy says."""
    error = TaskCancelledError("stop")
    assert drive(retry, [error])[1] == GiveUp(error, None)


def test_a_predicate_that_raises_fails_its_task() -> None:
    """The task ends with the predicate's error, the task's own in its context."""
    error = ValueError("task")
    _, end = drive(Retry(on=lambda error: error.no_such_attribute), [error])  # type: ignore[attr-defined]
    assert isinstance(end.error, AttributeError)
    assert end.error.__context__ is error


def test_the_reported_error_keeps_its_own_traceback() -> None:
    """The last error passes through tenacity, whose frames must not be shown to the user."""
    error = raised(ValueError("task"))
    before = traceback.extract_tb(error.__traceback__)
    _, end = drive(Retry(attempts=2, wait=0), [ValueError(), error])
    assert end.error is error
    assert traceback.extract_tb(error.__traceback__) == before


# Objects of tenacity


def test_a_tenacity_object_stops_with_its_retry_error() -> None:
    """Without `reraise` the end is a RetryError, caused by the last error."""
    errors = [ValueError(1), ValueError(2)]
    retrying = tenacity.Retrying(stop=tenacity.stop_after_attempt(2), wait=tenacity.wait_fixed(3))
    delays, end = drive(retrying, errors)
    assert delays == [3.0]
    assert isinstance(end.error, tenacity.RetryError)
    assert end.error.last_attempt.exception() is errors[1]
    assert end.error.__cause__ is errors[1]


def test_a_tenacity_object_reraises_if_told_to() -> None:
    """With `reraise` the end is the last error itself."""
    errors = [ValueError(1), ValueError(2)]
    retrying = tenacity.Retrying(stop=tenacity.stop_after_attempt(2), reraise=True)
    assert drive(retrying, errors)[1].error is errors[1]


def test_a_tenacity_object_reports_what_it_does_not_retry() -> None:
    """An error that its predicate refuses is the end, unwrapped."""
    error = KeyError()
    retrying = tenacity.Retrying(retry=tenacity.retry_if_exception_type(ValueError))
    assert drive(retrying, [error])[1].error is error


def test_a_tenacity_object_may_judge_values() -> None:
    """A value it does not like is tried again, the next is accepted."""
    retrying = tenacity.Retrying(retry=tenacity.retry_if_result(lambda value: value is None))
    delays, end = drive(retrying, [None, None, "value"])
    assert (len(delays), end) == (2, GiveUp(None, "value"))


def test_an_error_callback_of_tenacity_replaces_the_end() -> None:
    """What `retry_error_callback` returns is the task's value."""
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(1), retry_error_callback=lambda call: "instead"
    )
    assert drive(retrying, [ValueError()])[1] == GiveUp(None, "instead")


def test_try_again_of_tenacity_is_understood() -> None:
    """A function may ask for another try by raising TryAgain, with either policy."""
    for retry in (
        tenacity.Retrying(retry=tenacity.retry_never),
        Retry(wait=0, on=ValueError),
    ):
        assert drive(retry, [tenacity.TryAgain(), "value"])[1] == GiveUp(None, "value")


def test_hooks_of_tenacity_are_called_in_its_order() -> None:
    """The hooks are called as when tenacity itself makes the call."""
    heard: list[tuple[str, int]] = []

    def hook(name: str) -> Callable[[tenacity.RetryCallState], None]:
        return lambda call: heard.append((name, call.attempt_number))

    def retrying() -> tenacity.Retrying:
        return tenacity.Retrying(
            stop=tenacity.stop_after_attempt(3),
            before=hook("before"),
            after=hook("after"),
            before_sleep=hook("before_sleep"),
            sleep=lambda seconds: None,
            reraise=True,
        )

    endings = iter([ValueError(1), ValueError(2), ValueError(3)])

    def fail() -> None:
        raise next(endings)

    with pytest.raises(ValueError, match="3"):
        retrying()(fail)
    expected = heard.copy()
    heard.clear()
    drive(retrying(), [ValueError(1), ValueError(2), ValueError(3)])
    assert heard == expected


def test_hooks_see_the_time_of_the_engine() -> None:
    """Time spent, waits included, is that of the clock the engine hands over."""
    seen: list[float | None] = []
    retrying = tenacity.Retrying(
        wait=tenacity.wait_fixed(5),
        stop=tenacity.stop_after_delay(15),
        after=lambda call: seen.append(call.seconds_since_start),
    )
    delays, _ = drive(retrying, [ValueError()] * 9, try_s=2.0)
    assert seen == [2.0, 9.0, 16.0]
    assert delays == [5.0, 5.0]


def test_hooks_see_statistics_whatever_thread_calls_them() -> None:
    """Tenacity keeps statistics per thread; the tries of a task are made in several."""
    seen: list[dict[str, Any]] = []
    retrying = tenacity.Retrying(
        wait=tenacity.wait_fixed(1),
        before_sleep=lambda call: seen.append(dict(call.retry_object.statistics)),
    )
    state = plan_of(retrying).begin(False, 0.0)
    for now in (1.0, 3.0, 5.0):
        thread = threading.Thread(target=state.after, args=(None, ValueError(), now))
        thread.start()
        thread.join()
    assert [(s["attempt_number"], s["idle_for"]) for s in seen] == [(2, 1), (3, 2), (4, 3)]
    assert {s["start_time"] for s in seen} == {0.0}


def test_a_before_hook_that_raises_fails_its_task() -> None:
    """`begin` never raises: the task ends with the hook's error after its first try."""

    def before(call: tenacity.RetryCallState) -> None:
        raise LookupError("hook")

    state = plan_of(tenacity.Retrying(before=before)).begin(False, 0.0)
    decision = state.after("value", None, 0.0)
    assert isinstance(decision, GiveUp)
    assert isinstance(decision.error, LookupError)


@pytest.mark.parametrize("hook", ["before", "after"])
def test_a_hook_that_raises_system_exit_fails_its_task(hook: str) -> None:
    """Hooks run where nobody waits for an exception: whatever it is, it is the task's."""

    def leave(call: tenacity.RetryCallState) -> None:
        raise SystemExit(3)

    state = plan_of(tenacity.Retrying(**{hook: leave})).begin(False, 0.0)  # type: ignore[arg-type]
    decision = state.after(None, ValueError(), 0.0)
    assert isinstance(decision, GiveUp)
    assert isinstance(decision.error, SystemExit)


def test_tasks_of_one_run_do_not_share_their_tries() -> None:
    """Every task has its own count, from one object given for all."""
    for retry in (
        Retry(attempts=2, wait=0),
        tenacity.Retrying(stop=tenacity.stop_after_attempt(2)),
    ):
        plan = plan_of(retry)
        states = [plan.begin(False, 0.0) for _ in range(3)]
        first = [state.after(None, ValueError(), 0.0) for state in states]
        second = [state.after(None, ValueError(), 0.0) for state in states]
        assert all(isinstance(decision, RetryAgain) for decision in first)
        assert all(isinstance(decision, GiveUp) for decision in second)


def test_every_task_has_its_own_copy_of_a_tenacity_object() -> None:
    """As in tenacity's own decorator, so that a subclass may keep a call's state on itself."""
    objects: list[tenacity.BaseRetrying] = []
    retrying = tenacity.Retrying(before=lambda call: objects.append(call.retry_object))
    plan = plan_of(retrying)
    states = [plan.begin(False, 0.0) for _ in range(3)]
    for state in states:
        state.after(None, ValueError(), 0.0)
    assert objects[:3] == objects[3:]
    assert len({id(made) for made in [retrying, *objects]}) == 4


def test_the_given_tenacity_object_stays_untouched() -> None:
    """It is copied: its statistics are the user's, and later changes do not reach a run."""
    retrying = tenacity.Retrying(stop=tenacity.stop_after_attempt(2))
    plan = plan_of(retrying)
    retrying.stop = tenacity.stop_never
    plan.begin(False, 0.0).after(None, ValueError(), 0.0)
    assert retrying.statistics == {}
    state = plan.begin(False, 0.0)
    state.after(None, ValueError(), 0.0)
    assert isinstance(state.after(None, ValueError(), 0.0), GiveUp)


def test_a_disabled_tenacity_object_retries_nothing() -> None:
    """`enabled=False` makes tenacity call once, so there is no plan."""
    disabled = tenacity.Retrying()
    disabled.enabled = False  # not every tenacity that is supported takes it as an argument
    assert policy(disabled) is None


# What the engine must know


@pytest.mark.parametrize(
    ("retry", "foreign"),
    [
        (Retry(), False),
        (Retry(wait=1, on=(OSError,), max_time=9), False),
        (Retry(wait=float), True),
        (Retry(wait=tenacity.wait_none()), True),
        (Retry(on=lambda error: True), True),
        (Retry(on=tenacity.retry_always), True),
        (tenacity.Retrying(), True),
    ],
)
def test_foreign_code_is_announced(retry: RetryLike, foreign: bool) -> None:
    """The service thread must not call what it does not know."""
    assert plan_of(retry).foreign is foreign


def test_tenacity_is_imported_only_where_something_is_retried() -> None:
    """The import of tenacity takes longer than that of all of this; most runs need none."""
    script = (
        "import sys\n"
        "from parallel_exec.engine.retry import Retry, policy\n"
        "assert policy(None) is None\n"
        "Retry(wait=1, on=OSError)\n"
        "try: policy(3)\n"
        "except ValueError as error: assert str(error).startswith('retry must be')\n"
        "assert 'tenacity' not in sys.modules\n"
        "assert policy(Retry())\n"
        "assert 'tenacity' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# Bad input


@pytest.mark.parametrize("value", [0, -1, True, 2.0, math.nan, "3"])
def test_bad_attempts_are_refused(value: Any) -> None:
    """The message names the parameter and the value."""
    with pytest.raises(ConfigError, match=rf"^attempts must be .*, not {value!r}$"):
        Retry(attempts=value)


@pytest.mark.parametrize("value", [-1, True, math.nan, math.inf, "1", timedelta(seconds=-1)])
def test_a_bad_wait_is_refused(value: Any) -> None:
    """The message names the parameter."""
    with pytest.raises(ConfigError, match=r"^wait must be"):
        Retry(wait=value)


@pytest.mark.parametrize("value", [0, -1, True, math.nan, math.inf, "1", timedelta(0)])
def test_a_bad_max_time_is_refused(value: Any) -> None:
    """The message names the parameter."""
    with pytest.raises(ConfigError, match=r"^max_time must be"):
        Retry(max_time=value)


@pytest.mark.parametrize("value", [(), [], 3, "OSError", int, (OSError, int), [OSError("x")]])
def test_bad_types_to_retry_on_are_refused(value: Any) -> None:
    """The message names the parameter."""
    with pytest.raises(ConfigError, match=r"^on must be"):
        Retry(on=value)


@pytest.mark.parametrize(
    "value", [3, True, "3", ValueError, Retry, tenacity.retry(reraise=True), tenacity.Retrying]
)
def test_what_is_no_policy_is_refused(value: Any) -> None:
    """The message names the parameter."""
    with pytest.raises(ConfigError, match=r"^retry must be"):
        policy(value)


def test_an_asynchronous_tenacity_object_is_refused() -> None:
    """Its steps are coroutines, which nobody here would await."""
    with pytest.raises(ConfigError, match="synchronous"):
        policy(tenacity.AsyncRetrying())


def test_a_tenacity_object_that_cannot_be_copied_is_refused() -> None:
    """A subclass with an `__init__` of its own is refused before anything starts."""

    class Named(tenacity.Retrying):
        def __init__(self, name: str) -> None:
            super().__init__(reraise=bool(name))

    with pytest.raises(ConfigError, match="copied"):
        policy(Named("mine"))


def test_a_retry_is_a_value() -> None:
    """It compares, hashes, pickles and cannot be changed."""
    retry = Retry(5, wait=1, on=[OSError], max_time=9)
    assert retry == pickle.loads(pickle.dumps(retry)) == Retry(5, wait=1.0, on=OSError, max_time=9)
    assert len({retry, Retry(5, wait=1, on=OSError, max_time=9)}) == 1
    with pytest.raises(AttributeError):
        retry.attempts = 4  # type: ignore[misc]
