"""Every wait of the table in `docs/reference/bounds.md` ends as it says."""

from __future__ import annotations

import dataclasses
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.environments.ssh import ending, files, gate, pool, running
from parallel_exec.environments.ssh.border import common
from tests.integration.ssh.hostile import Honest, Line, Serve, Session, message
from tests.integration.ssh.server import wait_until

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "bounds.md"
LONG = 600  # seconds: what is not looked at
SHORT = 0.3


def rows() -> dict[str, str]:
    """Return what is waited for, and what follows, as the page has it."""
    table = PAGE.read_text().split("| the library waits for |")[1].split("\n\n")[0]
    found = {}
    for line in table.splitlines()[2:]:
        waits, _, then = (cell.strip() for cell in line.strip("|").split("|"))
        found[waits.replace("`", "")] = then
    return found


class Waits(Honest):
    """Begins its first command and never ends it; ends others."""

    def command(self, session: Session) -> None:
        """Begin."""
        if len(session.server.lines) == 1:
            session.begin()
            self.then(session)
        else:
            session.answer()

    def then(self, session: Session) -> None:
        """Wait."""
        session.wait()


class DoesNotRead(Waits):
    """Reads nothing after that."""

    room, window = 4096, 1 << 30

    def then(self, session: Session) -> None:
        """Wait."""
        session.deaf()
        session.stay()


