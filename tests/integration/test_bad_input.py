"""What cannot be used is named before anything starts; what runs out is waited for."""

from __future__ import annotations

import json
import math
import os
import select
import threading
import time
from collections.abc import Callable, ItemsView, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.environments.local import backend
from parallel_exec.errors import (
    CommandFailedError,
    CommandNotFoundError,
    CommandStartError,
    ConfigError,
    TaskCancelledError,
)
from tests.integration.processes import PATIENCE_S, Nap, python


class Thing:
    """No value of any use, with a repr that is the same in every run."""

    def __repr__(self) -> str:
        return "<thing>"


NO_COUNT = [0, -1, True, False, "3", 1.5, math.nan, math.inf, [], Thing()]
NO_TIME = [0, -1, -0.5, True, False, "3", math.nan, math.inf, -math.inf, timedelta(0), [], Thing()]


def never(*_: Any) -> None:
    raise AssertionError("something was started")


MANY: dict[str, Callable[..., Any]] = {
    "all": lambda **options: px.all([never], **options),
    "all_settled": lambda **options: px.all_settled([never], **options),
    "any": lambda **options: px.any([never], **options),
    "race": lambda **options: px.race([never], **options),
    "as_completed": lambda **options: px.as_completed([never], **options),
    "fast_fail": lambda **options: px.fast_fail([never], **options),
    "fail_safe": lambda **options: px.fail_safe([never], **options),
    "parallel_map": lambda **options: px.parallel_map(never, [1], **options),
    "parallel_imap": lambda **options: px.parallel_imap(never, [1], **options),
    "parallel_filter": lambda **options: px.parallel_filter(never, [1], **options),
    "parallel_for_each": lambda **options: px.parallel_for_each(never, [1], **options),
    "parallel_reduce": lambda **options: px.parallel_reduce(never, [1, 2], **options),  # type: ignore[arg-type]
}


def refused(call: Callable[..., Any], name: str, value: Any) -> None:
    """Check that a call is refused with an error that names the parameter and the value."""
    with pytest.raises(ConfigError) as caught:
        call(**{name: value})
    assert isinstance(caught.value, ValueError)
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("function", MANY)
def test_concurrency_that_is_none(function: str) -> None:
    """A limit that is no whole number of at least 1 is refused by every function."""
    for value in NO_COUNT:
        refused(MANY[function], "concurrency", value)


@pytest.mark.parametrize("function", MANY)
@pytest.mark.parametrize("name", ["timeout", "deadline"])
def test_times_that_are_none(function: str, name: str) -> None:
    """A timeout or deadline that is no time is refused by every function."""
    for value in NO_TIME:
        refused(MANY[function], name, value)


@pytest.mark.parametrize("function", MANY)
def test_other_options_that_cannot_be_used(function: str) -> None:
    """Every option of many is checked before anything starts."""
    for name, value in [
        ("kill_after", -1),
        ("kill_after", "5"),
        ("kill_after", math.nan),
        ("max_failures", -1),
        ("max_failures", True),
        ("max_failures", "ten"),
        ("max_failures", "10"),
        ("max_failures", "101%"),
        ("max_failures", "-1%"),
        ("max_failures", "nan%"),
        ("max_failures", 1.5),
        ("cancel", "now"),
        ("cancel", threading.Event),
        ("on_outcome", 1),
        ("on_event", "x"),
        ("retry", 3),
        ("executor", 1),
        ("progress", 1),
        ("no_such_option", 1),
    ]:
        refused(MANY[function], name, value)


@pytest.mark.parametrize("function", ["all", "all_settled", "any", "race", "as_completed"])
@pytest.mark.parametrize("tasks", ["echo one", b"bytes", 1, None, never])
def test_tasks_that_are_no_list(function: str, tasks: Any) -> None:
    """A bare string is one command, not many; nor is a number or a function a list."""
    with pytest.raises(ConfigError, match="tasks") as caught:
        getattr(px, function)(tasks)
    assert repr(tasks) in str(caught.value)


