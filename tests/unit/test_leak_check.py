"""The check that no test leaks would see a leak."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tests.conftest import Held


def test_nothing_new_is_no_leak() -> None:
    """Two looks without anything between them see the same."""
    assert Held.now().beyond(Held.now()) == []


def test_thread_is_seen() -> None:
    """A thread that runs is named."""
    before = Held.now()
    over = threading.Event()
    thread = threading.Thread(target=over.wait, name="the leak")
    thread.start()
    try:
        assert Held.now().beyond(before) == ["thread 'the leak'"]
    finally:
        over.set()
        thread.join()


def test_descriptor_is_seen() -> None:
    """An open file is named."""
    before = Held.now()
    with open(os.devnull) as file:
        assert Held.now().beyond(before) == [f"descriptor {file.fileno()}: {os.devnull}"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_child_is_seen_alive_and_as_a_zombie() -> None:
    """A child that runs is named, and so is one that nobody has waited for."""
    before = Held.now()
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert Held.now().beyond(before) == [f"process {child.pid}: sleep 60"]
        child.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        (line,) = Held.now().beyond(before)
        assert line.startswith(f"process {child.pid}: {child.pid} (sleep) Z")
    finally:
        child.kill()
        child.wait()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_orphan_is_seen() -> None:
    """A grandchild in a session of its own, whose parent has died, is named."""
    before = Held.now()
    script = "setsid sleep 60 > /dev/null & echo $!"
    pid = int(subprocess.check_output(["sh", "-c", script]))
    try:
        assert [line.split(":")[0] for line in Held.now().beyond(before)] == [f"process {pid}"]
    finally:
        os.kill(pid, signal.SIGKILL)
