"""The functions that run many tasks: what each promises, with commands, functions, futures."""

from __future__ import annotations

import concurrent.futures
import contextvars
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.errors import (
    CommandFailedError,
    ConfigError,
    DeadlineExceededError,
    RunFailedError,
    TaskCancelledError,
    TaskTimeoutError,
)
from tests.integration.processes import PATIENCE_S, Nap, python


class BoomError(Exception):
    """What tasks of these tests fail with."""


def boom() -> None:
    raise BoomError("on purpose")


class Meeting:
    """Functions that return when so many of them are inside at once."""

    def __init__(self, count: int) -> None:
        self._barrier = threading.Barrier(count)

    def __call__(self, value: Any = None) -> Any:
        self._barrier.wait(PATIENCE_S)
        return value


class Counter:
    """Counts how many are inside of it, and the most there ever were."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = 0
        self.most = 0

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.now -= 1


GATHERING: list[Callable[..., Any]] = [px.all, px.fast_fail, px.all_settled, px.fail_safe]
EVERY: list[Callable[..., Any]] = [
    *GATHERING,
    px.any,
    px.race,
    lambda tasks, **options: list(px.as_completed(tasks, **options)),
]
MAPPING: list[Callable[..., Any]] = [
    px.parallel_map,
    lambda *given, **options: list(px.parallel_imap(*given, **options)),
    lambda *given, **options: list(px.parallel_imap(*given, ordered=False, **options)),
    px.parallel_filter,
    px.parallel_for_each,
]


# all, fast_fail


def test_all_gives_values_in_task_order() -> None:
    """Values come in the order of the tasks, whichever ended first; kinds may be mixed."""
    meeting = Meeting(2)
    with ThreadPoolExecutor(1) as pool:
        tasks: list[Any] = [
            "sleep 0.2; echo string",
            ["echo", "list"],
            px.Command("echo command"),
            lambda: meeting("function"),
            lambda: meeting("other"),
            pool.submit(lambda: "future"),
            px.submit("echo submitted"),
            px.Local().command("echo bound"),
        ]
        values = px.all(tasks)
    shown = [each.text().strip() if isinstance(each, px.Result) else each for each in values]
    assert shown == [
        "string", "list", "command", "function", "other", "future", "submitted", "bound",
    ]  # fmt: skip


@pytest.mark.parametrize("call", [px.all, px.fast_fail])
def test_first_failure_is_raised_with_its_task(call: Callable[..., Any]) -> None:
    """The error is the task's own, with a note that names the task."""
    with pytest.raises(BoomError, match="on purpose") as caught:
        call([lambda: 1, boom])
    assert caught.value.__notes__ == ["task 1: boom"]
    with pytest.raises(CommandFailedError) as caught_command:
        call(["true", px.Command("exit 3", label="mine")])
    assert caught_command.value.__notes__ == ["task 1: mine"]


@pytest.mark.parametrize("call", [px.all, px.fast_fail])
@pytest.mark.parametrize("failing", [boom, "false"])
def test_nothing_starts_after_the_first_failure(
    call: Callable[..., Any], failing: Any, tmp_path: Path
) -> None:
    """The task whose turn it would be next does not begin."""
    ran: list[int] = []
    for _ in range(10):
        with pytest.raises((BoomError, CommandFailedError)):
            call([failing, f"touch {tmp_path / 'ran'}", lambda: ran.append(1)], concurrency=1)
    assert not (tmp_path / "ran").exists()
    assert ran == []


def test_nothing_starts_after_the_first_success(tmp_path: Path) -> None:
    """When one has won, the task whose turn it would be next does not begin."""
    for call in (px.any, px.race):
        for _ in range(10):
            call(["true", f"touch {tmp_path / 'ran'}"], concurrency=1)
    assert not (tmp_path / "ran").exists()


def test_error_of_all_is_the_first_in_time() -> None:
    """The failure that came first is raised, not the one of the first task."""
    over = threading.Event()

    def late() -> None:
        over.wait(PATIENCE_S)
        raise LookupError

    def early() -> None:
        raise BoomError

    def function() -> None:
        with pytest.raises(BoomError):
            px.all([late, early], kill_after=0)

    try:
        function()
    finally:
        over.set()


