"""Connections are shared, limited, closed when idle and made anew when dead."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

import parallel_exec as px
from parallel_exec.environments.ssh import config_file, gate, keys, pool as pools, prompts
from parallel_exec.errors import ConnectError, ExecutorClosedError
from tests.integration.ssh.network import network
from tests.integration.ssh.server import Server, listener, run, wait_until


def test_many_threads_connect_once(sshd: Server) -> None:
    """Forty commands at once over a cold backend; ten places on a connection."""
    backend = sshd.backend()
    before = sshd.logins()
    with ThreadPoolExecutor(10) as threads:
        results = list(threads.map(lambda n: run(backend, f"echo {n}"), range(40)))
    assert [result.text() for result in results] == [f"{n}\n" for n in range(40)]
    assert sshd.logins() == before + 1


def test_equal_backends_share(sshd: Server) -> None:
    """And closing one leaves the other its connection."""
    before = sshd.logins()
    first, second = sshd.backend(), sshd.backend()
    run(first, "true")
    run(second, "true")
    first.close()
    assert run(second, "echo still").text() == "still\n"
    assert sshd.logins() == before + 1
    with pytest.raises(ExecutorClosedError):
        run(first, "true")


@pytest.mark.parametrize("max_sessions", [1, 2])
def test_max_sessions_is_learned(make_sshd, max_sessions) -> None:  # type: ignore[no-untyped-def]
    """Long commands all run at once, over as many connections as that takes."""
    server = make_sshd(max_sessions=max_sessions)
    backend = server.backend()
    began = time.monotonic()
    with ThreadPoolExecutor(6) as threads:
        results = list(threads.map(lambda n: run(backend, f"sleep 2; echo {n}"), range(6)))
    assert [result.text() for result in results] == [f"{n}\n" for n in range(6)]
    assert time.monotonic() - began < 6
    assert server.logins() >= 6 / max_sessions


def test_a_refused_channel_is_an_overload(make_sshd) -> None:  # type: ignore[no-untyped-def]
    """An adaptive limit learns of it, although the command runs in the end."""
    server = make_sshd(max_sessions=1)
    controller = px.AIMDController(4, 1, 4)
    command = px.Command("true", environment=server.backend())
    outcomes = px.all_settled([command] * 8, concurrency=controller)
    assert outcomes.ok
    assert controller.statistics().strained
    assert "cut" in {change.reason for change in controller.history}


def test_short_commands_stay_on_few_connections(make_sshd) -> None:  # type: ignore[no-untyped-def]
    """Where a place comes free sooner than a connection is made, none is made."""
    server = make_sshd(max_sessions=2)
    backend = server.backend()
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda n: run(backend, ["true"]), range(60)))
    assert all(result.ok for result in results)
    assert server.logins() <= 8


def test_no_host_of_many_is_lost_at_max_startups(make_sshd, who) -> None:  # type: ignore[no-untyped-def]
    """Sixty hosts that are one server with sshd's default limit."""
    server = make_sshd(max_startups="10:30:100", listen="0.0.0.0")
    names = [f"{who.user}@127.0.0.{n}:{server.port}" for n in range(1, 61)]
    backends = [server.backend(name) for name in names]
    with ThreadPoolExecutor(60) as threads:
        results = list(threads.map(lambda backend: run(backend, "echo ok"), backends))
    assert [result.text() for result in results] == ["ok\n"] * 60


def test_one_handshake_at_a_time(make_sshd, who) -> None:  # type: ignore[no-untyped-def]
    """MaxStartups 1:100:2 refuses every second one; they come one after the other then."""
    server = make_sshd(max_startups="1:100:2", listen="0.0.0.0")
    names = [f"{who.user}@127.0.0.{n}:{server.port}" for n in range(1, 13)]
    backends = [server.backend(name, connect_timeout=60) for name in names]
    with ThreadPoolExecutor(12) as threads:
        results = list(threads.map(lambda backend: run(backend, "echo ok"), backends))
    assert [result.text() for result in results] == ["ok\n"] * 12


def test_idle_connection_closes(sshd: Server) -> None:
    """And the next command connects anew."""
    backend = sshd.backend(keepalive=0.1, keep_idle=0.2)
    before = sshd.logins()
    run(backend, "true")
    assert backend._pool is not None
    wait_until(lambda: not backend._pool._connections, "it is closed")
    assert run(backend, "echo again").text() == "again\n"
    assert sshd.logins() == before + 2


