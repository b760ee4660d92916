"""Every way in which work ends, and that the process table is empty of it afterwards."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.environments.local import backend, spawn
from parallel_exec.errors import (
    CommandFailedError,
    CommandTimeoutError,
    DeadlineExceededError,
    TaskCancelledError,
)
from tests.integration.processes import (
    PATIENCE_S,
    Nap,
    alive,
    eventually,
    gone,
    leaving,
    lines_of,
    python,
)

linux = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")


def fails_when_asleep(nap: Nap, count: int) -> Callable[[], None]:
    """Return a function that fails when so many sleep."""

    def fail() -> None:
        nap.wait_for(count)
        raise LookupError("on purpose")

    return fail


def returns_when_asleep(nap: Nap, count: int) -> Callable[[], str]:
    """Return a function that returns when so many sleep."""

    def win() -> str:
        nap.wait_for(count)
        return "won"

    return win


def tree(nap: Nap) -> str:
    """Return a script that makes four sleepers: itself, a child, a grandchild, and one that
    has left the session.
    """
    return f"{leaving(nap)} & {nap} & ({nap}; :) & exec {nap}"


# A timeout


def test_timeout_leaves_nobody(nap: Nap) -> None:
    """After a timeout nothing of the command is in the process table."""
    with pytest.raises(CommandTimeoutError) as caught:
        px.run(f"echo head; {tree(nap)}", timeout=2)
    assert nap.sleepers() == []
    assert caught.value.result.stdout == b"head\n"


def test_timeout_ends_who_ignores_term(nap: Nap) -> None:
    """After `kill_after` KILL reaches who ignores TERM, in the session or out of it."""
    with pytest.raises(CommandTimeoutError):
        px.run(f"trap '' TERM; {tree(nap)}", timeout=2, kill_after=0.2)
    assert nap.sleepers() == []


def test_timeout_of_many_is_for_each(nap: Nap) -> None:
    """``timeout=`` of a function that runs many ends each task that is over it, and only
    those.
    """
    outcomes = px.all_settled([f"exec {nap}", "echo quick", f"exec {nap}"], timeout=1)
    assert [outcome.status for outcome in outcomes] == ["rejected", "fulfilled", "rejected"]
    assert isinstance(outcomes[0].reason, CommandTimeoutError)
    assert nap.sleepers() == []


def test_timeout_of_a_function_ends_its_commands(nap: Nap) -> None:
    """A command that a function runs is ended by the function's timeout."""

    def function() -> None:
        px.run(f"exec {nap}")

    (outcome,) = px.all_settled([function], timeout=1, kill_after=60)
    assert isinstance(outcome.reason, TimeoutError)
    assert not outcome.abandoned
    assert nap.sleepers() == []


def test_timeout_returns_though_a_callback_does_not(nap: Nap) -> None:
    """A callback that blocks for ever does not keep a command from timing out."""
    forever = threading.Event()
    try:
        with pytest.raises(CommandTimeoutError) as caught:
            px.run(
                f"echo head; exec {nap}",
                timeout=1,
                kill_after=0.2,
                on_stdout=lambda line: forever.wait(),
            )
        assert caught.value.result.stdout == b"head\n"
        assert nap.sleepers() == []
    finally:
        forever.set()


# A token


def test_token_leaves_nobody(nap: Nap) -> None:
    """A token ends the commands that run and skips those that have not begun."""
    token = px.CancelToken()

    def cancel() -> None:
        nap.wait_for(3 * 4)
        token.cancel("enough")

    with run_in_thread(cancel):
        outcomes = px.all_settled([tree(nap)] * 5, concurrency=3, cancel=token)
    assert nap.sleepers() == []
    assert [outcome.status for outcome in outcomes] == ["cancelled"] * 3 + ["skipped"] * 2
    for outcome in outcomes.cancelled:
        assert isinstance(outcome.reason, TaskCancelledError)
        assert outcome.reason.result is not None


def test_token_raises_where_values_are_wanted(nap: Nap) -> None:
    """`all` raises the cancel, with its reason, when everything has ended."""
    token = px.CancelToken()

    def cancel() -> None:
        nap.wait_for(2)
        token.cancel("the user left")

    with (
        run_in_thread(cancel),
        pytest.raises(TaskCancelledError, match="the user left"),
    ):
        px.all([f"exec {nap}"] * 2, cancel=token)
    assert nap.sleepers() == []


def test_token_reaches_the_commands_of_functions(nap: Nap) -> None:
    """A token given to a run ends what the functions of the run have started."""
    token = px.CancelToken()

    def cancel() -> None:
        nap.wait_for(4)
        token.cancel()

    def function() -> list[Any]:
        return px.all([f"exec {nap}"] * 2)

    with run_in_thread(cancel):
        outcomes = px.all_settled([function, function], cancel=token, kill_after=60)
    assert [outcome.status for outcome in outcomes] == ["cancelled", "cancelled"]
    assert nap.sleepers() == []


