"""A fork of the program starts anew: it works, and leaves the parent's work alone."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

import parallel_exec as px
from tests.integration import functions
from tests.integration.processes import Nap, python

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

FORK = """
def forked(function, leave=os._exit):
    # Call a function in a forked child, which then leaves; return its exit code.
    pid = os.fork()
    if pid == 0:
        try:
            function()
        except BaseException:
            os._exit(1)
        sys.stdout.flush()
        leave(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


@pytest.fixture
def fork_head() -> str:
    """Return the beginning of a program that forks."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    return FORK


def test_child_runs_commands_and_functions(tmp_path: Path, fork_head: str) -> None:
    """A child of a program that has used the library can use all of it."""
    code = fork_head + (
        "px.all(['true', int])\n"
        "def child():\n"
        "    print(px.run('echo command').text(), end='')\n"
        "    print(px.all([lambda: 1, 'true'])[0], px.parallel_map(str, [1, 2]))\n"
        "    with px.ParallelExecutor(2) as pool: print(list(pool.map(str, range(3))))\n"
        "print(forked(child))\n"
        "print(px.run('echo parent').text(), end='')\n"
    )
    with python(tmp_path, code) as script:
        assert script.rest().splitlines() == [
            "command", "1 ['1', '2']", "['0', '1', '2']", "0", "parent",
        ], script.errors()  # fmt: skip


def test_parent_and_child_each_learn_why_their_own_command_did_not_start(
    tmp_path: Path, fork_head: str
) -> None:
    """What a child writes is not read by its parent, nor the other way round."""
    code = fork_head + (
        "def missing(name):\n"
        "    try: px.run([name])\n"
        "    except px.errors.CommandNotFoundError as error: print(error)\n"
        "    print(px.run(['echo', 'next']).text(), end='')\n"
        "missing('none-1')\n"
        "print(forked(lambda: missing('none-2')))\n"
        "missing('none-3')\n"
    )
    with python(tmp_path, code) as script:
        assert script.rest().splitlines() == [
            "command not found: none-1", "next",
            "command not found: none-2", "next", "0",
            "command not found: none-3", "next",
        ], script.errors()  # fmt: skip


def test_a_fork_while_a_command_starts_holds_up_nobody(tmp_path: Path, fork_head: str) -> None:
    """A forked child that lives on has no end of the pipes of a command that was starting."""
    code = fork_head + (
        "from parallel_exec.environments.local import process\n"
        "px.run('true')\n"
        "starting, forked_now = threading.Event(), threading.Event()\n"
        "spawn = process.spawn\n"
        "def slow(*arguments, **options):\n"
        "    starting.set()\n"
        "    forked_now.wait(1)\n"
        "    return spawn(*arguments, **options)\n"
        "process.spawn = slow\n"
        "future = px.submit('echo started')\n"
        "starting.wait()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    time.sleep(1000)\n"
        "forked_now.set()\n"
        "try:\n"
        "    print(future.result(20).text(), end='')\n"
        "finally:\n"
        "    os.kill(pid, signal.SIGKILL)\n"
    )
    with python(tmp_path, code) as script:
        assert script.rest() == "started\n", script.errors()


def test_no_fork_comes_while_a_pipe_is_closed(tmp_path: Path) -> None:
    """The forked child would keep it, or close what has its number by then."""
    code = """
    from parallel_exec.environments.local import backend, process
    px.run("true")
    held = []
    close, drain, collect = os.close, process.drain, process.collect
    def checked(call):
        def check(*fds):
            held.append(backend.STARTING._is_owned())
            return call(*fds)
        return check
    os.close, process.drain = checked(close), checked(drain)
    process.collect = checked(collect)
    text = px.run("cat; echo err >&2", input=b"x").text()
    px.run("sleep 1000 & exec setsid true", kill_after=0.1)
    os.close, process.drain, process.collect = close, drain, collect
    print(text, len(held) > 4, all(held))
    """
    with python(tmp_path, code) as script:
        assert script.rest() == "x True True\n", script.errors()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks at what is open")
def test_a_fork_right_after_a_start_keeps_no_pipe(tmp_path: Path, fork_head: str) -> None:
    """Not even of a command whose output is not watched yet."""
    code = fork_head + (
        "from parallel_exec.environments.local import backend\n"
        "backend.YOUNG_S = 1000\n"
        "def pipes():\n"
        "    links = [f'/proc/self/fd/{fd}' for fd in os.listdir('/proc/self/fd')]\n"
        "    names = [os.readlink(link) for link in links if os.path.exists(link)]\n"
        "    return {name for name in names if name.startswith('pipe:')}\n"
        "px.run('true')\n"
        "before = pipes()\n"
        "future = px.submit('sleep 1000')\n"
        "while not any(p.live for p in backend.host().processes):\n"
        "    time.sleep(0.01)\n"
        "print(len(pipes() - before))\n"
        "def child(): print(len(pipes() - before))\n"
        "print(forked(child))\n"
        "future.cancel()\n"
    )
    with python(tmp_path, code) as script:
        assert script.rest().split() == ["2", "0", "0"], script.errors()


def test_fork_while_a_file_is_fed_holds_up_nobody(tmp_path: Path, fork_head: str) -> None:
    """A forked child that lives on does not keep the input of a command open."""
    code = fork_head + (
        "forked_now = threading.Event()\n"
        "class File:\n"
        "    parts = iter([b'fed', b''])\n"
        "    def read(self, size):\n"
        "        forked_now.wait()\n"
        "        return next(self.parts)\n"
        "lines = []\n"
        "future = px.submit('echo up; exec cat', input=File(), on_stdout=lines.append)\n"
        "while not lines:\n"
        "    time.sleep(0.01)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    time.sleep(1000)\n"
        "forked_now.set()\n"
        "try:\n"
        "    print(future.result(20).lines())\n"
        "finally:\n"
        "    os.kill(pid, signal.SIGKILL)\n"
    )
    with python(tmp_path, code) as script:
        assert script.rest() == "['up', 'fed']\n", script.errors()


def test_child_s_exit_leaves_the_parent_s_commands(
    nap: Nap, tmp_path: Path, fork_head: str
) -> None:
    """A child that exits, having used the library or not, ends nothing of its parent's."""
    code = fork_head + (
        f"future = px.submit('exec {nap}')\n"
        "print('up')\n"
        "wait_for_go()\n"
        "print(forked(lambda: None, sys.exit),"
        " forked(lambda: px.run('true'), sys.exit), forked(lambda: 1 / 0))\n"
        "print(future.done())\n"
        "sys.stdin.read()\n"
    )
    with python(tmp_path, code, tmp_path / "go") as script:
        assert script.line() == "up"
        nap.wait_for(1)
        (tmp_path / "go").touch()
        assert script.line() == "0 0 1"
        assert script.line() == "False"
        script.exit_code()
        assert nap.sleepers() == []


def test_fork_in_the_middle_of_a_run(tmp_path: Path, fork_head: str) -> None:
    """Children forked by tasks, while others run, neither hang nor disturb."""
    code = fork_head + (
        "run = lambda n: forked(lambda: px.run(['echo', str(n)]))\n"
        "codes = px.parallel_map(run, range(12), 4)\n"
        "print(codes == [0] * 12)\n"
        "results = px.all([['echo', str(n)] for n in range(20)]"
        " + [lambda: forked(lambda: px.all([int, 'true']))] * 5)\n"
        "print(len(results), results[-5:])\n"
    )
    with python(tmp_path, code) as script:
        assert script.rest().splitlines() == ["True", "25 [0, 0, 0, 0, 0]"], script.errors()


def test_limit_has_all_its_room_in_a_child(tmp_path: Path, fork_head: str) -> None:
    """The places that the parent's threads hold are not taken in a child."""
    code = fork_head + (
        "limiter = px.ConcurrencyLimiter(1)\n"
        "def child(): print(px.all([int, int], concurrency=limiter), limiter.in_flight)\n"
        "def task(): print(forked(child), limiter.in_flight)\n"
        "px.all([task], concurrency=limiter)\n"
        "print(limiter.in_flight)\n"
    )
    with python(tmp_path, code) as script:
        assert script.rest().splitlines() == ["[0, 0] 0", "0 1", "0"], script.errors()


def test_pool_of_the_parent_is_empty_in_a_child(tmp_path: Path, fork_head: str) -> None:
    """A child's copy of a pool has none of the parent's calls, and works."""
    code = fork_head + (
        "pool = px.ParallelExecutor(1)\n"
        "gate = threading.Event()\n"
        "future = pool.submit(gate.wait)\n"
        "waiting = pool.submit(print, 'once')\n"
        "def child(): print(pool.submit(int).result(), flush=True); pool.shutdown()\n"
        "print(forked(child), flush=True)\n"
        "gate.set()\n"
        "print(future.result(), waiting.result())\n"
    )
    with python(tmp_path, code) as script:
        assert script.rest().splitlines() == ["0", "0", "once", "True None"], script.errors()


def test_forked_pool_of_processes() -> None:
    """Workers that are forked from a program that uses the library can use it."""
    px.run("true")
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(2, context) as pool:
        values = px.parallel_map(functions.nested, range(4), executor=pool)
    assert values == [[f"{number}\n", "x\n"] for number in range(4)]


def test_child_of_a_fork_may_be_killed(nap: Nap, tmp_path: Path, fork_head: str) -> None:
    """A child's commands end when the child is killed, though the parent lives on."""
    code = fork_head + (
        "px.run('true')\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        f"    px.run('exec {nap}')\n"
        "    os._exit(0)\n"
        "wait_for_go()\n"
        "os.kill(pid, signal.SIGKILL)\n"
        "os.waitpid(pid, 0)\n"
        "print('killed')\n"
        "time.sleep(1000)\n"
    )
    with python(tmp_path, code, tmp_path / "go") as script:
        nap.wait_for(1)
        (tmp_path / "go").touch()
        assert script.line() == "killed"
        nap.wait_for_none()


def test_an_interrupt_while_the_program_forks_leaves_no_lock_behind(
    tmp_path: Path, fork_head: str
) -> None:
    """At whatever step of what is done around a fork: it comes through, commands go on in parent
    and child, and no fork goes by without the locks.
    """
    code = fork_head + (
        "from parallel_exec.reactor import lifecycle\n"
        "from parallel_exec.limits import base\n"
        "px.run('true')\n"
        "hooks = [lifecycle._take_locks, lifecycle._give_locks_back, lifecycle._begin_child]\n"
        "codes = {hook.__code__ for hook in hooks}\n"
        "parent, forked_with = os.getpid(), []\n"
        "os.register_at_fork(after_in_child=lambda: None)\n"
        "def attempt(place):\n"
        "    # Fork; raise at the step of that number. Return whether there was such a step.\n"
        "    steps, raised = [0], []\n"
        "    def trace(frame, event, arg):\n"
        "        if frame.f_code not in codes or os.getpid() != parent: return None\n"
        "        frame.f_trace_opcodes = True\n"
        "        if event == 'opcode':\n"
        "            steps[0] += 1\n"
        "            if steps[0] == place:\n"
        "                raised.append(place)\n"
        "                raise KeyboardInterrupt\n"
        "        return trace\n"
        "    sys._getframe().f_trace_opcodes = True\n"  # Python 3.12 looks for it now
        "    sys.settrace(trace)\n"
        "    try:\n"
        "        pid = os.fork()\n"
        "        sys.settrace(None)\n"
        "        if pid == 0:\n"
        "            free = lifecycle.STARTING.acquire(False) and base.LOCK.acquire(False)\n"
        "            os._exit(0 if free else 1)\n"
        "        time.sleep(0)\n"
        "        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
        "        if code: print('child', place, code)\n"
        "    except KeyboardInterrupt:\n"
        "        sys.settrace(None)\n"
        "        try:\n"
        "            while True: os.wait()\n"
        "        except ChildProcessError: pass\n"
        "    finally:\n"
        "        sys.settrace(None)\n"
        "    owned = [lock._is_owned() for lock in (lifecycle.STARTING, base.LOCK)]\n"
        "    if any(owned) or lifecycle._forking: print('kept', place, owned)\n"
        "    return bool(raised)\n"
        "sys.unraisablehook = lambda _: None\n"
        "place = 1\n"
        "while True:\n"
        "    try:\n"
        "        if not attempt(place): break\n"
        "    except KeyboardInterrupt: pass\n"
        "    place += 1\n"
        "print(place > 100, px.all(['echo fine', int])[0].text(), end='')\n"
    )
    with python(tmp_path, code) as script:
        assert script.rest() == "True fine\n", script.errors()


def test_a_signal_handler_may_fork(tmp_path: Path, fork_head: str) -> None:
    """Also one that comes while its thread holds what is held over a fork."""
    code = fork_head + (
        "from parallel_exec.reactor import lifecycle\n"
        "px.run('true')\n"
        "def handler(*_): print(forked(lambda: print('child')))\n"
        "signal.signal(signal.SIGUSR1, handler)\n"
        "with lifecycle.STARTING:\n"
        "    signal.raise_signal(signal.SIGUSR1)\n"
        "    print(lifecycle.STARTING._is_owned())\n"
        "print(px.run('echo parent').text(), end='')\n"
    )
    with python(tmp_path, code) as script:
        assert script.rest().splitlines() == ["child", "0", "True", "parent"], script.errors()


def test_a_child_starts_no_thread_before_it_is_asked_to(tmp_path: Path, fork_head: str) -> None:
    """What is done in a forked child makes its copies of pools usable, and no more."""
    code = fork_head + (
        "pool = px.ParallelExecutor(1)\n"
        "print(pool.submit(int).result(), px.run('echo parent').text().strip())\n"
        "def child(): print(threading.active_count(), len(os.listdir('/proc/self/task')))\n"
        "if os.path.isdir('/proc/self/task'): print(forked(child))\n"
        "else: print('1 1', 0, sep='\\n')\n"
    )
    with python(tmp_path, code) as script:
        assert script.rest().splitlines() == ["0 parent", "1 1", "0"], script.errors()
