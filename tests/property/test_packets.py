"""Packets are read alike however the network cuts them, and as paramiko reads them."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from hypothesis import given, settings, strategies as st

from parallel_exec.environments.ssh.border import common, packet, paramiko
from parallel_exec.environments.ssh.packets import (
    FIRST_ROOM,
    LONGEST_EXCHANGE,
    LONGEST_PACKET,
    Message,
    Packetizer,
)

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


# How packets are told apart from each other: before any keys, and in the ways there are after it.
MODES = ("clear", "mac", "etm", "gcm")


def _set(mode: str, made: Any, *, inbound: bool) -> None:
    """Have `made` read or write in a mode."""
    if mode == "clear":
        return
    end = "in" if inbound else "out"
    set_cipher = made.set_inbound_cipher if inbound else made.set_outbound_cipher
    if mode == "gcm":
        set_cipher(AESGCM(KEY), 16, None, 16, None, aead=True, **{f"iv_{end}": IV})
        return
    cipher = Cipher(AES(KEY), CTR(bytes(16)))
    engine = cipher.decryptor() if inbound else cipher.encryptor()
    set_cipher(engine, 16, hashlib.sha256, 32, KEY, etm=mode == "etm")


def encrypted(messages: list[tuple[bytes, bytes]], mode: str = "gcm") -> bytes:
    """Return messages, each of a type and a string, as paramiko sends them."""
    sock = Pieces(b"", [1])
    sender = packet.Packetizer(sock)
    _set(mode, sender, inbound=False)
    for kind, payload in messages:
        message = paramiko.Message()
        message.add_byte(kind)
        message.add_string(payload)
        sender.send_message(message)
    return bytes(sock.sent)


def reader(data: bytes, sizes: list[int], mode: str = "gcm") -> Any:
    """Return what reads `data` as it comes in pieces of these sizes."""
    made = Packetizer(Pieces(data, sizes))
    _set(mode, made, inbound=True)
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
@given(contents, st.lists(st.integers(1, 100_000), min_size=1), st.sampled_from(MODES))
def test_every_message_arrives_whole(
    sent: list[tuple[bytes, int]], sizes: list[int], mode: str
) -> None:
    """Wherever the stream is cut, and however it is encrypted."""
    messages = [(kind, bytes([n % 256]) * size) for n, (kind, size) in enumerate(sent)]
    got = list(read(reader(encrypted(messages, mode), sizes, mode)))
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


def announced(size: int, mode: str) -> bytes:
    """Return a packet of which only the length has been made, and hundred bytes of the rest."""
    head = size.to_bytes(4, "big") + bytes(12)
    if mode == "mac":  # the one in which the length is encrypted too
        head = Cipher(AES(KEY), CTR(bytes(16))).encryptor().update(head)
    return head + bytes(100)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [0, 1, 3, 1 << 20, (1 << 30) + 4, (1 << 32) - 4])
def test_a_length_beyond_reason_is_refused(mode: str, size: int) -> None:
    """It is not waited for, no memory is taken for it, and nothing is read twice."""
    size += LONGEST_PACKET + 16 if size == 1 << 20 else 0
    made = reader(announced(size, mode), [1000], mode)
    with pytest.raises(paramiko.SSHException):
        made.read_message()
    assert len(made._buffer) <= FIRST_ROOM


def test_before_keys_are_exchanged_packets_are_short() -> None:
    """Whoever answers on the port may be anybody."""
    longest = LONGEST_EXCHANGE // 8 * 8 + 4
    for size in (longest + 8, LONGEST_PACKET + 4):
        with pytest.raises(paramiko.SSHException, match="bytes"):
            reader(announced(size, "clear"), [1000], "clear").read_message()


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(MODES), st.integers(0, 60_000), st.integers(100, 5000))
def test_memory_is_taken_as_bytes_come(mode: str, size: int, piece: int) -> None:
    """Whatever length is announced: never more than double of what has come."""
    data = announced(LONGEST_PACKET // 16 * 16 - 16, mode) + bytes(size)
    made = reader(data, [piece], mode)
    with pytest.raises((EOFError, paramiko.SSHException)):
        made.read_message()
    assert len(made._buffer) <= max(FIRST_ROOM, 4 * len(data))


@pytest.mark.parametrize("mode", MODES[1:])
def test_an_exchange_of_keys_has_no_large_numbers(mode: str) -> None:
    """To read them and to reckon with them takes a time that grows with the square."""
    kind = bytes([31])
    assert list(read(reader(encrypted([(kind, b"x" * 30_000)], mode), [9999], mode)))
    with pytest.raises(paramiko.SSHException, match="exchange of keys"):
        reader(encrypted([(kind, b"x" * 36_000)], mode), [9999], mode).read_message()


@pytest.mark.parametrize("mode", MODES)
def test_a_type_that_ssh_does_not_have_is_an_error(mode: str) -> None:
    """It says which."""
    with pytest.raises(paramiko.SSHException, match="unknown type 250"):
        reader(encrypted([(b"\xfa", b"x")], mode), [9999], mode).read_message()


@pytest.mark.parametrize("plain", [b"\x0f" * 16, b"\xff" * 16, b"\x0e" + b"\x5e" * 15])
def test_a_packet_of_nothing_but_padding_is_refused(plain: bytes) -> None:
    """Padding that is longer than its packet, too; the shortest there is has one byte."""
    length = len(plain).to_bytes(4, "big")
    sealed = length + AESGCM(KEY).encrypt(IV, plain, length)
    if plain[0] == 14:
        assert reader(sealed, [9999]).read_message()[0] == 0x5E
        return
    with pytest.raises(paramiko.SSHException, match="padding"):
        reader(sealed, [9999]).read_message()


@given(st.binary(max_size=40), st.data())
def test_what_a_message_does_not_have_is_an_error(content: bytes, data: st.DataObject) -> None:
    """It is not filled up: a count of four billion things in four bytes is not counted."""
    message = Message(content)
    readers = [message.get_boolean, message.get_int, message.get_binary, message.get_text]

    def read_on() -> None:
        for _ in range(len(content) + 1):
            data.draw(st.sampled_from(readers))()

    with pytest.raises(paramiko.SSHException, match="ends early"):
        read_on()


def test_text_that_is_not_utf_8_breaks_nothing() -> None:
    """What a host calls a signal is not worth a connection."""
    assert Message(b"\0\0\0\2\xff\xfe").get_text() == "\ufffd\ufffd"


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