def test_keepalive_keeps_a_quiet_command(sshd: Server) -> None:
    """A command that says nothing for many intervals is not lost, nor its connection idle."""
    backend = sshd.backend(keepalive=0.1, keep_idle=0.1)
    assert run(backend, "sleep 1; echo here").text() == "here\n"


def test_dead_connection_is_replaced(make_sshd) -> None:  # type: ignore[no-untyped-def]
    """A server that was restarted meanwhile costs the next command nothing but time."""
    server = make_sshd()
    backend = server.backend()
    run(backend, "true")
    assert backend._pool is not None
    backend._pool._connections[0].transport.sock.shutdown(2)
    assert run(backend, "echo back").text() == "back\n"


def test_closed_while_connecting(sshd: Server) -> None:
    """Whoever waits is told."""
    errors: list[BaseException] = []
    with listener(answer=False) as port:
        backend = sshd.backend(f"nobody@127.0.0.1:{port}", connect_timeout=30)

        def wait() -> None:
            try:
                run(backend, "true")
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        wait_until(lambda: backend._pool is not None and backend._pool._under_way, "it connects")
        assert backend._pool is not None
        pools.give_back(backend._pool)
        thread.join(10)
    assert isinstance(errors[0], ExecutorClosedError | ConnectError)
    backend._release.detach()  # type: ignore[union-attr]


def test_closed_on_the_way_to_a_jump_host(sshd: Server) -> None:
    """`close` leaves no thread that goes on connecting, to either of the two."""
    with listener(answer=False) as port:
        jump = sshd.backend(f"nobody@127.0.0.1:{port}", connect_timeout=60)
        backend = sshd.backend("nobody@behind", jump=jump, connect_timeout=60)
        waiting = backend.submit("true")
        wait_until(lambda: any(pool._under_way for pool in _pools()), "it connects to that")
        _close_at_once(backend)
        with pytest.raises(CancelledError):
            waiting.result(10)


def test_closed_on_the_way_behind_a_jump_host(sshd: Server) -> None:
    """As before, and the connection to the jump host is unharmed."""
    jump = sshd.backend()
    other = sshd.backend(jump=jump)
    run(other, "true")
    before = sshd.logins()
    with network() as made:
        backend = sshd.backend(f"nobody@{made.address(200)}", jump=jump, connect_timeout=60)
        waiting = backend.submit("true")
        wait_until(lambda: any(_tunnels(pool) == 2 for pool in _pools()), "it asks for a tunnel")
        _close_at_once(backend)
    with pytest.raises(CancelledError):
        waiting.result(10)
    assert run(other, "echo there").text() == "there\n"
    assert sshd.logins() == before


def _pools() -> list[pools.HostPool]:
    return list(pools._pools.values())


def _tunnels(pool: pools.HostPool) -> int:
    return sum(connection.tunnels for connection in pool._connections)


def _close_at_once(backend: px.SSH) -> None:
    """Close; fail if a thread goes on connecting."""
    backend.close()
    connecting = [t.name for t in threading.enumerate() if " connect " in t.name]
    assert connecting == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_reading_thread_leaves_signals_to_the_program(sshd: Server) -> None:
    """A main thread that waits for a signal gets it: the thread of a connection blocks all."""
    backend = sshd.backend()
    run(backend, "true")
    assert backend._pool is not None
    reading = backend._pool._connections[0].transport
    status = Path(f"/proc/self/task/{reading.native_id}/status").read_text()
    (blocked,) = re.findall(r"SigBlk:\s*([0-9a-f]+)", status)
    assert int(blocked, 16) >> (signal.SIGTERM - 1) & 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_leaves_the_parents_connection_alone(sshd: Server) -> None:
    """The child makes one of its own."""
    backend = sshd.backend()
    run(backend, "true")
    before = sshd.logins()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if run(backend, "echo child").text() == "child\n" else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert run(backend, "echo parent").text() == "parent\n"
    assert sshd.logins() == before + 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_others_log_in(sshd: Server) -> None:
    """What the parent's threads hold at that moment, locks and handshakes, is free in the child."""
    empty = sshd.base / "empty"
    empty.touch()
    backend = sshd.backend(config=empty)
    server = gate.gate_of(("loopback", sshd.port))
    limit, server.limit = server.limit, 1.0
    entry = server.enter()
    assert entry is not None
    with ExitStack() as held:
        for lock in (keys._cache_lock, prompts._turn, config_file._files_lock, gate._gates_lock):
            held.enter_context(lock)
        held.enter_context(pools.known_hosts._lock)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.alarm(20)
                code = 0 if run(backend, "echo child").text() == "child\n" else 2
            finally:
                os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    server.leave(entry)
    server.limit = limit