def test_token_is_seen_by_a_function() -> None:
    """A function learns of the cancel by its own token, and returns in its own way."""
    token = px.CancelToken()
    waiting = threading.Event()

    def function() -> str:
        mine = px.CancelToken.current()
        waiting.set()
        assert mine.wait(PATIENCE_S)
        mine.raise_if_cancelled()
        return "not reached"

    def cancel() -> None:
        assert waiting.wait(PATIENCE_S)
        token.cancel()

    with run_in_thread(cancel):
        (outcome,) = px.all_settled([function], cancel=token, kill_after=60)
    assert outcome.status == "cancelled"
    assert not outcome.abandoned


# Failing, winning, over the deadline


@pytest.mark.parametrize("call", [px.all, px.fast_fail])
def test_first_failure_ends_the_others(nap: Nap, call: Callable[..., Any]) -> None:
    """When one task fails the others are ended before its error is raised."""
    with pytest.raises(LookupError, match="on purpose"):
        call([tree(nap), fails_when_asleep(nap, 8), tree(nap)])
    assert nap.sleepers() == []


def test_failing_command_ends_the_others(nap: Nap, tmp_path: Path) -> None:
    """A command that fails ends the others, and its error is the one that is raised."""
    go = tmp_path / "go"

    def release() -> None:
        nap.wait_for(1)
        go.touch()

    failing = f"while ! [ -e '{go}' ]; do sleep 0.02; done; echo why >&2; exit 9"
    with run_in_thread(release), pytest.raises(CommandFailedError, match="why") as caught:
        px.all([f"exec {nap}", failing])
    assert caught.value.result.exit_code == 9
    assert nap.sleepers() == []


@pytest.mark.parametrize("call", [px.any, px.race])
def test_losers_are_ended(nap: Nap, call: Callable[..., Any]) -> None:
    """When one has won the others are ended before its value is returned."""
    assert call([tree(nap), returns_when_asleep(nap, 8), tree(nap)]) == "won"
    assert nap.sleepers() == []


def test_race_that_is_lost_by_failing_ends_the_others(nap: Nap) -> None:
    """In a race the first to fail decides too."""
    with pytest.raises(LookupError):
        px.race([tree(nap), fails_when_asleep(nap, 4)])
    assert nap.sleepers() == []


def test_deadline_leaves_nobody(nap: Nap) -> None:
    """A run that is over its deadline is ended as a whole."""
    with pytest.raises(DeadlineExceededError):
        px.all([tree(nap)] * 3, deadline=2)
    assert nap.sleepers() == []


def test_deadline_gives_outcomes_where_these_are_wanted(nap: Nap) -> None:
    """`all_settled` returns an outcome for every task after the deadline."""
    outcomes = px.all_settled([f"exec {nap}"] * 4, concurrency=2, deadline=1)
    assert [outcome.status for outcome in outcomes] == ["cancelled"] * 2 + ["skipped"] * 2
    assert nap.sleepers() == []


def test_max_failures_leaves_nobody(nap: Nap) -> None:
    """The failure that is one too many ends what runs."""
    tasks: list[Any] = ["false", f"exec {nap}", fails_when_asleep(nap, 1), "echo never"]
    outcomes = px.all_settled(tasks, concurrency=2, max_failures=1)
    statuses = [outcome.status for outcome in outcomes]
    assert statuses == ["rejected", "cancelled", "rejected", "skipped"]
    assert nap.sleepers() == []


# Exceptions in the caller's code


def test_exception_in_a_with_block_ends_what_runs(nap: Nap) -> None:
    """Leaving ``with as_completed(...)`` by an exception ends what runs before it goes on."""
    with (  # noqa: PT012
        pytest.raises(KeyError),
        px.as_completed([returns_when_asleep(nap, 8), tree(nap), tree(nap)]) as outcomes,
    ):
        for outcome in outcomes:
            raise KeyError(outcome.index)
    assert nap.sleepers() == []


def test_exception_in_a_loop_ends_what_runs(nap: Nap) -> None:
    """An iterator that is left by an exception ends its work when it is forgotten."""

    def loop() -> None:
        for _ in px.as_completed([returns_when_asleep(nap, 1), f"exec {nap}"]):
            raise KeyError

    with pytest.raises(KeyError) as caught:
        loop()
    del caught
    assert nap.sleepers() == []


def test_break_ends_what_runs(nap: Nap) -> None:
    """A loop over an iterator that nobody else holds ends its work when it is broken off."""
    for outcome in px.as_completed([returns_when_asleep(nap, 1), f"exec {nap}"]):
        assert outcome.value == "won"
        break
    nap.wait_for_none()


