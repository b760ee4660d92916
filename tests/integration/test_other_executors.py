"""Tasks on executors of others: threads, processes, loky, a cluster of Dask."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import pickle
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec import errors
from parallel_exec.errors import CommandFailedError, CommandTimeoutError, RunFailedError
from tests.integration import functions
from tests.integration.processes import PATIENCE_S, Nap, eventually

spawning = multiprocessing.get_context("spawn")
BACKENDS = [
    "threads",
    "processes",
    pytest.param("loky", marks=pytest.mark.leaks("loky, whose processes come and go")),
    pytest.param("dask", marks=pytest.mark.leaks("dask, whose threads and sockets come and go")),
]


def _open(kind: str) -> Iterator[Executor]:
    # What an executor keeps while it is open is there before a test looks what leaks.
    if kind == "threads":
        with ThreadPoolExecutor(3, initializer=threading.Barrier(3).wait) as pool:
            concurrent.futures.wait([pool.submit(functions.value) for _ in range(3)])
            yield pool
    elif kind == "processes":
        barrier = spawning.Barrier(2)
        with ProcessPoolExecutor(2, spawning, functions.warm_up, (barrier,)) as processes:
            concurrent.futures.wait([processes.submit(functions.value) for _ in range(2)])
            yield processes
    elif kind == "loky":
        loky = pytest.importorskip("loky")
        with loky.ProcessPoolExecutor(2) as processes:
            yield processes
    else:
        distributed = pytest.importorskip("distributed")
        with (
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client.get_executor(pure=False)


@pytest.fixture(scope="module", params=BACKENDS)
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """Return each executor, opened once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        yield from _open(request.param)


@pytest.fixture
def apart(executor: Executor) -> bool:
    """Return whether the executor works in other processes."""
    return not isinstance(executor, ThreadPoolExecutor)


def test_functions_run_there(executor: Executor, apart: bool) -> None:
    """Functions run in the executor, and give their values in task order."""
    assert px.all([functions.value] * 5, executor=executor) == [42] * 5
    there = px.all([functions.process_id] * 4, executor=executor)
    assert (os.getpid() not in there) == apart


def test_equal_functions_are_each_called(executor: Executor, tmp_path: Path) -> None:
    """Equal calls are as many calls: none is merged with another."""
    tasks = [["sh", "-c", f"echo >> {tmp_path / 'calls'}"]] * 6
    px.all(tasks, executor=executor)
    assert (tmp_path / "calls").read_text() == "\n" * 6


def test_commands_run_there(executor: Executor, apart: bool) -> None:
    """Commands run in the executor; their results come back whole."""
    results = px.all(
        ["echo $PPID; echo e >&2", px.Command(["cat"], input=b"in"), px.sh("echo {}", "x y")],
        executor=executor,
    )
    assert (int(results[0].text()) != os.getpid()) == apart
    assert results[0].stderr == b"e\n"
    assert [result.text() for result in results[1:]] == ["in", "x y\n"]
    assert all(result.environment == "local" for result in results)


def test_errors_come_back(executor: Executor) -> None:
    """The errors of functions and commands are what they would be here."""
    outcomes = px.all_settled(
        [
            functions.boom,
            "echo out; exit 7",
            functions.value,
            px.Command("sleep 9999", timeout=0.3),
        ],
        executor=executor,
    )
    assert [outcome.status for outcome in outcomes] == [
        "rejected", "rejected", "fulfilled", "rejected",
    ]  # fmt: skip
    assert isinstance(outcomes[0].reason, functions.Boom)
    assert isinstance(outcomes[1].reason, CommandFailedError)
    assert outcomes[1].reason.result.exit_code == 7
    assert outcomes[1].reason.result.stdout == b"out\n"
    assert isinstance(outcomes[3].reason, CommandTimeoutError)
    with pytest.raises(functions.Boom) as caught:
        px.all([functions.value, functions.boom], executor=executor)
    assert "task 1: boom" in caught.value.__notes__


def test_timeout_of_many_runs_at_the_worker(executor: Executor, nap: Nap) -> None:
    """A timeout for each task ends commands where they run."""
    outcomes = px.all_settled([f"exec {nap}"] * 2, timeout=1, executor=executor)
    assert all(isinstance(outcome.reason, CommandTimeoutError) for outcome in outcomes)
    nap.wait_for_none()


