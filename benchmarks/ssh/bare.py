"""A bare loop over paramiko's Transport, that verifies nothing: the floor.

Each function runs in a process of its own. The loop hands its own socket over, with
TCP_NODELAY, and reads the key once: it is the best that can be written in a few lines.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import paramiko

from benchmarks import fresh
from benchmarks.harness import Figures
from benchmarks.ssh.idling import Idling
from benchmarks.ssh.place import Place
from parallel_exec.environments.ssh import remote
from parallel_exec.values.command import Command


def _key(place: Place) -> Any:
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    return paramiko.Ed25519Key.from_private_key_file(place.key)


def _transport(place: Place, key: Any, address: str = "127.0.0.1") -> Any:
    sock = socket.create_connection((address, place.port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    transport = paramiko.Transport(sock)
    transport.connect(username=place.user, pkey=key)
    return transport


def _run(transport: Any, line: str) -> bytes:
    while True:
        try:
            channel = transport.open_session()
            break
        except paramiko.SSHException:  # the last one may still count there: MaxSessions
            if not transport.is_active():
                raise
    channel.exec_command(line)
    parts = []
    while data := channel.recv(1 << 20):
        parts.append(data)
    assert channel.recv_exit_status() == 0
    channel.close()
    return b"".join(parts)


def cold(where: list[Any], hosts: int) -> Figures:
    """Run one command on each of many hosts, a thread each."""
    place = Place(*where)
    transports: list[Any] = []

    def one(address: str) -> bytes:
        transport = _transport(place, key, address)
        transports.append(transport)
        return _run(transport, "echo ok")

    start, cpu = time.perf_counter(), time.process_time()
    key = _key(place)
    with ThreadPoolExecutor(hosts) as threads:
        results = list(threads.map(one, place.addresses(hosts)))
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert results == [b"ok\n"] * hosts
    for transport in transports:
        transport.close()
    return {"hosts_per_s": hosts / wall, "wall_s": wall, "cpu_ms_each": cpu / hosts * 1000}


def warm(where: list[Any], commands: int, connections: int) -> Figures:
    """Run the line that we send, over transports that stand, ten at a time."""
    place = Place(*where)
    given = remote.orders(
        Command("echo ok"), remote.new_nonce(), stdin=False, pty=False, leads=True
    )
    line = remote.line_with(given)
    assert line is not None
    transports = _open(place, connections)
    start, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(max(10, connections)) as threads:
        results = list(
            threads.map(lambda n: _run(transports[n % connections], line), range(commands))
        )
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert all(result.endswith(b"ok\n") for result in results)
    for transport in transports:
        transport.close()
    return {"commands_per_s": commands / wall, "cpu_ms_each": cpu / commands * 1000}


def idle(where: list[Any], count: int) -> Figures:
    """Hold many transports, each of which has run a command."""
    place = Place(*where)
    fresh.open_files(count * 4 + 100)
    first = _open(place, 1)
    assert _run(first[0], "true") == b""
    first[0].close()
    with Idling(count) as idling:
        transports = _open(place, count)
        for transport in transports:
            assert _run(transport, "true") == b""
    for transport in transports:
        transport.close()
    return idling.figures


def _open(place: Place, count: int) -> Sequence[Any]:
    key = _key(place)
    with ThreadPoolExecutor(16) as threads:
        return list(
            threads.map(lambda address: _transport(place, key, address), place.addresses(count))
        )
