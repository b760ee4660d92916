"""What a program leaves: collected by the extension and by Python's own calls."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from parallel_exec.environments.local import collect
from parallel_exec.environments.local.collect import ALONE, CHUNK, ENDED, MORE, Pieces, Remains
from parallel_exec.environments.local.kernel import group_by_pidfd

Drain = Callable[[int, int], Pieces]
Collect = Callable[[int, int, int, int], Remains]
has_extension = collect.drain is not collect.drain_slowly
WAYS = ["slowly", "extension"] if has_extension else ["slowly"]


@pytest.fixture(params=WAYS)
def drain(request: pytest.FixtureRequest) -> Drain:
    """Each way there is here."""
    return collect.drain if request.param == "extension" else collect.drain_slowly


@pytest.fixture(params=WAYS)
def take(request: pytest.FixtureRequest) -> Collect:
    """Each way there is here."""
    return collect.collect if request.param == "extension" else collect.collect_slowly


@pytest.fixture
def pipes() -> Iterator[list[int]]:
    """Two pipes: the read ends, then the write ends. What the test closes, it sets to -1."""
    first, second = os.pipe(), os.pipe()
    fds = [first[0], second[0], first[1], second[1]]
    for fd in fds[:2]:
        os.set_blocking(fd, False)
    yield fds
    for fd in fds:
        if fd >= 0:
            os.close(fd)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def drain_all(drain: Drain, stdout: int, stderr: int) -> Pieces:
    """Call it as long as there may be more."""
    out = err = b""
    ended = 0
    while True:
        more_out, more_err, state = drain(stdout, stderr)
        out += more_out
        err += more_err
        ended |= state & ~MORE
        stdout = -1 if state & ENDED[0] else stdout
        stderr = -1 if state & ENDED[1] else stderr
        if not state & MORE:
            return out, err, ended


def test_both_pipes_are_read_and_left_open(drain: Drain, pipes: list[int]) -> None:
    """Byte for byte; a pipe that has nothing now has not ended."""
    stdout, stderr, *_ = pipes
    assert drain(stdout, stderr) == (b"", b"", 0)
    os.write(pipes[2], b"a\0\xff")
    assert drain_all(drain, stdout, stderr) == (b"a\0\xff", b"", 0)
    os.write(pipes[3], b"x")
    assert drain_all(drain, -1, stderr) == (b"", b"x", 0)
    assert drain(-1, -1) == (b"", b"", 0)
    assert is_open(stdout)
    assert is_open(stderr)


@pytest.mark.parametrize("stream", [0, 1])
def test_a_pipe_is_closed_at_its_end(drain: Drain, pipes: list[int], stream: int) -> None:
    """The other is not, and what came before the end is there."""
    os.write(pipes[2 + stream], b"last")
    os.close(pipes[2 + stream])
    pipes[2 + stream] = -1
    out, err, ended = drain_all(drain, *pipes[:2])
    assert (out, err)[stream] == b"last"
    assert ended == ENDED[stream]
    assert not is_open(pipes[stream])
    assert is_open(pipes[1 - stream])
    pipes[stream] = -1


def test_a_pipe_that_somebody_else_has_closed_has_ended(drain: Drain, pipes: list[int]) -> None:
    """It keeps nobody from reading the other."""
    os.close(pipes[0])
    os.write(pipes[3], b"x")
    assert drain_all(drain, *pipes[:2]) == (b"", b"x", ENDED[0])
    pipes[0] = -1


@pytest.mark.skipif(sys.platform != "linux", reason="pipes cannot be widened elsewhere")
def test_what_is_more_than_one_piece_comes_in_several(drain: Drain, pipes: list[int]) -> None:
    """No piece is longer than a chunk, and the last call says that it was the last."""
    size = 5 * CHUNK
    fcntl.fcntl(pipes[2], fcntl.F_SETPIPE_SZ, 2 * size)
    data = bytes(range(256)) * (size // 256) + b"end"
    assert os.write(pipes[2], data) == len(data)
    out, _, state = drain(pipes[0], pipes[1])
    assert len(out) <= CHUNK
    assert state == MORE
    assert out + drain_all(drain, *pipes[:2])[0] == data


def start(script: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start a shell that leads a group of its own; return it and its pidfd, or -1."""
    process = subprocess.Popen(
        ["sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    pidfd = os.pidfd_open(process.pid) if hasattr(os, "pidfd_open") else -1
    return process, pidfd


def finish(process: subprocess.Popen[bytes]) -> bytes:
    """Let it read a line; return what is printed until nobody has its output any more."""
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        process.stdin.write(b"go\n")
        process.stdin.close()
        return process.stdout.read()


def test_an_exit_is_taken_once(take: Collect) -> None:
    """Before, there is none; afterwards, somebody has taken it."""
    process, pidfd = start("read line; exit 7")
    assert take(process.pid, pidfd, -1, -1) == (None, b"", b"", 0)
    finish(process)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    status, _, _, state = take(process.pid, pidfd, -1, -1)
    process.returncode = 7
    assert status is not None
    assert os.waitstatus_to_exitcode(status) == 7
    if group_by_pidfd() and take is not collect.collect_slowly:
        assert state == ALONE
        assert not is_open(pidfd)
    else:
        assert state == 0
        if pidfd >= 0:
            os.close(pidfd)
    assert take(process.pid, -1, -1, -1) == (-1, b"", b"", 0)


def test_who_is_left_in_the_group_is_seen(take: Collect) -> None:
    """It is not known that nobody is there while somebody is."""
    process, pidfd = start("exec 3<&0; (read line <&3; echo done) & exit 0")
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert take(process.pid, pidfd, -1, -1) == (0, b"", b"", 0)
    process.returncode = 0
    assert finish(process) == b"done\n"
    if pidfd >= 0:
        os.close(pidfd)


def test_an_exit_comes_with_what_is_left_in_the_pipes(take: Collect, pipes: list[int]) -> None:
    """And not before: who still runs is not read by this."""
    process, pidfd = start("read line")
    os.write(pipes[2], b"out")
    os.write(pipes[3], b"err")
    os.close(pipes[3])
    pipes[3] = -1
    assert take(process.pid, pidfd, pipes[0], pipes[1]) == (None, b"", b"", 0)
    finish(process)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    status, out, err, state = take(process.pid, -1, pipes[0], pipes[1])
    process.returncode = 0
    assert (status, out, err) == (0, b"out", b"err")
    if state & MORE:  # it may be that nothing more was looked for
        assert collect.drain(pipes[0], pipes[1]) == (b"", b"", ENDED[1])
    else:
        assert state == ENDED[1]
    assert is_open(pipes[0])
    assert not is_open(pipes[1])
    pipes[1] = -1
    if pidfd >= 0:
        os.close(pidfd)