def test_maps_run_there(executor: Executor, apart: bool) -> None:
    """Every function over items takes an executor."""
    assert px.parallel_map(functions.double, range(20), executor=executor) == list(range(0, 40, 2))
    assert list(px.parallel_imap(functions.double, range(9), executor=executor)) == list(
        range(0, 18, 2)
    )
    assert px.parallel_filter(functions.is_even, range(9), executor=executor) == [0, 2, 4, 6, 8]
    px.parallel_for_each(functions.process_id, range(3), executor=executor)
    assert px.parallel_reduce(functions.add, "abcdefg", executor=executor) == "abcdefg"
    there = set(px.parallel_map(functions.process_id, range(9), executor=executor))
    assert (os.getpid() not in there) == apart


def test_the_other_functions_run_there(executor: Executor) -> None:
    """any, race and as_completed take an executor too."""
    assert px.any([functions.boom, functions.value], executor=executor) == 42
    assert px.race([functions.value], executor=executor) == 42
    with pytest.raises(RunFailedError):
        px.any([functions.boom], executor=executor)
    outcomes = list(px.as_completed([functions.value] * 4, executor=executor))
    assert sorted(outcome.index for outcome in outcomes) == [0, 1, 2, 3]


def test_the_library_runs_inside(executor: Executor) -> None:
    """A function in a worker may use the library in its turn."""
    values = px.parallel_map(functions.nested, range(3), executor=executor)
    assert values == [[f"{number}\n", "x\n"] for number in range(3)]


def test_options_of_many_hold(executor: Executor) -> None:
    """Retries, limits on failures and callbacks are decided here, whoever runs the tasks."""
    seen: list[int] = []
    outcomes = px.all_settled(
        [functions.boom] * 2,
        executor=executor,
        retry=px.Retry(3, wait=0),
        on_outcome=lambda outcome: seen.append(outcome.index),
    )
    assert [outcome.attempts for outcome in outcomes] == [3, 3]
    assert sorted(seen) == [0, 1]
    stopped = px.all_settled(
        [functions.boom] * 10, executor=executor, concurrency=1, max_failures=2
    )
    assert (len(stopped.rejected), len(stopped.skipped)) == (3, 7)


def test_what_is_given_up_there_says_whether_it_may_still_run(
    executor: Executor, apart: bool, nap: Nap
) -> None:
    """A command that runs at a worker and is given up is abandoned, not cancelled: Dask cancels
    the future of what it goes on running. The place under the limit comes free.
    """
    limiter = px.ConcurrencyLimiter(1)
    token = px.CancelToken()
    with concurrent.futures.ThreadPoolExecutor(1) as waiting:
        outcomes = waiting.submit(
            px.all_settled,
            [px.Command(["sleep", nap.seconds], timeout=PATIENCE_S)],
            executor=executor,
            concurrency=limiter,
            cancel=token,
            kill_after=0.1,
        )
        try:
            nap.wait_for(1)
            token.cancel()
            (outcome,) = outcomes.result(PATIENCE_S)
            assert len(nap.sleepers()) == 1
        finally:
            token.cancel()
            nap.end()
    assert outcome.status == "cancelled"
    assert outcome.abandoned
    assert isinstance(outcome.reason, px.errors.TaskCancelledError)
    assert outcome.reason.abandoned
    assert "still run" in str(outcome.reason)
    eventually(lambda: not limiter.in_flight, "its place is free")


def test_what_cannot_be_sent_is_its_task_s_failure(executor: Executor, apart: bool) -> None:
    """A value that does not pickle fails its own task alone."""
    lock = threading.Lock()
    outcomes = px.all_settled([lock.locked, functions.value], executor=executor)
    assert outcomes[0].ok != apart
    assert outcomes[1].value == 42


def test_closed_executor_is_each_task_s_failure() -> None:
    """An executor that takes no work fails every task, and hangs none."""
    with ThreadPoolExecutor(1) as pool:
        pass
    outcomes = px.all_settled([functions.value] * 3, executor=pool)
    assert [outcome.status for outcome in outcomes] == ["rejected"] * 3


