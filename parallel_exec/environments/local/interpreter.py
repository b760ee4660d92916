"""A Python to run a script of ours with, and what it needs of the environment.

`sys.executable` is the program itself where that is frozen (PyInstaller, cx_Freeze, Nuitka), or has
Python inside of it (an editor, a server): started with a script, it would do its own work once
more. So what is started must be called python, and must not be the program of a frozen one.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator

__all__ = ["candidates", "flags", "variables"]

PYTHON = re.compile(
    r"(python|pypy)[\d.]*([-_.]?(dbg|debug|intel64|arm64|exe)|[td]+)?", re.IGNORECASE
)
LIBRARIES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FRAMEWORK_PATH", "LIBPATH")
OTHERS = ("LD_PRELOAD", "PYTHONHOME", "PATH")  # PATH is what wrappers around a Python may look at


def is_frozen() -> bool:
    """Return whether this program and its Python are one file."""
    return bool(getattr(sys, "frozen", False)) or "__compiled__" in globals()


def candidates() -> Iterator[str]:
    """Yield what is surely Python, this program's own first; none twice."""
    frozen = is_frozen()
    own = [] if frozen else [sys.executable, getattr(sys, "_base_executable", None)]
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    folders = [] if frozen else [os.path.join(sys.exec_prefix, "bin")]
    folders.append(os.path.join(sys.base_exec_prefix, "bin"))
    beside = [os.path.join(folder, name) for folder in folders for name in (version, "python3")]
    found = [shutil.which(name) for name in (version, "python3")]
    seen = set()
    for path in (*own, *beside, *found):
        if not path or not PYTHON.fullmatch(os.path.basename(path)):
            continue
        if not os.access(path, os.X_OK) or not os.path.isfile(path):
            continue
        if frozen and os.path.exists(sys.executable) and os.path.samefile(path, sys.executable):
            continue
        if path not in seen:
            seen.add(path)
            yield path


def flags() -> list[str]:
    """Return the options with which a Python reads nothing but what it is given."""
    if "PYTHONHOME" in os.environ and not is_frozen():
        return ["-s", "-S", "-P"]  # -I would not look at it
    return ["-I", "-S"]


def variables() -> dict[str, str]:
    """Return the variables that a Python may need to start."""
    frozen = is_frozen()
    kept = {}
    for name in (*LIBRARIES, *OTHERS):
        # What a frozen program is started with suits what is packed with it; it keeps the rest.
        value = os.environ.get(f"{name}_ORIG" if frozen and name in LIBRARIES else name)
        if value is not None and not (frozen and name == "PYTHONHOME"):
            kept[name] = value
    return kept
