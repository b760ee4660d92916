"""An ending ends, whatever the host does, and says what is not known."""

from __future__ import annotations

import logging
import os
import pwd
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.environments.base import EndReason, Stop
from parallel_exec.environments.ssh import connection, ending, running as running_module
from parallel_exec.errors import (
    CommandTimeoutError,
    ConnectionLostError,
    OutputLimitError,
)
from parallel_exec.values.result import Result
from tests.integration.ssh import server as servers
from tests.integration.ssh.hostile import Honest, Hostile, Serve, Session
from tests.integration.ssh.server import Server, end, run, running, wait_until
from tests.integration.ssh.test_ending import mark

UNKNOWN = "may still run there"


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Endings that take a second at most, beside `kill_after`."""
    monkeypatch.setattr(ending, "LIMIT_S", 1.0)
    monkeypatch.setattr(running_module, "SHELL_S", 1.0)


class NeverEnds(Honest):
    """Starts every command, that of an ending too, and ends none but "true" in the first."""

    def command(self, session: Session) -> None:
        """Start it."""
        session.begin()
        if b"exec true" in session.line:
            session.request("exit-status", 0)
            session.channel.close()
        session.wait()


class NeverBegins(Honest):
    """Accepts every command and says nothing more."""

    def command(self, session: Session) -> None:
        """Nothing."""
        session.wait()


class EndsTheFirst(Honest):
    """Ends the first command by itself, after its children have kept it long enough."""

    def command(self, session: Session) -> None:
        """Say that it ended, and leave the channel open."""
        session.begin()
        if len(session.server.lines) == 1:
            session.request("exit-status", 0)
        session.wait()


class NoSecondChannel(NeverEnds):
    """As a host that has forgotten the connection, but for the command's own channel."""

    def command(self, session: Session) -> None:
        """Answer nothing after the first command has begun."""
        session.begin()
        session.deaf()
        session.wait()


def told_to_end(
    server: Hostile,
    host: px.SSH,
    *,
    when: Callable[[], object] = lambda: True,
    reason: EndReason = "timeout",
    kill: bool = False,
    **options: Any,
) -> Result:
    """Run a command, and tell it to end once the server has been asked for it.

    Args:
        server: Where it runs.
        host: How it is reached.
        when: What else is waited for.
        reason: Why it is to end.
        kill: Whether it is to be killed once its ending runs.
        **options: Those of the command.
    """
    stop = Stop()
    with ThreadPoolExecutor(1) as threads:
        result = threads.submit(run, host, "cat", stop=stop, **options)
        try:
            wait_until(lambda: server.lines and when(), "it runs")
        finally:
            stop.end(reason)
        if kill:
            wait_until(lambda: len(server.lines) == 2, "the ending runs")
            stop.kill()
        return result.result(60)


@pytest.mark.parametrize("behaviour", [NeverEnds, NeverBegins, NoSecondChannel])
def test_a_command_that_nobody_ends(
    hostile: Serve, short: None, behaviour: type[Honest], caplog: pytest.LogCaptureFixture
) -> None:
    """The call is back, what it returns is that the end is unknown, and there is one ending."""
    server = hostile(behaviour())
    result = told_to_end(server, server.host(connect_timeout=5), kill_after=0.1)
    with pytest.raises(ConnectionLostError, match=UNKNOWN) as caught:
        result.check()
    assert "was over its timeout" in str(caught.value)
    assert result.exit_code is None
    assert len(server.lines) <= 2


def test_an_ending_has_a_time_of_its_own() -> None:
    """It counts from when the command was told to end, and adds less than 10 s."""
    woken = threading.Event()
    ran = threading.Event()

    def note(script: str, transport: Any, stop: Any, opening: float) -> None:
        ran.set()

    sessions = ending.Sessions((1,), "PX", 5.0, note)
    pool: Any = None
    made = ending.Ending("host", sessions, pool, pool, woken.set)
    made.begin(7.0, since=100.0)
    assert 107.0 < made.until < 117.0
    assert ran.wait(30)
    assert woken.wait(30)
    made.leave()
    assert made.done


def test_kill_cuts_the_time_of_an_ending_short(hostile: Serve, short: None) -> None:
    """A second Ctrl-C does not wait for `kill_after`, nor for what nobody answers."""
    server = hostile(NeverEnds())
    result = told_to_end(server, server.host(), reason="cancel", kill=True, kill_after=300)
    assert result.stopped == "lost"