# all_settled, fail_safe


@pytest.mark.parametrize("call", [px.all_settled, px.fail_safe])
def test_outcomes_tell_everything(call: Callable[..., px.Outcomes[Any]]) -> None:
    """There is an outcome for each task, with its index, label, status and attempts."""

    def named() -> str:
        return "value"

    outcomes = call([named, boom, "exit 4", px.Command("true", label="mine")])
    assert [outcome.index for outcome in outcomes] == [0, 1, 2, 3]
    assert [outcome.label.rpartition(".")[2] for outcome in outcomes] == [
        "named", "boom", "exit 4", "mine",
    ]  # fmt: skip
    assert [outcome.status for outcome in outcomes] == [
        "fulfilled", "rejected", "rejected", "fulfilled",
    ]  # fmt: skip
    assert [outcome.attempts for outcome in outcomes] == [1] * 4
    assert all(outcome.duration_s > 0 for outcome in outcomes)
    assert outcomes[0].value == "value"
    assert outcomes[0].reason is None
    assert isinstance(outcomes[1].reason, BoomError)
    assert isinstance(outcomes[2].reason, CommandFailedError)
    assert not outcomes.ok
    assert len(outcomes.fulfilled) == len(outcomes.rejected) == 2
    assert outcomes.cancelled == outcomes.skipped == ()
    assert outcomes.values() == [outcomes[0].value, outcomes[3].value]
    with pytest.raises(RunFailedError, match="2 of 4 tasks failed") as caught:
        outcomes.raise_for_failures()
    assert [error.__notes__ for error in caught.value.exceptions] == [
        ["task 1: boom"], ["task 2: exit 4"],
    ]  # fmt: skip


