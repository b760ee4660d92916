"""The SSH backend against bare paramiko and OpenSSH's client, on a real sshd on loopback.

Needs root (for an account with a clean login shell), OpenSSH's server and client. It adds
what a caller's thread costs: each command runs by `SSHBackend.execute` in a pool's thread.
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import paramiko

from benchmarks.harness import OURS, Bar, Comparison, Figures, Side, UnavailableError
from parallel_exec.environments.base import Stop
from parallel_exec.environments.ssh import SSHBackend, remote
from parallel_exec.values.command import Command
from tests.integration.ssh import server as servers
from tests.integration.ssh.server import Server, Ticket

BARE = "bare Transport"
CLIENT = "OpenSSH client"


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Yield the comparisons, with servers that run meanwhile."""
    if servers.find("sshd") is None or not servers.ROOT:
        return
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        base.chmod(0o755)
        who = stack.enter_context(servers.account(base))
        sshd = stack.enter_context(servers.openssh(base / "plain", who, listen="0.0.0.0"))
        hosts = 50 if quick else 200
        known = _ten_thousand(sshd)
        yield Comparison(
            f"{hosts} cold hosts, verified against 10,000 plain lines; bare verifies nothing",
            (
                Side(OURS, functools.partial(cold, sshd, hosts, known)),
                Side("hashed lines", functools.partial(cold, sshd, hosts, _hashed(known))),
                Side(BARE, functools.partial(bare_cold, sshd, hosts)),
            ),
            (Bar(f"of {BARE}'s rate", "hosts_per_s", BARE, at_least=0.9),),
            rounds=5,
        )
        commands = 200 if quick else 1000
        yield Comparison(
            f"{commands} commands over one warm connection; bare runs the identical line",
            (
                Side(OURS, functools.partial(warm, sshd, commands)),
                Side(BARE, functools.partial(bare_warm, sshd, commands)),
            ),
            (
                Bar(f"of {BARE}'s rate", "commands_per_s", BARE, at_least=0.9),
                Bar("commands a second", "commands_per_s", at_least=500),
            ),
            rounds=5,
        )
        size = 100_000_000 if quick else 500_000_000
        yield Comparison(
            f"{size // 1_000_000} MB of output",
            (
                Side(OURS, functools.partial(output, sshd, size)),
                Side(CLIENT, functools.partial(client_output, sshd, size)),
            ),
            (Bar(f"of {CLIENT}'s rate", "mb_per_s", CLIENT, at_least=1.5),),
            rounds=3,
        )
        for name, ours, theirs in (("put", put, client_put), ("get", get, client_get)):
            yield Comparison(
                f"{size // 1_000_000} MB by {name}",
                (
                    Side(OURS, functools.partial(ours, sshd, size)),
                    Side("sftp", functools.partial(theirs, sshd, size)),
                ),
                (Bar("of sftp's rate", "mb_per_s", "sftp", at_least=0.8),),
                rounds=3,
            )
        limited = stack.enter_context(
            servers.openssh(base / "plain", who, listen="0.0.0.0", max_startups="10:30:100")
        )
        yield Comparison(
            f"{hosts} cold hosts at MaxStartups 10:30:100, and with the limit lifted",
            (
                Side(OURS, functools.partial(cold, limited, hosts, limited.known_hosts)),
                Side("lifted", functools.partial(cold, sshd, hosts, sshd.known_hosts)),
            ),
            (Bar("of the time without the limit", "wall_s", "lifted", at_most=1.3),),
            rounds=3,
        )
        yield Comparison(
            "50 hosts behind one bastion, and without it",
            (
                Side(OURS, functools.partial(cold, sshd, 50, sshd.known_hosts, jump=True)),
                Side("direct", functools.partial(cold, sshd, 50, sshd.known_hosts)),
            ),
            (Bar("of the time without it", "wall_s", "direct", at_most=1.3),),
            rounds=3,
        )
        slow = stack.enter_context(Delay(sshd.port, 0.075))
        trust = base / "slow-hosts"
        key = " ".join((sshd.base / "host.pub").read_text().split()[:2])
        trust.write_text(f"[127.0.0.*]:{slow.port} {key}\n")
        yield Comparison(
            "100 cold hosts, 150 ms of round trip",
            (
                Side(OURS, functools.partial(cold, sshd, 100, trust, port=slow.port)),
                Side(BARE, functools.partial(bare_cold, sshd, 100, port=slow.port)),
            ),
            (Bar(f"of {BARE}'s time", "wall_s", BARE, at_most=1.15),),
            rounds=3,
        )
        near = stack.enter_context(Delay(sshd.port, 0.025))
        trust.write_text(trust.read_text() + f"[127.0.0.*]:{near.port} {key}\n")
        yield Comparison(
            "100 MB of output, 50 ms of round trip",
            (
                Side(OURS, functools.partial(output, sshd, 100_000_000, trust, near.port)),
                Side(CLIENT, functools.partial(client_output, sshd, 100_000_000, near.port)),
            ),
            (Bar(f"of {CLIENT}'s rate", "mb_per_s", CLIENT, at_least=3),),
            rounds=3,
        )
        idlers = 100 if quick else 400
        yield Comparison(
            f"{idlers} idle connections",
            (
                Side(OURS, functools.partial(idle, sshd, idlers)),
                Side(BARE, functools.partial(bare_idle, sshd, idlers)),
            ),
            (
                Bar("% of a core", "cpu_percent", at_most=1),
                Bar(f"of {BARE}'s memory", "kb_each", BARE, at_most=1.2),
            ),
            rounds=1,
        )


