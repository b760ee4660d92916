"""How a program is started: by the extension and by `Popen`, one as the other."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from parallel_exec.environments.local import collect, spawn
from parallel_exec.environments.local.collect import ALONE, ENDED, FAILED

linux = pytest.mark.skipif(sys.platform != "linux", reason="there is no extension elsewhere")
WAYS = spawn.WAYS if spawn.fast is not None else ("popen",)


class Spawn:
    """`spawn.spawn` in one way, called as by the service thread: with all signals blocked."""

    def __init__(self, way: str) -> None:
        self.way = way

    def __call__(self, *arguments: Any, **options: Any) -> tuple[int, int, int, int, int]:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            return spawn.spawn(*arguments, **options)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@pytest.fixture(params=WAYS)
def start(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Spawn:
    """Each way there is here, for programs of a test's own, too."""
    monkeypatch.setenv(spawn.VARIABLE, request.param)
    monkeypatch.setattr(spawn, "way", lambda: request.param)
    return Spawn(request.param)


@pytest.fixture
def variables() -> spawn.Variables:
    """Those of this process."""
    return spawn.Variables([name + b"=" + value for name, value in os.environb.items()])


@pytest.fixture
def output(start: Spawn, variables: spawn.Variables) -> Iterator[Callable[..., str]]:
    """Return a function that starts words and returns what they print, of both streams."""
    null = os.open(os.devnull, os.O_RDWR)

    def run(*argv: str, cwd: str | None = None, env: spawn.Variables = variables) -> str:
        streams = null, spawn.PIPE, spawn.PIPE
        pid, pidfd, _, out, err = start(list(argv), env, b"PX_MARK=here", cwd, *streams)
        text = read_all(out) + read_all(err)
        _, status = os.waitpid(pid, 0)
        if pidfd >= 0:
            os.close(pidfd)
        assert os.waitstatus_to_exitcode(status) == 0, text
        return os.fsdecode(text)

    yield run
    os.close(null)


def read_all(fd: int) -> bytes:
    """Return what comes until the end, and close the descriptor."""
    os.set_blocking(fd, True)
    with open(fd, "rb") as file:
        return file.read()


@linux
def test_the_extension_is_there() -> None:
    """It is built wherever it can be."""
    if shutil.which("gcc") and Path(sysconfig.get_path("include"), "Python.h").exists():
        assert spawn.fast is not None


def test_words_variables_and_directory(output: Callable[..., str], tmp_path: Path) -> None:
    """They arrive as they were given, whatever their bytes."""
    strange = "a b\t'\"$* \udcff ä"
    assert output("printf", "%s|", strange, "") == f"{strange}||"
    assert output("sh", "-c", "echo $PX_MARK; pwd", cwd=str(tmp_path)) == f"here\n{tmp_path}\n"


def test_it_leads_a_session_and_has_three_descriptors(output: Callable[..., str]) -> None:
    """Nothing is inherited that was not given, close-on-exec or not."""
    fd = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(fd, True)
    try:
        code = "import os; print(os.getsid(0) == os.getpid() == os.getpgrp(), os.listdir(FDS))"
        code = code.replace("FDS", repr("/proc/self/fd" if sys.platform == "linux" else "/dev/fd"))
        text = output(sys.executable, "-I", "-S", "-c", code)
    finally:
        os.close(fd)
    assert text.startswith("True ['0', '1', '2', '3']")  # the fourth lists them


@linux
def test_signals_are_as_other_programs_expect_them(output: Callable[..., str]) -> None:
    """What Python ignores and handles is at its default; what the user ignores stays so."""
    before = [signal.signal(signal.SIGUSR1, signal.SIG_IGN)]
    before.append(signal.signal(signal.SIGUSR2, lambda *_: None))
    try:
        ours = signals_of(Path("/proc/self/status").read_text())
        theirs = signals_of(output("cat", "/proc/self/status"))
    finally:
        signal.signal(signal.SIGUSR1, before[0])
        signal.signal(signal.SIGUSR2, before[1])
    assert {signal.SIGPIPE, signal.SIGUSR1} <= ours["SigIgn"]  # else this says nothing
    assert theirs["SigIgn"] == ours["SigIgn"] - {signal.SIGPIPE, signal.SIGXFSZ}
    assert theirs["SigBlk"] == set()
    assert theirs["SigCgt"] == set()