def test_label_is_the_argv_or_the_name() -> None:
    """Without a label a task is called by its words or its function's qualified name."""
    outcomes = px.all_settled([["echo", "a b"], "echo $x | cat", boom, Meeting(1)])
    assert [outcome.label for outcome in outcomes] == [
        "echo 'a b'", "echo $x | cat", "boom", "Meeting",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_base_exceptions_of_functions_are_their_outcomes(kind: type[BaseException]) -> None:
    """A function that raises SystemExit or the like has failed; the others go on."""

    def leave() -> None:
        raise kind

    outcomes = px.all_settled([leave, "echo on"])
    assert [outcome.status for outcome in outcomes] == ["rejected", "fulfilled"]
    assert isinstance(outcomes[0].reason, kind)
    with pytest.raises(kind):
        px.all([leave])


# any, race


def test_any_gives_the_first_success() -> None:
    """Failures before it do not matter."""
    assert px.any([boom, "false", lambda: "good"]) == "good"


def test_any_without_success_raises_all_failures() -> None:
    """When nobody succeeds every error is in the group, in task order."""
    with pytest.raises(RunFailedError, match="3 of 3") as caught:
        px.any([boom, "exit 2", boom])
    kinds = [type(error) for error in caught.value.exceptions]
    assert kinds == [BoomError, CommandFailedError, BoomError]
    assert [outcome.index for outcome in caught.value.outcomes] == [0, 1, 2]


def test_race_is_decided_by_the_first_end() -> None:
    """The first to end decides, with a value or an error."""
    hold = threading.Event()
    try:
        assert px.race([lambda: hold.wait(PATIENCE_S), lambda: 1], kill_after=0) == 1
        with pytest.raises(BoomError) as caught:
            px.race([lambda: hold.wait(PATIENCE_S), boom], kill_after=0)
        assert caught.value.__notes__ == ["task 1: boom"]
    finally:
        hold.set()


def test_loser_that_cannot_be_ended_is_left_behind() -> None:
    """A function that does not look at its token is abandoned after `kill_after`; its
    place stays taken until it returns.
    """
    hold, limiter = threading.Event(), px.ConcurrencyLimiter(2)
    try:
        assert px.race([hold.wait, lambda: 1], kill_after=0, concurrency=limiter) == 1
        assert limiter.in_flight == 1
    finally:
        hold.set()
    with limiter, limiter:
        pass  # both places are there again


def test_abandoned_function_is_said_to_be() -> None:
    """The outcome of a function that still runs says so, after a timeout and a cancel."""
    hold = threading.Event()
    try:
        (outcome,) = px.all_settled([lambda: hold.wait(PATIENCE_S)], timeout=0.05, kill_after=0.05)
        assert (outcome.status, outcome.abandoned) == ("rejected", True)
        assert isinstance(outcome.reason, TaskTimeoutError)
        assert outcome.reason.abandoned
        (outcome,) = px.all_settled([lambda: hold.wait(PATIENCE_S)], deadline=0.05, kill_after=0.05)
        assert (outcome.status, outcome.abandoned) == ("cancelled", True)
    finally:
        hold.set()


# as_completed


def test_as_completed_gives_them_as_they_end() -> None:
    """Outcomes come in the order of the ends, each with its index."""
    hold = threading.Event()
    with px.as_completed([lambda: hold.wait(PATIENCE_S), "echo b", lambda: "c"]) as outcomes:
        early = {next(outcomes).index, next(outcomes).index}
        assert early == {1, 2}
        hold.set()
        assert next(outcomes).index == 0
        with pytest.raises(StopIteration):
            next(outcomes)


def test_as_completed_close_is_idempotent() -> None:
    """It may be closed before, in the middle, and again."""
    outcomes = px.as_completed([lambda: 1])
    outcomes.close()
    outcomes.close()
    assert list(outcomes) == []


def test_as_completed_starts_nothing_before_it_is_asked() -> None:
    """Nothing runs, and nothing is read, before the first outcome is wanted."""
    read: list[int] = []
    outcomes = px.as_completed((read.append(n) or "true") for n in range(3))  # type: ignore[func-returns-value, redundant-expr]
    assert read == []
    assert len(list(outcomes)) == 3


# Empty, and of the wrong kind


@pytest.mark.parametrize("empty", [[], (), iter(())])
def test_no_tasks(empty: Any) -> None:
    """Nothing to do is done at once; nobody can be the first of none."""
    empty = list(empty)
    assert px.all(empty) == px.fast_fail(empty) == []
    assert list(px.all_settled(empty)) == list(px.fail_safe(empty)) == []
    assert px.all_settled(empty).ok
    assert list(px.as_completed(empty)) == []
    assert px.parallel_map(str, empty) == px.parallel_filter(str, empty) == []
    assert list(px.parallel_imap(str, empty)) == []
    for call in (px.any, px.race):
        with pytest.raises(ValueError, match="empty"):
            call(empty)
        with pytest.raises(ValueError, match="empty"):
            call(iter(empty))


# How many at once


@pytest.mark.parametrize("call", EVERY)
def test_no_more_than_the_limit_at_once(call: Callable[..., Any]) -> None:
    """Never more tasks run than `concurrency` allows, and as many as that do."""
    counter, meeting = Counter(), Meeting(3)

    def function() -> None:
        with counter:
            meeting()

    call([function] * 12, concurrency=3)
    assert counter.most == 3


@pytest.mark.parametrize("call", MAPPING)
def test_no_more_items_than_the_limit_at_once(call: Callable[..., Any]) -> None:
    """Never more calls of a map run than its third argument allows."""
    counter, meeting = Counter(), Meeting(4)

    def function(_: int) -> None:
        with counter:
            meeting()

    call(function, range(12), 4)
    assert counter.most == 4


def test_there_is_a_limit_by_default() -> None:
    """Without `concurrency` the documented number runs at once; None is no limit."""
    for concurrency, expected in ({}, px.DEFAULT_CONCURRENCY), ({"concurrency": None}, 40):
        counter, meeting = Counter(), Meeting(min(expected, 40))

        def function(counter: Counter = counter, meeting: Meeting = meeting) -> None:
            with counter:
                meeting()

        count = expected * (1 if expected == 40 else 2)
        px.all([function] * count, **concurrency)  # type: ignore[call-overload]
        assert counter.most == expected


def test_a_limit_may_be_shared() -> None:
    """Two calls under one limiter have its places between them."""
    limiter, counter = px.ConcurrencyLimiter(2), Counter()
    meeting = Meeting(2)

    def function() -> None:
        with counter:
            meeting()

    def many() -> list[Any]:
        return px.all([function] * 6, concurrency=limiter)

    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(many) for _ in range(3)]:
            future.result(PATIENCE_S)
    assert counter.most == 2


