"""What a pool learns from channels that were refused."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from parallel_exec.environments.ssh import pool as pools
from parallel_exec.environments.ssh.destination import Destination
from parallel_exec.environments.ssh.pool import Connection, HostPool
from parallel_exec.environments.ssh.settings import Settings


@pytest.fixture
def pool() -> HostPool:
    """A pool that has connected to nothing."""
    return HostPool(Settings(Destination.parse("host")))


def connected(pool: HostPool, *, full: bool, used: int) -> Connection:
    """Return a connection of the pool's, some of whose places are taken."""
    transport: Any = SimpleNamespace(full=full, active=True)
    connection = Connection(transport, 10, lambda: None)
    connection.used = used
    pool._connections.append(connection)
    return connection


def test_a_full_connection_takes_no_more_for_long(pool: HostPool) -> None:
    """The far side's limit is known then."""
    connection = connected(pool, full=True, used=4)
    assert pool.refused(connection)
    assert connection.cap == 3
    assert connection.believed_until > time.monotonic() + 20


def test_a_place_that_still_counted_is_tried_again_soon(
    pool: HostPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that had just been closed: the limit is not where the refusal was."""
    connection = connected(pool, full=False, used=10)
    assert not pool.refused(connection)
    assert connection.cap == 9
    connection.used = 9
    assert pool._free(tunnel=False) is None
    later = time.monotonic() + pools.DOUBTFUL_BELIEF_S
    monkeypatch.setattr(time, "monotonic", lambda: later + 0.1)
    assert pool._free(tunnel=False) is connection
    assert connection.cap == 10
