"""`ParallelExecutor` keeps the whole contract of `concurrent.futures.Executor`."""

from __future__ import annotations

import concurrent.futures
import contextvars
import gc
import itertools
import logging
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, wait
from concurrent.futures.thread import BrokenThreadPool
from pathlib import Path
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec import reactor
from parallel_exec.errors import ConfigError, ExecutorClosedError
from tests.integration.processes import PATIENCE_S, Nap, eventually, python


class Gate:
    """Holds the functions that pass through it until it is opened."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self.inside = threading.Semaphore(0)

    def __call__(self, value: Any = None) -> Any:
        self.inside.release()
        assert self._open.wait(PATIENCE_S)
        return value

    def wait_for(self, count: int = 1) -> None:
        """Wait until so many are held."""
        for _ in range(count):
            assert self.inside.acquire(timeout=PATIENCE_S)

    def open(self) -> None:
        """Let all go on."""
        self._open.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Return a gate that is open in the end, whatever happens."""
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def pool(gate: Gate) -> Iterator[px.ParallelExecutor]:
    """Return a pool of two threads, which the gate cannot hold up for ever."""
    with px.ParallelExecutor(2) as pool:
        yield pool
        gate.open()


# submit


def test_submit_gives_a_future_of_the_value(pool: px.ParallelExecutor) -> None:
    """A future has what the function returned for its arguments."""
    future = pool.submit(lambda *args, **kwargs: (args, kwargs), 1, 2, self=3, fn=4)
    assert isinstance(future, Future)
    assert future.result() == ((1, 2), {"self": 3, "fn": 4})
    assert future.done()
    assert not future.running()
    assert not future.cancelled()
    assert future.exception() is None


def test_submit_needs_a_function(pool: px.ParallelExecutor) -> None:
    """Nothing to call is an error at once, as it is for the standard library's."""
    with pytest.raises(TypeError):
        pool.submit()  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, BaseException])
def test_exception_is_the_future_s(pool: px.ParallelExecutor, kind: type[BaseException]) -> None:
    """Whatever a function raises comes out of its future, with the place it comes from."""

    def function() -> None:
        raise kind("the function's own")

    future = pool.submit(function)
    error = future.exception(PATIENCE_S)
    assert type(error) is kind
    with pytest.raises(kind, match="the function's own"):
        future.result()
    assert pool.submit(lambda: "the pool lives on").result(PATIENCE_S) == "the pool lives on"


def test_stop_iteration_is_an_exception_like_others(pool: px.ParallelExecutor) -> None:
    """A function that raises StopIteration has failed; it has not returned None."""
    with pytest.raises(StopIteration):
        pool.submit(next, iter(())).result(PATIENCE_S)


def test_result_waits_only_so_long(pool: px.ParallelExecutor, gate: Gate) -> None:
    """A result that is not there in time is a TimeoutError; it may come later."""
    future = pool.submit(gate, "value")
    with pytest.raises(TimeoutError):
        future.result(0.01)
    with pytest.raises(TimeoutError):
        future.exception(0)
    gate.open()
    assert future.result(PATIENCE_S) == "value"


def test_running_is_running(pool: px.ParallelExecutor, gate: Gate) -> None:
    """A future whose function has been entered says that it runs."""
    future = pool.submit(gate)
    gate.wait_for()
    assert future.running()
    assert not future.done()


def test_no_more_threads_than_workers(gate: Gate) -> None:
    """At most `max_workers` functions are entered, in the order of their submission."""
    order: list[int] = []
    with px.ParallelExecutor(3) as pool:
        futures = [pool.submit(lambda n=n: (order.append(n), gate(n))[1]) for n in range(12)]  # type: ignore[func-returns-value]
        gate.wait_for(3)
        assert [future.running() for future in futures] == [True] * 3 + [False] * 9
        gate.open()
        assert [future.result(PATIENCE_S) for future in futures] == list(range(12))
    assert sorted(order[:3]) == [0, 1, 2]
    assert sorted(order) == list(range(12))


def test_threads_are_used_again() -> None:
    """A pool does not start a thread for each function."""
    with px.ParallelExecutor(4) as pool:
        names = {pool.submit(threading.get_ident).result(PATIENCE_S) for _ in range(50)}
    assert len(names) <= 4