def test_a_limit_may_change_meanwhile() -> None:
    """More places are filled at once; fewer are respected from then on."""
    limiter = px.ConcurrencyLimiter(1)
    four, counter = Meeting(4), Counter()
    sizes: list[float] = []

    def function(number: int) -> None:
        if number == 0:
            limiter.limit = 4
        if number < 4:
            four()
        if number == 4:
            limiter.limit = 1
        if number > 8:
            with counter:
                sizes.append(limiter.in_flight)

    px.parallel_map(function, range(20), limiter)
    assert counter.most == 1
    assert max(sizes) == 1


# Laziness


def counting(values: Iterable[Any]) -> tuple[Iterator[Any], list[int]]:
    """Return an iterator over `values`, and a list that has how many were read."""
    read = [0]

    def generator() -> Iterator[Any]:
        for value in values:
            read[0] += 1
            yield value

    return generator(), read


def test_input_is_read_as_it_is_needed() -> None:
    """Endless input is read no further than what is in flight and a small buffer."""
    tasks, read = counting(itertools.repeat(lambda: None))
    with px.as_completed(tasks, concurrency=4) as outcomes:
        for count in range(1, 200):
            next(outcomes)
            assert read[0] <= count + 4 + 20


@pytest.mark.parametrize("ordered", [True, False])
def test_imap_reads_no_further_than_it_gives(ordered: bool) -> None:
    """However long a value is left unasked for, no more than a small buffer is ahead."""
    items, read = counting(itertools.count())
    with px.parallel_imap(str, items, 3, ordered=ordered) as values:
        given = [next(values) for _ in range(300)]
        assert read[0] <= 300 + 3 + 20
    assert len(set(given)) == 300
    if ordered:
        assert given == [str(number) for number in range(300)]


def test_one_slow_item_does_not_pile_up_the_others() -> None:
    """While the first value is awaited only a bounded number of others is worked on."""
    hold = threading.Event()
    items, read = counting(range(10_000))
    enough = threading.Semaphore(0)

    def function(number: int) -> int:
        if number == 0:
            hold.wait(PATIENCE_S)
        enough.release()
        return number

    def release() -> None:
        for _ in range(3):
            enough.acquire(timeout=PATIENCE_S)
        ahead.append(read[0])
        hold.set()

    ahead: list[int] = []
    thread = threading.Thread(target=release)
    thread.start()
    with px.parallel_imap(function, items, 3) as values:
        assert list(itertools.islice(values, 50)) == list(range(50))
    thread.join()
    assert ahead[0] <= 3 + 20


def test_slow_input_does_not_hold_up_what_was_read() -> None:
    """A task runs, and its outcome is given, while the input has not yet made the next."""
    waiting = threading.Event()

    seen: list[Any] = []

    def note(outcome: px.Outcome[Any]) -> None:
        seen.append(outcome.value)

    def first() -> str:
        waiting.set()  # only a task that runs lets the input go on
        return "first"

    def feeding() -> Iterator[Any]:
        yield first
        assert waiting.wait(PATIENCE_S)
        yield lambda: "second"

    assert px.all(feeding(), on_outcome=note) == ["first", "second"]
    assert seen == ["first", "second"]


def test_generator_that_raises_is_raised() -> None:
    """An error of the input comes through, for maps too."""

    def items() -> Iterator[int]:
        yield 1
        raise BoomError("in the input")

    for call in MAPPING:
        with pytest.raises(BoomError, match="in the input"):
            call(str, items())
    with pytest.raises(BoomError, match="in the input"):
        px.parallel_reduce(max, items())


# Options


def test_deadline_is_for_the_whole() -> None:
    """Functions that raise raise the deadline's error; it is a TimeoutError."""
    for call in (px.all, px.any, px.race, px.fast_fail):
        with pytest.raises(DeadlineExceededError, match=r"deadline of 0\.1 s") as caught:
            call(["sleep 100000"] * 2, deadline=0.1)
        assert isinstance(caught.value, TimeoutError)
    with pytest.raises(DeadlineExceededError):
        px.parallel_map(lambda _: px.run("sleep 100000"), range(2), deadline=0.1)
    with pytest.raises(DeadlineExceededError):
        list(px.parallel_imap(lambda _: px.run("sleep 100000"), range(2), deadline=0.1))


