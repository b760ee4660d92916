"""The servers that the SSH tests talk to. Without sshd they are skipped."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration.ssh import server
from tests.integration.ssh.hostile import Honest, Hostile, Serve
from tests.integration.ssh.server import Account, Server


@pytest.fixture(scope="session")
def base() -> Iterator[Path]:
    """A folder that the account can reach, unlike pytest's own.

    Every test here has it. Without a server all of them are skipped by this one line.
    """
    if server.find("sshd") is None:
        pytest.skip(server.HOW_TO_GET_IT)
    folder = Path(tempfile.mkdtemp(prefix="px-ssh-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def who(base: Path) -> Iterator[Account]:
    """An account with a clean login shell, that may use sudo with its password."""
    with server.account(base, sudo=shutil.which("sudo") is not None) as made:
        yield made


@pytest.fixture(autouse=True)
def _nothing_left_there(who: Account) -> Iterator[None]:
    """Fail a test that leaves a process on the far side, a connection's included."""
    yield
    if server.ROOT:  # else it is the account of whoever runs the tests
        server.wait_until(lambda: not who.processes(), f"gone: {who.processes()}")


@pytest.fixture(scope="session")
def _sshd(base: Path, who: Account) -> Iterator[Server]:
    with server.openssh(base / "plain", who) as running:
        yield running


@pytest.fixture
def sshd(_sshd: Server) -> Iterator[Server]:
    """A server with plenty of room; what a test opens there is closed after it."""
    yield _sshd
    _sshd.close()


@pytest.fixture
def make_sshd(base: Path, who: Account, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A function that starts a server with settings of its own, for this test."""
    with ExitStack() as stack:
        count = 0

        def make(who: Account = who, **settings: Any) -> Server:
            nonlocal count
            count += 1
            # sshd reads patterns in the names of its files.
            folder = base / re.sub(r"[^\w-]", "_", f"{request.node.name[:40]}-{count}")
            return stack.enter_context(server.openssh(folder, who, **settings))

        yield make


Make = Callable[..., Server]


@pytest.fixture(scope="session")
def _dropbear(base: Path, who: Account) -> Iterator[Server]:
    if server.find("dropbear") is None:
        pytest.skip("needs Dropbear: apt-get install dropbear-bin")
    if not server.ROOT:
        pytest.skip("Dropbear reads the account's own authorized_keys: needs root for an account")
    with server.dropbear(base / "dropbear", who) as running:
        yield running


@pytest.fixture
def dropbear(_dropbear: Server) -> Iterator[Server]:
    """A Dropbear server."""
    yield _dropbear
    _dropbear.close()


@pytest.fixture(scope="session")
def _hostile_keys(base: Path) -> Path:
    folder = base / "hostile"
    folder.mkdir()
    server.make_keys(folder)
    return folder


@pytest.fixture
def hostile(_hostile_keys: Path) -> Iterator[Serve]:
    """A function that starts a server with a behaviour, for this test."""
    with ExitStack() as stack:
        started: list[Hostile] = []

        def serve(behaviour: Honest) -> Hostile:
            made = Hostile(behaviour, _hostile_keys)
            started.append(made)
            stack.callback(made.close)
            return made

        yield serve
    faults = [fault for each in started for fault in each.faults]
    assert not faults, "\n".join(faults)