def test_a_cancelled_command_that_nobody_ends(hostile: Serve, short: None) -> None:
    """Neither a cancelled one: it may still run."""
    server = hostile(NeverEnds())
    token = px.CancelToken()
    task = server.host().command("echo hi", kill_after=0.1)

    def cancel() -> None:
        wait_until(lambda: server.lines, "it runs")
        token.cancel()

    with ThreadPoolExecutor(1) as threads:
        threads.submit(cancel)
        (outcome,) = px.all_settled([task], cancel=token, retry=px.Retry(3, on=Exception))
    assert isinstance(outcome.reason, ConnectionLostError)
    assert UNKNOWN in str(outcome.reason)
    assert "was cancelled" in str(outcome.reason)
    assert outcome.attempts == 1
    assert outcome.status == "rejected"


def test_too_much_output_of_a_command_that_nobody_ends(hostile: Serve, short: None) -> None:
    """What came within the limit is kept."""

    class Talks(NeverEnds):
        def command(self, session: Session) -> None:
            session.begin()
            session.out(b"x" * 1000)
            session.wait()

    with pytest.raises(ConnectionLostError, match=f"more than 10 bytes.*{UNKNOWN}") as caught:
        hostile(Talks()).host().run("true", max_output_bytes=10, kill_after=0.1)
    assert caught.value.result is not None
    assert caught.value.result.stdout == b"x" * 10


def test_a_command_that_has_ended_stays_so(
    hostile: Serve, short: None, caplog: pytest.LogCaptureFixture
) -> None:
    """What its children do is unknown and is logged; its own status was said."""
    server = hostile(EndsTheFirst())
    result = server.host().run("echo hi", kill_after=0.1)
    assert result.exit_code == 0
    assert len(server.lines) == 2
    assert [r.levelno for r in caplog.records if "may still be running" in r.message] == [
        logging.WARNING
    ]


def test_a_deadline_with_a_sick_host(hostile: Serve, short: None) -> None:
    """The call is back, and the other hosts have their outcomes."""
    sick, sound = hostile(NeverEnds()), hostile(Honest())
    group = px.Group([sick.host(), sound.host()])
    group.run(["true"]).raise_for_failures()
    outcomes = group.run("echo hi", deadline=2, kill_after=0.1)
    assert isinstance(outcomes[0].reason, ConnectionLostError)
    assert outcomes[1].ok
    group.close()


@contextmanager
def programs(server_base: Path, **scripts: str) -> Iterator[str]:
    """Yield a PATH on which these programs come first, or are missing if they are ""."""
    folder = server_base / "programs"
    folder.mkdir(mode=0o755)
    for place in ("/usr/bin", "/bin"):
        for program in Path(place).iterdir():
            target = folder / program.name
            if program.name not in scripts and not target.exists():
                target.symlink_to(program)
    for name, script in scripts.items():
        if script:
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)
    yield str(folder)


def test_a_process_table_that_hangs(make_sshd: Any, base: Path, short: None) -> None:
    """The call is back, also that of a group, and says what it does not know."""
    word, stuck = mark(), mark()
    with programs(_folder(base), ps=f"exec sleep {stuck}") as path:
        server = make_sshd(extra=[f"SetEnv PATH={path}"])
        try:
            with pytest.raises(ConnectionLostError, match=UNKNOWN):
                server.backend().run(f"sleep {word}", timeout=2, kill_after=0.1)
            assert running(f"sleep {word}")
            outcomes = px.Group([server.backend()]).run(f"sleep {word}", deadline=2, kill_after=0.1)
            assert isinstance(outcomes[0].reason, ConnectionLostError)
            assert len(running(f"sleep {stuck}")) <= 2
        finally:
            server.close()
            end(word)
            end(stuck)


@pytest.mark.parametrize("program", ["ps", "awk"])
def test_a_host_without_a_process_table(make_sshd: Any, base: Path, program: str) -> None:
    """The command's group is killed; that nothing else is left is not claimed."""
    word = mark()
    with programs(_folder(base), **{program: ""}) as path:
        server = make_sshd(extra=[f"SetEnv PATH={path}"])
        try:
            with pytest.raises(ConnectionLostError, match=UNKNOWN):
                server.backend().run(f"sleep {word}; true", timeout=2, kill_after=0.1)
            assert not running(f"sleep {word}")
        finally:
            end(word)


def _folder(base: Path) -> Path:
    """Return a new folder that the account can read."""
    folder = base / f"bin-{mark()}"
    folder.mkdir(mode=0o755)
    return folder