def test_deadline_gives_outcomes_while_they_come() -> None:
    """After a deadline `as_completed` still gives an outcome for every task it has read."""
    outcomes = list(px.as_completed(["sleep 100000"] * 3, concurrency=1, deadline=0.2))
    assert sorted(outcome.status for outcome in outcomes) == ["cancelled", "skipped", "skipped"]


@pytest.mark.parametrize(
    ("max_failures", "failed"), [(0, 1), (1, 2), (3, 4), ("0%", 1), ("10%", 3), ("25%", 6)]
)
def test_max_failures_stops_with_one_too_many(max_failures: Any, failed: int) -> None:
    """Of twenty failing tasks so many run as are tolerated, and one."""
    outcomes = px.all_settled([boom] * 20, concurrency=1, max_failures=max_failures)
    assert len(outcomes.rejected) == failed
    assert len(outcomes.skipped) == 20 - failed


def test_max_failures_are_tolerated() -> None:
    """As many failures as allowed stop nobody; `all` raises them in the end."""
    outcomes = px.all_settled([boom, "true", boom, "true"], max_failures=2)
    assert [outcome.ok for outcome in outcomes] == [False, True, False, True]
    done: list[int] = []
    with pytest.raises(RunFailedError, match="2 of 4 tasks failed"):
        px.all([boom, boom, *[lambda: done.append(1)] * 2], max_failures=2, concurrency=1)
    assert done == [1, 1]


def test_share_of_failures_needs_a_total() -> None:
    """A percentage of an unknown number is an error, before anything starts."""
    with pytest.raises(ConfigError, match="max_failures"):
        px.all_settled(("true" for _ in range(3)), max_failures="10%")


@pytest.mark.parametrize("call", EVERY[:6])
def test_set_token_runs_nothing(call: Callable[..., Any]) -> None:
    """A token that is set beforehand skips every task."""
    token = px.CancelToken()
    token.cancel("not today")
    ran: list[int] = []
    tasks = [lambda: ran.append(1)] * 3
    if call in (px.all_settled, px.fail_safe):
        outcomes = call(tasks, cancel=token)
        assert [outcome.status for outcome in outcomes] == ["skipped"] * 3
        assert [outcome.attempts for outcome in outcomes] == [0] * 3
    else:
        with pytest.raises(TaskCancelledError, match="not today") as caught:
            call(tasks, cancel=token)
        assert isinstance(caught.value, CancelledError)
    assert ran == []


def test_on_outcome_is_called_for_each(caplog: pytest.LogCaptureFixture) -> None:
    """The callback gets every outcome; one that raises loses nothing."""
    seen: list[int] = []

    def callback(outcome: px.Outcome[Any]) -> None:
        seen.append(outcome.index)
        raise BoomError("the callback's own")

    outcomes = px.all_settled([boom, "true", lambda: 1], on_outcome=callback)
    assert sorted(seen) == [0, 1, 2]
    assert len(outcomes) == 3
    assert "the callback's own" in caplog.text


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("px.run('seq 2', on_stdout=leave).lines()", "['1', '2']"),
        ("px.all([boom], retry=px.Retry(on=leave))", "SystemExit(3)"),
        ("px.all(['exit 1'], retry=px.Retry(on=leave))", "SystemExit(3)"),
        ("px.all([boom], retry=px.Retry(wait=leave))", "SystemExit(3)"),
        ("px.all([int], concurrency=Strange())", "SystemExit(3)"),
        ("len(px.all_settled([listens, listens, 'exec sleep 1000'], timeout=0.1))", "3"),
        ("px.all([leaving(px.submit('sleep 0.2'))])[0].ok", "True"),
        ("px.all([leaving(pool.submit(gate.wait)), gate.set])", "[True, None]"),
    ],
)
def test_system_exit_in_a_callback_holds_up_nobody(
    tmp_path: Path, call: str, expected: str
) -> None:
    """A callback that raises SystemExit, in whatever thread of the library's, loses nothing
    and leaves nobody waiting.
    """
    code = f"""
    def leave(*_):
        sys.exit(3)

    def boom():
        raise LookupError("on purpose")

    class Strange:
        parts = leave

    def listens():
        token = px.CancelToken.current()
        token.on_cancel(leave)
        token.wait()

    def leaving(future):
        future.add_done_callback(leave)
        return future

    pool = px.ParallelExecutor(1)
    gate = threading.Event()

    try:
        print({call})
    except SystemExit as error:
        print(repr(error))
    """
    with python(tmp_path, code) as script:
        assert script.rest() == expected + "\n", script.errors()


