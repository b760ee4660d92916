"""Hosts for the samples that name some."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.ssh import server

CONFIG = """\
Host web* db* bastion
  HostName {server.host}
  Port {server.port}
  User {server.account.user}
"""


@dataclass(frozen=True)
class Home:
    """A home directory whose configuration knows hosts: ``web``, ``db``, ``bastion``.

    Attributes:
        password: What sudo asks for on them.
    """

    path: Path
    password: str | None


@pytest.fixture(scope="session")
def home() -> Iterator[Home | None]:
    """A home from which hosts can be reached; None on a machine without a server."""
    if server.find("sshd") is None:
        yield None
        return
    base = Path(tempfile.mkdtemp(prefix="px-docs-"))
    base.chmod(0o755)
    try:
        with (
            server.account(base, sudo=shutil.which("sudo") is not None) as who,
            server.openssh(base / "sshd", who) as running,
        ):
            folder = base / "home" / ".ssh"
            folder.mkdir(parents=True)
            shutil.copy(running.key, folder / "id_ed25519")
            shutil.copy(running.known_hosts, folder / "known_hosts")
            (folder / "config").write_text(CONFIG.format(server=running))
            yield Home(base / "home", who.password)
    finally:
        shutil.rmtree(base, ignore_errors=True)