@pytest.mark.skipif(not servers.ROOT, reason="makes an account with a start-up file")
def test_a_login_shell_that_leaves_something_behind(base: Path, make_sshd: Any) -> None:
    """Whatever it starts holds the channel, of each ending too; nothing of it is left."""
    word, other = mark(), mark()
    with servers.account(base, "/bin/bash") as who:
        (who.home / ".bashrc").write_text(f"sleep {word} &\n")
        os.chown(who.home / ".bashrc", pwd.getpwnam(who.user).pw_uid, -1)
        server: Server = make_sshd(who)
        host = server.backend()
        assert host.run("echo hi", kill_after=0.2).text() == "hi\n"
        with pytest.raises(CommandTimeoutError):
            host.run("sleep 1000", timeout=1, kill_after=0.2)
        with pytest.raises(OutputLimitError):
            host.run("yes", max_output_bytes=100, kill_after=0.2)
        stop = Stop()
        with ThreadPoolExecutor(1) as threads:
            result = threads.submit(run, host, f"sleep {other}", stop=stop, kill_after=0.2)
            wait_until(lambda: running(f"sleep {other}"), "it runs")
            stop.end("cancel")
            assert result.result(60).stopped == "cancel"
        server.close()
        wait_until(lambda: not running(f"sleep {word}"), "nothing is left")


class TakesNothing(Honest):
    """Has room for much input, and reads none of it."""

    def prepare(self, transport: Any) -> None:
        """Announce the room."""
        transport.default_window_size = 200 << 20

    def command(self, session: Session) -> None:
        """Begin."""
        session.begin()
        session.deaf()
        session.wait()


def test_a_command_that_is_stuck_in_writing(
    hostile: Serve, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is let go as well, and the error says why it was to be ended."""
    monkeypatch.setattr(connection, "HURRY_S", 0.5)
    server = hostile(TakesNothing())
    host = server.host()
    looks: list[bool] = []

    def stuck() -> bool:
        assert host._pool is not None
        transport = host._pool._connections[0].transport
        looks.append(not transport.clear_to_send_lock.locked())
        return len(looks) >= 50 and not any(looks[-50:])

    with open("/dev/zero", "rb") as endless:
        result = told_to_end(server, host, when=stuck, input=endless, kill_after=0.1)
    assert result.cause is not None
    assert "over its timeout, and then the connection was lost" in result.cause


@pytest.mark.parametrize("behaviour", [NeverEnds, TakesNothing])
def test_a_sick_host_behind_a_jump_host(
    sshd: Server,
    hostile: Serve,
    short: None,
    monkeypatch: pytest.MonkeyPatch,
    behaviour: type[Honest],
) -> None:
    """It costs those behind the same one nothing: they go on over its one connection."""
    monkeypatch.setattr(connection, "HURRY_S", 0.5)
    jump = sshd.backend()
    before = sshd.logins()
    sick, sound = hostile(behaviour()), hostile(Honest())
    hosts = [sick.host(jump=jump), sound.host(jump=jump)]
    assert hosts[1].run("true").ok
    with open("/dev/zero", "rb") as endless:
        assert told_to_end(sick, hosts[0], input=endless, kill_after=0.1).stopped == "lost"
    assert hosts[1].run("true").ok
    assert sshd.logins() == before + 1
    assert sound.connections == 1


class TalksOn(Honest):
    """Ends its first command by a status, and talks on for ever."""

    def command(self, session: Session) -> None:
        """Talk as much as the client takes, or say that nothing is left of the first."""
        if len(session.server.lines) > 1:
            session.answer()
            return
        session.begin()
        session.request("exit-status", 3)
        while session.transport.is_active():
            session.out(bytes(1 << 15))


class ReadsOn(Honest):
    """Ends its first command by a status, and reads its input for ever."""

    def command(self, session: Session) -> None:
        """Read, or say that nothing is left of the first."""
        if len(session.server.lines) > 1:
            session.answer()
            return
        session.begin()
        session.request("exit-status", 3)
        while session.channel.recv(1 << 20):
            pass


@pytest.mark.parametrize("behaviour", [TalksOn, ReadsOn])
def test_a_command_that_has_ended_and_goes_on(
    hostile: Serve, short: None, behaviour: type[Honest], tmp_path: Path
) -> None:
    """What holds its pipes is ended after `kill_after`, however busy it is until then."""
    host = hostile(behaviour()).host()
    (tmp_path / "much").touch()
    os.truncate(tmp_path / "much", 1 << 40)
    with open(tmp_path / "much", "rb") as endless:
        result = host.run("true", check=False, capture=False, kill_after=0.3, input=endless)
    assert result.exit_code == 3
