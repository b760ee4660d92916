"""The watchdog's process: by what it is started, that it is watched, that nobody waits for it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tenacity
import tqdm

import parallel_exec as px
from tests.integration.processes import Nap, eventually, gone, python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
AT_WORK = """
from parallel_exec.environments.local import watchdog
def at_work(other_than=0):
    while watchdog.get().guard.pid in (0, other_than):
        time.sleep(0.01)
    return watchdog.get().guard.pid
"""


def ends_after_kill(nap: Nap, tmp_path: Path, head: str) -> None:
    """Run a program that begins with `head`; kill it, and see its command end."""
    code = head + AT_WORK + f"px.submit('exec {nap}')\nprint('up')\nat_work()\ntime.sleep(1000)\n"
    with python(tmp_path, code) as script:
        assert script.line() == "up", script.errors()
        nap.wait_for(1)
        script.send(signal.SIGKILL)
        script.exit_code()
        nap.wait_for_none()
        assert script.errors() == ""


def test_a_frozen_program_is_not_started_again(nap: Nap, tmp_path: Path) -> None:
    """`sys.executable` is the program itself there: a Python is looked for beside it."""
    starts = tmp_path / "starts"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho >> {starts}\n")
    program.chmod(0o755)
    ends_after_kill(nap, tmp_path, f"sys.frozen, sys.executable = True, {str(program)!r}\n")
    assert not starts.exists()


def test_a_program_with_python_inside_is_not_started_again(nap: Nap, tmp_path: Path) -> None:
    """What is not called python is no Python, though nothing says that it is frozen."""
    starts = tmp_path / "starts"
    program = tmp_path / "editor"
    program.write_text(f"#!/bin/sh\necho >> {starts}\n")
    program.chmod(0o755)
    ends_after_kill(nap, tmp_path, f"sys.executable = {str(program)!r}\n")
    assert not starts.exists()


def test_the_libraries_of_a_python_are_found(nap: Nap, tmp_path: Path) -> None:
    """A Python that needs LD_LIBRARY_PATH gets it; the rest of the environment is kept from it."""
    wrapper, seen = tmp_path / "python3", tmp_path / "seen"
    wrapper.write_text(
        f'#!/bin/sh\n[ "$LD_LIBRARY_PATH" = /needed ] || exit 127\nenv > {seen}\n'
        f'unset LD_LIBRARY_PATH\nexec {sys.executable} "$@"\n'
    )
    wrapper.chmod(0o755)
    head = (
        "os.environ.update(LD_LIBRARY_PATH='/needed', PX_PASSWORD='secret')\n"
        f"sys.executable, sys._base_executable = {str(wrapper)!r}, ''\n"
    )
    ends_after_kill(nap, tmp_path, head)
    assert "secret" not in seen.read_text()


def test_a_zip_has_its_watchdog(nap: Nap, tmp_path: Path) -> None:
    """Where the script is no file its text is given to Python."""
    archive = tmp_path / "program.pyz"
    with zipfile.ZipFile(archive, "w") as zipped:
        for module in (px, tenacity, tqdm):
            name, folder = module.__name__, Path(str(module.__file__)).parent
            for path in folder.rglob("*.py"):
                zipped.write(path, Path(name) / path.relative_to(folder))
        code = AT_WORK + (
            f"import parallel_exec as px, time\npx.submit('exec {nap}')\nat_work()\n"
            "print(px.__file__, flush=True)\ntime.sleep(1000)\n"
        )
        zipped.writestr("__main__.py", "import time\n" + code)
    program = [sys.executable, "-I", "-S", str(archive)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(bytes(archive))
        nap.wait_for(1)
        process.kill()
    nap.wait_for_none()


def test_without_a_python_it_says_so_once(tmp_path: Path) -> None:
    """One warning, which names the watchdog; commands run all the same."""
    code = """
    from parallel_exec.environments.local import interpreter
    interpreter.candidates = lambda: iter(["/bin/false", "/no/python"])
    print(px.all(["echo x"] * 3)[2].text(), end="")
    wait_for_go()
    print(px.run("echo y").text(), end="")
    """
    go = tmp_path / "go"
    with python(tmp_path, code, go) as script:
        assert script.line() == "x"
        eventually(lambda: "watchdog" in script.errors(), "the warning")
        go.touch()
        assert script.line() == "y"
        assert script.exit_code() == 0
        assert script.errors().count("RuntimeWarning: no watchdog") == 1


def test_one_that_was_killed_is_replaced(nap: Nap, tmp_path: Path) -> None:
    """Whoever ended it: the program has another, which does the same."""
    code = AT_WORK + (
        f"future = px.submit('exec {nap}')\n"
        "first = at_work()\n"
        "os.kill(first, signal.SIGKILL)\n"
        "second = at_work(first)\n"
        "os.kill(second, signal.SIGKILL)\n"
        "print(at_work(second) not in (first, second))\n"
        "time.sleep(1000)\n"
    )
    with python(tmp_path, code) as script:
        assert script.line() == "True"
        nap.wait_for(1)
        script.send(signal.SIGKILL)
        script.exit_code()
        nap.wait_for_none()


def test_who_waits_for_all_children_does_not_wait_for_it(tmp_path: Path) -> None:
    """It is nobody's child here; it ends with the program all the same."""
    code = AT_WORK + (
        "px.run('true')\n"
        "print(at_work())\n"
        "pids = [os.posix_spawn('/bin/true', ['true'], {}) for _ in range(3)]\n"
        "found = []\n"
        "try:\n"
        "    while True: found.append(os.wait()[0])\n"
        "except ChildProcessError:\n"
        "    print(sorted(found) == sorted(pids))\n"
    )
    with python(tmp_path, code) as script:
        pid = int(script.line())
        assert script.line() == "True", script.errors()
        script.exit_code()
        assert gone(pid)  # at once: its end is waited for