def test_exception_in_an_imap_loop_ends_what_runs(nap: Nap) -> None:
    """`parallel_imap` ends what runs when it is left."""

    def run(task: Any) -> Any:
        return task() if callable(task) else px.run(task)

    tasks: list[Any] = [returns_when_asleep(nap, 2), f"exec {nap}", f"exec {nap}"]
    with pytest.raises(KeyError), px.parallel_imap(run, tasks) as values:  # noqa: PT012
        for _ in values:
            raise KeyError
    assert nap.sleepers() == []


def test_generator_of_tasks_that_raises_ends_what_runs(nap: Nap) -> None:
    """An error in the input comes through when what had started has been ended."""

    def tasks() -> Any:
        yield f"exec {nap}"
        yield tree(nap)
        nap.wait_for(5)
        raise LookupError("in the middle of the input")

    for call in (px.all, px.all_settled, px.any, px.race, lambda each: list(px.as_completed(each))):
        with pytest.raises(LookupError, match="in the middle"):
            call(tasks())
        assert nap.sleepers() == []


def test_exception_in_a_nested_call_ends_its_commands(nap: Nap) -> None:
    """A function that fails inside of a nested call leaves nothing of it."""

    def function() -> None:
        px.all([f"exec {nap}", fails_when_asleep(nap, 1)])

    with pytest.raises(LookupError):
        px.all([function])
    assert nap.sleepers() == []


# close


def test_close_leaves_nobody(nap: Nap) -> None:
    """`close` returns when everything that the environment ran has ended."""
    environment = px.Local()
    futures = [environment.submit(tree(nap)) for _ in range(2)]
    nap.wait_for(8)
    environment.close()
    assert nap.sleepers() == []
    for future in futures:
        with pytest.raises(TaskCancelledError):
            future.result(0)


def test_close_ends_nobody_elses(nap: Nap) -> None:
    """`close` of one environment leaves the commands of another alone."""
    token = px.CancelToken()
    other = px.submit(f"exec {nap}", cancel=token)
    with px.Local() as environment:
        environment.run("true")
    assert len(nap.wait_for(1)) == 1
    assert not other.done()
    token.cancel()
    with pytest.raises(TaskCancelledError):
        other.result(PATIENCE_S)


# What a command leaves behind


def test_background_children_with_the_pipe_end_after_their_time(nap: Nap) -> None:
    """Children in the background that hold the output are ended after `kill_after`; what
    they have printed is there.
    """
    result = px.run(f"(echo late; exec {nap}) & echo early", kill_after=0.5)
    assert sorted(result.lines()) == ["early", "late"]
    assert result.ok
    assert nap.sleepers() == []


def test_background_children_without_the_pipe_end_with_it(nap: Nap) -> None:
    """Children in the background that hold no output are ended when the command exits,
    those that ignore TERM by KILL.
    """
    script = f"({nap}) > /dev/null 2>&1 & (trap '' TERM; exec {nap}) > /dev/null 2>&1 & sleep 0.3"
    assert px.run(script, kill_after=0.3).ok
    assert nap.sleepers() == []


def test_daemon_survives_a_normal_exit(nap: Nap) -> None:
    """Who has left the session is no longer the command's, and not ours to end."""
    assert px.run(f"{leaving(nap)} > /dev/null 2>&1 & sleep 0.5").ok
    assert len(nap.wait_for(1)) == 1


def test_daemon_survives_though_others_are_ended(nap: Nap) -> None:
    """A daemon outlives a command whose other background children had to be ended."""
    other = Nap()
    try:
        script = (
            f"{leaving(nap)} > /dev/null 2>&1 &"
            f" {other} & {other} > /dev/null 2>&1 &"
            f" while ! ps -A -o args= | grep -q '^sleep {nap.seconds}'; do sleep 0.05; done"
        )
        assert px.run(script, kill_after=0.5).ok
        assert other.sleepers() == []
        assert len(nap.sleepers()) == 1
    finally:
        other.end()


def test_daemon_that_holds_the_pipe_keeps_nobody_waiting(nap: Nap) -> None:
    """A call returns although somebody outside of the session still holds the output."""
    script = (
        f"{leaving(nap)} & while ! ps -A -o args= | grep -q '^sleep {nap.seconds}';"
        " do sleep 0.05; done; echo said"
    )
    assert px.run(script, kill_after=100_000).text() == "said\n"
    assert len(nap.sleepers()) == 1


@linux
def test_timeout_ends_who_left_and_holds_the_pipe(nap: Nap) -> None:
    """A grandchild that left the group and holds the output is ended by a timeout."""
    with pytest.raises(CommandTimeoutError):
        px.run(f"{leaving(nap)} & wait", timeout=2, kill_after=1)
    assert nap.sleepers() == []


