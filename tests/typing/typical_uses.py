"""Typical uses, and the types that checkers find in them.

``assert_type`` fails under mypy and pyright if the type is another. A ``type: ignore`` marks
what must be refused: one that is not needed is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, assert_type

import parallel_exec as px


def double(number: int) -> int:
    """Stand for a user's function."""
    return 2 * number


def forty_two() -> int:
    """Stand for a user's task."""
    return 42


def one_command() -> None:
    """A command gives a result."""
    result = px.run("ls", timeout=3, env={"LC_ALL": "C", "HOME": None}, cwd=Path("/tmp"))
    assert_type(result, px.Result)
    assert_type(result.stdout, bytes)
    assert_type(result.exit_code, int | None)
    assert_type(result.signal, str | None)
    assert_type(result.text(), str)
    assert_type(result.lines(), list[str])
    assert_type(result.check(), px.Result)
    assert_type(px.submit(["ls", "-l"]), px.CommandFuture)
    assert_type(px.submit("ls").result(), px.Result)
    command = px.sh("grep {} {}", "pattern", Path("file"), timeout=1.5)
    assert_type(command, px.Command)
    px.run(["login", px.Secret("word")], input=b"yes", check=False)


def refused() -> None:
    """What cannot be a command or an option is seen before it runs."""
    px.run(3)  # type: ignore[arg-type]
    px.run("ls", timeout="3")  # type: ignore[arg-type]
    px.run("ls", time_out=3)  # type: ignore[call-arg]


def environments() -> None:
    """An environment has the same verbs."""
    with px.Local() as local:
        assert_type(local.run("ls"), px.Result)
        assert_type(local.submit("ls"), px.CommandFuture)
        assert_type(local.command("ls"), px.Command)
    anywhere: px.Environment = px.Local()
    assert_type(anywhere.run("ls"), px.Result)


def commands() -> None:
    """Tasks that are commands give results."""
    assert_type(px.all(["ls", ["ls", "-l"], px.sh("ls {}", "x")]), list[px.Result])
    outcomes = px.all_settled(["ls", "pwd"], concurrency=2, timeout=1, deadline=5)
    assert_type(outcomes, px.Outcomes[px.Result])
    assert_type(outcomes[0], px.Outcome[px.Result])
    assert_type(outcomes.values(), list[px.Result])
    assert_type(outcomes.rejected, tuple[px.Outcome[px.Result], ...])
    assert_type(px.any(["ls"]), px.Result)
    assert_type(px.race(["ls"]), px.Result)
    for outcome in px.as_completed(["ls"]):
        assert_type(outcome, px.Outcome[px.Result])


def functions() -> None:
    """Tasks that are functions give what they return."""
    assert_type(px.all([forty_two, forty_two]), list[int])
    assert_type(px.all_settled([forty_two]), px.Outcomes[int])
    assert_type(px.any([forty_two]), int)
    assert_type(px.fast_fail([forty_two]), list[int])
    assert_type(px.fail_safe([forty_two]), px.Outcomes[int])


def map_and_reduce() -> None:
    """Results have the types of the function."""
    assert_type(px.parallel_map(double, [1, 2], 5), list[int])
    assert_type(px.parallel_filter(bool, ["a", ""]), list[str])
    assert_type(px.parallel_reduce(max, [1, 2, 3], 2), int)
    with px.parallel_imap(double, iter([1, 2]), ordered=False) as doubles:
        for number in doubles:
            assert_type(number, int)
    as_iterator: Iterator[int] = px.parallel_imap(double, [1])
    del as_iterator


def executor() -> None:
    """It stands where a `ThreadPoolExecutor` stood."""
    with px.ParallelExecutor() as pool:
        stands_in: Executor = pool
        del stands_in
        assert_type(pool.submit(double, 1), Future[int])
        assert_type(list(pool.map(double, [1, 2])), list[int])
        successes, failures = pool.execute_with_errors([forty_two])
        del successes, failures
    with ThreadPoolExecutor() as elsewhere:
        assert_type(px.parallel_map(double, [1], executor=elsewhere), list[int])


def options() -> None:
    """Everything that decides how many run, and when, has a type of its own."""
    token = px.CancelToken()
    limiter = px.ConcurrencyLimiter(4)
    seen: list[px.Outcome[Any]] = []
    px.all_settled(
        ["ls"],
        concurrency=limiter,
        retry=px.Retry(attempts=3),
        max_failures="10%",
        cancel=token,
        on_outcome=seen.append,
        progress=True,
    )
    px.all_settled(["ls"], concurrency=None, max_failures=2, progress=px.ParallelProgress(1))


def errors() -> None:
    """An error carries the result as far as it goes."""
    try:
        px.run("false")
    except px.errors.CommandError as error:
        assert_type(error.result, px.Result)
    except px.errors.RunFailedError as error:
        assert_type(error.exceptions, tuple[Exception | ExceptionGroup[Exception], ...])
