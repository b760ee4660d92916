"""The lock of tqdm's bars."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import io, sys
import parallel_exec as px
from tqdm import std

{before}
px.all(["true", int], progress=px.VisualProgress(file=io.StringIO(), enabled=True))
bar = std.tqdm(total=1, file=io.StringIO())
bar.close()
print(hasattr(std.TqdmDefaultWriteLock, "mp_lock"), type(std.tqdm.get_lock()).__name__)
"""


def after(before: str) -> str:
    """Return what a script says that has drawn a bar."""
    script = SCRIPT.format(before=before)
    return subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    ).stdout


def test_a_bar_needs_no_lock_of_processes() -> None:
    """`multiprocessing` would start a process for it (Python 3.14); a bar of the user's that comes
    later has the same lock of threads.
    """
    assert after("") == "False RLock\n"


def test_a_lock_that_is_there_is_kept() -> None:
    """The user's bars go on to share it with ours."""
    assert after("std.tqdm.get_lock()") == "True TqdmDefaultWriteLock\n"