@linux
def test_orphan_that_left_is_ended_too(nap: Nap) -> None:
    """Who left the session and whose parent has died is found all the same."""
    with pytest.raises(CommandTimeoutError):
        px.run(f"({leaving(nap)} &) ; exec {nap}", timeout=2, kill_after=1)
    assert nap.sleepers() == []


# Whom signals reach


@linux
def test_no_signal_reaches_an_id_that_may_be_another_s(
    nap: Nap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process group is signalled by its id only while its leader has not been reaped,
    which keeps the id from being given to somebody else.
    """
    from parallel_exec.environments.local import kernel

    if not kernel.group_by_pidfd():
        pytest.skip("this kernel cannot signal a group by a pidfd")
    signalled: list[int] = []
    wrong: list[int] = []
    killpg = os.killpg

    def watched(group: int, number: int) -> None:
        signalled.append(group)
        try:
            os.waitid(os.P_PID, group, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            wrong.append(group)
        killpg(group, number)

    monkeypatch.setattr(os, "killpg", watched)
    endings = [
        "true",
        "exit 3",
        f"{nap} > /dev/null 2>&1 & exit 0",
        f"{nap} & exit 0",
        f"trap '' TERM; {nap} & exit 0",
        f"exec {nap}",
        f"{nap} & exec {nap}",
        f"trap '' TERM; exec {nap}",
        "kill -KILL $$",
    ]
    tasks = [px.Command(script, kill_after=0.2, timeout=1) for script in endings * 2]
    px.all_settled(tasks, concurrency=6)
    assert signalled
    assert wrong == []


def test_ended_command_is_not_signalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ending what has ended, or cancelling its token, sends nothing to anybody."""
    token = px.CancelToken()
    future = px.submit("true", cancel=token)
    future.result(PATIENCE_S)
    sent: list[int] = []

    def send(target: int, number: int, *_: Any) -> None:
        if number:  # 0 is a question
            sent.append(number)
        raise ProcessLookupError

    for module, name in ((os, "killpg"), (os, "kill"), (signal, "pidfd_send_signal")):
        monkeypatch.setattr(module, name, send, raising=False)
    token.cancel()
    px.run("true")
    assert sent == []


# Ctrl-C

WAYS = {
    "run": "px.run({command!r})",
    "all": "px.all([{command!r}] * 2)",
    "all_settled": "px.all_settled([{command!r}] * 2)",
    "any": "px.any([{command!r}] * 2)",
    "as_completed": "list(px.as_completed([{command!r}] * 2))",
    "parallel_map": "px.parallel_map(px.run, [{command!r}] * 2)",
    "parallel_imap": "list(px.parallel_imap(px.run, [{command!r}] * 2))",
    "nested": "px.all([lambda: px.all([{command!r}])] * 2)",
    "submit": "px.submit({command!r}).result()",
    "limiter": "px.ConcurrencyLimiter(1).run(lambda: px.run({command!r}))",
}


@pytest.mark.parametrize("way", WAYS)
def test_ctrl_c_leaves_nobody(nap: Nap, tmp_path: Path, way: str) -> None:
    """SIGINT ends what runs, and KeyboardInterrupt comes out of the call."""
    code = f"""
    try:
        {WAYS[way].format(command=f"exec {nap}")}
    except KeyboardInterrupt:
        print("interrupted")
        raise
    """
    with python(tmp_path, code) as script:
        nap.wait_for(1 if way in ("run", "submit", "limiter") else 2)
        script.send(signal.SIGINT)
        assert script.line() == "interrupted"
        if way != "submit":  # that one was left running, and ends with the program
            assert nap.sleepers() == []
        assert script.exit_code() == -signal.SIGINT
        assert nap.sleepers() == []


def test_second_ctrl_c_does_not_wait(nap: Nap, tmp_path: Path) -> None:
    """A second SIGINT cuts a long `kill_after` short."""
    code = f"""
    script = "trap 'echo ended' TERM; echo up; {nap} & while :; do sleep 0.05; done"
    try:
        px.run(script, kill_after=100_000, on_stdout=print)
    except KeyboardInterrupt:
        print("interrupted")
    """
    with python(tmp_path, code) as script:
        assert script.line() == "up"
        nap.wait_for(1)
        script.send(signal.SIGINT)
        assert script.line() == "ended"
        script.send(signal.SIGINT)
        assert script.line() == "interrupted"
        assert nap.sleepers() == []
        assert script.exit_code() == 0


def test_second_ctrl_c_ends_all_of_many(nap: Nap, tmp_path: Path) -> None:
    """A second SIGINT reaches every command of a run, and leaves functions behind."""
    code = f"""
    stubborn = px.Command("trap '' TERM; exec {nap}", kill_after=100_000)
    def function():
        print("function")
        while True:
            time.sleep(0.05)
    try:
        px.all([stubborn] * 3 + [function], kill_after=100_000)
    except KeyboardInterrupt:
        print("interrupted")
    """
    with python(tmp_path, code) as script:
        assert script.line() == "function"
        nap.wait_for(3)
        script.send(signal.SIGINT)
        over = threading.Event()

        def insist() -> None:  # nothing shows that the first has been taken note of
            while not over.wait(0.5):
                script.send(signal.SIGINT)

        with run_in_thread(insist):
            line = script.line()
            over.set()
        assert line == "interrupted"
        assert nap.sleepers() == []


def test_ctrl_c_of_a_terminal_reaches_no_command_directly(nap: Nap, tmp_path: Path) -> None:
    """A SIGINT to the program's whole group ends commands by TERM, as a cancel does: they
    are not in that group.
    """
    code = f"""
    script = (
        "trap 'echo int' INT; trap 'echo term; exit 0' TERM; echo up;"
        " while :; do {nap} & wait; done"
    )
    try:
        px.run(script, on_stdout=print)
    except KeyboardInterrupt:
        print("interrupted")
    """
    with python(tmp_path, code) as script:
        assert script.line() == "up"
        os.killpg(script.pid, signal.SIGINT)
        assert [script.line(), script.line()] == ["term", "interrupted"]


def test_ctrl_c_in_user_code_of_a_loop(nap: Nap, tmp_path: Path) -> None:
    """SIGINT while the caller handles an outcome ends what runs."""
    code = f"""
    try:
        with px.as_completed(["true", "exec {nap}"]) as outcomes:
            for outcome in outcomes:
                print("in the loop")
                time.sleep(1000)
    except KeyboardInterrupt:
        print("interrupted")
    """
    with python(tmp_path, code) as script:
        assert script.line() == "in the loop"
        nap.wait_for(1)
        script.send(signal.SIGINT)
        assert script.line() == "interrupted"
        assert nap.sleepers() == []


# The end of the program

EXITS = {
    "end": ("pass", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "exception": ("raise LookupError('unhandled')", 1),
    "system exit in a call": ("px.all([lambda: px.run('true')]); raise SystemExit(4)", 4),
}


@pytest.mark.parametrize("way", EXITS)
def test_exit_of_the_program_leaves_nobody(nap: Nap, tmp_path: Path, way: str) -> None:
    """Commands that still run when the interpreter exits are ended before it does."""
    ending, exit_code = EXITS[way]
    code = f"""
    px.submit({tree(nap)!r})
    px.Local().submit("trap '' TERM; exec {nap}", kill_after=0.2)
    print("up")
    wait_for_go()
    {ending}
    """
    with python(tmp_path, code, tmp_path / "go") as script:
        assert script.line() == "up"
        nap.wait_for(5)
        (tmp_path / "go").touch()
        assert script.exit_code() == exit_code
        assert nap.sleepers() == []
        assert ("Traceback" in script.errors()) == (way == "exception"), script.errors()


def test_exit_right_after_submit_leaves_nobody(nap: Nap, tmp_path: Path) -> None:
    """A command that was asked for in the last line is ended as any other."""
    code = f"px.submit('exec {nap}'); px.Local().submit('exec {nap}')"
    for _ in range(3):
        with python(tmp_path, code) as script:
            assert script.exit_code() == 0
            assert nap.sleepers() == []
            assert script.errors() == ""


def test_exit_starts_nothing_more(tmp_path: Path) -> None:
    """While the interpreter exits, a run of a daemon thread cannot go on to its next task."""
    code = f"""
    script = "echo >> {tmp_path / "started"}; exec sleep 100000"
    run = lambda: px.all_settled([script] * 1000, concurrency=2)
    threading.Thread(target=run, daemon=True).start()
    wait_for_go()
    """
    with python(tmp_path, code, tmp_path / "go") as script:
        lines_of(tmp_path / "started", 2)
        (tmp_path / "go").touch()
        assert script.exit_code() == 0
        assert len(lines_of(tmp_path / "started", 2)) == 2


def test_exit_ends_all_environments_at_once(nap: Nap, tmp_path: Path) -> None:
    """A command that takes its time to end keeps nobody in other environments alive."""
    stubborn = Nap()
    code = f"""
    first, second = px.Local(), px.Local()
    first.submit("trap '' TERM; exec {stubborn}", kill_after=100_000)
    second.submit("exec {nap}")
    wait_for_go()
    """
    try:
        with python(tmp_path, code, tmp_path / "go"):
            stubborn.wait_for(1)
            nap.wait_for(1)
            (tmp_path / "go").touch()
            nap.wait_for_none()
            assert len(stubborn.sleepers()) == 1
    finally:
        stubborn.end()


def test_exit_of_a_program_whose_thread_runs_a_command(nap: Nap, tmp_path: Path) -> None:
    """A daemon thread in the middle of a call does not keep the program from exiting."""
    code = f"""
    threading.Thread(target=px.run, args=("exec {nap}",), daemon=True).start()
    wait_for_go()
    """
    with python(tmp_path, code, tmp_path / "go") as script:
        nap.wait_for(1)
        (tmp_path / "go").touch()
        assert script.exit_code() == 0
        assert nap.sleepers() == []


def test_exit_with_an_iterator_in_the_middle(nap: Nap, tmp_path: Path) -> None:
    """An iterator that is still held when the program ends leaves nobody."""
    code = f"""
    outcomes = px.as_completed(["true", "exec {nap}"])
    next(outcomes)
    wait_for_go()
    """
    with python(tmp_path, code, tmp_path / "go") as script:
        nap.wait_for(1)
        (tmp_path / "go").touch()
        assert script.exit_code() == 0
        assert nap.sleepers() == []
        assert script.errors() == ""


def test_exit_with_an_iterator_whose_function_runs(tmp_path: Path) -> None:
    """An iterator that is still held when the program ends does not wait for functions."""
    code = """
    values = px.parallel_imap(time.sleep, [0, 1000, 1000])
    next(values)
    """
    with python(tmp_path, code) as script:
        assert script.exit_code() == 0
        assert script.errors() == ""


def test_exit_hook_may_be_the_first_to_run_a_command(tmp_path: Path) -> None:
    """An exit hook runs a command, or is told at once that no thread starts any more."""
    code = """
    import atexit
    def late():
        try:
            print(px.run("echo late").text(), end="")
        except RuntimeError:  # Python 3.12
            print("late")
    atexit.register(late)
    """
    with python(tmp_path, code) as script:
        assert script.rest() == "late\n"
        assert script.errors() == ""


def test_sigterm_leaves_nobody(nap: Nap, tmp_path: Path) -> None:
    """SIGTERM ends the program as ever, and its commands with it."""
    code = f"px.all([{tree(nap)!r}] * 2)"
    with python(tmp_path, code) as script:
        nap.wait_for(8)
        script.send(signal.SIGTERM)
        assert script.exit_code() == -signal.SIGTERM
        nap.wait_for_none()


def test_sigterm_that_is_made_an_exit_leaves_nobody(nap: Nap, tmp_path: Path) -> None:
    """A handler of the user's that raises SystemExit ends what runs first."""
    code = f"""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))
    px.all(["exec {nap}"] * 2)
    """
    with python(tmp_path, code) as script:
        nap.wait_for(2)
        script.send(signal.SIGTERM)
        assert script.exit_code() == 15
        assert nap.sleepers() == []


def test_no_signal_handler_is_installed(tmp_path: Path) -> None:
    """Running commands changes no signal handler, mask or timer of the program."""
    code = """
    def handlers():
        return [
            signal.getsignal(number)
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
        ] + [signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.getitimer(signal.ITIMER_REAL)]
    before = handlers()
    px.all(["true", lambda: px.run("true")])
    print(before == handlers())
    """
    with python(tmp_path, code) as script:
        assert script.line() == "True"


# SIGKILL of the program


@linux
def test_sigkill_leaves_nobody(nap: Nap, tmp_path: Path) -> None:
    """The commands of a program that was killed end too, those that left the session with
    them, and those that ignore TERM after their `kill_after`.
    """
    code = f"""
    for _ in range(2):
        px.submit({tree(nap)!r}, kill_after=0.2)
        px.submit({f"trap '' TERM; {tree(nap)}"!r}, kill_after=0.2)
    print("up")
    time.sleep(1000)
    """
    with python(tmp_path, code) as script:
        assert script.line() == "up"
        nap.wait_for(16)
        script.send(signal.SIGKILL)
        script.exit_code()
        nap.wait_for_none()


@linux
def test_sigkill_asks_before_it_kills(nap: Nap, tmp_path: Path) -> None:
    """The commands of a killed program get TERM, and their time to end in their own way."""
    said = tmp_path / "said"
    code = f"""
    px.submit("trap 'sleep 0.2; echo clean >> {said}; exit' TERM; while :; do {nap} & wait; done")
    time.sleep(1000)
    """
    with python(tmp_path, code) as script:
        nap.wait_for(1)
        script.send(signal.SIGKILL)
        assert lines_of(said) == ["clean"]
        nap.wait_for_none()


@linux
@pytest.mark.parametrize("moment", ["before", "after"])
def test_sigkill_around_the_registration_leaves_nobody(
    nap: Nap, tmp_path: Path, moment: str
) -> None:
    """A program that is killed between the spawn and the moment at which the watchdog is
    told of the process leaves it running just as little.
    """
    code = f"""
    from parallel_exec.environments.local.watchdog import Watchdog
    px.run("true")
    confirm = Watchdog.confirm
    def killed(self, slot, pid):
        if {moment == "after"}:
            confirm(self, slot, pid)
        while True:  # until the program is in its place
            with open(f"/proc/{{pid}}/cmdline", "rb") as file:
                if file.read().startswith(b"sleep"):
                    break
        print("killing", pid)
        os.kill(os.getpid(), signal.SIGKILL)
    Watchdog.confirm = killed
    px.run("exec {nap}")
    """
    with python(tmp_path, code) as script:
        word, pid = script.line().split()
        assert word == "killing"
        script.exit_code()
        eventually(lambda: not alive(int(pid)), f"the end of {pid}")
        assert nap.sleepers() == []


@linux
@pytest.mark.parametrize("confirmed", [True, False])
def test_sigkill_in_the_middle_of_a_start_leaves_nobody(
    nap: Nap, tmp_path: Path, confirmed: bool
) -> None:
    """What has not become its program yet has no group of its own, and no mark either."""
    code = f"""
    import subprocess
    from parallel_exec.environments.local import watchdog
    known = watchdog.get()
    serial = next(known.serials)
    slot = known.announce(serial, 1000)
    mark = known.mark.decode() + str(serial)
    if {confirmed}:
        command = subprocess.Popen({str(nap).split()})
        known.confirm(slot, command.pid)
    else:
        late = f"sleep 0.3; exec env {{mark}} {nap}"
        command = subprocess.Popen(["sh", "-c", late], start_new_session=True)
    print(command.pid)
    time.sleep(1000)
    """
    with python(tmp_path, code) as script:
        pid = int(script.line())
        script.send(signal.SIGKILL)
        script.exit_code()
        eventually(lambda: not alive(pid), f"the end of {pid}")
    assert nap.sleepers() == []


@pytest.mark.skipif(
    spawn.fast is None or os.environ.get(spawn.VARIABLE) == "popen",
    reason="a child of `Popen` is in the program's group for a moment",
)
def test_what_a_terminal_sends_reaches_no_command(tmp_path: Path) -> None:
    """Not in the moment either in which a command is still in the program's own group."""
    code = """
    signal.signal(signal.SIGINT, lambda *_: None)
    over = []
    def send():
        while not over:
            os.killpg(0, signal.SIGINT)
            time.sleep(0.002)
    thread = threading.Thread(target=send)
    thread.start()
    outcomes = px.all_settled([["true"]] * 300, concurrency=4)
    over.append(True)
    thread.join()
    print(len(outcomes.fulfilled))
    """
    with python(tmp_path, code) as script:
        assert script.rest() == "300\n", script.errors()


def test_what_has_no_group_yet_gets_its_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that is told to end before it leads its group is not waited for until KILL."""

    def refuse(group: int, number: int) -> None:
        raise ProcessLookupError(group, number)

    cancel = px.CancelToken()
    future = px.submit(["sleep", "1000"], cancel=cancel, kill_after=1000)
    while not any(process.pid for process in backend.host().processes.copy()):
        pass
    monkeypatch.setattr(os, "killpg", refuse)
    cancel.cancel()
    error = future.exception(PATIENCE_S)
    assert isinstance(error, TaskCancelledError)
    assert error.result is not None
    assert error.result.signal == "SIGTERM"


@linux
def test_sigkill_while_background_children_are_waited_for(nap: Nap, tmp_path: Path) -> None:
    """A program that is killed after a command has exited and before the processes that it
    left in its group are ended leaves these running just as little; a daemon lives on.
    """
    code = f"""
    px.submit({f"{leaving(nap)} & {nap} & exit 0"!r}, kill_after=1000)
    time.sleep(1000)
    """
    with python(tmp_path, code) as script:
        sleepers = nap.wait_for(2)
        (daemon,) = [pid for pid in sleepers if os.getsid(pid) == pid]
        eventually(lambda: not children(script.pid), "the end of the first process")
        script.send(signal.SIGKILL)
        script.exit_code()
        eventually(lambda: nap.sleepers() == [daemon], "the end of the others")


@linux
@pytest.mark.parametrize("first", ["exec sleep 1000", "exit 0"])
def test_sigkill_while_others_are_being_ended_leaves_nobody(
    nap: Nap, tmp_path: Path, first: str
) -> None:
    """A program that is killed after it has ended a command, whose first process has gone and
    whose others take their time, leaves these running just as little.
    """
    said, go, slow = tmp_path / "said", tmp_path / "go", tmp_path / "slow"
    slow.write_text(f"trap 'trap - TERM; echo >> {said}' TERM; for _ in 1 2; do {nap} & wait; done")
    left = f"import os; os.setsid(); os.execlp('sh', 'sh', '{slow}')"
    command = f'sh {slow} & {sys.executable} -I -S -c "{left}" & {first}'
    code = f"""
    token = px.CancelToken()
    future = px.submit({command!r}, kill_after=1000, cancel=token)
    wait_for_go()
    token.cancel()
    time.sleep(1000)
    """
    with python(tmp_path, code, go) as script:
        nap.wait_for(2)
        if first == "exit 0":
            eventually(lambda: not children(script.pid), "the end of the first process")
        go.touch()
        lines_of(said, 2)
        eventually(lambda: not children(script.pid), "the end of the first process")
        nap.wait_for(2)
        script.send(signal.SIGKILL)
        script.exit_code()
        nap.wait_for_none()


@pytest.mark.parametrize("first", ["exec sleep 1000", "exit 0"])
def test_each_is_told_once(nap: Nap, tmp_path: Path, first: str) -> None:
    """Whether the command's first process still runs or not: who is in its group gets TERM by
    the group's signal alone. A second one would mean haste to many a program.
    """
    said, slow, own = tmp_path / "said", tmp_path / "slow", tmp_path / "own"
    slow.write_text(f"trap 'echo >> {said}' TERM; while :; do {nap} & wait; done")
    token = px.CancelToken()
    command = f"echo $$ > {own}; sh {slow} & {first}"
    future = px.submit(command, kill_after=0.5, cancel=token)
    nap.wait_for(1)
    if first == "exit 0":
        pid = int(lines_of(own)[0])
        eventually(lambda: gone(pid), "the end of the first process")
    token.cancel()
    with pytest.raises(TaskCancelledError):
        future.result()
    assert lines_of(said) == [""]
    nap.wait_for_none()


@linux
def test_sigkill_with_forked_children_alive_leaves_nobody(nap: Nap, tmp_path: Path) -> None:
    """A forked child of the program that lives on does not hide the program's death."""
    code = f"""
    px.submit("exec {nap}")
    print("up")
    pid = os.fork()
    if pid == 0:
        os.setsid()
        time.sleep(1000)
    print(pid)
    time.sleep(1000)
    """
    with python(tmp_path, code) as script:
        assert script.line() == "up"
        child = int(script.line())
        try:
            nap.wait_for(1)
            script.send(signal.SIGKILL)
            nap.wait_for_none()
            assert alive(child)
        finally:
            os.kill(child, signal.SIGKILL)


@linux
def test_os_exit_leaves_nobody(nap: Nap, tmp_path: Path) -> None:
    """A program that leaves by `os._exit`, past every handler, leaves no command."""
    code = f"""
    px.submit("exec {nap}")
    wait_for_go()
    os._exit(5)
    """
    with python(tmp_path, code, tmp_path / "go") as script:
        nap.wait_for(1)
        (tmp_path / "go").touch()
        assert script.exit_code() == 5
        nap.wait_for_none()


@linux
def test_watchdog_ends_with_the_program(tmp_path: Path) -> None:
    """Neither a normal exit nor a SIGKILL leaves the watchdog itself."""
    code = """
    from parallel_exec.environments.local import watchdog
    px.run("true")
    while not watchdog.get().guard.pid:
        time.sleep(0.01)
    print(watchdog.get().guard.pid)
    wait_for_go()
    """
    for killed in (False, True):
        go = tmp_path / f"go-{killed}"
        with python(tmp_path, code, go) as script:
            watchdog = int(script.line())
            assert alive(watchdog)
            script.send(signal.SIGKILL) if killed else go.touch()
            script.exit_code()
            eventually(partial(gone, watchdog), "the end of the watchdog")


@linux
def test_watchdog_spares_daemons(nap: Nap, tmp_path: Path) -> None:
    """A daemon of a command that had ended before the program was killed lives on."""
    code = f"""
    from parallel_exec.environments.local import watchdog
    px.run({f"{leaving(nap)} > /dev/null 2>&1 & sleep 0.5"!r})
    while not watchdog.get().guard.pid:
        time.sleep(0.01)
    print(watchdog.get().guard.pid)
    time.sleep(1000)
    """
    with python(tmp_path, code) as script:
        watchdog = int(script.line())
        (pid,) = nap.wait_for(1)
        script.send(signal.SIGKILL)
        eventually(partial(gone, watchdog), "the end of the watchdog")
        assert nap.sleepers() == [pid]


def children(parent: int) -> list[int]:
    """Return the children of a process."""
    found = []
    for name in os.listdir("/proc"):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if name.isdigit() and int(fields[1]) == parent:
            found.append(int(name))
    return found


class run_in_thread:  # noqa: N801 - reads like a function
    """Call a function in a thread meanwhile; its exception comes out at the end."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._future: Future[object] = Future()
        self._thread = threading.Thread(target=self._run, args=(call,))

    def _run(self, call: Callable[[], object]) -> None:
        try:
            self._future.set_result(call())
        except BaseException as error:
            self._future.set_exception(error)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._future.result(0)