@pytest.mark.parametrize("chunk_size", [*NO_COUNT, 1], ids=repr)
def test_chunk_size_that_is_none(chunk_size: Any) -> None:
    """A chunk that does not get smaller by folding it is refused."""

    def reduce(**options: Any) -> Any:
        return px.parallel_reduce(never, [1, 2], **options)  # type: ignore[arg-type]

    refused(reduce, "chunk_size", chunk_size)


@pytest.mark.parametrize("limit", [*NO_COUNT, None], ids=repr)
def test_limit_of_a_limiter_that_is_none(limit: Any) -> None:
    """A limiter is refused when it is made, and when its limit is set."""
    refused(lambda limit: px.ConcurrencyLimiter(limit), "limit", limit)
    limiter = px.ConcurrencyLimiter(1)
    with pytest.raises(ConfigError, match="limit"):
        limiter.limit = limit
    assert limiter.limit == 1


@pytest.mark.parametrize("weight", [0, -1, True, "2", math.nan, math.inf, None], ids=repr)
def test_weight_that_is_none(weight: Any) -> None:
    """A weight that is no positive number is refused."""
    refused(lambda **options: px.ConcurrencyLimiter(3).run(never, **options), "weight", weight)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("timeout", value) for value in NO_TIME],
        ("kill_after", -1),
        ("kill_after", None),
        ("kill_after", math.nan),
        ("kill_after", True),
        *[("max_output_bytes", value) for value in (0, -1, True, "9", 1.5, math.nan)],
        ("env", "A=1"),
        ("env", {"A": 1}),
        ("env", {"A": b"bytes"}),
        ("env", {"A": True}),
        ("env", {1: "x"}),
        ("env", {"": "x"}),
        ("env", {"A=B": "x"}),
        ("env", {"A\0": "x"}),
        ("env", {"A": "x\0y"}),
        ("cwd", 5),
        ("cwd", "a\0b"),
        ("input", 5),
        ("input", ["x"]),
        ("check", 1),
        ("check", None),
        ("capture", "no"),
        ("label", 5),
        ("on_stdout", 5),
        ("on_stderr", "print"),
        ("encoding", "no-such-encoding"),
        ("encoding", None),
        ("environment", "local"),
        ("cancel", 1),
        ("retry", 3),
        ("no_such_option", 1),
    ],
)
def test_options_of_a_command_that_cannot_be_used(name: str, value: Any, tmp_path: Path) -> None:
    """Every option of a command is checked before it starts; the error names it."""
    for function in (px.run, px.submit):
        with pytest.raises(ConfigError, match=name):
            function(f"touch {tmp_path / 'ran'}", **{name: value})
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "command", ["", "  ", "\n", [], (), [""], ["", "x"], [" "], b"ls", 5, None, ["ls", 5], ["a\0b"],
                "echo \0", [None], {"ls"}, [["ls"]]]
)  # fmt: skip
def test_commands_that_are_none(command: Any) -> None:
    """An empty command, a NUL byte, or what is no string is refused."""
    for function in (px.run, px.submit, px.Command, px.Local().command):
        with pytest.raises(ConfigError, match="command"):
            function(command)


@pytest.mark.parametrize(
    ("template", "values"), [("{}", ()), ("a", (1,)), ("{} {}", (1,)), ("{}", (1, 2)), (5, ())]
)
def test_templates_that_do_not_match(template: Any, values: tuple[Any, ...]) -> None:
    """`sh` needs as many values as there are places."""
    with pytest.raises(ConfigError, match="template"):
        px.sh(template, *values)


