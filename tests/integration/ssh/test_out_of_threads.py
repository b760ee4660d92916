"""Where the system is out of threads: what needs one waits, and nothing else escapes."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from parallel_exec.environments import room
from parallel_exec.environments.base import Stop
from parallel_exec.environments.ssh.destination import Destination
from parallel_exec.environments.ssh.pool import HostPool
from parallel_exec.environments.ssh.settings import Settings
from parallel_exec.errors import CommandStartError, ConfigError, ExecutorClosedError, HostError
from tests.integration.ssh.hostile import Honest, Serve, Session
from tests.integration.ssh.server import Server, run, running, wait_until
from tests.integration.ssh.test_ending import mark


class Short:
    """Lets no thread with a name start, as long as `times` is not used up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, times: int, why: str) -> None:
        self.left = times
        start = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            if self.left and name in thread.name:
                self.left -= 1
                raise RuntimeError(why)
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)


OUT = "can't start new thread"


def test_input_waits_for_a_thread(sshd: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that is read ahead is read as soon as there is one."""
    short = Short(monkeypatch, "parallel_exec input", 3, OUT)
    read, write = os.pipe()
    os.write(write, b"hello")
    os.close(write)
    with open(read, "rb") as file:
        assert run(sshd.backend(), "cat", input=file).stdout == b"hello"
    assert not short.left


def test_a_command_that_waits_for_a_thread_can_be_stopped(
    sshd: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has not run then."""
    short = Short(monkeypatch, "parallel_exec input", 10**6, OUT)
    witness = sshd.base / "never-run"
    stop = Stop()
    read, write = os.pipe()
    with ThreadPoolExecutor(1) as threads, open(read, "rb") as file:
        result = threads.submit(run, sshd.backend(), f"touch {witness}", input=file, stop=stop)
        wait_until(lambda: short.left < 10**6, "it waits")
        stop.end("cancel")
        assert result.result(30).stopped == "cancel"
    os.close(write)
    assert not witness.exists()


def test_no_thread_at_the_interpreters_exit(sshd: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is the library's, and nothing ran."""
    Short(monkeypatch, "parallel_exec input", 1, "can't create new thread at interpreter shutdown")
    read, write = os.pipe()
    os.close(write)
    with open(read, "rb") as file, pytest.raises(ExecutorClosedError, match="did not start"):
        run(sshd.backend(), "cat", input=file)


def test_an_ending_without_a_thread(sshd: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's own thread does it."""
    Short(monkeypatch, "parallel_exec end", 10**6, OUT)
    word = mark()
    assert run(sshd.backend(), f"sleep {word}", stop_after=0.3).timed_out
    assert not running(f"sleep {word}")


def test_a_copy_with_a_timeout_needs_no_thread(
    sshd: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock is that of the service thread."""
    host = sshd.backend()
    host.run("true")
    Short(monkeypatch, "Thread-", 10**6, OUT)
    (tmp_path / "file").write_bytes(b"x")
    host.put(tmp_path / "file", "copied-with-a-timeout", timeout=60)
    host.run("rm copied-with-a-timeout")


@pytest.mark.parametrize("why", [OUT, "can't create new thread at interpreter shutdown"])
def test_close_does_not_wait_for_what_had_no_thread(
    sshd: Server, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """A command that could not begin is over."""
    host = sshd.backend()
    host.run("true")
    Short(monkeypatch, f"parallel_exec {host.name}", 10**6, why)
    with pytest.raises((CommandStartError, ExecutorClosedError)):
        host.run("true")
    assert not host._running


@pytest.mark.parametrize("name", ["parallel_exec connect", "Thread-"])
def test_connecting_waits_for_a_thread(
    sshd: Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Its own or that of the connection, as long as another connection may end."""
    word = mark()
    sshd.backend().submit(f"sleep {word}")
    wait_until(lambda: running(f"sleep {word}"), "it runs")
    short = Short(monkeypatch, name, 3, OUT)
    assert sshd.backend(passphrase="another pool").run("echo hi").text() == "hi\n"
    assert not short.left


@pytest.mark.parametrize("name", ["parallel_exec connect", "Thread-"])
def test_connecting_without_a_thread_and_nothing_to_wait_for(
    sshd: Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The error is that of the host, at once: nothing ran."""
    wait_until(lambda: not room.get().held, "earlier connections have ended")
    Short(monkeypatch, name, 10**6, OUT)
    with pytest.raises(HostError, match=OUT):
        sshd.backend().run("echo hi")


def test_clearing_survives_what_connecting_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a broken connection has left waits for the next one, whatever the error is."""
    raised: list[BaseException] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: raised.append(args.exc_value))
    pool = HostPool(Settings(Destination.parse("host")))

    def refuse(**_: Any) -> None:
        raise ConfigError("the configuration cannot be read")

    monkeypatch.setattr(pool, "lease", refuse)
    pool.afterwards(lambda transport: None)
    wait_until(lambda: pool._clearing is None, "it gives up")
    assert not raised
    assert len(pool._jobs) == 1


class ClosesSilently(Honest):
    """Starts commands and closes their channels without an exit status."""

    def command(self, session: Session) -> None:
        """Say that it has begun, no more."""
        session.answer(b"said\n", status=None)


def test_what_a_host_does_not_let_end_is_not_kept(hostile: Serve) -> None:
    """What may be left of a command is ended once; the host that does not do so is not asked
    again and again, and what it might have left takes no memory.
    """
    server = hostile(ClosesSilently())
    host = server.host()
    for _ in range(3):
        assert run(host, "echo hi").stopped == "lost"
    assert host._pool is not None
    pool = host._pool
    wait_until(lambda: len(server.lines) == 6 and pool._clearing is None, "all are asked once")
    assert not pool._jobs
    assert server.connections == 1