def test_threads_have_the_prefix() -> None:
    """`thread_name_prefix` begins the names of the threads."""
    with px.ParallelExecutor(1, "mine") as pool:
        assert pool.submit(lambda: threading.current_thread().name).result().startswith("mine")


# cancel


def test_cancel_before_it_runs(gate: Gate) -> None:
    """A future that waits for its turn can be cancelled; its function is not called."""
    called = threading.Event()
    with px.ParallelExecutor(1) as pool:
        pool.submit(gate)
        gate.wait_for()
        future = pool.submit(called.set)
        assert future.cancel()
        assert future.cancel()
        assert future.cancelled()
        assert future.done()
        with pytest.raises(CancelledError):
            future.result()
        gate.open()
    assert not called.is_set()


def test_cancel_of_what_runs_is_refused(pool: px.ParallelExecutor, gate: Gate) -> None:
    """A future that runs, or has run, cannot be cancelled."""
    future = pool.submit(gate, 1)
    gate.wait_for()
    assert not future.cancel()
    gate.open()
    assert future.result(PATIENCE_S) == 1
    assert not future.cancel()


def test_cancelled_futures_are_seen_by_wait(gate: Gate) -> None:
    """`wait` and `as_completed` of the standard library learn of cancelled futures."""
    with px.ParallelExecutor(1) as pool:
        first = pool.submit(gate, 1)
        gate.wait_for()
        second = pool.submit(gate, 2)
        second.cancel()
        gate.open()
        done, not_done = wait([first, second], PATIENCE_S)
        assert (done, not_done) == ({first, second}, set())
        assert set(concurrent.futures.as_completed([first, second], PATIENCE_S)) == done


@pytest.mark.parametrize("when", ["FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED"])
def test_wait_works(pool: px.ParallelExecutor, gate: Gate, when: str) -> None:
    """The three ways of `concurrent.futures.wait` do what they say."""
    held = pool.submit(gate)
    gate.wait_for()
    failed = pool.submit(lambda: 1 / 0)
    if when == "ALL_COMPLETED":
        gate.open()
    done, _ = wait([held, failed], PATIENCE_S, when)
    assert done == ({held, failed} if when == "ALL_COMPLETED" else {failed})


# callbacks


def test_callbacks_get_the_future(pool: px.ParallelExecutor, gate: Gate) -> None:
    """A callback is called with the future, whether added before the end or after."""
    seen: list[Future[Any]] = []
    future = pool.submit(gate, 1)
    future.add_done_callback(seen.append)
    gate.open()
    future.result(PATIENCE_S)
    eventually(lambda: seen == [future], "the call of the callback")
    future.add_done_callback(seen.append)
    assert seen == [future, future]


def test_callbacks_of_cancelled_futures(gate: Gate) -> None:
    """A callback is called for a cancelled future, once."""
    seen: list[bool] = []
    with px.ParallelExecutor(1) as pool:
        pool.submit(gate)
        gate.wait_for()
        future = pool.submit(gate)
        future.add_done_callback(lambda future: seen.append(future.cancelled()))
        future.cancel()
        gate.open()
    assert seen == [True]