# Ours


def cold(
    sshd: Server, hosts: int, known: Path, port: int | None = None, *, jump: bool = False
) -> Figures:
    """Run one command on each of many hosts that nothing is connected to."""
    backends = [
        SSHBackend(
            f"{sshd.account.user}@127.0.{n // 250}.{n % 250 + 1}:{port or sshd.port}",
            identity_file=str(sshd.key),
            known_hosts=str(known),
            config=False,
            jump=sshd.destination if jump else None,
        )
        for n in range(hosts)
    ]
    start = time.perf_counter()
    with ThreadPoolExecutor(hosts) as threads:
        results = list(threads.map(lambda backend: _run(backend, "echo ok"), backends))
    wall = time.perf_counter() - start
    assert results == [b"ok\n"] * hosts
    with ThreadPoolExecutor(32) as threads:
        list(threads.map(lambda backend: backend.close(), backends))
    return {"hosts_per_s": hosts / wall, "wall_s": wall}


def warm(sshd: Server, commands: int) -> Figures:
    """Run many commands on one host."""
    backend = _backend(sshd)
    _run(backend, "echo ok")
    start = time.perf_counter()
    with ThreadPoolExecutor(10) as threads:
        results = list(threads.map(lambda n: _run(backend, "echo ok"), range(commands)))
    wall = time.perf_counter() - start
    assert results == [b"ok\n"] * commands
    backend.close()
    return {"commands_per_s": commands / wall}


def output(sshd: Server, size: int, known: Path | None = None, port: int | None = None) -> Figures:
    """Capture much output of one command."""
    backend = _backend(sshd, known, port)
    _run(backend, "true")
    start = time.perf_counter()
    got = _run(backend, f"head -c {size} /dev/zero")
    wall = time.perf_counter() - start
    assert len(got) == size
    backend.close()
    return {"mb_per_s": size / wall / 1e6}


def put(sshd: Server, size: int) -> Figures:
    """Copy a large file there."""
    backend = _backend(sshd)
    _run(backend, "true")
    start = time.perf_counter()
    backend.put(_large(sshd, size), "put")
    wall = time.perf_counter() - start
    backend.close()
    return {"mb_per_s": size / wall / 1e6}


def get(sshd: Server, size: int) -> Figures:
    """Copy a large file from there."""
    backend = _backend(sshd)
    _run(backend, "true")
    source = _large(sshd, size)
    start = time.perf_counter()
    backend.get(source, sshd.base / "got")
    wall = time.perf_counter() - start
    backend.close()
    return {"mb_per_s": size / wall / 1e6}


