"""Work spread over real hosts, one of which is not there or dies."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.errors import ConnectionLostError
from tests.integration.ssh.server import Server, free_port
from tests.integration.ssh.test_faults import children


def kill(server: Server) -> None:
    """Kill a server and every connection to it."""
    pids = [server.process.pid, *children(server.process.pid)]
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            if "sshd" in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)
    server.process.wait()


def test_workers_are_given_by_name(
    sshd: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's configuration knows them; what one that is away did not run, others run."""
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text(
        f"User {sshd.account.user}\nIdentityFile {sshd.key}\nHostName 127.0.0.1\n"
        f"UserKnownHostsFile {sshd.known_hosts}\n"
        f"Host here\nPort {sshd.port}\nHost away\nPort {free_port()}\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    with px.LoadBalancer(["away", "here"], capacity=2, failures=1) as balancer:
        results = balancer.execute_many([(f"echo {n}", 1) for n in range(8)])
        assert [result.text() for _, result in results] == [f"{n}\n" for n in range(8)]
        assert {worker for worker, _ in results} == {"here"}
        assert [state.state for state in balancer.statistics()] == ["down", "up"]
    with px.RoundRobinDistributor(["here"]) as distributor:
        ((worker, answers),) = distributor.distribute(["echo a", "echo b"])
        assert (worker, [answer.text() for answer in answers]) == ("here", ["a\n", "b\n"])


@pytest.mark.parametrize("safe", [False, True])
def test_a_host_that_dies_in_the_middle(make_sshd: Any, tmp_path: Path, safe: bool) -> None:
    """No task is lost; none is run twice, unless it says that this is safe."""
    servers = [make_sshd(), make_sshd()]
    hosts = [px.SSH(server.destination, **server.options) for server in servers]
    done = servers[0].account.home / f"done-{safe}"
    commands = [px.sh("echo {} >> {}; sleep 0.05", n, done) for n in range(40)]
    tasks = [px.Task(command, safe_to_repeat=safe) for command in commands]
    killed: list[Server] = []

    def kill_one(_: px.Outcome[Any]) -> None:
        if not killed:
            killed.append(servers[0])
            kill(servers[0])

    balancer = px.LoadBalancer(hosts, capacity=2, failures=1)
    try:
        outcomes = balancer.execute_many_settled([(t, 1) for t in tasks], on_outcome=kill_one)
        assert balancer.statistics()[0].state == "down"
        assert set(balancer.loads.values()) == {0}
    finally:
        for host in hosts:
            host.close()
    assert len(outcomes) == len(tasks)
    assert all(isinstance(outcome.reason, ConnectionLostError) for outcome in outcomes.rejected)
    assert outcomes.ok or not safe
    assert len(outcomes.fulfilled) + len(outcomes.rejected) == len(tasks)
    times = Counter(int(line) for line in done.read_text().split())
    for outcome in outcomes.fulfilled:
        assert times[outcome.index] >= 1
    assert safe or set(times.values()) == {1}
