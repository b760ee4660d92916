"""Sockets to a host: by name with several addresses, or through a command."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from parallel_exec.environments import room
from parallel_exec.environments.ssh import names
from parallel_exec.environments.ssh.words import said
from parallel_exec.errors import ConnectError, ConnectTimeoutError
from parallel_exec.reactor import loop as reactor
from parallel_exec.reactor.poller import READ

__all__ = ["Address", "Proxy", "connect", "endpoint", "lookup"]

Address = tuple[int, tuple[Any, ...]]

NEXT_ADDRESS_S = 0.25  # RFC 8305, "Connection Attempt Delay"
LAST_WORDS_S = 1.0  # for a command that has closed the connection to end
MOST_KEPT = 4096  # bytes of what it prints
LOOK_S = 0.2  # how often it is looked whether the attempt is still wanted

FAMILIES = {"any": socket.AF_UNSPEC, "inet": socket.AF_INET, "inet6": socket.AF_INET6}


def lookup(
    host: str,
    port: int,
    family: str,
    timeout: float,
    wanted: Callable[[], bool] = lambda: True,
) -> list[Address]:
    """Return the addresses of a name, families alternating (RFC 8305).

    Args:
        timeout: Seconds for the name servers to answer.
        wanted: Asked now and then whether to go on.

    Raises:
        ConnectTimeoutError: No name server answered in time.
        ConnectError: The name does not resolve, or it is no longer wanted.
    """
    try:
        found = names.addresses(
            host, port, FAMILIES.get(family, socket.AF_UNSPEC), within=timeout, wanted=wanted
        )
    except (socket.gaierror, UnicodeError) as error:
        if room.get().short_lately():  # which looks like a name that is not known
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE)) from error
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
    """A ProxyCommand: its standard input and output are the connection.

    What it prints to standard error goes on to ours, as it comes, and its beginning is
    kept for errors.
    """

    def __init__(self, command: str) -> None:
        self.sock, theirs = socket.socketpair()
        printed, error_end = os.pipe()
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {command}"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=error_end,
                start_new_session=True,
            )
        except OSError as error:
            self.sock.close()
            os.close(printed)
            raise ConnectError(f"the ProxyCommand did not start: {error}") from error
        finally:
            theirs.close()
            os.close(error_end)
        self._stderr = _Printed(printed)

    def fate(self, error: ConnectError) -> str:
        """Return what became of it, for an error of the connection over it."""
        if isinstance(error, ConnectTimeoutError):
            what = f"through its ProxyCommand: {error}"
        else:
            status = self._status()
            if status is None:
                what = f"through its ProxyCommand: {error}"
            elif status < 0:
                what = f"its ProxyCommand was ended by {signal.Signals(-status).name}"
            else:
                what = f"its ProxyCommand ended with status {status}"
        # What it started may hold the other end for longer.
        words = self._stderr.words(0 if isinstance(error, ConnectTimeoutError) else LAST_WORDS_S)
        return f"{what}; it printed '{words}'" if words else what

    def repeatable(self) -> bool:
        """Return whether it may be tried again: not if it has ended with a failure of its own.

        Status 255 is that of ``ssh -W`` whose bastion has no room for now.
        """
        return self._status() in (None, 0, 255)

    def _status(self, patience: float = LAST_WORDS_S) -> int | None:
        """Return its exit status, if it is about to end; negative for a signal.

        It is not reaped: until `close` has ended what it started, its number must not go to
        another process.
        """
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(patience)
            return None
        deadline = time.monotonic() + patience
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while (ended := os.waitid(os.P_PID, self._process.pid, look)) is None:
            if time.monotonic() > deadline:
                return None
            time.sleep(0.01)
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def close(self) -> None:
        """End the command and everything it started, and reap it."""
        if self._process.returncode is None:
            self._signal(signal.SIGTERM)
            self._status(0.5)
            self._signal(signal.SIGKILL)
            self._process.wait()
        self._stderr.close()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


class _Printed:
    """What comes from a pipe: passed on to our standard error, its beginning kept.

    The service thread reads it: a command that prints much must not wait for anybody.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._kept = b""
        self._over = threading.Event()
        os.set_blocking(fd, False)
        self._service = reactor.get()
        self._service.post(self._service.watch, fd, READ, self._read)

    def words(self, timeout: float) -> str:
        """Return what has come, on one line; wait a while for the end."""
        self._over.wait(timeout)
        return said(self._kept)

    def close(self) -> None:
        """Read what is left and no more. Idempotent."""
        self._service.post(self._end)
        if not self._service.inside():
            self._over.wait(LAST_WORDS_S)

    def _read(self) -> None:
        while not self._over.is_set():
            try:
                data = os.read(self._fd, select.PIPE_BUF)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if len(self._kept) < MOST_KEPT:
                self._kept += data
            if data:
                _pass_on(data)
            else:
                self._close()

    def _end(self) -> None:
        self._read()
        self._close()

    def _close(self) -> None:
        if not self._over.is_set():
            self._service.forget(self._fd)
            os.close(self._fd)
            self._over.set()


def _pass_on(data: bytes) -> None:
    """Write to our standard error what goes there without waiting: a pipe's buffer at most."""
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:  # poll knows no terminals on macOS
            os.write(2, data)