@pytest.mark.parametrize(
    ("broken", "kind", "named"),
    [
        ("", ConfigError, "command"),
        ([], ConfigError, "command"),
        (5, ConfigError, "5"),
        (None, ConfigError, "None"),
        (["px-no-such-program"], CommandNotFoundError, "px-no-such-program"),
        (["/no/such/program"], CommandNotFoundError, "/no/such/program"),
        (["/etc/passwd"], CommandStartError, "/etc/passwd"),
        (["/"], CommandStartError, "/"),
        (px.Command("true", cwd="/no/such/folder"), CommandNotFoundError, "/no/such/folder"),
        (px.Command("true", cwd="/etc/passwd"), CommandStartError, "/etc/passwd"),
        (px.Command(["true"], env={"PATH": "/nowhere"}), CommandNotFoundError, "true"),
        (["true", "x" * 3_000_000], CommandStartError, "too long"),
    ],
)
def test_one_bad_task_harms_no_other(broken: Any, kind: type[Exception], named: str) -> None:
    """A task that cannot run is rejected with an error that names what is wrong; the others
    run.
    """
    outcomes = px.all_settled(["echo before", broken, "echo after"])
    assert [outcome.status for outcome in outcomes] == ["fulfilled", "rejected", "fulfilled"]
    assert isinstance(outcomes[1].reason, kind)
    assert named in str(outcomes[1].reason)
    assert [result.text() for result in outcomes.values()] == ["before\n", "after\n"]


def test_input_that_cannot_be_encoded_is_refused() -> None:
    """Before anything starts; the error names the encoding."""
    with pytest.raises(ConfigError, match="ascii"):
        px.Command("cat", input="é", encoding="ascii")


def test_coroutine_functions_are_refused() -> None:
    """A coroutine function would be "fulfilled" by a coroutine that nobody runs."""

    async def function() -> None: ...

    outcomes = px.all_settled([function, "true"])
    assert [outcome.status for outcome in outcomes] == ["rejected", "fulfilled"]
    with pytest.raises(ConfigError):
        px.all([function])


def test_not_found_is_the_builtin_s_error_too() -> None:
    """It can be caught as `subprocess` users do, and says its errno."""
    with pytest.raises(FileNotFoundError) as caught:
        px.run(["px-no-such-program"])
    assert caught.value.errno == 2
    with pytest.raises(OSError, match="denied") as caught_denied:
        px.run(["/etc/passwd"])
    assert caught_denied.value.errno == 13


def test_error_that_is_hard_to_show_is_still_shown() -> None:
    """A value whose repr raises does not hide what is wrong with it."""

    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError("no repr")

    outcomes = px.all_settled([Rude(), "true"])  # type: ignore[list-item]
    assert [outcome.status for outcome in outcomes] == ["rejected", "fulfilled"]
    assert px.parallel_map(lambda _: 1, [Rude()]) == [1]


# What runs out in the middle


def test_out_of_descriptors_it_slows_down_and_completes(tmp_path: Path) -> None:
    """A run that finds no descriptors goes on when others have given theirs back."""
    code = """
    import resource
    px.run("true")
    resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
    results = px.all([["sh", "-c", f"sleep 0.05; echo {n}"] for n in range(100)], concurrency=None)
    print([int(result.text()) for result in results] == list(range(100)))
    """
    with python(tmp_path, code) as script:
        assert script.rest() == "True\n", script.errors()
        assert script.errors() == ""


def test_a_start_that_fails_late_for_want_of_room_is_made_again(tmp_path: Path) -> None:
    """The child may be there already, and not get what it needs to become its program."""
    code = """
    import errno
    from parallel_exec.environments.local import process
    collect, failed = process.collect, []
    def scarce(pid, *fds):
        status, out, err, state = collect(pid, *fds)
        if status is not None and len(failed) < 3:
            failed.append(pid)
            return errno.EAGAIN, b"", b"", state | process.FAILED
        return status, out, err, state
    process.collect = scarce
    commands = [px.Command(["echo", str(n)], input=b"x") for n in range(5)]
    results = px.all(commands, concurrency=2, timeout=30)
    print([int(result.text()) for result in results] == list(range(5)), len(failed))
    """
    with python(tmp_path, code) as script:
        assert script.rest() == "True 3\n", script.errors()


