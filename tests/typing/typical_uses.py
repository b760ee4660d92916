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
    px.run([Path("/bin/ls"), "-l", Path("file")])
    px.all_settled([["wc", "-c", path] for path in Path().iterdir()])


def refused() -> None:
    """What cannot be a command or an option is seen before it runs."""
    px.run(3)  # type: ignore[arg-type]
    px.run("ls", timeout="3")  # type: ignore[arg-type]
    px.run("ls", time_out=3)  # type: ignore[call-arg]
    px.nonsense  # type: ignore[attr-defined]  # noqa: B018 - the access is what is refused
    px.hosts("web1", prot=22)  # type: ignore[call-arg]
    with px.hosts("web1") as group:
        group.run("ls", wavs=[1])  # type: ignore[call-arg]
        group.map(str, concurrency="many")  # type: ignore[arg-type]
        group.put("a", "b", preserv=True)  # type: ignore[call-arg]
    with px.Local() as local:
        local.run("ls", environment=local)  # type: ignore[call-arg]


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
    assert_type(outcomes.fulfilled[0].value, px.Result)
    assert_type(outcomes.rejected[0].reason, BaseException)
    assert_type(outcomes[0].value, px.Result | None)
    of_any_kind: tuple[px.Outcome[px.Result], ...] = outcomes.skipped + outcomes.fulfilled
    del of_any_kind
    assert_type(px.any(["ls"]), px.Result)
    assert_type(px.race(["ls"]), px.Result)
    for outcome in px.as_completed(["ls"]):
        assert_type(outcome, px.Outcome[px.Result])


def hosts() -> None:
    """What hosts gave has the type of what they did."""

    def heard(host: str, line: str) -> None:
        del host, line

    with px.hosts("web[1-3]", user="me", jump="gate", accept_new=True, sudo="www") as group:
        outcomes = group.run("uptime", waves=[1, "50%"], timeout=3, on_stdout=heard)
        assert_type(outcomes["web1"], px.Outcome[px.Result])
        assert_type(outcomes[0].result(), px.Result)
        assert_type(outcomes[:2], px.Outcomes[px.Result])
        assert_type(outcomes.fulfilled[0].value, px.Result)
        assert_type(outcomes.by_host(), dict[str, px.Outcome[px.Result]])
        assert_type(outcomes.failed, px.Group)
        any_outcomes: px.HostOutcomes = outcomes
        del any_outcomes
        assert_type(group.map(len)["web1"].result(), int)
        assert_type(group.put("a", "b")["web1"].result(), px.Transfer)
        assert_type(group.get("a", "{host}")["web1"].result(), px.Transfer)
    with px.SSH("web1", config=False) as host:
        assert_type(host.run(["ls", Path("/tmp")]), px.Result)


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
