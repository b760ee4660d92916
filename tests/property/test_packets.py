"""Packets are read alike however the network cuts them, and as paramiko reads them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_exec.environments.ssh.border import common, packet, paramiko
from parallel_exec.environments.ssh.connection import LONGEST_PACKET, _Packetizer

KEY = bytes(range(16))
IV = bytes(range(12))

kinds = st.sampled_from([bytes([common.MSG_CHANNEL_DATA]), bytes([common.MSG_CHANNEL_REQUEST])])
sizes_of_messages = st.integers(0, 3000) | st.integers(4000, 30_000)
contents = st.lists(st.tuples(kinds, sizes_of_messages), max_size=8)


class Pieces:
    """A socket from which the bytes come in pieces of given sizes, over and over."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._data = memoryview(data)
        self._sizes = itertools.cycle(sizes)
        self.sent = bytearray()

    def recv_into(self, buffer: memoryview) -> int:
        """Give the next piece, as far as it fits."""
        assert len(buffer) > 0
        size = min(next(self._sizes), len(buffer), len(self._data))
        buffer[:size] = self._data[:size]
        self._data = self._data[size:]
        return size

    def send(self, data: bytes) -> int:
        """Take all."""
        self.sent += data
        return len(data)


class Silence:
    """A socket on which nothing comes for its timeout."""

    def recv_into(self, buffer: memoryview) -> int:
        """Give up."""
        raise TimeoutError


def encrypted(messages: list[tuple[bytes, bytes]]) -> bytes:
    """Return messages, each of a type and a string, as paramiko sends them."""
    sock = Pieces(b"", [1])
    sender = packet.Packetizer(sock)
    sender.set_outbound_cipher(AESGCM(KEY), 16, None, 16, None, aead=True, iv_out=IV)
    for kind, payload in messages:
        message = paramiko.Message()
        message.add_byte(kind)
        message.add_string(payload)
        sender.send_message(message)
    return bytes(sock.sent)


def reader(data: bytes, sizes: list[int]) -> Any:
    """Return what reads `data` as it comes in pieces of these sizes."""
    made = _Packetizer(Pieces(data, sizes))
    made.set_inbound_cipher(AESGCM(KEY), 16, None, 16, None, aead=True, iv_in=IV)
    return made


def read(made: Any) -> Iterator[tuple[int, bytes, int]]:
    """Yield type, string and number of each message until the end."""
    while True:
        try:
            kind, message = made.read_message()
        except EOFError:
            return
        yield kind, message.get_binary(), message.seqno


@settings(deadline=None)
@given(contents, st.lists(st.integers(1, 100_000), min_size=1))
def test_every_message_arrives_whole(sent: list[tuple[bytes, int]], sizes: list[int]) -> None:
    """Wherever the stream is cut."""
    messages = [(kind, bytes([n % 256]) * size) for n, (kind, size) in enumerate(sent)]
    got = list(read(reader(encrypted(messages), sizes)))
    assert got == [(kind[0], payload, n) for n, (kind, payload) in enumerate(messages)]


def test_idle_it_holds_little() -> None:
    """Room for much goes when only little comes, and when nothing comes."""
    much = [(b"\x5e", b"x" * 200_000)] * 20
    data = encrypted([*much, *[(b"\x5e", b"x")] * 20])
    made = reader(data[: len(encrypted(much))], [600_000])
    assert len(list(read(made))) == 20
    assert len(made._buffer) > 200_000
    made._sock = Pieces(data[len(encrypted(much)) :], [50])
    assert len(list(read(made))) == 20
    assert len(made._buffer) <= 512
    made._sock = Silence()
    for _ in range(2):
        assert made._receive(4) is False
    assert len(made._buffer) <= 512


def test_a_changed_byte_is_noticed() -> None:
    """Nothing of such a packet is handed on."""
    data = bytearray(encrypted([(b"\x5e", b"hello")]))
    data[10] ^= 1
    with pytest.raises(InvalidTag):
        reader(bytes(data), [1000]).read_message()


def test_a_length_beyond_reason_is_refused() -> None:
    """It is not waited for, and no memory is taken for it."""
    data = (LONGEST_PACKET + 1).to_bytes(4, "big") + bytes(100)
    with pytest.raises(paramiko.SSHException, match="bytes"):
        reader(data, [1000]).read_message()


def test_new_keys_are_asked_for_in_time() -> None:
    """After as many bytes as paramiko allows; who gives none is dropped."""
    made = reader(encrypted([(b"\x5e", b"x" * 1000)] * 10), [1000])
    made.REKEY_BYTES = 3000
    asked = []
    for _ in range(5):
        made.read_message()
        asked.append(made.need_rekey())
    assert asked == [False, False, True, True, True]
    with pytest.raises(paramiko.SSHException, match="new keys"):
        made.read_message()


def test_reading_needs_no_thread() -> None:
    """No timer watches over the handshake."""
    before = threading.active_count()
    reader(b"", [1]).start_handshake(10)
    assert threading.active_count() == before
