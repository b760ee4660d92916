"""Packets of a connection: how they are read and written, and what is too much.

What comes is not trusted, whether or not keys have been exchanged:

- A length that is announced is checked before anything is waited for, in every mode.
- Memory is taken as bytes come, and not because a length says that they will.
- A message that ends before what it promises is an error, and not filled up with zeros: a
  count of four billion in twelve bytes would be counted.

Packets are read from a buffer and written together where they go together.
"""

from __future__ import annotations

import contextlib
import io
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from parallel_exec.environments.ssh.border import common, packet, paramiko
from parallel_exec.environments.ssh.words import said
from parallel_exec.text import SAID, plain

__all__ = ["LONGEST_EXCHANGE", "LONGEST_PACKET", "BrokenError", "Message", "Packetizer"]

LONGEST_PACKET = 1 << 20  # more is an attack, or no SSH
LONGEST_EXCHANGE = 35_000  # of an exchange of keys, and of all before its end (RFC 4253, 6.1)
BLOCK = 16  # AES
LONGEST_LINE = 65536  # before and in the banner
SAID_LINES = 5  # that are kept of what comes before it
MOST_ROOM = 512 << 10
FIRST_ROOM = 4096
LEAST_ROOM = 512  # what an idle connection waits with

EXCHANGE = range(20, 50)  # RFC 4250, 4.1.2
DATA = (common.MSG_CHANNEL_DATA, common.MSG_CHANNEL_EXTENDED_DATA)


class BrokenError(Exception):
    """The connection is gone; `str` says why."""

    def __init__(self, why: str) -> None:
        super().__init__(plain(why, SAID))


class Message(paramiko.Message):  # type: ignore[misc]
    """A message that is read as it was sent: what is not there is an error.

    One that is sent may have a secret in it, and frames hold it: its repr shows nothing.
    """

    def __repr__(self) -> str:
        return "<Message>"

    def get_bytes(self, n: int) -> bytes:
        """Return the next `n` bytes.

        Raises:
            SSHException: There are fewer.
        """
        data: bytes = self.packet.read(n)
        if len(data) != n:
            raise paramiko.SSHException("a message that ends early")
        return data

    def get_text(self) -> str:
        """Return the next string; what is not UTF-8 breaks nothing."""
        text: bytes = self.get_string()
        return text.decode("utf-8", "replace")


