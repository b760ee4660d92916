"""The program itself has all descriptors, processes or threads: an error at once, no waiting."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.processes import python

TAKE = """
import resource
def take():
    # Take every descriptor there is.
    resource.setrlimit(resource.RLIMIT_NOFILE, (120, 120))
    held = []
    try:
        while True: held.append(os.dup(0))
    except OSError: return held
def give_back(held):
    while held: os.close(held.pop())
def kind(call):
    try: return call()
    except Exception as error: return type(error).__name__
"""


@pytest.mark.parametrize("used", [False, True], ids=["the first command", "a later one"])
def test_no_descriptors(tmp_path: Path, used: bool) -> None:
    """Waiting can never help, whoever asks; it works again when there is room."""
    code = TAKE + (
        ("px.all(['true', int])\n" if used else "")
        + "calls = [lambda: px.run('true').ok, lambda: px.submit('true').result().ok,\n"
        "         lambda: px.all(['true'] * 3), lambda: px.run('cat', input=b'x').ok,\n"
        "         lambda: type(px.all_settled(['true'])[0].reason).__name__]\n"
        "for _ in range(3):\n"
        "    held = take()\n"
        "    print(*[kind(call) for call in calls])\n"
        "    give_back(held)\n"
        "    print(px.run('echo x').text(), end='')\n"
        "print(px.all([int, 'echo y'])[1].text(), end='')\n"
    )
    with python(tmp_path, code) as script:
        refused = " ".join(["CommandStartError"] * 5)
        assert script.rest().splitlines() == [refused, "x"] * 3 + ["y"], script.errors()


def test_no_descriptors_while_something_of_ours_runs(tmp_path: Path) -> None:
    """A command, or a function, may give some back: then it is waited for; not for a function
    that itself waits for a command.
    """
    code = TAKE + (
        "px.run('true')\n"
        "def function():\n"
        "    held = take()\n"
        "    while not waiting(): time.sleep(0.01)\n"
        "    give_back(held)\n"
        "from parallel_exec.environments.local import backend\n"
        "def waiting(): return bool(backend.host().waiting)\n"
        "taken = threading.Event()\n"
        "function_runs = px.submit\n"
        "def second():\n"
        "    while resource.getrlimit(resource.RLIMIT_NOFILE)[0] != 120: time.sleep(0.01)\n"
        "    return px.run('echo waited').text()\n"
        "print(px.all([function, second])[1], end='')\n"
        "def alone():\n"
        "    held = take()\n"
        "    try: return kind(lambda: px.run('true').ok)\n"
        "    finally: give_back(held)\n"
        "print(px.parallel_map(lambda _: alone(), range(1)))\n"
    )
    with python(tmp_path, code) as script:
        assert script.rest() == "waited\n['CommandStartError']\n", script.errors()


THREADS = """
from parallel_exec.reactor import busy
def idle():
    # Wait until nothing of ours runs, or did a moment ago.
    while busy.may_give_back(): time.sleep(0.01)
def kind(call):
    try: return call()
    except Exception as error: return type(error).__name__
start = threading.Thread.start
def refuse(thread): raise RuntimeError("can't start new thread")
"""


@pytest.mark.parametrize("used", [False, True], ids=["the first command", "a later one"])
def test_no_threads(tmp_path: Path, used: bool) -> None:
    """The service thread, the thread of a function and that of an input file alike."""
    code = THREADS + (
        ("px.all(['true', int])\n" if used else "") + "idle()\n"
        "import io\n"
        "calls = [lambda: px.run('true').ok, lambda: px.parallel_map(str, [1]),\n"
        "         lambda: px.run('cat', input=io.BytesIO(b'x')).ok]\n"
        "for _ in range(2):\n"
        "    threading.Thread.start = refuse\n"
        "    print(*[kind(call) for call in calls])\n"
        "    threading.Thread.start = start\n"
        "    print(px.run('echo x').text(), px.parallel_map(str, [1]))\n"
        "    idle()\n"
    )
    with python(tmp_path, code) as script:
        lines = script.rest().splitlines()
        refused = "CommandStartError CommandStartError CommandStartError"
        first = "True CommandStartError CommandStartError" if used else refused
        assert lines[0] == first, script.errors()
        assert lines[1:3] == ["x", " ['1']"]
        assert len(lines) == 6


@pytest.mark.skipif(os.getuid() != 0, reason="the limit is not for root, so a root must change")
def test_no_processes(tmp_path: Path) -> None:
    """Where the user has as many as there may be, of others."""
    tmp_path.chmod(0o777)
    code = THREADS + (
        "import resource, subprocess\n"
        "px.run('true')\n"
        "os.setgid(54323)\n"
        "os.setuid(54323)\n"
        "others = [subprocess.Popen(['sleep', '1000']) for _ in range(3)]\n"
        "idle()\n"
        "resource.setrlimit(resource.RLIMIT_NPROC, (3, 20))\n"
        "print(kind(lambda: px.run('true').ok))\n"
        "resource.setrlimit(resource.RLIMIT_NPROC, (20, 20))\n"
        "print(kind(lambda: px.run('true').ok))\n"
        "for other in others: other.kill(), other.wait()\n"
    )
    with python(tmp_path, code) as script:
        assert script.rest().split() == ["CommandStartError", "True"], script.errors()