def test_many_programs_that_are_not_there(tmp_path: Path) -> None:
    """Each is told of, whether it is known at once or late, and nothing of them is left."""
    code = """
    from parallel_exec.environments.local import backend
    px.run("true")
    before = len(os.listdir("/dev/fd"))
    outcomes = px.all_settled(
        [["/no/program"], ["true"], px.Command(["/no/program"], input=b"x")] * 100,
        concurrency=None,
    )
    kinds = {type(outcome.reason).__name__ for outcome in outcomes.rejected}
    print(len(outcomes.fulfilled), len(outcomes.rejected), kinds)
    cancel = px.CancelToken()
    future = px.submit(["/no/program"], cancel=cancel)
    cancel.cancel()
    print(type(future.exception(20)).__name__ in ("TaskCancelledError", "CommandNotFoundError"))
    print(len(os.listdir("/dev/fd")) - before, len(backend.host().processes))
    """
    with python(tmp_path, code) as script:
        assert script.rest() == "100 200 {'CommandNotFoundError'}\nTrue\n0 0\n", script.errors()


def test_who_waits_for_room_is_told_when_there_is_some(tmp_path: Path) -> None:
    """What a command gives back is known to those that wait for it."""
    code = """
    import resource
    from parallel_exec.environments.local import backend
    backend.ROOM_S = 1e6  # they do not look by themselves
    px.all(["true", "true"])
    px.submit("mkdir up; while test ! -e go; do sleep 0.01; done")
    while not os.path.exists("up"):
        time.sleep(0.001)
    resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
    held = []
    try:
        while True:
            held.append(os.dup(0))
    except OSError:
        pass
    second = px.submit("echo there")
    while not backend.host().waiting:
        time.sleep(0.001)
    for fd in held:
        os.close(fd)
    os.mkdir("go")
    print(second.result(20).text(), end="")
    """
    with python(tmp_path, code) as script:
        assert script.rest() == "there\n", script.errors()


def test_no_descriptor_for_the_exit_of_short_commands(tmp_path: Path) -> None:
    """A command whose exit is looked for, since there is no descriptor to wait for it with,
    and that has exited by then, does not keep the next one from starting.
    """
    code = """
    import errno
    from parallel_exec.environments.local import spawn
    spawn.fast = None  # that one has its descriptor before there is a command
    def refused(pid):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    px.run("true")
    os.pidfd_open = refused
    results = px.all([["echo", str(n)] for n in range(8)], concurrency=2)
    print([int(result.text()) for result in results] == list(range(8)))
    """
    with python(tmp_path, code) as script:
        assert script.rest() == "True\n", script.errors()


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="epoll has that limit")
def test_no_room_to_watch_descriptors(tmp_path: Path) -> None:
    """Epoll watches no more than so many: commands run all the same, with all their output."""
    code = """
    import errno
    from parallel_exec.reactor import poller
    px.all(["true", "true"])  # what wakes the service thread is watched
    def refuse(self, fd, interest):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    poller.EpollPoller.add = refuse
    data = bytes(range(256)) * 4096
    lines = []
    results = px.all_settled([
        px.Command("cat; sleep 0.1; exit 3", input=data, check=False),
        px.Command("echo one; sleep 0.1; echo two", on_stdout=lines.append),
        px.Command(["sleep", "30"], timeout=0.1),
    ], concurrency=3)
    print(results[0].value.exit_code, results[0].value.stdout == data, lines, results[2].status)
    """
    with python(tmp_path, code) as script:
        assert script.rest() == "3 True ['one', 'two'] rejected\n", script.errors()
        assert script.errors() == ""


