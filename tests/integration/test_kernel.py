"""What the kernel lacks, or a container's filter forbids, is done in another way."""

from __future__ import annotations

import errno
import platform
import signal
import sys
from pathlib import Path

import pytest

from parallel_exec.environments.local import spawn
from tests.integration.processes import Nap, lines_of, python
from tests.integration.seccomp import CALLS, DENY

NUMBERS = CALLS.get(platform.machine(), {})
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not NUMBERS, reason="needs seccomp, and the numbers of its calls"
)
SINGLE = [(name,) for name in NUMBERS if name != "clone"]
ALL = tuple(name for name in NUMBERS if name != "clone")  # as on an old kernel
FORBIDDEN, MISSING = errno.EPERM, errno.ENOSYS


@pytest.mark.parametrize(
    ("taken", "error", "killed"),
    [
        *((each, FORBIDDEN, False) for each in SINGLE),
        (("pidfd_open",), MISSING, True),
        (("memfd_create",), FORBIDDEN, True),
        (ALL, MISSING, False),
        (ALL, FORBIDDEN, True),
    ],
    ids=str,
)
def test_a_system_call_that_is_not_to_be_had(
    nap: Nap, tmp_path: Path, taken: tuple[str, ...], error: int, killed: bool
) -> None:
    """Commands run, are fed and read, fail to start, are ended with all that left their session,
    also by the watchdog of a program that was killed.
    """
    numbers = ", ".join(str(NUMBERS[name]) for name in taken)
    said = tmp_path / "said"
    tree = f"{nap} & setsid sh -c 'echo up >> {said}; exec {nap}' & exec {nap}"
    code = DENY + (
        f"deny({error}, {numbers})\n"
        "print(px.run('cat; echo err >&2', input=b'fed').text())\n"
        "print(px.run('exit 3', check=False).exit_code)\n"
        "try: px.run(['/no/program'])\n"
        "except px.errors.CommandNotFoundError as error: print(error)\n"
        "print(px.parallel_map(str, [1, 2]))\n"
        f"future = px.submit({tree!r}, kill_after=0.5, timeout={1000 if killed else 1})\n"
        "print(type(future.exception()).__name__)\n"
    )
    with python(tmp_path, code) as script:
        lines = [script.line() for _ in range(4)]
        assert lines == ["fed", "3", "command not found: /no/program", "['1', '2']"]
        lines_of(said)
        if killed:
            nap.wait_for(3)
            script.send(signal.SIGKILL)
            script.exit_code()
            nap.wait_for_none()
        else:
            assert script.line() == "CommandTimeoutError"
            assert nap.sleepers() == []
            assert script.exit_code() == 0
        assert script.errors() == ""


@pytest.mark.skipif(spawn.fast is None, reason="there is no extension here")
@pytest.mark.parametrize("taken", ["close_range", "clone"])
def test_the_extension_is_asked_at_the_first_command(tmp_path: Path, taken: str) -> None:
    """The import asks nothing; where the extension does not work, `Popen` starts commands."""
    code = DENY + (
        "from parallel_exec.environments.local import spawn\n"
        f"deny({errno.ENOSYS}, {NUMBERS['close_range']})\n"
        "print(px.run('echo x').text().strip(), spawn.way())\n"
    )
    with python(tmp_path, code) as script:
        assert script.rest() == "x popen\n", script.errors()
