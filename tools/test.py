"""Run the whole test suite on every Python that the project supports and that is installed.

    python3 tools/test.py [--python 3.12] [PYTEST ARGUMENTS]

Ends with a line for each Python and pytest's own summary; fails if one of them failed.
"""

from __future__ import annotations

import os
import subprocess
import sys

import environment
import interpreters


def main() -> int:
    """Return 0 if the suite passed everywhere."""
    arguments = sys.argv[1:]
    found = interpreters.find()
    if arguments[:1] == ["--python"]:
        found = [each for each in found if each.minor == arguments[1]]
        arguments = arguments[2:]
    if not found:
        return interpreters.main() or 1
    reports = []
    for interpreter in found:
        version = ".".join(map(str, interpreter.version))
        print(f"--- Python {version}", flush=True)
        try:
            python = environment.make(interpreter, ["test"])
        except subprocess.CalledProcessError as error:
            reports.append((version, error.returncode, "its environment could not be made"))
            continue
        status, summary = run([os.fspath(python), "-m", "pytest", *arguments])
        reports.append((version, status, summary))
    print()
    for version, status, summary in reports:
        print(f"Python {version}: {'passed' if status == 0 else f'FAILED (exit status {status})'}")
        print(summary, flush=True)
    return 0 if all(status == 0 for _, status, _ in reports) else 1


def run(command: list[str]) -> tuple[int, str]:
    """Run pytest, pass on what it prints, return its exit status and its last line."""
    # Standard input stays what it is and the output is a pipe: pytest shows no colours then.
    process = subprocess.Popen(command, cwd=str(environment.TREE), stdout=subprocess.PIPE)
    assert process.stdout is not None
    last = ""
    for line in process.stdout:
        text = line.decode(errors="replace")
        print(text, end="", flush=True)
        last = text.strip() or last
    return process.wait(), last


if __name__ == "__main__":
    sys.exit(main())