def idle(sshd: Server, count: int) -> Figures:
    """Hold many connections, and look what that costs."""
    backends = [
        SSHBackend(
            f"{sshd.account.user}@127.0.{n // 250}.{n % 250 + 1}:{sshd.port}",
            identity_file=str(sshd.key),
            known_hosts=str(sshd.known_hosts),
            config=False,
        )
        for n in range(count)
    ]
    before = _memory()
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda backend: _run(backend, "true"), backends))
    figures = _cost_of_idling(before, count)
    with ThreadPoolExecutor(32) as threads:
        list(threads.map(lambda backend: backend.close(), backends))
    return figures


def _backend(sshd: Server, known: Path | None = None, port: int | None = None) -> SSHBackend:
    return SSHBackend(
        f"{sshd.account.user}@127.0.0.1:{port or sshd.port}",
        identity_file=str(sshd.key),
        known_hosts=str(known or sshd.known_hosts),
        config=False,
    )


def _run(backend: SSHBackend, script: str) -> bytes:
    return backend.execute(Command(script), Ticket(), Stop()).check().stdout


# Theirs


def _transport(sshd: Server, host: str, port: int | None = None) -> Any:
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    key = paramiko.Ed25519Key.from_private_key_file(str(sshd.key))
    transport = paramiko.Transport((host, port or sshd.port))
    transport.connect(
        username=sshd.account.user,
        pkey=key,
    )
    return transport


def _bare_run(transport: Any, line: str) -> bytes:
    while True:
        try:
            channel = transport.open_session()
            break
        except paramiko.SSHException:  # the last one may still count there: MaxSessions
            if not transport.is_active():
                raise
            continue
    channel.exec_command(line)
    parts = []
    while data := channel.recv(1 << 20):
        parts.append(data)
    assert channel.recv_exit_status() == 0
    channel.close()
    return b"".join(parts)


def bare_cold(sshd: Server, hosts: int, port: int | None = None) -> Figures:
    """Do the same with paramiko's Transport alone."""
    transports: list[Any] = []

    def one(n: int) -> bytes:
        transport = _transport(sshd, f"127.0.{n // 250}.{n % 250 + 1}", port)
        transports.append(transport)
        return _bare_run(transport, "echo ok")

    start = time.perf_counter()
    with ThreadPoolExecutor(hosts) as threads:
        results = list(threads.map(one, range(hosts)))
    wall = time.perf_counter() - start
    assert results == [b"ok\n"] * hosts
    for transport in transports:
        transport.close()
    return {"hosts_per_s": hosts / wall, "wall_s": wall}


def bare_warm(sshd: Server, commands: int) -> Figures:
    """Run the line that our backend sends, over paramiko's channels."""
    given = remote.orders(
        Command("echo ok"), remote.new_nonce(), stdin=False, pty=False, leads=True
    )
    line = remote.line_with(given)
    transport = _transport(sshd, "127.0.0.1")
    start = time.perf_counter()
    with ThreadPoolExecutor(10) as threads:
        results = list(threads.map(lambda n: _bare_run(transport, line or ""), range(commands)))
    wall = time.perf_counter() - start
    assert all(result.endswith(b"ok\n") for result in results)
    transport.close()
    return {"commands_per_s": commands / wall}


def bare_idle(sshd: Server, count: int) -> Figures:
    """Hold as many of paramiko's."""
    before = _memory()
    with ThreadPoolExecutor(16) as threads:
        transports = list(
            threads.map(lambda n: _transport(sshd, f"127.0.{n // 250}.{n % 250 + 1}"), range(count))
        )
    for transport in transports:
        assert _bare_run(transport, "true") == b""
    figures = _cost_of_idling(before, count)
    for transport in transports:
        transport.close()
    return figures


def client_output(sshd: Server, size: int, port: int | None = None) -> Figures:
    """Have OpenSSH's client print it."""
    start = time.perf_counter()
    done = subprocess.run(
        [*_client(sshd, "ssh", "-p", port), f"head -c {size} /dev/zero"],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        check=True,
    )
    wall = time.perf_counter() - start
    assert len(done.stdout) == size
    return {"mb_per_s": size / wall / 1e6}


def client_put(sshd: Server, size: int) -> Figures:
    """Copy a large file there by sftp."""
    return _sftp(sshd, size, f"put {_large(sshd, size)} put")


