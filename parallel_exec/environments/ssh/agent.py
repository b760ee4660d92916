"""The user's agent: what keys it holds, and its signatures.

The protocol is that of draft-ietf-sshm-ssh-agent. Every answer has a deadline for all of
it, so an agent that says nothing, or drips bytes, costs no more than it was given.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from dataclasses import dataclass

from parallel_exec.environments import room

__all__ = ["Agent", "AgentError", "Held", "socket_path"]

LIST = 11
LISTED = 12
SIGN = 13
SIGNED = 14
LONGEST_ANSWER = 256 << 10  # as OpenSSH's AGENT_MAX_LEN
MOST_KEYS = 2048  # as OpenSSH's MAX_AGENT_IDENTITIES
BUSY_S = 0.02  # between two attempts to connect to an agent with a full queue
RSA_FLAGS = {"rsa-sha2-256": 2, "rsa-sha2-512": 4}


class AgentError(Exception):
    """It cannot be asked, or does not do what it was asked for; `str` names it."""


@dataclass(frozen=True, slots=True)
class Held:
    """A public key, or a certificate, whose private half the agent holds."""

    blob: bytes
    comment: str


class Agent:
    """A connection to the agent, for one login: two cannot share one.

    Args:
        path: Its socket.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._sock: socket.socket | None = None
        self._mute: AgentError | None = None

    def keys(self, timeout: float) -> list[Held]:
        """Return what it holds.

        Raises:
            AgentError: It cannot be asked, or did not answer within `timeout` seconds.
        """
        kind, body = self._ask(bytes([LIST]), timeout, "did not answer")
        if kind != LISTED:
            raise self._error("does not say what keys it holds")
        fields = _Fields(body)
        try:
            count = fields.number()
            if count > MOST_KEYS:
                raise self._error(f"says that it holds {count} keys")
            return [
                Held(fields.text(), fields.text().decode("utf-8", "replace")) for _ in range(count)
            ]
        except struct.error:
            raise self._error("gave a broken answer") from None

    def sign(self, blob: bytes, data: bytes, algorithm: str, timeout: float) -> bytes:
        """Return the signature of `data` by a key that it holds.

        Raises:
            AgentError: It refused, or did not answer within `timeout` seconds.
        """
        flags = RSA_FLAGS.get(algorithm, 0)
        request = bytes([SIGN]) + _text(blob) + _text(data) + struct.pack(">I", flags)
        kind, body = self._ask(request, timeout, "did not sign")
        if kind != SIGNED:
            raise self._error("refused to sign")
        try:
            return _Fields(body).text()
        except struct.error:
            raise self._error("gave a broken answer") from None

    def close(self) -> None:
        """Close the connection. Idempotent."""
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()

    def _error(self, what: str) -> AgentError:
        return AgentError(f"the agent at {self._path} {what}")

    def _ask(self, request: bytes, timeout: float, failure: str) -> tuple[int, bytes]:
        if self._mute is not None:  # once is enough
            raise self._mute
        deadline = time.monotonic() + timeout
        try:
            if self._sock is None:
                self._sock = self._connect(deadline)
            self._wait_until(deadline)
            self._sock.sendall(_text(request))
            (size,) = struct.unpack(">I", self._receive(4, deadline))
            if not 1 <= size <= LONGEST_ANSWER:
                raise self._error(f"gave an answer of {size} bytes")
            answer = self._receive(size, deadline)
        except TimeoutError:
            self.close()  # what comes late must not be taken for the next answer
            self._mute = self._error(f"{failure} within {timeout:.3g} s")
            raise self._mute from None
        except OSError as error:
            self.close()
            if room.is_shortage(error):
                raise
            raise self._error(f"cannot be asked: {error.strerror or error}") from None
        except AgentError:
            self.close()
            raise
        return answer[0], answer[1:]

    def _connect(self, deadline: float) -> socket.socket:
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.settimeout(max(0.001, deadline - time.monotonic()))
                sock.connect(self._path)
                return sock
            except BlockingIOError:  # many ask at once: its queue is full
                sock.close()
                if time.monotonic() > deadline:
                    raise TimeoutError from None
                time.sleep(BUSY_S)
            except BaseException:
                sock.close()
                raise

    def _wait_until(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        assert self._sock is not None
        self._sock.settimeout(left)

    def _receive(self, size: int, deadline: float) -> bytes:
        received = bytearray()
        assert self._sock is not None
        while len(received) < size:
            self._wait_until(deadline)
            part = self._sock.recv(size - len(received))
            if not part:
                raise self._error("hung up")
            received += part
        return bytes(received)


def socket_path(configured: str | None) -> str:
    """Return the socket of the agent to ask: as configured, else the environment's; "" for none."""
    return os.environ.get("SSH_AUTH_SOCK", "") if configured is None else configured


class _Fields:
    """The fields of an answer, one after the other; `struct.error` once there is none left."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self) -> int:
        (value,) = struct.unpack_from(">I", self._data, self._at)
        self._at += 4
        return int(value)

    def text(self) -> bytes:
        size = self.number()
        part = self._data[self._at : self._at + size]
        if len(part) < size:
            raise struct.error
        self._at += size
        return part


def _text(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data