class Bounds:
    """The scenarios, each named after its row; each returns how the call ended."""

    def __init__(
        self, hostile: Serve, patch: pytest.MonkeyPatch, tmp_path: Path, stack: ExitStack
    ) -> None:
        self.hostile = hostile
        self.patch = patch
        self.tmp_path = tmp_path
        self.stack = stack

    def ends(self, host: px.SSH, **options: Any) -> BaseException | None:
        """Run a command and return its error."""
        try:
            host.run("cat > /dev/null", **options)
        except px.errors.ParallelExecError as error:
            return error
        return None

    def a_name_server(self) -> BaseException | None:
        gate = threading.Event()
        self.stack.callback(gate.set)
        look_up = socket.getaddrinfo

        def silent(*given: Any) -> Any:
            if not given[-1] & socket.AI_NUMERICHOST:
                gate.wait()
            return look_up(*given)

        self.patch.setattr(socket, "getaddrinfo", silent)
        options = self.hostile(Honest()).options
        far = self.stack.enter_context(
            px.SSH("someone@far.invalid", **options, connect_timeout=SHORT)
        )
        return self.ends(far)

    def the_host_to_accept_a_connection(self) -> BaseException | None:
        # A listener whose queue is full answers no more than a host that is off.
        listener = self.stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = listener.getsockname()[1]
        for _ in range(8):
            sock = self.stack.enter_context(socket.socket())
            sock.setblocking(False)
            with suppress(BlockingIOError):
                sock.connect(("127.0.0.1", port))
        options = self.hostile(Honest()).options
        far = self.stack.enter_context(
            px.SSH(f"someone@127.0.0.1:{port}", **options, connect_timeout=SHORT)
        )
        return self.ends(far)

    def a_proxycommand_to_reach_the_host(self) -> BaseException | None:
        config = self.tmp_path / "config"
        config.write_text("Host *\n  ProxyCommand sleep 1000\n")
        config.chmod(0o600)
        server = self.hostile(Honest())
        return self.ends(server.host(config=str(config), connect_timeout=SHORT))

    def a_command_of_match_exec_in_the_configuration(self) -> BaseException | None:
        config = self.tmp_path / "config"
        config.write_text('Match exec "sleep 1000"\n  Port 22\n')
        config.chmod(0o600)
        server = self.hostile(Honest())
        return self.ends(server.host(config=str(config), connect_timeout=SHORT))

    def a_jump_host_to_open_the_way(self) -> BaseException | None:
        class OpensNothing(Honest):
            def opening(self, transport: Any) -> bool:
                return False

        jump = self.hostile(OpensNothing()).host(connect_timeout=LONG)
        return self.ends(self.hostile(Honest()).host(jump=jump, connect_timeout=SHORT))

    def the_host_to_say_its_version(self) -> BaseException | None:
        class Silent(Honest):
            def raw(self, line: Line) -> bool:
                line.wait()
                return True

        return self.ends(self.hostile(Silent()).host(connect_timeout=SHORT))

    def keys_to_be_exchanged(self) -> BaseException | None:
        class Greets(Honest):
            def raw(self, line: Line) -> bool:
                line.send(b"SSH-2.0-x\r\n")
                line.wait()
                return True

        return self.ends(self.hostile(Greets()).host(connect_timeout=SHORT))

    def the_login_to_be_answered(self) -> BaseException | None:
        class Thinks(Honest):
            def login(self, method: str, user: str, given: Any) -> bool:
                self.server.over.wait()
                return False

        return self.ends(self.hostile(Thinks()).host(connect_timeout=SHORT))

    def the_agent(self) -> BaseException | None:
        path = str(self.tmp_path / "agent")
        mute = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        mute.bind(path)
        mute.listen()
        self.patch.setenv("SSH_AUTH_SOCK", path)
        return self.ends(self.hostile(Honest()).host(agent=True, connect_timeout=2))

    def a_turn_where_many_log_in_to_one_server(self) -> BaseException | None:
        self.patch.setattr(pool, "TURN_S", SHORT)
        server = self.hostile(Honest())
        turns = gate.gate_of(("loopback", server.port))
        turns.limit = 1.0
        entry = turns.enter()
        assert entry is not None
        self.stack.callback(turns.leave, entry)
        return self.ends(server.host(connect_timeout=SHORT / pool.TURNS))

    def a_channel_to_be_opened(self) -> BaseException | None:
        class OpensNothing(Honest):
            def opening(self, transport: Any) -> bool:
                self.server.start(self.talk, transport)
                return False

            def talk(self, transport: Any) -> None:
                while transport.is_active() and not self.server.over.wait(0.05):
                    transport._send_message(message(common.cMSG_IGNORE, "x"))

        return self.ends(self.hostile(OpensNothing()).host(connect_timeout=SHORT))

    def a_command_to_print_something(self) -> BaseException | None:
        host = self.hostile(Waits()).host(connect_timeout=LONG)
        return self.ends(host, idle_timeout=SHORT, kill_after=LONG)

    def a_command_to_end(self) -> BaseException | None:
        host = self.hostile(Waits()).host(connect_timeout=LONG)
        return self.ends(host, timeout=SHORT, kill_after=LONG)

    def an_ending(self) -> BaseException | None:
        class NeverEnds(Honest):
            def command(self, session: Session) -> None:
                session.begin()
                session.wait()

        self.patch.setattr(ending, "LIMIT_S", SHORT)  # ten seconds are long
        host = self.hostile(NeverEnds()).host(connect_timeout=LONG)
        return self.ends(host, timeout=SHORT, kill_after=SHORT)

    def a_login_shell_to_begin_with_a_command_that_is_to_end(self) -> BaseException | None:
        class NeverBegins(Honest):
            def command(self, session: Session) -> None:
                session.wait()

        self.patch.setattr(running, "SHELL_S", SHORT)  # five seconds are long
        host = self.hostile(NeverBegins()).host(connect_timeout=LONG)
        return self.ends(host, timeout=SHORT, kill_after=SHORT)

    def the_host_to_take_what_is_sent(self) -> BaseException | None:
        self.patch.setattr(ending, "LIMIT_S", SHORT)
        host = self.hostile(DoesNotRead()).host(connect_timeout=SHORT, keepalive=LONG)
        return self.ends(host, input=b"x" * (30 << 20), timeout=SHORT, kill_after=SHORT)

    def new_keys_on_a_living_connection(self) -> BaseException | None:
        class Rekeys(DoesNotRead):
            def then(self, session: Session) -> None:
                session.deaf()
                session.transport._send_kex_init()
                with suppress(EOFError, OSError):
                    while not session.server.over.wait(0.05):
                        session.transport._send_message(message(common.cMSG_IGNORE, "x"))

        # Without a timeout: whoever wants to send waits for the keys.
        host = self.hostile(Rekeys()).host(connect_timeout=SHORT, keepalive=LONG)
        return self.ends(host, input=b"x" * (30 << 20))

    def a_host_that_says_nothing(self) -> BaseException | None:
        host = self.hostile(DoesNotRead()).host(connect_timeout=LONG, keepalive=0.1)
        return self.ends(host)

    def a_transfer(self) -> BaseException | None:
        return self.transfers(connect_timeout=LONG, timeout=SHORT)

    def an_answer_of_sftp(self) -> BaseException | None:
        self.patch.setattr(files, "LEAST_SILENCE_S", SHORT)
        return self.transfers(connect_timeout=SHORT / files.SILENCES, timeout=None)

    def transfers(self, *, connect_timeout: float, timeout: float | None) -> BaseException | None:
        """Copy a file from a host that does not answer, over a connection that is there."""

        class NoAnswer(Honest):
            def subsystem(self, session: Session) -> None:
                session.wait()

        server = self.hostile(NoAnswer())
        host = server.host(connect_timeout=LONG)
        host.run("true")
        host._how = dataclasses.replace(host._how, timeout=connect_timeout)
        try:
            host.get("there", self.tmp_path / "here", timeout=timeout)
        except px.errors.ParallelExecError as error:
            return error
        return None

    def the_hosts_of_a_group(self) -> BaseException | None:
        host = self.hostile(Waits()).host(connect_timeout=LONG)
        (outcome,) = px.Group([host]).run("cat", deadline=1.0, kill_after=LONG)
        assert outcome.status == "cancelled"
        return None

    def what_runs_when_its_environment_is_closed(self) -> BaseException | None:
        server = self.hostile(Waits())
        host = server.host(connect_timeout=LONG)
        with ThreadPoolExecutor(1) as threads:
            ended = threads.submit(self.ends, host, kill_after=LONG)
            wait_until(lambda: server.lines, "it runs")
            host.close()
            return ended.result()


def scenario(waits: str) -> str:
    """Return the name of a row's scenario."""
    return re.sub(r"\W+", "_", waits.lower()).strip("_")


def test_the_table_is_whole() -> None:
    """It has a row for each scenario, and each row has one."""
    there = {
        name
        for name, made in vars(Bounds).items()
        if callable(made) and not name.startswith("_") and name not in ("ends", "transfers")
    }
    assert {scenario(waits) for waits in rows()} == there


@pytest.fixture
def bounds(hostile: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bounds]:
    """The scenarios."""
    with ExitStack() as stack:
        yield Bounds(hostile, monkeypatch, tmp_path, stack)


@pytest.mark.parametrize("waits", rows())
def test_a_wait_ends_as_the_table_says(bounds: Bounds, waits: str) -> None:
    """With the error that it names."""
    then = rows()[waits]
    run: Callable[[], BaseException | None] = getattr(bounds, scenario(waits))
    error = run()
    named = re.match(r"`(\w+Error)`(?:: \"(.*)\")?", then)
    if named is None:
        assert error is None
    else:
        assert type(error).__name__ == named[1], repr(error)
        assert (named[2] or "") in str(error)
