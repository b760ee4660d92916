"""Where the SSH benchmarks happen: a server on loopback, and what makes it a far one."""

from __future__ import annotations

import contextlib
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from parallel_exec.environments.ssh.known_hosts import hash_name
from tests.integration.ssh import server as servers
from tests.integration.ssh.server import Server

MOST_HOSTS = 500


class Place(NamedTuple):
    """A server and who may log in: it travels as JSON to the process that measures.

    Attributes:
        known: The known_hosts file that knows all of its addresses.
        log: Where the server writes who has logged in.
    """

    user: str
    port: int
    key: str
    known: str
    log: str

    def addresses(self, count: int) -> list[str]:
        """Return addresses that all lead to it."""
        return [f"127.0.{n // 250}.{n % 250 + 1}" for n in range(count)]

    def node_set(self, count: int) -> str:
        """Return the same addresses as a user would write them."""
        parts = [f"127.0.{block}.[1-250]" for block in range(count // 250)]
        if count % 250:
            parts.append(f"127.0.{count // 250}.[1-{count % 250}]")
        return ",".join(f"{self.user}@{part}:{self.port}" for part in parts)

    def logins(self) -> int:
        """Return how many connections have logged in so far."""
        text = Path(self.log).read_text(encoding="utf-8")
        return text.count("Accepted ") - text.count("Accepted key")


def place(server: Server, *, port: int | None = None) -> Place:
    """Return where `server` is; `port` is that of what stands before it."""
    at = port or server.port
    known = server.base / f"known-{at}"
    known.write_text(f"[127.0.*]:{at} {host_key(server)}\n")
    return Place(server.account.user, at, str(server.key), str(known), str(server.log))


def host_key(server: Server) -> str:
    """Return the server's key as known_hosts has it."""
    return " ".join((server.base / "host.pub").read_text().split()[:2])


def with_known_lines(where: Place, server: Server, *, hashed: bool) -> Place:
    """Return the same place with 10,000 hosts known, its own the last of them."""
    key = host_key(server)
    names = [f"host{n}.example" for n in range(10_000 - 250)]
    names += [f"[{address}]:{where.port}" for address in where.addresses(250)]
    if hashed:
        names = [hash_name(name) for name in names]
    path = server.base / f"known-10000-{'hashed' if hashed else 'plain'}"
    path.write_text("".join(f"{name} {key}\n" for name in names))
    return where._replace(known=str(path))


def large_file(base: Path, size: int) -> str:
    """Return the path of a file that does not compress, readable by the account."""
    path = base / f"large-{size}"
    if not path.exists():
        path.write_bytes(secrets.token_bytes(1_000_000) * (size // 1_000_000))
        path.chmod(0o644)
    return str(path)


@contextlib.contextmanager
def delay(target: int, seconds: float) -> Iterator[int]:
    """Run a proxy that hands on every byte `seconds` after it came, both ways; yield its port.

    A process of its own, so that it takes no interpreter lock from what is measured.
    """
    with _process("benchmarks.ssh.delay", str(target), str(seconds)) as port:
        yield port


@contextlib.contextmanager
def silent() -> Iterator[int]:
    """Accept connections and say nothing; yield the port."""
    with socket.create_server(("0.0.0.0", 0), backlog=500) as listener:
        # The system accepts for as many as the backlog holds; nobody takes them up.
        yield listener.getsockname()[1]


@contextlib.contextmanager
def _process(module: str, *args: str) -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-m", module, *args], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        servers.wait_until(lambda: _accepts(port), "the proxy accepts")
        yield port
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