def test_no_descriptors_at_the_first_command(tmp_path: Path) -> None:
    """A library that has not started yet when the program has taken all descriptors says so, and
    starts when it can.
    """
    code = """
    import errno, resource
    px.all([int])  # the service thread is there, and nothing of the commands
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    try:
        while True:
            held.append(os.dup(0))
    except OSError:
        pass
    try:
        px.run("echo there")
        print("there were descriptors")
    except px.errors.CommandStartError as error:
        print(error.errno == errno.EMFILE)
    for fd in held:
        os.close(fd)
    print(px.run("echo there").text(), end="")
    """
    with python(tmp_path, code) as script:
        assert script.rest() == "True\nthere\n", script.errors()


def test_out_of_descriptors_can_be_cancelled_and_timed_out(tmp_path: Path) -> None:
    """A command that waits for descriptors is ended by a timeout, a token and a deadline."""
    code = """
    import resource
    first = px.submit("cat", input=open(os.pipe()[0], "rb"))  # it may give some back
    while not any(process.live for process in backend.host().processes.copy()):
        time.sleep(0.001)
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
    try:
        while True:
            held.append(os.dup(0))
    except OSError:
        pass
    def kind(call):
        try:
            return call()
        except Exception as error:
            return type(error).__name__
    print(isinstance(px.all_settled(["true"], timeout=0.2)[0].reason, TimeoutError))
    print(kind(lambda: px.all(["true"] * 3, deadline=0.2)))
    token = px.CancelToken()
    threading.Timer(0.2, token.cancel).start()
    print(kind(lambda: px.run("true", cancel=token)))
    with px.Local() as local:
        future = local.submit("true")
    print(kind(future.result))
    for fd in held:
        os.close(fd)
    print(px.run("echo fine").text(), end="")
    first.cancel()
    """
    code = "    from parallel_exec.environments.local import backend" + code
    with python(tmp_path, code) as script:
        assert script.rest().split() == [
            "True", "DeadlineExceededError", "TaskCancelledError", "TaskCancelledError", "fine",
        ], script.errors()  # fmt: skip


@pytest.mark.skipif(os.getuid() != 0, reason="the limit is not for root, so a root must change")
def test_out_of_processes_it_slows_down_and_completes(tmp_path: Path) -> None:
    """A run that finds no room for processes goes on when others have ended."""
    tmp_path.chmod(0o777)
    code = """
    import resource
    uid = 54321  # nobody's: what others run does not count
    os.setgid(uid)
    os.setuid(uid)
    resource.setrlimit(resource.RLIMIT_NPROC, (12, 12))
    results = px.all([["sleep", "0.05"]] * 60, concurrency=None)
    print(len(results), all(result.ok for result in results))
    """
    with python(tmp_path, code) as script:
        assert script.rest() == "60 True\n", script.errors()


@pytest.mark.skipif(os.getuid() != 0, reason="the limit is not for root, so a root must change")
def test_out_of_threads_it_slows_down_and_completes(tmp_path: Path) -> None:
    """Functions that find no thread run when others have ended; callbacks and input files,
    which need threads too, likewise: commands do not keep from each other what all wait for.
    """
    tmp_path.chmod(0o777)
    code = """
    import io, resource
    px.run("true")
    uid = 54322
    os.setgid(uid)
    os.setuid(uid)
    resource.setrlimit(resource.RLIMIT_NPROC, (8, 8))
    def function(number):
        time.sleep(0.02)
        return number
    values = px.parallel_map(function, range(60), None)
    print(values == list(range(60)))
    lines = []
    def command(number):
        return px.Command(["cat"], input=io.BytesIO(b"%d\\n" % number), on_stdout=lines.append)
    px.all([command(number) for number in range(30)], concurrency=None)
    print(sorted(map(int, lines)) == list(range(30)))
    lines.clear()
    much = px.Command(["seq", "200000"], on_stdout=lines.append)
    px.all([much] * 10, concurrency=None)
    print(len(lines))
    """
    with python(tmp_path, code) as script:
        assert script.rest() == "True\nTrue\n2000000\n", script.errors()
        assert not script.errors()  # at the exit of what has become another user's, too


