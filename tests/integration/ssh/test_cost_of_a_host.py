"""What a host costs while nothing but its handshake goes on."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.errors import ConnectTimeoutError, ExecutorClosedError, TaskCancelledError
from tests.integration.ssh.hostile import Honest, Line, Serve
from tests.integration.ssh.server import Server, wait_until

HOSTS = 12


class Silent(Honest):
    """Accepts connections and says nothing."""

    def raw(self, line: Line) -> bool:
        """Wait for the client to go."""
        line.wait()
        return True


def named(name: str) -> list[str]:
    """Return the threads whose name begins so."""
    return [each.name for each in threading.enumerate() if each.name.startswith(name)]


def test_a_command_that_waits_for_a_handshake_has_no_thread(hostile: Serve) -> None:
    """One connects and one reads, as for any connection; those who wait for it need none,
    however many, and can be stopped.
    """
    server = hostile(Silent())
    hosts = [server.host(passphrase=str(n)) for n in range(HOSTS)]
    token = px.CancelToken()
    with ThreadPoolExecutor(1) as threads:
        outcomes = threads.submit(
            px.all_settled,
            [host.command("true") for host in hosts for _ in range(3)],
            concurrency=None,
            cancel=token,
        )
        wait_until(lambda: server.connections == HOSTS, "all of them connect")
        assert len(named("parallel_exec connect")) == HOSTS
        assert named("parallel_exec someone") == []
        token.cancel()
        assert {type(each.reason) for each in outcomes.result(30)} == {TaskCancelledError}


def test_all_who_wait_for_a_handshake_get_an_error_of_their_own(hostile: Serve) -> None:
    """One attempt, and nobody is forgotten."""
    server = hostile(Silent())
    host = server.host(connect_timeout=0.5)
    outcomes = px.all_settled([host.command("true")] * 8)
    assert {type(each.reason) for each in outcomes} == {ConnectTimeoutError}
    assert len({id(each.reason) for each in outcomes}) == 8
    assert server.connections == 1


def test_close_reaches_those_who_wait_for_a_handshake(hostile: Serve) -> None:
    """They are over when it returns, and none of them ran."""
    server = hostile(Silent())
    host = server.host()
    futures = [host.submit("true") for _ in range(3)]
    wait_until(lambda: server.connections == 1, "it connects")
    host.close()
    for future in futures:
        with pytest.raises((TaskCancelledError, ExecutorClosedError)):
            future.result(30)
    with pytest.raises(ExecutorClosedError):
        host.submit("true").result(30)


def test_timeouts_run_while_a_handshake_is_waited_for(hostile: Serve) -> None:
    """The command's own, which is not that of the connection."""
    server = hostile(Silent())
    with pytest.raises(px.errors.CommandTimeoutError):
        server.host().run("true", timeout=0.2)


def test_commands_begin_when_the_connection_is_there(sshd: Server) -> None:
    """All of those who waited, over one connection."""
    before = sshd.logins()
    host: Any = sshd.backend()
    outcomes = px.all_settled([host.command(["echo", str(n)]) for n in range(8)], concurrency=8)
    assert [px.Result.text(value) for value in outcomes.values()] == [f"{n}\n" for n in range(8)]
    assert sshd.logins() == before + 1