def test_executor_whose_worker_dies_is_no_hang() -> None:
    """A worker process that dies fails what it ran."""
    with ProcessPoolExecutor(1, spawning) as pool:
        outcomes = px.all_settled([die, functions.value], executor=pool, concurrency=1)
    assert outcomes[0].status == "rejected"
    assert isinstance(outcomes[0].reason, concurrent.futures.process.BrokenProcessPool)


def die() -> None:
    os._exit(1)


def test_our_executor_is_one_of_them() -> None:
    """`ParallelExecutor` can run the tasks, too."""
    with px.ParallelExecutor(2) as pool:
        assert px.all([functions.value, ["true"]], executor=pool)[0] == 42
        assert px.parallel_map(functions.double, range(50), executor=pool)[-1] == 98


# Pickle


RESULT = px.run("echo out; echo err >&2; exit 3", check=False, env={"A": "1"}, label="mine")
OUTCOME: px.Outcome[Any] = px.Outcome(
    index=1, label="x", status="rejected", value=None, reason=ValueError("v"), attempts=1,
    duration_s=0.5,
)  # fmt: skip


def an_error(kind: type[BaseException]) -> BaseException:
    """Make an error of a class, with everything set that it has."""
    if issubclass(kind, errors.CommandError):
        return kind("message", result=RESULT)
    if issubclass(kind, errors.ConnectionLostError | errors.TaskCancelledError):
        return kind("message", result=RESULT, environment="here", attempts=2)
    if issubclass(kind, errors.CommandStartError):
        return kind("message", errno=2, environment="here")
    if kind is errors.NoWorkerError:
        return errors.NoWorkerError("message", errors={"worker": ValueError("v")})
    if kind is errors.RunFailedError:
        return errors.RunFailedError("message", [ValueError("v")], outcomes=[OUTCOME])
    return kind("message", environment="here", attempts=2)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", errors.__all__)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_pickles(name: str, protocol: int) -> None:
    """What an error says, holds and carries as notes survives pickle."""
    error = an_error(getattr(errors, name))
    error.add_note("task 1: x")
    back = pickle.loads(pickle.dumps(error, protocol))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.args[0] == error.args[0]
    for attribute in ("environment", "attempts", "result", "errno", "__notes__", "abandoned"):
        missing = object()
        assert getattr(back, attribute, missing) == getattr(error, attribute, missing) or (
            not hasattr(error, attribute) and not hasattr(back, attribute)
        )
    if isinstance(error, errors.RunFailedError):
        assert [str(each) for each in back.exceptions] == ["v"]  # type: ignore[attr-defined]
        assert back.outcomes[0].index == 1  # type: ignore[attr-defined]
    if isinstance(error, errors.NoWorkerError):
        assert str(back.errors["worker"]) == "v"  # type: ignore[attr-defined]


def test_every_error_is_in_the_tree() -> None:
    """All errors derive from one, and from the builtin that users would catch."""
    kinds = [getattr(errors, name) for name in errors.__all__]
    assert all(issubclass(kind, errors.ParallelExecError) for kind in kinds)
    for kind, builtin in [
        (errors.ConfigError, ValueError),
        (errors.CommandNotFoundError, FileNotFoundError),
        (errors.CommandTimeoutError, TimeoutError),
        (errors.TaskCancelledError, concurrent.futures.CancelledError),
        (errors.DeadlineExceededError, TimeoutError),
        (errors.ExecutorClosedError, RuntimeError),
        (errors.ConnectError, ConnectionError),
        (errors.RunFailedError, ExceptionGroup),
    ]:
        assert issubclass(kind, builtin)


def test_values_pickle() -> None:
    """Commands, results and outcomes come back equal."""
    command = px.Command(
        px.sh("echo {}", px.Secret("s")),
        env={"A": px.Secret("t")},
        input=b"x",
        timeout=3,
    )
    for value in (command, px.Command(["a", "b"]), RESULT, px.Secret("s"), px.Retry(3)):
        assert pickle.loads(pickle.dumps(value)) == value
    outcomes = px.all_settled(["echo x", "exit 3"])
    back = pickle.loads(pickle.dumps(outcomes))
    assert back[0] == outcomes[0]
    assert back.rejected[0].reason.result == outcomes[1].reason.result  # type: ignore[union-attr]
    bound = px.Local().command("true")
    assert px.run(pickle.loads(pickle.dumps(bound))).ok