def test_events_are_told_once() -> None:
    """A run says what happens, in an order that makes sense."""
    events: list[px.Event] = []
    px.all_settled([boom, "true"], concurrency=1, on_event=events.append)
    assert [type(event).__name__ for event in events] == [
        "RunStarted", "TaskStarted", "TaskFinished", "TaskStarted", "TaskFinished", "RunFinished",
    ]  # fmt: skip


def test_timeout_of_a_function_that_listens() -> None:
    """A function over its time sees its token set; its outcome is a timeout."""

    def function() -> None:
        assert px.CancelToken.current().wait(PATIENCE_S)
        px.CancelToken.current().raise_if_cancelled()

    (outcome,) = px.all_settled([function], timeout=0.1, kill_after=60)
    assert isinstance(outcome.reason, TaskTimeoutError)
    assert not outcome.abandoned
    with pytest.raises(TaskTimeoutError):
        px.all([function], timeout=0.1, kill_after=60)


# Futures as tasks


def test_future_that_was_cancelled() -> None:
    """A cancelled future is a cancelled task, wherever it stands."""
    future: Future[Any] = Future()
    future.cancel()
    outcomes = px.all_settled([future, "true"])
    assert [outcome.status for outcome in outcomes] == ["cancelled", "fulfilled"]
    with pytest.raises(CancelledError):
        px.all([future])
    assert px.any([future, lambda: 1]) == 1
    with pytest.raises(CancelledError):
        px.race([future])


def test_future_that_is_cancelled_while_it_is_awaited() -> None:
    """A future that somebody else cancels settles its task."""
    future: Future[Any] = Future()
    outcomes = px.all_settled([future, lambda: future.cancel()])
    assert [outcome.status for outcome in outcomes] == ["cancelled", "fulfilled"]


def test_futures_need_no_place() -> None:
    """What runs already is under no limit: it can wait for the one task that may run."""
    future: Future[Any] = Future()
    tasks: list[Any] = [future, future, lambda: future.set_result("set")]
    assert px.all(tasks, concurrency=1)[:2] == ["set", "set"]


def test_future_of_another_executor_is_cancelled_when_the_run_stops() -> None:
    """A future that has not begun is cancelled by a failure elsewhere."""
    hold = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(hold.wait, PATIENCE_S)
        future = pool.submit(lambda: "never")
        with pytest.raises(BoomError):
            px.all([future, boom])
        assert future.cancelled()
        hold.set()


def test_future_with_an_error() -> None:
    """The error of a future is the error of its task."""
    future: Future[Any] = Future()
    future.set_exception(BoomError("the future's"))
    with pytest.raises(BoomError, match="the future's"):
        px.all([future])


def test_futures_of_submit_are_like_any() -> None:
    """The standard library's `wait` and `as_completed` take them."""
    futures = [px.submit(f"echo {number}") for number in range(4)]
    done, _ = concurrent.futures.wait(futures, PATIENCE_S)
    assert {future.result().text() for future in done} == {f"{n}\n" for n in range(4)}
    failing = px.submit("exit 3")
    assert isinstance(failing.exception(PATIENCE_S), CommandFailedError)
    assert not failing.cancel()


# Nesting


