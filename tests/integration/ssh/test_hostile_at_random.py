"""A host that does what chance says: every call returns, with an outcome, and leaves nothing."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import parallel_exec as px
from parallel_exec.environments.ssh import ending, running
from parallel_exec.environments.ssh.border import common, paramiko
from parallel_exec.errors import ParallelExecError
from tests.integration.ssh.hostile import Honest, Line, Serve, Session, packet_in_clear

BACK_WITHIN_S = 60  # no measure of speed: whoever is kept is kept for ever
MEMORY = 64 << 20
Step = Callable[[Session], object]

KINDS = sorted(common.MSG_NAMES)
numbers = st.sampled_from([0, 1, 2, 255, 256, 1 << 20, 1 << 24, (1 << 31) - 1, (1 << 32) - 1])
texts = st.sampled_from(
    [
        b"",
        b"x",
        b"exit-status",
        b"exit-signal",
        b"TERM",
        b"session",
        b"x11",
        b"forwarded-tcpip",
        b"keepalive@openssh.com",
        b"\xff\xfe",
        b"\x1b[2J",
        b"A" * 3000,
        b"PX0123456789abcdef ok\n",
    ]
)
# A field of a message: as it is defined, or bytes of any kind in its place.
fields = st.one_of(
    numbers.map(lambda n: n.to_bytes(4, "big")),
    texts.map(lambda text: len(text).to_bytes(4, "big") + text),
    st.booleans().map(lambda b: bytes([b])),
    numbers.map(lambda n: n.to_bytes(4, "big") + b"short"),
    st.binary(max_size=40),
)
bodies = st.lists(fields, max_size=6).map(b"".join)


def _message(kind: int, body: bytes) -> Step:
    def send(session: Session) -> None:
        made = paramiko.Message()
        made.add_bytes(bytes([kind]) + body)
        if not session.transport.is_active():
            raise EOFError
        session.transport._send_message(made)

    return send


def _on_the_channel(kind: int, body: bytes) -> Step:
    def send(session: Session) -> None:
        number = session.channel.remote_chanid.to_bytes(4, "big")
        _message(kind, number + body)(session)

    return send


def _many(step: Step, times: int) -> Step:
    def send(session: Session) -> None:
        for _ in range(times):
            step(session)

    return send


def _rekey(session: Session) -> None:
    session.transport.renegotiate_keys()


def _half_a_rekey(session: Session) -> None:
    session.transport._send_kex_init()


channel_kinds = st.sampled_from(sorted(k for k in KINDS if k >= common.MSG_CHANNEL_OPEN_SUCCESS))
messages = st.one_of(
    st.builds(_message, st.sampled_from(KINDS) | st.integers(0, 255), bodies),
    st.builds(_on_the_channel, channel_kinds, bodies),
    # A count, and fewer of what is counted.
    st.builds(_message, st.just(common.MSG_EXT_INFO), numbers.map(lambda n: n.to_bytes(4, "big"))),
)
steps: st.SearchStrategy[Step] = st.one_of(
    messages,
    messages,
    st.builds(_many, messages, st.sampled_from([30, 300])),
    st.just(Session.begin),
    st.just(Session.answer),
    texts.map(lambda text: lambda session: session.begin(text)),
    texts.map(lambda text: lambda session: session.out(text)),
    texts.map(lambda text: lambda session: session.err(text)),
    st.just(lambda session: session.out(b"x" * 300_000)),
    numbers.map(lambda n: lambda session: session.request("exit-status", n)),
    texts.map(lambda text: lambda session: session.request("exit-signal", text, False, "", "")),
    st.just(_rekey),
    st.just(_half_a_rekey),
    st.just(Session.deaf),
    st.binary(min_size=1, max_size=100).map(lambda data: lambda s: s.send_raw(data)),
    st.just(lambda session: session.channel.close()),
    st.just(Session.wait),
)


class Random(Honest):
    """Does these steps at its first command, and is honest to what comes after it."""

    window = 1 << 24
    room = 4096

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps

    def command(self, session: Session) -> None:
        """Do them."""
        if len(session.server.lines) > 1:
            return session.answer()
        for step in self._steps:
            step(session)
        return session.wait()


class Babbles(Honest):
    """Says these things before keys are exchanged, and waits."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._parts = parts

    def raw(self, line: Line) -> bool:
        """Say them."""
        for part in self._parts:
            line.send(part)
        line.wait()
        return True


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Endings that take half a second, and shells that get as much to begin."""
    monkeypatch.setattr(ending, "LIMIT_S", 0.5)
    monkeypatch.setattr(running, "SHELL_S", 0.5)


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Fail if more than `MEMORY` is held at any time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


def ends(host: px.SSH, **options: Any) -> bool:
    """Run a command to its end, whatever that is; return whether it has succeeded."""
    threads = ThreadPoolExecutor(1)
    try:
        call = threads.submit(host.run, "cat", check=False, **options)
        error = call.exception(BACK_WITHIN_S)
        if error is None:
            return call.result().ok
        assert isinstance(error, ParallelExecError)
        assert "\x1b" not in str(error)
        assert len(str(error)) < 5000
        return False
    finally:
        threads.shutdown(wait=False)


bounded = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.usefixtures("_short")
@bounded
@given(st.lists(steps, max_size=6), st.sampled_from([0, 10, 1 << 20, 1 << 24]))
def test_a_host_that_does_anything(hostile: Serve, program: list[Step], size: int) -> None:
    """The call is back, holds little, and the next one goes to an honest host."""
    server = hostile(Random(program))
    with bounded_memory():
        host = server.host(connect_timeout=1, keepalive=0.2)
        ends(host, timeout=0.3, kill_after=0.1, input=b"x" * size)
        server.lines.append(b"")  # also if the first never came to be asked
        assert ends(host, timeout=30)
        server.close()


clear = st.builds(
    lambda kind, body: packet_in_clear(bytes([kind]) + body),
    st.sampled_from(KINDS) | st.integers(0, 255),
    bodies,
)
babble = st.one_of(
    st.sampled_from(
        [b"SSH-2.0-OpenSSH_9.9\r\n", b"SSH-2.0-x\n", b"SSH-1.5-x\n", b"HTTP/1.1 400\r\n"]
    ),
    clear,
    st.binary(max_size=100),
    st.just(b"\n" * 200),
    st.just(b"x" * 70_000),
)


@bounded
@given(st.lists(babble, max_size=5), st.booleans())
def test_a_network_that_says_anything(hostile: Serve, parts: list[bytes], begins: bool) -> None:
    """Before the host's key is known, nothing is run and little is held."""
    if begins:
        parts = [b"SSH-2.0-x\r\n", *parts]
    server = hostile(Babbles(parts))
    with bounded_memory():
        assert not ends(server.host(connect_timeout=0.2))
        server.close()
