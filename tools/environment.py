"""Make a virtual environment with the package in it, or bring one up to date.

    python3 tools/environment.py [--python 3.12] [--lowest] [GROUP ...]

One for each Python version, in .venv/3.12; the newest version unless told. The package is
installed from the tree (editable), with the dependency groups named here and those of earlier
calls. With --lowest it is .venv/3.12-lowest, and each dependency of the package is the oldest
release that setup.cfg admits. Nothing is done when nothing has changed. Prints the path of its
Python.
"""

from __future__ import annotations

import argparse
import configparser
import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import interpreters

TREE = Path(__file__).resolve().parent.parent
VENVS = TREE / ".venv"
GROUPS_SINCE = (25, 1)  # the first pip that knows --group


def make(interpreter: interpreters.Interpreter, groups: list[str], *, oldest: bool = False) -> Path:
    """Return the Python of the environment for `interpreter`, with `groups` installed.

    If `oldest`, each dependency of the package is the oldest release that is supported.
    """
    VENVS.mkdir(exist_ok=True)
    name = interpreter.minor + ("-lowest" if oldest else "")
    venv = VENVS / name
    python = venv / "bin" / "python"
    stamp = venv / "installed.json"
    with open(str(VENVS / "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two calls of make may run at once
        state = digest(interpreter)
        installed = read(stamp)
        if installed.get("interpreter") != interpreter.path or not python.exists():
            installed = {}
            say(f"making .venv/{name} with {interpreter.path}")
            run(interpreter.path, "-m", "venv", "--clear", str(venv))
            upgrade_pip(python)
        known = installed.get("groups", [])
        wanted = sorted({*known, *groups})
        if installed.get("state") != state or wanted != known:
            say(f"installing into .venv/{name}: " + ", ".join(["the package", *wanted]))
            arguments = [word for group in wanted for word in ("--group", group)]
            if oldest:
                pins = venv / "lowest.txt"
                pins.write_text("\n".join(lowest()) + "\n")
                arguments += ["--constraint", str(pins)]
            pip(python, "install", "--editable", str(TREE), *arguments)
            done = {"interpreter": interpreter.path, "state": state, "groups": wanted}
            stamp.write_text(json.dumps(done))
    return python


def digest(interpreter: interpreters.Interpreter) -> str:
    """Return what tells whether an environment is out of date."""
    files = [TREE / name for name in ("setup.cfg", "setup.py", "pyproject.toml")]
    files += sorted(TREE.glob("parallel_exec/**/*.c"))
    sources = [file.read_bytes() for file in files]
    version = ".".join(map(str, interpreter.version)).encode()
    return hashlib.sha256(b"\0".join([version, *sources])).hexdigest()


def lowest() -> list[str]:
    """Return a pin for each dependency of the package: the lower bound that setup.cfg gives."""
    parser = configparser.ConfigParser()
    parser.read(str(TREE / "setup.cfg"), encoding="utf-8")
    extras = dict(parser["options.extras_require"]).values()
    listed = "\n".join([parser["options"]["install_requires"], *extras])
    found = (re.match(r"([\w.-]+)>=([0-9.]+)", line) for line in listed.splitlines())
    return ["{}=={}".format(*match.groups()) for match in found if match]


def read(stamp: Path) -> dict:  # type: ignore[type-arg]
    """Return what a call before this one installed."""
    try:
        return dict(json.loads(stamp.read_text()))
    except (OSError, ValueError):
        return {}


def upgrade_pip(python: Path) -> None:
    """Upgrade pip if it is older than dependency groups."""
    asked = subprocess.check_output([str(python), "-c", "import pip; print(pip.__version__)"])
    version = tuple(map(int, asked.decode().split(".")[:2]))
    if version < GROUPS_SINCE:
        pip(python, "install", "--upgrade", "pip")


def pip(python: Path, *arguments: str) -> None:
    """Run pip; it prints errors only."""
    run(str(python), "-m", "pip", "-qq", "--disable-pip-version-check", *arguments)


def run(*command: str) -> None:
    """Run a command in the tree; what it prints goes to standard error."""
    subprocess.run(command, check=True, cwd=str(TREE), stdout=sys.stderr.fileno())


def say(text: str) -> None:
    """Tell the user what takes its time."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Return 0 if the environment stands."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--python", metavar="3.12", help="the version (default: the newest found)")
    parser.add_argument("--lowest", action="store_true", help="with the oldest dependencies")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help="dependency groups to install")
    options = parser.parse_args()
    found = interpreters.find()
    if options.python:
        found = [each for each in found if each.minor == options.python]
    if not found:
        return interpreters.main() or 1
    try:
        python = make(found[-1], options.groups, oldest=options.lowest)
    except subprocess.CalledProcessError as error:
        return error.returncode
    print(os.fspath(python))
    return 0


if __name__ == "__main__":
    sys.exit(main())