def test_a_program_that_is_a_reaper_stays_its_parent(tmp_path: Path) -> None:
    """Processes without a parent are given to process 1, or to who has asked for them."""
    code = AT_WORK + (
        "import ctypes\n"
        "assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER\n"
        "px.run('true')\n"
        "print(os.popen(f'ps -o ppid= -p {at_work()}').read().strip() == str(os.getpid()))\n"
    )
    with python(tmp_path, code) as script:
        assert script.rest() == "True\n", script.errors()
        assert script.exit_code() == 0


@pytest.mark.parametrize("way", ["timeout", "killed"])
def test_who_starts_others_when_it_is_told_to_end_leaves_none(
    nap: Nap, tmp_path: Path, way: str
) -> None:
    """It is looked again until nobody is found: a process that left the session, ignores TERM and
    starts another before it ends hides that from one look.
    """
    late = tmp_path / "late"
    late.write_text(f"trap '' TERM\necho up\nsleep 0.5\nsetsid {nap} &\n")
    assert shutil.which("setsid")
    command = f"setsid sh {late} > {tmp_path}/said & exec sleep 1000"
    code = AT_WORK + (
        f"future = px.submit({command!r}, timeout={0.3 if way == 'timeout' else 1000})\n"
        f"while not os.path.exists('{tmp_path}/said') or not os.path.getsize('{tmp_path}/said'):\n"
        "    time.sleep(0.01)\n"
        "print('up', at_work())\n"
        "print(type(future.exception()).__name__)\n"
    )
    with python(tmp_path, code) as script:
        word, pid = script.line().split()
        assert word == "up"
        if way == "killed":
            script.send(signal.SIGKILL)
            script.exit_code()
            eventually(lambda: gone(int(pid)), "the end of the watchdog")
        else:
            assert script.line() == "CommandTimeoutError"
        assert nap.sleepers() == []
