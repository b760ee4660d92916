"""Find the Pythons that the project supports: one of each version, newest patch first.

Prints a line for each, oldest version first: the version, a tab, the path. Looks along PATH
and in pyenv's versions. Runs on old Pythons too, to say what is missing.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

OLDEST = (3, 11)
NAME = re.compile(r"python3(?:\.(\d+))?$")
# ensurepip: Debian's python3 has none without python3-venv, and makes no virtual environment.
ASK = (
    "import sys, venv, ensurepip, encodings; "
    "print(sys.implementation.name, sys.version_info.releaselevel, *sys.version_info[:3]); "
    "print(sys.executable)"
)


class Interpreter(NamedTuple):
    """A Python that works.

    Attributes:
        version: Such as (3, 12, 1).
        path: Its executable.
    """

    version: tuple[int, int, int]
    path: str

    @property
    def minor(self) -> str:
        """The version without its patch: "3.12"."""
        return "%d.%d" % self.version[:2]


def candidates() -> list[Path]:
    """Return everything that may be a Python that is new enough."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    places = [Path(place) for place in os.environ.get("PATH", "").split(os.pathsep) if place]
    if (pyenv / "versions").is_dir():
        places += [version / "bin" for version in sorted((pyenv / "versions").iterdir())]
        # A shim is one script with many names, each of which may or may not work.
        places = [place for place in places if place != pyenv / "shims"]
    found = [Path(sys.executable)]
    for place in places:
        if place.is_dir():
            found += sorted(path for path in place.iterdir() if new_enough(path.name))
    return found


def new_enough(name: str) -> bool:
    """Return whether `name` is a Python's, and does not speak of an old version."""
    match = NAME.match(name)
    if match is None:
        return False
    return match.group(1) is None or (3, int(match.group(1))) >= OLDEST


def ask(path: Path) -> Interpreter | None:
    """Run `path` and return what it is; None if it is none of ours or does not work."""
    try:
        done = subprocess.run(
            [str(path), "-c", ASK],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = os.fsdecode(done.stdout).splitlines()
    if done.returncode != 0 or len(lines) != 2 or not lines[0].startswith("cpython final "):
        return None
    major, minor, patch = map(int, lines[0].split()[2:])
    return Interpreter((major, minor, patch), lines[1])


def find() -> list[Interpreter]:
    """Return the newest patch of each version that is new enough, oldest version first."""
    best = {}  # type: dict[tuple[int, int], Interpreter]
    seen = set()
    for path in candidates():
        real = os.path.realpath(str(path))
        found = None if real in seen else ask(path)
        seen.add(real)
        if found is None or found.version[:2] < OLDEST:
            continue
        known = best.get(found.version[:2])
        if known is None or found.version > known.version:
            best[found.version[:2]] = found
    return [best[minor] for minor in sorted(best)]


def main() -> int:
    """Print them; 1 if there is none."""
    found = find()
    for interpreter in found:
        print(".".join(map(str, interpreter.version)), interpreter.path, sep="\t")
    if not found:
        oldest = ".".join(map(str, OLDEST))
        print(
            f"no Python {oldest} or newer with venv on PATH or in pyenv"
            " (on Debian: apt-get install python3 python3-venv)",
            file=sys.stderr,
        )
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
