"""Where the library does not work: it says so in one sentence, at the first call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.processes import PATIENCE_S, ROOT

WINDOWS = """
import os, select, signal, sys
import asyncio, multiprocessing, subprocess  # of the standard library, which knows where it is
for name in ("fcntl", "grp", "pty", "pwd", "resource", "termios"):
    sys.modules[name] = None
for module, names in (
    (os, "fork forkpty register_at_fork getuid geteuid getppid killpg setsid getpgid waitid "
         "pidfd_open memfd_create eventfd posix_spawn"),
    (select, "epoll poll kqueue EPOLLIN EPOLLOUT EPOLLET"),
    (signal, "pthread_sigmask sigwait sigpending pidfd_send_signal setitimer SIGKILL SIGHUP "
             "SIGPIPE SIGCHLD SIGQUIT SIGUSR1"),
):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
"""
CALLS = 5
USES = """
def first_line(call):
    try:
        return call()
    except px.errors.CommandStartError as error:
        return str(error).splitlines()[0]
print(first_line(lambda: px.run("echo x").text().strip()))
print(first_line(lambda: px.parallel_map(len, ["a"])))
print(first_line(lambda: px.submit(["true"]).result().ok))
print(first_line(lambda: list(px.as_completed([int]))[0].value))
print(first_line(lambda: px.all_settled(["true"]).ok), flush=True)
"""


GEVENT_ALLOWED = (
    "from gevent.monkey import patch_all as patch\n"
    "patch(thread=False, select=False, subprocess=False, os=False)"
)


def printed(program: Path, text: str) -> list[str]:
    """Run a program that imports the library itself; return the lines that it prints."""
    program.write_text(text)
    done = subprocess.run(
        [sys.executable, str(program)],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_on_windows_what_needs_no_processes_works(tmp_path: Path) -> None:
    """There are no fork, fcntl and epoll: the import, values and host lists work; what would run
    something says that Windows is not supported.
    """
    code = WINDOWS + (
        "import parallel_exec as px\n"
        "print(px.sh('grep {} x', \"it's\"))\n"
        "print(px.Command(['a', 'b'], timeout=3) == px.Command(['a', 'b'], timeout=3))\n"
        "print(len(px.hosts('web[01-20],db1')))\n"
        "print(repr(px.Secret('s')), px.Retry(3) == px.Retry(3))\n"
    )
    lines = printed(tmp_path / "windows.py", code + USES)
    assert lines[1:4] == ["True", "21", "*** True"]
    assert "grep" in lines[0]
    assert len(lines) == 4 + CALLS
    assert all("Windows is not supported" in line for line in lines[4:]), lines


@pytest.mark.parametrize("when", ["before", "after", "late"])
@pytest.mark.parametrize(
    ("name", "patch"),
    [
        ("gevent", "import gevent.monkey; gevent.monkey.patch_all()"),
        ("eventlet", "import eventlet; eventlet.monkey_patch()"),
    ],
)
def test_replaced_modules_are_told_of(tmp_path: Path, name: str, patch: str, when: str) -> None:
    """Gevent and eventlet that have replaced threads and polling, before the import, after it or
    after the first command: one error, which says what to do, and no hang.
    """
    pytest.importorskip(name)
    first = "px.run('true')\n" if when == "late" else ""
    text = "import parallel_exec as px\n" + first
    text = f"{patch}\n{text}" if when == "before" else f"{text}{patch}\n"
    lines = printed(tmp_path / "patched.py", text + USES + "import os; os._exit(0)\n")
    assert len(lines) == CALLS
    for line in lines:
        assert line.startswith(f"{name} has replaced ")
        assert "thread=False" in line


@pytest.mark.parametrize(
    ("name", "patch"),
    [
        ("gevent", GEVENT_ALLOWED),
        (
            "eventlet",
            "import eventlet\neventlet.monkey_patch(thread=False, select=False, os=False)",
        ),
    ],
)
def test_what_the_error_advises_works(tmp_path: Path, name: str, patch: str) -> None:
    """With threads and polling left alone, everything runs."""
    pytest.importorskip(name)
    text = f"{patch}\nimport parallel_exec as px\n"
    lines = printed(tmp_path / "patched.py", text + USES)
    assert lines == ["x", "[1]", "True", "0", "True"]