class Packetizer(packet.Packetizer):  # type: ignore[misc]
    """Reads through a buffer, writes together, and asks nobody for the time."""

    # paramiko's own, under the names that Python makes of them.
    _Packetizer__block_engine_in: Any
    _Packetizer__iv_in: bytes
    _Packetizer__sequence_number_in: int

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self._sock = sock
        self._buffer = bytearray()  # what came and was not read: from _start to _end
        self._start = self._end = 0
        self._room = FIRST_ROOM
        self._lines: list[bytes] = []  # that came before the version
        self._together: list[bytes] | None = None
        self.heard_at = time.monotonic()
        self.quiet: Callable[[], object] = lambda: None
        self.before_waiting: Callable[[], object] = lambda: None
        self.gives_up: Callable[[float], bool] = lambda began: False

    def start_handshake(self, timeout: float) -> None:
        """Start no timer thread: who waits for the handshake has a deadline."""

    def complete_handshake(self) -> None:
        pass

    def close(self) -> None:
        # Shut down, which wakes the thread that sits in recv; that thread closes. If it was
        # done here, its number could go to another socket before that thread has woken up,
        # and it would wait there.
        self._Packetizer__closed = True
        with contextlib.suppress(OSError, EOFError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """Close without a word to the far side: a fork's parent still uses the line."""
        self._Packetizer__closed = True
        with contextlib.suppress(OSError):
            self._sock.close()

    def readline(self, timeout: float) -> str:
        deadline = time.monotonic() + timeout
        while True:
            end = self._buffer.find(b"\n", self._start, self._end)
            if end >= 0:
                line = self._buffer[self._start : end]
                self._start = end + 1
                if len(self._lines) < SAID_LINES and not line.startswith(b"SSH-"):
                    self._lines.append(bytes(line[:SAID]))
                return line.rstrip(b"\r").decode("utf-8", "replace")
            if self._end - self._start > LONGEST_LINE:
                raise BrokenError("it talks, but not SSH")
            if not self._receive(0) and time.monotonic() > deadline:
                raise TimeoutError

    def said(self) -> str:
        """Return what came instead of a version of SSH, on one line; "" if nothing did."""
        last = bytes(self._buffer[self._start : self._end][:SAID])
        return said(b" ".join([*self._lines, last]))

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        """Return `n` bytes. All of paramiko's ways to read a packet come by here."""
        # With encryption that is not checked before it is undone, the length may be anything.
        self._check(n)
        self._wait_for(n, check_rekey)
        start = self._start
        self._start = start + n
        return bytes(self._buffer[start : start + n])

    def _check(self, size: int) -> None:
        """Refuse a length that no honest packet has."""
        exchanged = self._Packetizer__block_engine_in is not None
        if not 0 <= size <= (LONGEST_PACKET if exchanged else LONGEST_EXCHANGE):
            raise paramiko.SSHException(f"a packet of {size} bytes")

    def read_message(self) -> tuple[int, Any]:
        """Return the type of the next message, and the message."""
        kind, message, size = self._read_sealed() if self._Packetizer__aead_in else self._read()
        # Large numbers take long to be read and to be reckoned with.
        if kind in EXCHANGE and size > LONGEST_EXCHANGE:
            raise paramiko.SSHException(f"a packet of {size} bytes in an exchange of keys")
        if kind not in common.MSG_NAMES:
            raise paramiko.SSHException(f"a message of the unknown type {kind}")
        return kind, message

    def _read(self) -> tuple[int, Message, int]:
        try:
            kind, read = super().read_message()
        except (IndexError, ValueError, struct.error) as error:
            raise paramiko.SSHException("a packet that cannot be read") from error
        message = Message(read.asbytes())
        message.seqno = read.seqno
        return kind, message, len(read.asbytes())

    def _read_sealed(self) -> tuple[int, Message, int]:
        """Read as paramiko does, but decrypt from where it was received: that saves copies."""
        self._wait_for(4, True)
        size = int.from_bytes(self._buffer[self._start : self._start + 4], "big")
        self._check(size)
        if size % BLOCK or not size:
            raise paramiko.SSHException(f"a packet of {size} bytes")
        whole = 4 + size + self._Packetizer__mac_size_in
        self._wait_for(whole, False)
        view = memoryview(self._buffer)[self._start : self._start + whole]
        self._start += whole
        iv = self._Packetizer__iv_in
        plain = self._Packetizer__block_engine_in.decrypt(iv, view[4:], view[:4])
        self._Packetizer__iv_in = self._inc_iv_counter(iv)
        if plain[0] > size - 2:
            raise paramiko.SSHException("a packet of padding")
        kind = plain[1]
        if kind in DATA:  # what takes it knows its length: the padding may stay
            message = Message()
            message.packet = io.BytesIO(plain)
            message.packet.seek(2)
        else:
            message = Message(plain[2 : size - plain[0]])
        message.seqno = self._Packetizer__sequence_number_in
        self._Packetizer__sequence_number_in = (message.seqno + 1) & common.xffffffff
        self._Packetizer__received_packets += 1
        self._Packetizer__received_bytes += whole
        if (
            self._Packetizer__received_bytes >= self.REKEY_BYTES
            or self._Packetizer__received_packets >= self.REKEY_PACKETS
        ):
            if self._Packetizer__received_bytes >= 2 * self.REKEY_BYTES:
                raise paramiko.SSHException("it was asked for new keys and gave none")
            self._trigger_rekey()
        return kind, message, size

    def _wait_for(self, n: int, may_rekey: bool) -> None:
        """Have `n` bytes in the buffer."""
        while self._end - self._start < n:
            if not self._receive(n):
                if may_rekey and self._start == self._end and self.need_rekey():
                    raise packet.NeedRekeyException
                self.quiet()

    def _receive(self, n: int) -> bool:
        """Receive more, into a buffer for `n` bytes; False if nothing came for a while."""
        self.before_waiting()
        have = self._end - self._start
        # As much as has come may be had once more, not as much as is announced.
        room = max(self._room, have + 1, min(n, 2 * have))
        if len(self._buffer) < room or (len(self._buffer) > room and not have):
            old, self._buffer = self._buffer, bytearray(room)
            self._buffer[:have] = memoryview(old)[self._start : self._end]
        elif self._start:
            self._buffer[:have] = self._buffer[self._start : self._end]
        self._start, self._end = 0, have
        try:
            size = self._sock.recv_into(memoryview(self._buffer)[have:])
        except (TimeoutError, BlockingIOError):
            if self.closed:
                raise EOFError from None
            self._room = LEAST_ROOM
            if not have:
                self._buffer = bytearray()
            return False
        except OSError:
            if self.closed:
                raise EOFError from None
            raise
        if not size:
            raise EOFError
        self._end += size
        self.heard_at = time.monotonic()
        # There is only much room where much comes: idle connections stay small.
        if self._end == len(self._buffer):
            self._room = min(MOST_ROOM, self._room * 4)
        elif size < self._room // 8:
            self._room = max(LEAST_ROOM, self._room // 2)
        return True

    def write_all(self, out: bytes) -> None:
        if self._together is not None:
            self._together.append(out)
            return
        view = memoryview(out)
        began = time.monotonic()
        while True:
            try:
                sent = self._sock.send(view)
            except (TimeoutError, BlockingIOError):
                sent = 0
            except Exception as error:
                raise EOFError(str(error)) from error
            if sent == len(view):
                return
            # Also where a little goes each time: it may be on purpose.
            if self.closed or self.gives_up(began):
                raise EOFError
            view = view[sent:]

    @contextlib.contextmanager
    def together(self) -> Any:
        """Write everything that is sent meanwhile at once, when it is over."""
        with self._Packetizer__write_lock:
            parts: list[bytes] = []
            self._together = parts
            try:
                yield
            finally:
                self._together = None
            self.write_all(b"".join(parts))
