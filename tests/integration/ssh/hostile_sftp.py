"""A host whose files are made up: names, kinds, modes and answers that no honest one has.

def test_it(hostile: Serve, tmp_path: Path) -> None:
    tree = folder((b"../x", file(b"evil")))
    hostile(Files({b"d": tree})).host().get("d", tmp_path / "d")
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from parallel_exec.environments.ssh import sftp_packets as sftp
from parallel_exec.environments.ssh.sftp_packets import Attributes, Reader, packed
from tests.integration.ssh.hostile import Honest, Session


@dataclass(frozen=True)
class Node:
    """What stands under a name.

    Attributes:
        mode: Kind and bits, as it is said in listings; None says neither.
        data: A file's bytes; where a link leads.
        entries: What a directory lists, in order.
        size: The size that is said, if it is not the true one.
    """

    mode: int | None
    data: bytes = b""
    entries: tuple[tuple[bytes, Node], ...] = ()
    size: int | None = None


def file(data: bytes = b"evil", mode: int = 0o644, *, size: int | None = None) -> Node:
    """Return a file."""
    return Node(stat.S_IFREG | mode, data, size=size)


def folder(*entries: tuple[bytes, Node], mode: int = 0o755) -> Node:
    """Return a directory."""
    return Node(stat.S_IFDIR | mode, entries=entries)


def link(target: bytes) -> Node:
    """Return a link."""
    return Node(stat.S_IFLNK | 0o777, target)


def special(kind: int = stat.S_IFIFO) -> Node:
    """Return a pipe, a device or a socket."""
    return Node(kind | 0o644)


def attributes(node: Node) -> bytes:
    """Return what is said about a node."""
    flags, rest = 0, b""
    if node.mode is None or not stat.S_ISDIR(node.mode):
        flags |= sftp.HAS_SIZE
        rest += struct.pack(">Q", len(node.data) if node.size is None else node.size)
    known = Attributes(mode=node.mode, accessed=1_000_000_000, modified=1_100_000_000).packed()
    return struct.pack(">I", flags | struct.unpack_from(">I", known)[0]) + rest + known[4:]


def entry(name: bytes, node: Node) -> bytes:
    """Return an entry of a listing."""
    return packed(name) + packed(b"") + attributes(node)


def answer(kind: int, number: int, body: bytes) -> bytes:
    """Return an answer."""
    return struct.pack(">IBI", 5 + len(body), kind, number) + body


def status(number: int, code: int, text: bytes = b"") -> bytes:
    """Return the answer that says how it went."""
    return answer(sftp.STATUS, number, struct.pack(">I", code) + packed(text) + packed(b""))


class Files(Honest):
    """A host with an SFTP server that has these files, each by its path.

    Attributes:
        asked: The questions of all clients, in order: kind and first string.
        piece: How many entries an answer has.
    """

    extensions: Sequence[tuple[bytes, bytes]] = ((b"posix-rename@openssh.com", b"1"),)
    piece = 100

    def __init__(self, files: dict[bytes, Node]) -> None:
        self.files = files
        self.asked: list[tuple[int, bytes]] = []

    def subsystem(self, session: Session) -> None:
        """Answer one client."""
        handles: dict[bytes, tuple[bytes, Iterator[bytes]]] = {}
        for kind, body in self._questions(session):
            if kind == sftp.INIT:
                known = b"".join(packed(name) + packed(value) for name, value in self.extensions)
                session.out(struct.pack(">IBI", 5 + len(known), sftp.VERSION, 3) + known)
                continue
            reader = Reader(body)
            number, what = reader.number(), reader.string()
            self.asked.append((kind, what))
            for said in self.answers(session, kind, number, what, reader, handles):
                session.out(said)

    def answers(
        self,
        session: Session,
        kind: int,
        number: int,
        what: bytes,
        reader: Reader,
        handles: dict[bytes, tuple[bytes, Iterator[bytes]]],
    ) -> Iterable[bytes]:
        """Return what is said to one question: answers in bytes."""
        if kind in (sftp.STAT, sftp.LSTAT):
            node = self.find(what)
            if node is None:
                return [status(number, sftp.NO_SUCH_FILE)]
            return [answer(sftp.ATTRS, number, attributes(node))]
        if kind in (sftp.OPEN, sftp.OPENDIR):
            name = b"%d" % number
            handles[name] = (what, self.pieces(what))
            return [answer(sftp.HANDLE, number, packed(name))]
        if kind == sftp.READDIR:
            piece = next(handles[what][1], None)
            return [status(number, sftp.EOF) if piece is None else answer(sftp.NAME, number, piece)]
        if kind == sftp.READ:
            data = self.read(handles[what][0], reader.large_number(), reader.number())
            if not data:
                return [status(number, sftp.EOF)]
            return [answer(sftp.DATA, number, packed(data))]
        if kind == sftp.READLINK:
            node = self.find(what, stat.S_IFLNK)
            target = b"" if node is None else node.data
            return [answer(sftp.NAME, number, struct.pack(">I", 1) + entry(target, Node(None)))]
        return [status(number, sftp.OK)]

    def find(self, path: bytes, kind: int = 0) -> Node | None:
        """Return what a path names; of two by the same name one of this kind, if there is."""
        found = [node for name, node in self.files.items() if name == path]
        path = path.rstrip(b"/") or path
        found += [node for name, node in self.files.items() if name == path]
        for name, node in self.files.items():
            if path.startswith(name + b"/"):
                found += _below(node, path[len(name) + 1 :])
        found.sort(key=lambda node: stat.S_IFMT(node.mode or 0) != kind)
        return found[0] if found else None

    def pieces(self, path: bytes) -> Iterator[bytes]:
        """Yield the answers that list a directory."""
        node = self.find(path, stat.S_IFDIR)
        entries = node.entries if node is not None else ()
        for start in range(0, len(entries), self.piece):
            some = entries[start : start + self.piece]
            yield struct.pack(">I", len(some)) + b"".join(entry(*each) for each in some)

    def read(self, path: bytes, offset: int, size: int) -> bytes:
        """Return bytes of a file."""
        node = self.find(path, stat.S_IFREG)
        return b"" if node is None else node.data[offset : offset + size]

    def _questions(self, session: Session) -> Iterator[tuple[int, bytes]]:
        data = b""
        while True:
            while len(data) < 4 or len(data) < 4 + (size := struct.unpack_from(">I", data)[0]):
                more = session.channel.recv(65536)
                if not more:
                    return
                data += more
            yield data[4], data[5 : 4 + size]
            data = data[4 + size :]


def _below(node: Node, path: bytes) -> list[Node]:
    """Return what a path names in a directory; names may have a slash in them here."""
    found = []
    for name, child in node.entries:
        if path == name:
            found.append(child)
        elif path.startswith(name + b"/"):
            found += _below(child, path[len(name) + 1 :])
    return found