def client_get(sshd: Server, size: int) -> Figures:
    """Copy a large file from there by sftp."""
    return _sftp(sshd, size, f"get {_large(sshd, size)} {sshd.base / 'got'}")


def _sftp(sshd: Server, size: int, order: str) -> Figures:
    start = time.perf_counter()
    subprocess.run(
        _client(sshd, "sftp", "-P"),
        input=order.encode() + b"\n",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return {"mb_per_s": size / (time.perf_counter() - start) / 1e6}


def _client(sshd: Server, program: str, flag: str, port: int | None = None) -> list[str]:
    if servers.find(program) is None:
        raise UnavailableError(f"needs {program}: apt-get install openssh-client")
    return [
        *(program, "-F", "none", "-i", str(sshd.key), flag, str(port or sshd.port)),
        *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
        *("-o", "LogLevel=ERROR", f"{sshd.account.user}@127.0.0.1"),
    ]


# What is measured on


def _ten_thousand(sshd: Server) -> Path:
    """Return a known_hosts of 10,000 lines, the hosts' own last."""
    path = sshd.base / "many"
    key = " ".join((sshd.base / "host.pub").read_text().split()[:2])
    lines = [f"host{n}.example {key}\n" for n in range(10_000 - 250)]
    lines += [f"[127.0.0.{n}]:{sshd.port} {key}\n" for n in range(1, 251)]
    path.write_text("".join(lines))
    return path


def _hashed(path: Path) -> Path:
    from parallel_exec.environments.ssh.known_hosts import hash_name

    hashed = path.with_name("hashed")
    with path.open() as plain, hashed.open("w") as file:
        for line in plain:
            name, _, rest = line.partition(" ")
            file.write(f"{hash_name(name)} {rest}")
    return hashed


def _large(sshd: Server, size: int) -> Path:
    path = sshd.base / f"large-{size}"
    if not path.exists():
        path.write_bytes(secrets.token_bytes(1_000_000) * (size // 1_000_000))
        path.chmod(0o644)
    return path


def _memory() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def _cost_of_idling(before: int, count: int) -> Figures:
    time.sleep(1.0)  # what was just done may still be ending
    grown = _memory() - before
    start, cpu = time.perf_counter(), time.process_time()
    time.sleep(10.0)
    used = (time.process_time() - cpu) / (time.perf_counter() - start)
    return {"cpu_percent": 100 * used, "kb_each": grown / count / 1000}


class Delay:
    """A proxy that hands on every byte a fixed time after it came, both ways.

    A process of its own, so that it takes no interpreter lock from what is measured.
    """

    def __init__(self, target: int, seconds: float) -> None:
        self.port = servers.free_port("0.0.0.0")
        self._process = subprocess.Popen(
            ["python3", "-c", _DELAY, str(self.port), str(target), str(seconds)]
        )

    def __enter__(self) -> Self:
        servers.wait_until(self._accepts, "the proxy accepts")
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()

    def _accepts(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return threading.active_count() > 0


_DELAY = """
import asyncio, collections, socket, sys
port, target, delay = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
async def pump(reader, writer):
    loop, queue, due = asyncio.get_running_loop(), collections.deque(), asyncio.Event()
    async def send():
        while True:
            while not queue:
                due.clear()
                await due.wait()
            when, data = queue.popleft()
            left = when - loop.time()
            if left > 0:
                await asyncio.sleep(left)
            if not data:
                writer.write_eof()
                return
            writer.write(data)
            await writer.drain()
    task = asyncio.ensure_future(send())
    try:
        while True:
            data = await reader.read(1 << 18)
            queue.append((loop.time() + delay, data))
            due.set()
            if not data:
                break
            while sum(len(d) for _, d in queue) > 64 << 20:
                await asyncio.sleep(0.01)
        await task
    except (ConnectionError, OSError):
        task.cancel()
async def serve(reader, writer):
    near, far = await asyncio.open_connection("127.0.0.1", target, limit=1 << 22)
    for w in (writer, far):
        w.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await asyncio.gather(pump(reader, far), pump(near, writer), return_exceptions=True)
    for w in (writer, far):
        w.close()
async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", port, backlog=500, limit=1 << 22)
    await server.serve_forever()
asyncio.run(main())
"""