def signals_of(status: str) -> dict[str, set[int]]:
    """Return which signals a process ignores, blocks and catches, from its `status`."""
    found = dict(line.split(":", 1) for line in status.splitlines())
    masks = {name: int(found[name], 16) for name in ("SigIgn", "SigBlk", "SigCgt")}
    return {
        name: {number for number in range(1, 65) if mask >> (number - 1) & 1}
        for name, mask in masks.items()
    }


def test_standard_streams_may_be_anything(start: Spawn, variables: spawn.Variables) -> None:
    """Descriptors 0 to 2 are no worse than others, in whatever order."""
    code = """
import os, sys
sys.path.insert(0, {tree!r})
from parallel_exec.environments.local import spawn
read, write = os.pipe()
null = os.open(os.devnull, os.O_RDWR)
kept = os.dup(1)
os.dup2(null, 2), os.dup2(write, 0), os.dup2(read, 1)
os.close(write), os.close(read)
variables = spawn.Variables([b"PATH=/usr/bin:/bin"])
# It reads from our 1 what it writes to our 0.
pid, *_ = spawn.spawn(["sh", "-c", "echo there && read line && test $line = there && exit 7"],
                      variables, b"A=1", None, 1, 0, 2)
status = os.waitpid(pid, 0)[1]
os.write(kept, str(os.waitstatus_to_exitcode(status)).encode())
"""
    code = code.format(tree=str(Path(__file__).parents[2]))
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"7"


def test_the_pipes_are_ours_and_do_not_block(start: Spawn, variables: spawn.Variables) -> None:
    """Each is one of its own; the child has the other end, which is as programs expect it."""
    code = "read line && echo out $line && echo err $line >&2 && read line; exit 3"
    pid, pidfd, *ends = start(["sh", "-c", code], variables, b"A=1", None, *[spawn.PIPE] * 3)
    if sys.platform == "linux":
        assert [os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)] == [None]
    with pytest.raises(BlockingIOError):
        os.read(ends[1], 1)
    with pytest.raises(BlockingIOError):
        os.read(ends[2], 1)
    os.write(ends[0], b"1\n")
    os.close(ends[0])
    assert [read_all(end) for end in ends[1:]] == [b"out 1\n", b"err 1\n"]
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    if pidfd >= 0:
        os.close(pidfd)


@linux
def test_a_start_that_is_not_waited_for_fails_with_its_exit(
    start: Spawn, variables: spawn.Variables
) -> None:
    """If it has not been told at once; and an exit status of 127 is no failed start."""
    streams = [spawn.PIPE] * 3
    for words, expected in ((["/no/program"], errno.ENOENT), (["/etc/passwd"], errno.EACCES)):
        try:
            pid, *fds = start(words, variables, b"A=1", None, *streams, waiting=False)
        except OSError as error:
            found: tuple[int | None, int] = error.errno or 0, FAILED
        else:
            found = taken(pid, *fds)
        assert found == (expected, FAILED)
    words = ["sh", "-c", "exit 127"]
    pid, *fds = start(words, variables, b"A=1", None, *streams, waiting=False)
    assert taken(pid, *fds) == (127 << 8, 0)


def taken(pid: int, pidfd: int, stdin: int, stdout: int, stderr: int) -> tuple[int | None, int]:
    """Take the exit of a child, and return it and whether its start has failed."""
    os.close(stdin)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    status, out, err, state = collect.collect(pid, pidfd, stdout, stderr)
    assert (out, err) == (b"", b"")
    assert state & (ENDED[0] | ENDED[1]) == ENDED[0] | ENDED[1]
    if not state & ALONE:
        os.close(pidfd)
    return status, state & FAILED


@linux
def test_our_ends_leave_the_low_descriptors_alone(start: Spawn, variables: spawn.Variables) -> None:
    """Children get the low ones, and so nothing else is copied for them."""
    if start.way == "popen":
        return  # there everything is copied
    lowest = os.dup(0)
    os.close(lowest)
    pid, *ours = start(["true"], variables, b"A=1", None, *[spawn.PIPE] * 3)
    after = os.dup(0)
    for fd in (after, *ours):
        os.close(fd)
    os.waitpid(pid, 0)
    assert min(ours) >= 256
    assert after == lowest