def test_threads_that_cannot_be_started_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second thread is refused at first, while something of ours runs; nothing is lost."""
    token = px.CancelToken()
    other = px.submit(["sleep", "1000"], cancel=token)
    while not any(process.live for process in backend.host().processes.copy()):
        time.sleep(0.001)
    start = threading.Thread.start
    refusals = {"left": 25, "turn": 0}

    def refusing(thread: threading.Thread) -> None:
        refusals["turn"] += 1
        if refusals["left"] and refusals["turn"] % 2:
            refusals["left"] -= 1
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refusing)
    lines: list[str] = []
    values = px.all([lambda: 1, px.Command("echo x", on_stdout=lines.append)] * 10)
    assert [value for value in values if value == 1] == [1] * 10
    assert lines == ["x"] * 10
    with px.ParallelExecutor(3) as pool:
        assert list(pool.map(str, range(20))) == [str(number) for number in range(20)]
    future = px.submit("true")
    called = threading.Event()
    future.add_done_callback(lambda _: called.set())
    assert called.wait(PATIENCE_S)
    token.cancel()
    assert isinstance(other.exception(PATIENCE_S), px.errors.TaskCancelledError)


def test_variables_may_change_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command sees the variables no older than they were when it was asked for."""
    monkeypatch.setenv("PX_NUMBER", "none")

    def commands() -> Iterator[str]:
        for number in range(100):
            os.environ["PX_NUMBER"] = str(number)
            yield "echo $PX_NUMBER"

    for number, result in enumerate(px.all(commands(), concurrency=3)):
        assert number <= int(result.text()) < 100


def test_variables_may_go_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that another thread removes while they are read harms no command."""

    class Shrinking(dict[bytes, bytes]):
        def __iter__(self) -> Iterator[bytes]:
            return iter([*super().__iter__(), b"PX_GONE_MEANWHILE"])

        def items(self) -> Any:  # as `os.environ` makes them
            return ItemsView(self)

    monkeypatch.setattr(os, "environb", Shrinking(os.environb))
    assert px.run("echo $HOME").text().strip() == os.environ["HOME"]


def test_times_that_are_far_away(nap: Nap) -> None:
    """A timeout of years, or of longer than any clock, is as good as none."""
    token = px.CancelToken()
    futures = [
        px.submit(f"exec {nap}", timeout=timeout, kill_after=timeout, cancel=token)
        for timeout in (1e9, 1e300, timedelta.max)
    ]
    nap.wait_for(3)
    assert px.all(["true"], deadline=1e300, timeout=1e300, kill_after=1e300)[0].ok
    token.cancel()
    for future in futures:
        with pytest.raises(TaskCancelledError):
            future.result(PATIENCE_S)


@pytest.mark.parametrize("script", ["-l", "--version", "+x", "-c 'echo hi'"])
def test_a_script_that_begins_like_an_option_is_a_script(script: str) -> None:
    """The shell looks for a program of that name; it takes no option from it."""
    with pytest.raises(CommandFailedError) as caught:
        px.run(script)
    assert caught.value.result.exit_code == 127
    assert script.split()[0] in str(caught.value)


@pytest.mark.parametrize("words", [["true", "x" * 3_000_000], ["x" * 3_000_000]])
def test_a_command_too_long_for_the_system_says_so(words: list[str]) -> None:
    """The error gives the length of the word and another way, and is short itself."""
    with pytest.raises(CommandStartError, match=r"3,000,000 bytes.*input=") as caught:
        px.run(words)
    assert len(str(caught.value)) < 500


def test_json_of_what_is_none_names_the_command() -> None:
    """It stays a `ValueError`, and shows how the output begins."""
    for command in ("echo hello", "true", "printf '\\377'"):
        with pytest.raises(json.JSONDecodeError) as caught:
            px.run(command).json()
        assert command in str(caught.value)
