"""Run the test suite: on the newest Python that is found, or on every one.

    python3 tools/test.py [--python 3.12 | --all | --others] [PYTEST ARGUMENTS]

--all       the whole suite on every Python; on the oldest with the oldest dependencies
            that setup.cfg admits, on the others with the newest
--others    what a run on the newest Python leaves open: the whole suite on the oldest with
            the oldest dependencies, and on those in between the tests of what can differ
            from one Python to the next, which are those without hosts

Without arguments for pytest it runs test files side by side, each by itself in one process, since
most tests wait. Ends with a line for each Python and pytest's own summary; fails if one of them
failed.
"""

from __future__ import annotations

import os
import subprocess
import sys

import environment
import interpreters

SIDE_BY_SIDE = ["-n", "4", "--dist", "loadfile", "--no-loadscope-reorder", "-q"]
WITHOUT_HOSTS = ["tests/unit", "tests/integration", "tests/property"]
WITHOUT_HOSTS += ["--ignore=tests/integration/ssh", "--ignore=tests/unit/ssh"]


def main() -> int:
    """Return 0 if the suite passed everywhere."""
    arguments = sys.argv[1:]
    found = interpreters.find()
    runs: list[tuple[interpreters.Interpreter, bool, list[str]]]
    if arguments[:1] == ["--python"]:
        runs = [(each, False, []) for each in found if each.minor == arguments[1]]
        arguments = arguments[2:]
    elif arguments[:1] == ["--all"]:
        runs = [(each, True, []) for each in found[:1]]
        runs += [(each, False, []) for each in found[1:] or found]
        arguments = arguments[1:]
    elif arguments[:1] == ["--others"]:
        runs = [(each, False, WITHOUT_HOSTS) for each in found[1:-1]]
        runs = [(each, True, []) for each in found[:1]] + runs
        arguments = arguments[1:]
    else:
        runs = [(each, False, []) for each in found[-1:]]
    if not runs:
        return interpreters.main() or 1
    reports = [run(*each, arguments or SIDE_BY_SIDE) for each in runs]
    print()
    for name, status, summary in reports:
        print(f"Python {name}: {'passed' if status == 0 else f'FAILED (exit status {status})'}")
        print(summary, flush=True)
    left = [each.minor for each in found if each not in [interpreter for interpreter, *_ in runs]]
    if left:
        print(f"Not run on {', '.join(left)}; on every Python: make test-all")
    return 0 if all(status == 0 for _, status, _ in reports) else 1


def run(
    interpreter: interpreters.Interpreter, oldest: bool, chosen: list[str], arguments: list[str]
) -> tuple[str, int, str]:
    """Run pytest on one Python; return what ran, its exit status and pytest's last line."""
    name = ".".join(map(str, interpreter.version))
    if oldest:
        name += ", " + ", ".join(environment.lowest())
    print(f"--- Python {name}", flush=True)
    try:
        python = environment.make(interpreter, ["test"], oldest=oldest)
    except subprocess.CalledProcessError as error:
        return name, error.returncode, "its environment could not be made"
    command = [os.fspath(python), "-m", "pytest", *chosen, *arguments]
    # Standard input stays what it is and the output is a pipe: pytest shows no colours then.
    process = subprocess.Popen(command, cwd=str(environment.TREE), stdout=subprocess.PIPE)
    assert process.stdout is not None
    last = ""
    for line in process.stdout:
        text = line.decode(errors="replace")
        print(text, end="", flush=True)
        last = text.strip() or last
    return name, process.wait(), last


if __name__ == "__main__":
    sys.exit(main())
