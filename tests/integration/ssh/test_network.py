"""Faults of the network itself: packets that are dropped without a word."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.errors import ConnectionLostError, ConnectTimeoutError
from tests.integration.ssh.network import Network, network
from tests.integration.ssh.server import running, wait_until
from tests.integration.ssh.test_ending import mark


@pytest.fixture
def far() -> Iterator[Network]:
    """A network of its own."""
    with network() as made:
        yield made


def many(far: Network, server: Any, *, dead_after: float) -> px.Group:
    """Return forty hosts and ten dead addresses, in turns."""

    def host(number: int) -> px.SSH:
        dead = number % 5 == 0
        address = far.address(200 + number // 5 if dead else number)
        return px.SSH(
            f"{server.account.user}@{address}:{server.port}",
            connect_timeout=dead_after if dead else 60.0,
            **server.options,
        )

    return px.Group(host(number) for number in range(50))


def test_dead_addresses_among_many_hosts(make_sshd: Any, far: Network) -> None:
    """They are a timeout of the connection each; the others are as if they were not there."""
    server = make_sshd(listen="0.0.0.0", host=far.address(1), enter=far.enter)
    with many(far, server, dead_after=1.0) as group:
        outcomes = group.run("echo here")
        for number, outcome in enumerate(outcomes):
            if number % 5:
                assert outcome.result().text() == "here\n"
            else:
                assert isinstance(outcome.reason, ConnectTimeoutError)
                assert outcome.reason.environment == group[number].name
                assert "within 1 s" in str(outcome.reason)
        assert [host.name for host in outcomes.failed] == [group[n].name for n in range(0, 50, 5)]


def test_dead_addresses_hold_nobody_up(make_sshd: Any, far: Network) -> None:
    """The others' outcomes are there while the dead are still being waited for."""
    server = make_sshd(listen="0.0.0.0", host=far.address(1), enter=far.enter)
    token = px.CancelToken()
    answers: list[str] = []

    def count(outcome: px.Outcome[Any]) -> None:
        answers.append(outcome.status)
        if len(answers) == 40:
            token.cancel()

    with many(far, server, dead_after=1000.0) as group:
        outcomes = group.run("echo here", on_outcome=count, cancel=token)
    assert answers[:40] == ["fulfilled"] * 40
    assert len(outcomes.cancelled) == 10


@pytest.mark.parametrize("pty", [False, True])
def test_network_cut_under_a_command(make_sshd: Any, far: Network, pty: bool) -> None:
    """Nobody is told, so silence has to be noticed: the command is lost with what it had
    said, its neighbour too, and when the network is back the next one connects anew.
    """
    server = make_sshd(listen="0.0.0.0", host=far.address(1), enter=far.enter)
    word = mark()
    began = threading.Barrier(3)
    with px.SSH(
        server.destination, keepalive=0.2, connect_timeout=60.0, pty=pty, **server.options
    ) as host:
        lost = [
            host.submit(f"echo begun; exec sleep {word}", on_stdout=lambda line: began.wait(30))
            for _ in range(2)
        ]
        began.wait(30)
        far.cut()
        for future in lost:
            with pytest.raises(ConnectionLostError, match="silent for") as caught:
                future.result(30)
            assert caught.value.result is not None
            assert caught.value.result.text().strip() == "begun"
            assert caught.value.result.exit_code is None
        assert running(f"sleep {word}")  # nobody could tell it
        far.mend()
        assert host.run("echo again").text().strip() == "again"
        wait_until(lambda: not running(f"sleep {word}"), "it has been told to end")


def test_network_cut_before_a_command(make_sshd: Any, far: Network) -> None:
    """A connection that died while nobody used it costs the next command time, no more."""
    server = make_sshd(listen="0.0.0.0", host=far.address(1), enter=far.enter)
    with px.SSH(server.destination, connect_timeout=1.0, keepalive=0.2, **server.options) as host:
        host.run("true")
        far.cut()
        with pytest.raises(ConnectTimeoutError):
            host.run("true")
        far.mend()
        assert host.run("echo again").text() == "again\n"