@pytest.mark.parametrize("concurrency", [1, px.ConcurrencyLimiter(1)])
def test_nested_calls_do_not_deadlock(concurrency: Any) -> None:
    """Tasks that run tasks get on at limit 1, under one limit for all of them too."""

    def depth(number: int) -> int:
        if number == 0:
            return px.run("echo 1").json()  # type: ignore[no-any-return]
        below: list[Any] = [lambda: depth(number - 1), lambda: depth(number - 1)]
        return sum(px.all(below, concurrency=concurrency))

    assert px.all([lambda: depth(3)], concurrency=concurrency) == [8]


@pytest.mark.parametrize(
    "inner",
    [
        lambda limit: px.all(["true", lambda: 1], concurrency=limit),
        lambda limit: px.all_settled(["true"] * 3, concurrency=limit).raise_for_failures(),
        lambda limit: px.any(["true", "true"], concurrency=limit),
        lambda limit: px.race(["true", "true"], concurrency=limit),
        lambda limit: list(px.as_completed(["true"] * 3, concurrency=limit)),
        lambda limit: px.parallel_map(str, range(5), limit),
        lambda limit: list(px.parallel_imap(str, range(5), limit)),
        lambda limit: px.parallel_filter(str, range(5), limit),
        lambda limit: px.parallel_for_each(str, range(5), limit),
        lambda limit: px.parallel_reduce(max, range(5), concurrency=limit),
        lambda limit: limit.run(lambda: limit.run(lambda: 1)),
        lambda limit: px.submit("true").result(PATIENCE_S),
    ],
)
def test_every_call_may_be_made_in_a_task(inner: Callable[[Any], Any]) -> None:
    """A task borrows its place to whatever it waits for in the library."""
    limiter = px.ConcurrencyLimiter(1)
    px.all([lambda: inner(limiter)] * 3, concurrency=limiter, deadline=60)
    assert limiter.in_flight == 0


def test_nested_calls_keep_to_the_limit() -> None:
    """Lending makes no places: leaves of nested calls keep to the limit together."""
    limiter, counter = px.ConcurrencyLimiter(2), Counter()

    def leaf() -> None:
        with counter:
            px.run("sleep 0.02")

    def branch() -> None:
        px.all([leaf] * 4, concurrency=limiter)

    px.all([branch] * 4, concurrency=limiter)
    assert counter.most <= 2
    assert limiter.in_flight == 0


# Contexts


def test_context_variables_are_the_caller_s() -> None:
    """Functions see the variables of the caller, each in a copy of its own."""
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("the caller's")

    def function(*_: Any) -> str:
        seen = variable.get()
        variable.set("changed")
        return seen

    assert px.all([function] * 3, concurrency=1) == ["the caller's"] * 3
    for call in MAPPING[:3]:
        assert call(function, range(3), 1) == ["the caller's"] * 3
    nested = px.all([lambda: px.all([function])])
    assert nested == [["the caller's"]]
    assert variable.get() == "the caller's"


# map, filter, for_each, reduce


def test_map_gives_values_in_item_order() -> None:
    """Values come in the order of the items, whichever was ready first."""
    meeting = Meeting(2)
    assert px.parallel_map(lambda n: meeting(n) * 10, range(10), 2) == list(range(0, 100, 10))
    assert px.parallel_map(str.upper, "abc") == ["A", "B", "C"]


def test_map_stops_at_the_first_failure() -> None:
    """The error is the function's, with a note that names the item."""
    called: list[int] = []

    def function(number: int) -> None:
        called.append(number)
        if number == 3:
            raise BoomError

    with pytest.raises(BoomError) as caught:
        px.parallel_map(function, range(100), 1)
    assert called == [0, 1, 2, 3]
    (note,) = caught.value.__notes__
    assert note.startswith("task 3: ")
    assert note.endswith("function(3)")


