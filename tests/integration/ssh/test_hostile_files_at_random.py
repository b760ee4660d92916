"""Trees and answers that chance makes: nothing leads out of the target, and every call ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import struct
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings, strategies as st

from parallel_exec.environments.ssh import sftp_packets, upload
from parallel_exec.errors import (
    ConnectionLostError,
    FileTransferError,
    HostError,
    TaskTimeoutError,
)
from tests.integration.ssh.hostile import Serve, Session
from tests.integration.ssh.hostile_sftp import Files, Node, answer, file, folder, link, special

ODD = [b"..", b".", b"", b"../outside/x", b"/x", b"a/b", b"a\0b", b"\n\x1b[2J", b"\xff", b"x" * 300]
FEW = [b"a", b"b", b"c", b"s"]
NAMES = st.sampled_from(FEW * 4 + ODD) | st.binary(max_size=3)
BITS = st.sampled_from([0o644, 0o600, 0o755, 0o6777, 0o7777, 0o4000, 0]) | st.integers(0, 0o7777)
LEADS = [b"{outside}", b"{outside}/secret", b"..", b"../outside", b"../../outside/secret", b"a"]
LEAVES = (
    st.builds(
        file,
        st.binary(max_size=50),
        BITS,
        size=st.none() | st.sampled_from([0, 1, 10_000_000, 2**64 - 1]),
    )
    | st.builds(link, st.sampled_from([*LEADS, b"", b"x\0y", b"x" * 5000]))
    | st.builds(special, st.sampled_from([stat.S_IFIFO, stat.S_IFBLK, 0]))
)


def _folders(below: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    entries = st.lists(st.tuples(NAMES, below), max_size=6)
    return st.builds(lambda some, mode: folder(*some, mode=mode), entries, BITS)


NODES = st.recursive(LEAVES, _folders, max_leaves=15)
AT_RANDOM = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Liar(Files):
    """Says that a source is one thing, and serves another; its links lead to `outside`."""

    def __init__(self) -> None:
        super().__init__({})
        self.said: Node | None = None
        self.outside = b""

    def find(self, path: bytes, kind: int = 0) -> Node | None:
        """Return what a path names."""
        return self.said if kind == 0 and self.said else super().find(path, kind)

    def answers(self, session: Session, kind: int, number: int, *rest: Any) -> Iterable[bytes]:
        """Answer."""
        if kind == sftp_packets.READLINK:
            node = super().find(rest[0], stat.S_IFLNK)
            target = b"" if node is None else node.data.replace(b"{outside}", self.outside)
            body = struct.pack(">I", 1) + sftp_packets.packed(target) + bytes(8)
            return [answer(sftp_packets.NAME, number, body)]
        return super().answers(session, kind, number, *rest)


@contextlib.contextmanager
def ours(*also: type[Exception]) -> Iterator[None]:
    """Let pass the errors that a transfer may end in: no other, and shown on one line."""
    expected: tuple[type[Exception], ...] = (
        *(FileTransferError, HostError, ConnectionLostError),
        *also,
    )
    try:
        yield
    except expected as error:
        if not str(error).isprintable():
            raise AssertionError(str(error)) from error


class World:
    """A target with links in it, and what is around it."""

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="px-random-"))
        self.target = self.base / "target"
        self.outside = self.base / "outside"
        for place in (self.target / "s", self.outside / "a"):
            place.mkdir(parents=True)
        (self.outside / "secret").write_text("mine")
        (self.outside / "secret").chmod(0o4711)
        (self.target / "a").symlink_to(self.outside)
        (self.target / "s" / "a").symlink_to("../../outside/a")
        (self.target / "s" / "b").symlink_to(self.outside / "secret")
        (self.target / "c").write_text("old")
        (self.target / "c").chmod(0o6600)
        (self.target / "c").chmod(0o600)
        self.before = self.around()

    def around(self) -> dict[str, tuple[Any, ...]]:
        """Return all that is not the target: modes, kinds and content."""
        return {
            str(path): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
            for path in [self.base, *self.base.rglob("*")]
            if not path.is_relative_to(self.target)
        }

    def check(self) -> None:
        """Fail if anything has come out of the target, or a bit or part has come into it."""
        assert self.around() == self.before
        for place, below, names in os.walk(os.fsencode(self.target)):
            for name in [*below, *names]:
                mode = os.lstat(os.path.join(place, name)).st_mode
                assert stat.S_ISLNK(mode) or mode & 0o7000 == 0, (place, name)
                assert not name.endswith(b".part"), (place, name)

    def close(self) -> None:
        """Remove it, whatever modes it has."""
        for place, below, _ in os.walk(self.base):
            for name in below:
                if not os.path.islink(os.path.join(place, name)):
                    os.chmod(os.path.join(place, name), 0o700)
        shutil.rmtree(self.base)


def test_no_tree_leads_out_of_its_target(hostile: Serve) -> None:
    """Whatever it lists, whatever it says the source is, and whatever is in the target."""
    behaviour = Liar()
    host = hostile(behaviour).host()

    @AT_RANDOM
    @given(
        NODES,
        st.none() | NODES,
        st.sampled_from(["d", "d/"]),
        st.sampled_from(["", "/", "/d", "/d/", "/s", "/c"]),
        st.booleans(),
        st.sampled_from([1, 2, 100]),
    )
    def get(
        tree: Node, said: Node | None, source: str, target: str, preserve: bool, piece: int
    ) -> None:
        world = World()
        behaviour.files, behaviour.said, behaviour.piece = {b"d": tree}, said, piece
        behaviour.outside = bytes(world.outside)
        try:
            with ours():
                host.get(source, f"{world.target}{target}", preserve=preserve, timeout=20)
        finally:
            world.check()
            world.close()

    get()


class Sick(Liar):
    """Answers the questions that it is told to in the ways that it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.ways: dict[int, tuple[str, bytes]] = {}
        self.count = 0

    def answers(self, session: Session, kind: int, number: int, *rest: Any) -> Iterator[bytes]:
        """Answer."""
        way, data = self.ways.get(self.count, ("well", b""))
        self.count += 1
        said = b"".join(super().answers(session, kind, number, *rest))
        if way == "well":
            yield said
        elif way == "noise":
            yield data
        elif way == "after noise":
            yield said + data
        elif way == "cut":
            yield said[: len(data)]
        elif way == "twice":
            yield said + said
        elif way == "other":
            yield answer(100 + len(data) % 8, number, data)
        elif way == "kind":
            yield said[:4] + bytes([100 + len(data) % 8]) + said[5:]
        elif way == "inside":
            yield said[:9] + data + said[9 + len(data) :]
        elif way == "end":
            session.channel.close()
        # else it is silent


WAYS = ["noise", "after noise", "cut", "twice", "other", "kind", "inside", "end", "silence"]


def test_no_answers_keep_a_call(hostile: Serve, monkeypatch: Any) -> None:
    """Noise, halves, answers to other questions and none: an error of ours, in time."""
    monkeypatch.setattr(upload, "CLEANING_S", 0.1)
    behaviour = Sick()
    host = hostile(behaviour).host()
    tree = folder((b"a", file(b"x" * 150_000)), (b"s", folder((b"b", link(b"a")))))

    @settings(AT_RANDOM, max_examples=30)
    @given(
        st.dictionaries(
            st.integers(0, 16),
            st.tuples(st.sampled_from(WAYS), st.binary(max_size=40)),
            min_size=1,
            max_size=2,
        ),
        st.booleans(),
    )
    def copy(ways: dict[int, tuple[str, bytes]], back: bool) -> None:
        world = World()
        behaviour.files, behaviour.ways, behaviour.count = {b"d": tree}, ways, 0
        try:
            with ours(TaskTimeoutError):
                if back:
                    host.put(world.outside, "d", timeout=0.3)
                else:
                    host.get("d", world.target, timeout=0.3)
        finally:
            world.check()
            world.close()

    copy()
