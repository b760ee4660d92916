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

import pytest

from parallel_exec.environments.local import spawn

linux = pytest.mark.skipif(sys.platform != "linux", reason="there is no extension elsewhere")
Spawn = Callable[..., int]
WAYS = {"popen": spawn.popen}
if spawn.fast is not None:
    WAYS["extension"] = spawn.spawn


@pytest.fixture(params=list(WAYS.values()), ids=list(WAYS))
def start(request: pytest.FixtureRequest) -> Spawn:
    """Each way there is here."""
    way: Spawn = request.param
    return way


@pytest.fixture
def variables() -> spawn.Variables:
    """Those of this process."""
    return spawn.Variables([name + b"=" + value for name, value in os.environb.items()])


@pytest.fixture
def output(start: Spawn, variables: spawn.Variables) -> Iterator[Callable[..., str]]:
    """Return a function that starts words and returns what they print, of both streams."""
    null = os.open(os.devnull, os.O_RDWR)

    def run(*argv: str, cwd: str | None = None, env: spawn.Variables = variables) -> str:
        read, write = os.pipe()
        try:
            pid = start(list(argv), env, b"PX_MARK=here", cwd, null, write, write)
        finally:
            os.close(write)
            with open(read, "rb") as file:
                text = file.read()
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, text
        return os.fsdecode(text)

    yield run
    os.close(null)


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
    assert theirs["SigBlk"] == ours["SigBlk"]
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
pid = spawn.{way}(["sh", "-c", "echo there && read line && test $line = there && exit 7"],
                  variables, b"A=1", None, 1, 0, 2)
status = os.waitpid(pid, 0)[1]
os.write(kept, str(os.waitstatus_to_exitcode(status)).encode())
"""
    way = "popen" if start is spawn.popen else "spawn"
    code = code.format(tree=str(Path(__file__).parents[2]), way=way)
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"7"


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
    """The error is the system's, and no child is left to wait for."""
    null = os.open(os.devnull, os.O_RDWR)
    try:
        with pytest.raises(OSError, match=re.escape(f"[Errno {number}]")):
            start(argv, variables, b"A=1", cwd, null, null, null)
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