def test_imap_raises_in_its_place() -> None:
    """Ordered values before the failing one are given first."""
    values = px.parallel_imap(lambda n: 10 // n, [5, 2, 0, 1], 1)
    assert [next(values), next(values)] == [2, 5]
    with pytest.raises(ZeroDivisionError):
        next(values)
    with pytest.raises(StopIteration):
        next(values)


def test_imap_unordered_gives_them_as_they_come() -> None:
    """An item that takes long holds nobody up."""
    hold = threading.Event()

    def function(number: int) -> int:
        if number == 0:
            hold.wait(PATIENCE_S)
        return number

    with px.parallel_imap(function, range(6), 2, ordered=False) as values:
        early = [next(values) for _ in range(5)]
        hold.set()
        assert sorted(early) == [1, 2, 3, 4, 5]
        assert list(values) == [0]


def test_filter_keeps_order_and_items() -> None:
    """The items for which something true came back, as they were, in their order."""
    assert px.parallel_filter(lambda n: n % 3, range(10)) == [1, 2, 4, 5, 7, 8]
    assert px.parallel_filter(lambda n: [n], iter([0, 1])) == [0, 1]


def test_for_each_returns_nothing() -> None:
    """Every item has been handled when it returns."""
    seen: list[int] = []
    px.parallel_for_each(seen.append, range(50))
    assert sorted(seen) == list(range(50))


@pytest.mark.parametrize("chunk_size", [2, 3, 7, 100])
@pytest.mark.parametrize("count", [1, 2, 3, 10, 50])
def test_reduce_keeps_the_order(chunk_size: int, count: int) -> None:
    """Folding neighbours gives what folding one after the other would."""
    letters = [chr(97 + number % 26) for number in range(count)]
    assert px.parallel_reduce(str.__add__, letters, chunk_size) == "".join(letters)


def test_reduce_is_a_tree() -> None:
    """Chunks are folded at once: with chunks of two, as deep as a tree is."""
    depth = px.parallel_reduce(lambda a, b: max(a, b) + 1, [0] * 64)
    assert depth == 6


def test_reduce_of_one_is_itself_and_of_none_an_error() -> None:
    """One item is the answer, `fn` is not called; no item is an error."""
    item = object()
    assert px.parallel_reduce(lambda a, b: boom(), [item]) is item
    with pytest.raises(ValueError, match="empty"):
        px.parallel_reduce(max, [])


# Limiters in the user's own hands


def test_limiter_as_context_decorator_and_call() -> None:
    """The three ways take a place and give it back, an exception or not."""
    limiter = px.ConcurrencyLimiter(1)

    @limiter
    def decorated(value: int) -> int:
        assert limiter.in_flight == 1
        return value

    assert decorated(value=3) == 3
    assert decorated.__name__ == "decorated"
    with limiter:
        assert limiter.in_flight == 1
    with pytest.raises(BoomError):
        limiter.run(boom)
    with pytest.raises(BoomError), limiter:
        raise BoomError
    assert limiter.in_flight == 0


def test_limiter_counts_weights() -> None:
    """A heavy call takes as much room as it says; one heavier than all is refused."""
    limiter, hold = px.ConcurrencyLimiter(4), threading.Event()
    entered = threading.Semaphore(0)

    def function() -> None:
        entered.release()
        hold.wait(PATIENCE_S)

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(limiter.run, function, weight=weight) for weight in (3, 2)]
        entered.acquire(timeout=PATIENCE_S)
        assert not entered.acquire(timeout=0.05)
        assert limiter.in_flight in (3, 2)
        assert limiter.waiting == 1
        hold.set()
        for future in futures:
            future.result(PATIENCE_S)
    with pytest.raises(ConfigError, match="weight"):
        limiter.run(boom, weight=5)
    assert limiter.in_flight == 0


# Many, really


def test_thousands_of_tasks() -> None:
    """Several thousand functions and hundreds of commands at once, each with its own value."""
    assert px.parallel_map(lambda n: n + 1, range(20_000), 8) == list(range(1, 20_001))
    results = px.all((["echo", str(number)] for number in range(400)), concurrency=32)
    assert [int(result.text()) for result in results] == list(range(400))


def test_many_sleep_at_once(nap: Nap) -> None:
    """Hundreds of commands run at once without a thread for each."""
    token = px.CancelToken()
    before = threading.active_count()
    threads: list[int] = []

    def cancel() -> None:
        nap.wait_for(300)
        threads.append(threading.active_count() - before)
        token.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    outcomes = px.all_settled([["sleep", nap.seconds]] * 300, concurrency=None, cancel=token)
    thread.join()
    assert [outcome.status for outcome in outcomes] == ["cancelled"] * 300
    assert nap.sleepers() == []
    assert threads[0] <= 5
