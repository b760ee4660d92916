"""Sockets to a host: by name with several addresses, or through a command."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

from parallel_exec.errors import ConnectError, ConnectTimeoutError

__all__ = ["Address", "Proxy", "connect", "endpoint", "lookup"]

Address = tuple[int, tuple[Any, ...]]

NEXT_ADDRESS_S = 0.25  # RFC 8305, "Connection Attempt Delay"
LOOK_S = 0.2  # how often it is looked whether the attempt is still wanted

FAMILIES = {"any": socket.AF_UNSPEC, "inet": socket.AF_INET, "inet6": socket.AF_INET6}


def lookup(host: str, port: int, family: str) -> list[Address]:
    """Return the addresses of a name, families alternating (RFC 8305).

    Raises:
        ConnectError: The name does not resolve.
    """
    try:
        found = socket.getaddrinfo(
            host, port, FAMILIES.get(family, socket.AF_UNSPEC), socket.SOCK_STREAM
        )
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConnectError(f"the name {host} does not resolve: {reason}") from error
    addresses = list(dict.fromkeys((int(item[0]), item[4]) for item in found))
    first = [item for item in addresses if item[0] == addresses[0][0]]
    others = [item for item in addresses if item[0] != addresses[0][0]]
    mixed: list[Address] = []
    while first or others:
        if first:
            mixed.append(first.pop(0))
        if others:
            mixed.append(others.pop(0))
    return mixed


def endpoint(address: Address) -> tuple[str, int]:
    """Return which server an address belongs to, as far as it can be told.

    All of 127.0.0.0/8 is this machine, so a port there is one server.
    """
    host, port = str(address[1][0]), int(address[1][1])
    return ("loopback" if host.startswith("127.") or host == "::1" else host, port)


def connect(
    addresses: Sequence[Address], timeout: float, wanted: Callable[[], bool]
) -> socket.socket:
    """Return a socket to the first address that answers, each a little after the last.

    Args:
        timeout: Seconds for all of them.
        wanted: Asked now and then whether to go on.

    Raises:
        ConnectTimeoutError: None answered in time.
        ConnectError: All refused, or it is no longer wanted.
    """
    deadline = time.monotonic() + timeout
    waiting = list(addresses)
    trying: dict[int, socket.socket] = {}
    failed: OSError | None = None
    start_next = 0.0
    poll = select.poll()
    try:
        while waiting or trying:
            now = time.monotonic()
            if waiting and (not trying or now >= start_next):
                sock, error = _begin(waiting.pop(0))
                start_next = now + NEXT_ADDRESS_S
                if sock is None:
                    failed = error
                    continue
                trying[sock.fileno()] = sock
                poll.register(sock, select.POLLOUT)
            left = deadline - time.monotonic()
            if left <= 0:
                raise ConnectTimeoutError(f"no answer within {timeout:g} s")
            if not wanted():
                raise ConnectError("the environment was closed")
            pause = min(left, LOOK_S, max(0.0, start_next - now) if waiting else LOOK_S)
            for fd, _ in poll.poll(pause * 1000 + 1):
                sock = trying.pop(fd)
                poll.unregister(fd)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == 0:
                    return _ready(sock)
                failed = OSError(code, os.strerror(code))
                sock.close()
                start_next = 0.0
        assert failed is not None
        if failed.errno == errno.ETIMEDOUT:
            raise ConnectTimeoutError(f"no answer: {failed.strerror}") from failed
        raise ConnectError(f"cannot connect: {failed.strerror}") from failed
    finally:
        for sock in trying.values():
            sock.close()


def _begin(address: Address) -> tuple[socket.socket | None, OSError | None]:
    family, name = address
    sock: socket.socket | None = None
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.connect(name)
    except BlockingIOError:
        pass
    except OSError as error:
        if sock is not None:
            sock.close()
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        return None, error
    return sock, None


def _ready(sock: socket.socket) -> socket.socket:
    sock.setblocking(True)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return sock


class Proxy:
    """A ProxyCommand: its standard input and output are the connection."""

    def __init__(self, command: str) -> None:
        self.sock, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {command}"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                start_new_session=True,
            )
        except OSError as error:
            self.sock.close()
            raise ConnectError(f"the ProxyCommand did not start: {error}") from error
        finally:
            theirs.close()

    def close(self) -> None:
        """End the command and everything it started, and reap it."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(0.5)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