def test_raising_callback_is_logged(
    pool: px.ParallelExecutor, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """A callback that raises harms neither the pool nor the callbacks after it."""
    called = threading.Event()
    future = pool.submit(gate)
    future.add_done_callback(lambda _: 1 / 0)
    future.add_done_callback(lambda _: called.set())
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        gate.open()
        assert called.wait(PATIENCE_S)
    assert "ZeroDivisionError" in caplog.text
    assert pool.submit(int).result(PATIENCE_S) == 0


def test_callback_may_submit(pool: px.ParallelExecutor, gate: Gate) -> None:
    """A callback may call the pool again, and wait for it."""
    answers: list[Any] = []
    done = threading.Event()

    def again(_: Future[Any]) -> None:
        answers.append(pool.submit(lambda: "again").result(PATIENCE_S))
        done.set()

    future = pool.submit(gate)
    future.add_done_callback(again)
    gate.open()
    assert done.wait(PATIENCE_S)
    assert answers == ["again"]


# map


def test_map_gives_values_in_order(pool: px.ParallelExecutor) -> None:
    """Values come in the order of the items, as far as the shortest input reaches."""
    assert list(pool.map(pow, range(100), itertools.repeat(2))) == [n * n for n in range(100)]
    assert list(pool.map(pow, [], [])) == []
    assert list(pool.map(str, range(10), chunksize=3)) == [str(n) for n in range(10)]


def test_map_reads_its_input_at_once(pool: px.ParallelExecutor, gate: Gate) -> None:
    """As for the standard library, items are submitted when `map` is called."""
    read: list[int] = []
    values = pool.map(gate, (read.append(n) or n for n in range(20)))  # type: ignore[func-returns-value, redundant-expr]
    assert read == list(range(20))
    gate.open()
    assert list(values) == read


def test_map_raises_in_its_place(pool: px.ParallelExecutor) -> None:
    """An exception comes out where its value would, after the values before it."""
    values = pool.map(lambda n: 10 // n, [5, 2, 0, 1])
    assert next(values) == 2
    assert next(values) == 5
    with pytest.raises(ZeroDivisionError):
        next(values)


def test_map_has_a_timeout(gate: Gate) -> None:
    """A value that is not there in time is a TimeoutError; what waits is cancelled."""
    called: list[int] = []
    with px.ParallelExecutor(1) as pool:
        values = pool.map(lambda n: (called.append(n), gate(n))[1], range(5), timeout=0.2)  # type: ignore[func-returns-value]
        with pytest.raises(TimeoutError):
            next(values)
        gate.open()
    assert called == [0]


def test_map_that_is_left_cancels_the_rest(gate: Gate) -> None:
    """Closing the iterator of a `map` cancels what has not begun."""
    called: list[int] = []

    def function(number: int) -> int:
        called.append(number)
        return gate(number) if number else number

    with px.ParallelExecutor(1) as pool:
        values = pool.map(function, range(10))
        assert next(values) == 0
        gate.wait_for()
        values.close()  # type: ignore[attr-defined]
        gate.open()
    assert called == [0, 1]


def test_map_with_a_buffer_reads_no_further(pool: px.ParallelExecutor) -> None:
    """``buffersize=`` bounds how far an endless input is read ahead."""
    read = itertools.count()
    values = pool.map(str, read, buffersize=4)
    assert [next(values) for _ in range(20)] == [str(number) for number in range(20)]
    assert next(read) <= 20 + 4
    values.close()  # type: ignore[attr-defined]


# shutdown


def test_shutdown_waits(gate: Gate) -> None:
    """`shutdown` returns when everything that was submitted has been done."""
    done: list[int] = []
    pool = px.ParallelExecutor(1)
    for number in range(20):
        pool.submit(done.append, number)
    pool.shutdown()
    assert done == list(range(20))


def test_shutdown_without_waiting(gate: Gate) -> None:
    """``shutdown(wait=False)`` returns at once; what was submitted is still done."""
    pool = px.ParallelExecutor(1)
    futures = [pool.submit(gate, number) for number in range(3)]
    pool.shutdown(wait=False)
    assert not any(future.done() for future in futures)
    gate.open()
    assert [future.result(PATIENCE_S) for future in futures] == [0, 1, 2]
    pool.shutdown()


def test_shutdown_cancels_what_waits(gate: Gate) -> None:
    """``cancel_futures=True`` cancels what has not begun; what runs goes on to its end."""
    pool = px.ParallelExecutor(1)
    running = pool.submit(gate, "done")
    gate.wait_for()
    waiting = [pool.submit(gate) for _ in range(10)]
    pool.shutdown(wait=False, cancel_futures=True)
    eventually(lambda: all(future.cancelled() for future in waiting), "the cancels")
    gate.open()
    pool.shutdown()
    assert running.result(0) == "done"


def test_shutdown_that_cancels_starts_nothing(gate: Gate) -> None:
    """``cancel_futures=True`` begins nothing of what nobody has come to yet: a Ctrl-C in the
    middle of that would leave it half begun.
    """
    pool = px.ParallelExecutor(1)
    reactor.get().post(gate)
    gate.wait_for()
    futures = [pool.submit(int) for _ in range(3)]
    pool.shutdown(wait=False, cancel_futures=True)
    assert [future.cancelled() for future in futures] == [True, True, True]
    gate.open()
    pool.shutdown()


def test_shutdown_takes_no_more() -> None:
    """After `shutdown` a call is refused by a RuntimeError, in `map` too."""
    pool = px.ParallelExecutor(1)
    pool.shutdown()
    pool.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(int)
    with pytest.raises(ExecutorClosedError):
        pool.map(int, [1])
    with pytest.raises(ExecutorClosedError):
        pool.execute_with_errors([int])


def test_shutdown_from_several_threads(gate: Gate) -> None:
    """Several threads may wait for the same shutdown."""
    pool = px.ParallelExecutor(1)
    pool.submit(gate)
    threads = [threading.Thread(target=pool.shutdown) for _ in range(4)]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_shutdown_by_one_of_its_own(pool: px.ParallelExecutor) -> None:
    """A function may shut its own pool down, without waiting for itself."""
    assert pool.submit(pool.shutdown, wait=False).result(PATIENCE_S) is None
    with pytest.raises(RuntimeError):
        pool.submit(int)


def test_shutdown_by_one_of_its_own_cannot_wait(pool: px.ParallelExecutor) -> None:
    """A call that would wait for its own end gets a RuntimeError, as from the standard
    library, and the pool is shut down.
    """
    with pytest.raises(RuntimeError, match="a call of its own"):
        pool.submit(pool.shutdown).result(PATIENCE_S)
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(int)
    pool.shutdown()


def test_forgotten_pool_ends_its_threads() -> None:
    """A pool that nobody holds any more does its work, then its threads end."""
    pool = px.ParallelExecutor(2, "forgotten")
    future = pool.submit(lambda: "done")
    gone = weakref.ref(pool)
    del pool
    assert future.result(PATIENCE_S) == "done"
    eventually(lambda: gc.collect() and gone() is None, "the end of the pool")
    eventually(
        lambda: not any(each.name.startswith("forgotten") for each in threading.enumerate()),
        "the end of its threads",
    )


def test_no_value_is_kept(pool: px.ParallelExecutor) -> None:
    """A pool holds neither arguments nor values of what is over."""

    class Thing:
        pass

    argument = Thing()
    held = weakref.ref(argument)
    pool.submit(id, argument).result(PATIENCE_S)
    del argument
    eventually(lambda: gc.collect() is not None and held() is None, "the end of the argument")


# initializer


def test_initializer_is_called_in_each_thread(gate: Gate) -> None:
    """Every thread has been initialized before its first function."""
    local = threading.local()

    def initialize(value: str) -> None:
        local.value = value

    with px.ParallelExecutor(3, initializer=initialize, initargs=("set",)) as pool:
        futures = [pool.submit(lambda: gate(local.value)) for _ in range(3)]
        gate.wait_for(3)
        gate.open()
        assert [future.result(PATIENCE_S) for future in futures] == ["set"] * 3


def test_initializer_that_raises_breaks_the_pool(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A broken pool fails everything it has and refuses what comes."""

    def initialize() -> None:
        raise LookupError("the initializer's own")

    with px.ParallelExecutor(2, initializer=initialize) as pool:
        futures = []
        try:
            futures = [pool.submit(int) for _ in range(5)]
        except BrokenThreadPool:
            pass  # so early
        for future in futures:
            with pytest.raises(BrokenThreadPool):
                future.result(PATIENCE_S)
        with pytest.raises(BrokenThreadPool):
            eventually(lambda: pool.submit(int) is None, "the refusal")
    assert "the initializer's own" in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        {"max_workers": 0},
        {"max_workers": -1},
        {"max_workers": True},
        {"max_workers": 2.0},
        {"max_workers": "2"},
        {"initializer": 1},
        {"concurrency": 0},
        {"max_pending": 0},
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any]) -> None:
    """An argument that cannot be used is an error that names it and is a ValueError."""
    (name, value), *_ = options.items()
    with pytest.raises(ConfigError, match=name) as caught:
        px.ParallelExecutor(**options)
    assert isinstance(caught.value, ValueError)
    assert repr(value) in str(caught.value)


# Beyond the standard library


def test_context_variables_are_those_of_the_submitter(pool: px.ParallelExecutor) -> None:
    """A function sees the variables of the moment it was submitted, and changes none."""
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("first")
    first = pool.submit(variable.get)
    variable.set("second")
    second = pool.submit(variable.get)
    pool.submit(variable.set, "inside").result(PATIENCE_S)
    assert (first.result(PATIENCE_S), second.result(PATIENCE_S)) == ("first", "second")
    assert variable.get() == "second"


def test_full_pool_does_not_wait_for_itself() -> None:
    """A function that waits for another of the same pool of one does not deadlock."""

    def depth(number: int) -> int:
        return pool.submit(depth, number - 1).result(PATIENCE_S) + 1 if number else 0  # type: ignore[attr-defined]

    with px.ParallelExecutor(1) as pool:
        assert pool.submit(depth, 5).result(PATIENCE_S) == 5
        assert pool.submit(lambda: sum(pool.map(int, "123"))).result(PATIENCE_S) == 6


def test_limit_is_shared_with_others(gate: Gate) -> None:
    """``concurrency=`` puts the pool under a limit that others use too, and it can change."""
    limiter = px.ConcurrencyLimiter(1)
    with (
        px.ParallelExecutor(4, concurrency=limiter) as first,
        px.ParallelExecutor(4, concurrency=limiter) as second,
    ):
        futures = [pool.submit(gate, 1) for pool in (first, second) for _ in range(2)]
        gate.wait_for()
        assert limiter.in_flight == 1
        assert sum(future.running() for future in futures) == 1
        limiter.limit = 3
        gate.wait_for(2)
        assert limiter.in_flight == 3
        gate.open()
        assert [future.result(PATIENCE_S) for future in futures] == [1] * 4


def test_pending_calls_are_bounded(gate: Gate) -> None:
    """Beyond `max_pending` a submit waits until there is room."""
    with px.ParallelExecutor(1, max_pending=2) as pool:
        futures: list[Future[Any]] = []
        submitted = threading.Semaphore(0)

        def submit() -> None:
            for number in range(6):
                futures.append(pool.submit(gate, number))
                submitted.release()

        thread = threading.Thread(target=submit)
        thread.start()
        assert submitted.acquire(timeout=PATIENCE_S)
        assert submitted.acquire(timeout=PATIENCE_S)
        assert not submitted.acquire(timeout=0.1)
        gate.open()
        thread.join(PATIENCE_S)
        assert [future.result(PATIENCE_S) for future in futures] == list(range(6))


def test_execute_with_errors_parts_them(pool: px.ParallelExecutor) -> None:
    """Successes come in task order, failures with their index."""

    def fail() -> None:
        raise LookupError("on purpose")

    answer = pool.execute_with_errors([lambda: 1, fail, "exit 3", ["echo", "x"]])
    successes, failures = answer
    assert successes[0] == 1
    assert successes[1].text() == "x\n"
    assert [index for index, _ in failures] == [1, 2]
    assert answer.failures[0].error is failures[0][1]
    assert isinstance(failures[0].error, LookupError)


def test_execute_with_errors_is_under_the_limit_of_the_pool(gate: Gate) -> None:
    """Tasks take places of the pool: no more run at once than it has workers."""
    with px.ParallelExecutor(2) as pool:
        answer: list[Any] = []
        thread = threading.Thread(
            target=lambda: answer.append(pool.execute_with_errors([lambda: gate(1)] * 6))
        )
        thread.start()
        gate.wait_for(2)
        assert not gate.inside.acquire(timeout=0.1)
        gate.open()
        thread.join(PATIENCE_S)
        assert answer[0].successes == [1] * 6


def test_execute_with_retry_tries_again() -> None:
    """``max_retries=1`` is two tries in all; the value of the second counts."""
    tries = itertools.count(1)

    def second_time() -> int:
        number = next(tries)
        if number < 2:
            raise LookupError
        return number

    with px.ParallelExecutor(1) as pool:
        assert pool.execute_with_retry([second_time], max_retries=1) == [2]
        with pytest.raises(LookupError):
            pool.execute_with_retry([lambda: {}["x"]], max_retries=0)  # type: ignore[index]


# The end of the program


def test_exit_does_what_was_submitted(tmp_path: Path) -> None:
    """What was submitted is done before the interpreter ends, as by the standard library;
    commands are ended.
    """
    nap = Nap()
    code = f"""
    pool = px.ParallelExecutor(2)
    def work(number):
        time.sleep(0.05)
        os.write(1, b"%d\\n" % number)
    for number in range(6):
        pool.submit(work, number)
    px.submit("exec {nap}")
    """
    for _ in range(3):
        with python(tmp_path, code) as script:
            assert sorted(script.rest().split()) == list("012345")
            assert script.exit_code() == 0
            assert script.errors() == ""
            assert nap.sleepers() == []


def test_exit_may_take_more_work_inside(tmp_path: Path) -> None:
    """Work that is done at exit may run commands; what it submits is refused or done."""
    code = """
    pool = px.ParallelExecutor(1)
    def work():
        wait_for_go()
        print(px.run("echo command").text(), end="")
        try:
            pool.submit(print, "more")
        except RuntimeError:
            print("refused")
    pool.submit(work)
    threading.Timer(0.1, lambda: open(sys.argv[1], "w").close()).start()
    """
    with python(tmp_path, code, tmp_path / "go") as script:
        assert script.rest().split() in (["command", "refused"], ["command", "more"])
        assert script.exit_code() == 0


@pytest.mark.parametrize(
    ("call", "value"),
    [
        ("px.run('echo a', on_stdout=lambda line: print('line', line)).text()", "line a\na"),
        ("px.run('cat', input=open(sys.argv[0], 'rb')).text()[:9]", "import os"),
        ("''.join(px.parallel_map(str, 'abc'))", "abc"),
    ],
)
def test_exit_gives_an_answer_where_a_thread_is_needed(
    tmp_path: Path, call: str, value: str
) -> None:
    """Python 3.12 starts no threads while it exits: what needs one is refused then, other
    versions do it; nothing waits for a thread that will not come.
    """
    code = f"""
    def work():
        while not threading._SHUTTING_DOWN:
            time.sleep(0.01)
        try:
            print({call})
        except px.errors.ExecutorClosedError:
            print("refused")
    px.ParallelExecutor(1).submit(work)
    """
    with python(tmp_path, code) as script:
        said = script.rest().strip()
        assert said == value or (said == "refused" and sys.version_info[:2] == (3, 12))
        assert script.exit_code() == 0


def test_exit_does_what_a_forgotten_pool_was_given(tmp_path: Path) -> None:
    """Nobody needs to hold a pool for its work to be done, as by the standard library."""
    code = """
    def work():
        while not threading._SHUTTING_DOWN:
            time.sleep(0.01)
        print("done")
    px.ParallelExecutor(1).submit(work)
    """
    with python(tmp_path, code) as script:
        assert script.rest() == "done\n"
        assert script.exit_code() == 0


def test_exit_with_an_idle_pool(tmp_path: Path) -> None:
    """A pool that is not shut down keeps nobody from exiting."""
    code = "pool = px.ParallelExecutor(2); pool.submit(int).result(); px.ParallelExecutor()"
    with python(tmp_path, code) as script:
        assert script.exit_code() == 0
        assert script.errors() == ""


def test_ctrl_c_while_waiting_for_a_future(tmp_path: Path) -> None:
    """A KeyboardInterrupt comes out of `result`; the pool still works, and ends."""
    code = """
    pool = px.ParallelExecutor(1)
    gate = threading.Event()
    future = pool.submit(gate.wait)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        future.result()
    except KeyboardInterrupt:
        print("interrupted")
    gate.set()
    print(future.result(), pool.submit(int).result())
    """
    with python(tmp_path, code) as script:
        assert [script.line(), script.line()] == ["interrupted", "True 0"]
        assert script.exit_code() == 0


def test_is_an_executor() -> None:
    """It can be put wherever an Executor is asked for."""
    assert issubclass(px.ParallelExecutor, concurrent.futures.Executor)