@linux
def test_out_of_descriptors_nothing_is_left_behind(start: Spawn) -> None:
    """Wherever in the start it happens: there is an error, or a command."""
    code = """
import os, resource, sys
sys.path.insert(0, {tree!r})
from parallel_exec.environments.local import spawn
variables = spawn.Variables([b"PATH=/usr/bin:/bin"])
before = os.listdir("/proc/self/fd")
first = os.dup(0)
os.close(first)
started = []
for more in range(16):
    resource.setrlimit(resource.RLIMIT_NOFILE, (first + more, 4096))
    try:
        pid, *ours = spawn.spawn(["true"], variables, b"A=1", None, *[spawn.PIPE] * 3)
    except OSError as error:
        assert error.errno in spawn.SCARCE, error
        started.append(False)
    else:
        started.append(True)
        os.waitpid(pid, 0)
        for fd in ours:
            if fd >= 0:
                os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    assert os.listdir("/proc/self/fd") == before, more
    try:
        os.waitpid(-1, 0)
    except ChildProcessError:
        pass
    else:
        raise AssertionError("a child is left")
print(started == sorted(started) and set(started) == {{False, True}})
"""
    code = code.format(tree=str(Path(__file__).parents[2]))
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"True\n"


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Three folders: with a directory, a file that is not executable, a program of one name."""
    made = [tmp_path / name for name in ("one", "two", "three")]
    (made[0] / "tool").mkdir(parents=True)
    made[1].mkdir()
    (made[1] / "tool").write_text("#!/bin/sh\necho wrong\n")
    made[2].mkdir()
    (made[2] / "tool").write_text("#!/bin/sh\necho right\n")
    (made[2] / "tool").chmod(0o755)
    return made


def path_of(folders: list[Path]) -> spawn.Variables:
    """Return variables with these folders in their PATH."""
    return spawn.Variables([b"PATH=" + b":".join(os.fsencode(folder) for folder in folders)])


def test_programs_are_looked_up_in_the_path_given(
    output: Callable[..., str], folders: list[Path]
) -> None:
    """The first that can be executed is; a relative name is relative to the new directory."""
    assert output("tool", env=path_of(folders)) == "right\n"
    assert output("./tool", cwd=str(folders[2])) == "right\n"
    assert output("tool", cwd=str(folders[2]), env=path_of([Path()])) == "right\n"


@pytest.mark.parametrize(
    ("argv", "cwd", "number"),
    [
        (["px-no-such-program"], None, errno.ENOENT),
        (["/nowhere/at/all"], None, errno.ENOENT),
        (["true"], "/nowhere", errno.ENOENT),
        (["true"], os.devnull, errno.ENOTDIR),
        (["/"], None, errno.EACCES),
        (["true", "x" * (1 << 22)], None, errno.E2BIG),
    ],
    ids=["unknown", "absolute", "cwd", "cwd is no directory", "a directory", "too long"],
)
def test_a_refusal_is_the_systems_own(
    start: Spawn, variables: spawn.Variables, argv: list[str], cwd: str | None, number: int
) -> None:
    """The error is the system's; no child is left to wait for, and no descriptor."""
    null = os.open(os.devnull, os.O_RDWR)
    try:
        with pytest.raises(OSError, match=re.escape(f"[Errno {number}]")):
            start(argv, variables, b"A=1", cwd, spawn.PIPE, null, spawn.PIPE)
    finally:
        os.close(null)


def test_the_refusal_of_files_that_are_no_programs(
    start: Spawn, folders: list[Path], tmp_path: Path
) -> None:
    """A file that may not be executed is told from none at all; text is no program."""
    text = tmp_path / "text"
    text.write_text("echo hello\n")
    text.chmod(0o755)
    null = os.open(os.devnull, os.O_RDWR)
    try:
        with pytest.raises(PermissionError):
            start(["tool"], path_of(folders[:2]), b"A=1", None, null, null, null)
        with pytest.raises(OSError, match=re.escape(f"[Errno {errno.ENOEXEC}]")):
            start([str(text)], path_of(folders), b"A=1", None, null, null, null)
    finally:
        os.close(null)
