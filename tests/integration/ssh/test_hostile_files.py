"""What a host may say about its files, and what comes of it here."""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.environments.ssh import download, files, sftp_packets, upload
from parallel_exec.environments.ssh.sftp_packets import Reader, packed
from parallel_exec.errors import FileTransferError, HostAnswerError, HostError, TaskTimeoutError
from tests.integration.ssh.hostile import Serve, Session
from tests.integration.ssh.hostile_sftp import (
    Files,
    Node,
    answer,
    attributes,
    entry,
    file,
    folder,
    link,
    special,
    status,
)

KEYS = folder((b"authorized_keys", file(b"ssh-ed25519 AAAA somebody\n")))
HOME = folder((b".ssh", KEYS), (b".bashrc", file(b"a command of theirs\n")))


def names(place: Path) -> list[str]:
    """Return the paths below a folder."""
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home directory with something to protect."""
    made = tmp_path / "home"
    (made / ".ssh").mkdir(parents=True)
    (made / ".ssh" / "authorized_keys").write_text("mine")
    (made / ".bashrc").write_text("mine")
    return made


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_file_that_turns_out_to_be_a_directory_keeps_its_place(
    hostile: Serve, home: Path, slash: str
) -> None:
    """Whatever the host says that a name is, it stays that name in the target."""
    host = hostile(Files({b"report.txt": HOME})).host()
    got = host.get("report.txt", f"{home}{slash}")
    assert got.target == f"{home}/report.txt"
    assert (home / ".ssh" / "authorized_keys").read_text() == "mine"
    assert (home / ".bashrc").read_text() == "mine"
    assert "report.txt/.ssh/authorized_keys" in names(home)


def test_content_that_turns_out_to_be_a_file_is_refused(hostile: Serve, home: Path) -> None:
    """A source that ends in a slash is a directory, or nothing."""
    host = hostile(Files({b"d/": file(), b".": file(), b"..": file()})).host()
    for source in ("d/", ".", ".."):
        with pytest.raises(FileTransferError, match="not a directory"):
            host.get(source, home)
    assert names(home) == [".bashrc", ".ssh", ".ssh/authorized_keys"]


NO_NAMES = [b"../x", b"/tmp/x", b"a/b", b"", b"a\0b", b"../../x", b"x/", b"/"]


def test_names_that_no_file_can_have_are_the_hosts_error(hostile: Serve, tmp_path: Path) -> None:
    """The error shows them escaped; nothing is written for them."""
    behaviour = Files({})
    host = hostile(behaviour).host()
    for name in NO_NAMES:
        for number, what in enumerate((file(), folder((b"x", file())), link(b"x"))):
            behaviour.files = {b"d": folder((name, what))}
            here = tmp_path / f"{name.hex()}-{number}"
            with pytest.raises(HostError, match="a file with the name") as raised:
                host.get("d", here)
            assert isinstance(raised.value, FileTransferError)
            assert str(raised.value).isprintable()
            assert raised.value.environment == host.name
            assert names(here) == []
    assert len(names(tmp_path)) == 3 * len(NO_NAMES)


def test_odd_names_are_exact_in_files_and_escaped_elsewhere(
    hostile: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Line feeds, escapes and bytes that are no text."""
    odd = b"a\nb\x1b[2Jc\xff\xe2\x80\xae'\\"
    tree = {
        b"d": folder((odd, file(b"1")), (b"p" + odd, special()), (b"d" + odd, folder())),
        b"x" + odd: special(),
        b"y": folder((odd, folder((b"/", file())))),
    }
    host = hostile(Files(tree)).host()
    host.get("d", tmp_path / "d")
    assert set(os.listdir(os.fsencode(tmp_path / "d"))) == {odd, b"d" + odd}
    (record,) = [each for each in caplog.records if "not copied" in each.getMessage()]
    assert record.getMessage().isprintable()
    assert r"a\nb\x1b[2Jc\udcff\u202e'\\"[:-1] in record.getMessage()
    for source in (os.fsdecode(b"x" + odd), os.fsdecode(b"no-such" + odd), "y"):
        with pytest.raises(FileTransferError) as raised:
            host.get(source, tmp_path / "z")
        assert str(raised.value).isprintable(), raised.value


def test_what_the_server_says_is_escaped_in_errors(hostile: Serve) -> None:
    """A refusal has a text of the host's, as long as it likes."""

    class Refuses(Files):
        def answers(self, session: Session, kind: int, number: int, *rest: Any) -> Iterable[bytes]:
            return [status(number, 4, b"\x1b]0;owned\x07\n" + b"x" * 30_000)]

    with pytest.raises(FileTransferError) as raised:
        hostile(Refuses({})).host().get("d", io.BytesIO())
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 400


LISTED_TWICE = [
    ((b"a", link(b"{out}")), (b"a", folder((b"x", file())))),
    ((b"a", folder((b"x", file()))), (b"a", link(b"{out}"))),
    ((b"a", link(b"{out}/x")), (b"a", file())),
    ((b"a", file()), (b"a", link(b"{out}/x"))),
]


@pytest.mark.parametrize("piece", [1, 100])
def test_a_name_as_two_things_is_the_hosts_error(
    hostile: Serve, tmp_path: Path, piece: int
) -> None:
    """In one answer or in two: nothing goes where the link leads."""
    outside = tmp_path / "outside"
    outside.mkdir()
    behaviour = Files({})
    behaviour.piece = piece
    host = hostile(behaviour).host()
    for number, entries in enumerate(LISTED_TWICE):
        filled = [
            (name, link(node.data.replace(b"{out}", bytes(outside))) if b"{" in node.data else node)
            for name, node in entries
        ]
        behaviour.files = {b"d": folder(*filled)}
        with pytest.raises(HostAnswerError, match="twice"):
            host.get("d", tmp_path / f"{number}")
    assert names(outside) == []


@pytest.mark.parametrize("target", [b"", b"a\0b"])
def test_a_link_that_leads_nowhere_is_the_hosts_error(
    hostile: Serve, tmp_path: Path, target: bytes
) -> None:
    """The system knows no such link."""
    host = hostile(Files({b"d": folder((b"a", link(target)))})).host()
    with pytest.raises(HostAnswerError, match="d/a is a link to"):
        host.get("d", tmp_path / "d")
    assert names(tmp_path / "d") == []


def test_a_name_twice_as_one_thing_is_copied_once(hostile: Serve, tmp_path: Path) -> None:
    """The system lists a name twice while the directory changes."""
    host = hostile(Files({b"d": folder((b"a", file(b"1")), (b"a", file(b"2")))})).host()
    assert host.get("d", tmp_path / "d").files == 1


def test_links_of_an_earlier_copy_are_replaced_not_followed(hostile: Serve, home: Path) -> None:
    """By a file as by a directory, at the top as below."""
    outside = home / "outside"
    outside.mkdir()
    secret = outside / "secret"
    secret.write_text("mine")
    secret.chmod(0o4755)
    files = {b"d": folder((b"f", link(bytes(secret))), (b"s", link(bytes(outside))))}
    server = hostile(behaviour := Files(files))
    host = server.host()
    host.get("d", home / "d")
    behaviour.files = {
        b"d": folder((b"f", file(b"2")), (b"s", folder((b"x", file()), (b"secret", file())))),
    }
    host.get("d/", home / "d")
    assert not (home / "d" / "f").is_symlink()
    assert stat.S_IMODE((home / "d" / "f").stat().st_mode) == 0o644
    assert not (home / "d" / "s").is_symlink()
    (home / "top").mkdir()
    (home / "top" / "d").symlink_to(outside)
    host.get("d", home / "top")
    assert not (home / "top" / "d").is_symlink()
    assert names(outside) == ["secret"]
    assert secret.read_text() == "mine"


@pytest.mark.parametrize("preserve", [False, True])
def test_no_set_id_and_no_sticky_bit_is_taken_over(
    hostile: Serve, tmp_path: Path, preserve: bool
) -> None:
    """Of a file, of a directory, of what is replaced."""
    tree = folder((b"f", file(mode=0o6777)), (b"s", folder(mode=0o7777)), mode=0o7777)
    host = hostile(Files({b"d": tree, b"f": file(mode=0o7755)})).host()
    (tmp_path / "old").write_text("old")
    (tmp_path / "old").chmod(0o6755)
    host.get("f", tmp_path / "old", preserve=preserve)
    host.get("f", tmp_path / "f", preserve=preserve)
    host.get("d", tmp_path / "d", preserve=preserve)
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o7000 == 0, path


def test_a_directory_that_the_user_named_keeps_its_mode(hostile: Serve, home: Path) -> None:
    """Even with preserve: the host would open the home of the user to all."""
    home.chmod(0o700)
    hostile(Files({b"d/": folder(mode=0o777)})).host().get("d/", home, preserve=True)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_pipes_and_devices_are_refused_at_once(hostile: Serve, tmp_path: Path) -> None:
    """They may have nothing to give for ever; in a directory they are left out."""
    behaviour = Files({})
    host = hostile(behaviour).host()
    for kind in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK):
        behaviour.files = {
            b"p": special(kind),
            b"d": folder((b"p", special(kind)), (b"f", file())),
        }
        for target in (tmp_path / "x", io.BytesIO()):
            with pytest.raises(FileTransferError, match="p: neither a file nor a directory"):
                host.get("p", target)
        assert host.get("d", tmp_path / f"{kind}").files == 1
    opened = [path for asked, path in behaviour.asked if asked == sftp_packets.OPEN]
    assert set(opened) == {b"d/f"}


def test_a_flood_of_special_files_does_not_flood_the_log(
    hostile: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A few are named, the others are counted."""
    many = [(b"%d" % number, special()) for number in range(500)]
    hostile(Files({b"d": folder(*many)})).host().get("d", tmp_path / "d")
    told = [each.getMessage() for each in caplog.records]
    assert len(told) == download.MOST_WARNINGS + 1
    assert f"{500 - download.MOST_WARNINGS} more" in told[-1]


class Sick(Files):
    """Has `d` and `f`, and answers one kind of question in its own way."""

    def __init__(self, kind: int, say: Any) -> None:
        super().__init__({b"d": folder((b"a", file())), b"f": file(b"x" * 100_000)})
        self._kind, self._say = kind, say

    def answers(self, session: Session, kind: int, number: int, *rest: Any) -> Iterable[bytes]:
        """Answer."""
        said = super().answers(session, kind, number, *rest)
        return self._say(number) if kind == self._kind else said


BIG = packed(b"x" * 300_000)
NONSENSE = {
    "unasked": (sftp_packets.STAT, lambda n: [answer(sftp_packets.DATA, n + 7, BIG[:9])]),
    "twice": (sftp_packets.STAT, lambda n: [answer(105, n, attributes(file()))] * 2),
    "flood": (sftp_packets.STAT, lambda n: (answer(103, 9_000 + i, BIG) for i in range(500))),
    "too long": (sftp_packets.STAT, lambda n: [answer(sftp_packets.ATTRS, n, bytes(70_000))]),
    "too short": (sftp_packets.STAT, lambda n: [answer(sftp_packets.ATTRS, n, b"\0\0\0\1\0")]),
    "version again": (sftp_packets.STAT, lambda n: [struct.pack(">IBI", 5, 2, 3)]),
    "no length": (sftp_packets.STAT, lambda n: [bytes(16)]),
    "a gigabyte": (sftp_packets.STAT, lambda n: [struct.pack(">IBI", 1 << 30, 103, n)]),
    "all well": (sftp_packets.STAT, lambda n: [status(n, 0)]),
    "no handle": (sftp_packets.OPEN, lambda n: [status(n, 0)]),
    "other kind": (sftp_packets.OPEN, lambda n: [answer(sftp_packets.NAME, n, bytes(4))]),
    "data all well": (sftp_packets.READ, lambda n: [status(n, 0)]),
    "more data": (sftp_packets.READ, lambda n: [answer(103, n, packed(b"x" * 200_000))]),
    "a little more data": (
        sftp_packets.READ,
        lambda n: [answer(103, n, packed(b"x" * 40_000))],
    ),
    "data cut": (sftp_packets.READ, lambda n: [answer(103, n, b"\0\0\0\x99x")]),
    "names cut": (sftp_packets.READDIR, lambda n: [answer(104, n, b"\0\0\1\0" + packed(b"x"))]),
    "names attributes": (
        sftp_packets.READDIR,
        lambda n: [answer(104, n, b"\0\0\0\1" + packed(b"x") * 2 + b"\x80\0\0\0\xff\xff\xff\xff")],
    ),
    "names long": (sftp_packets.READDIR, lambda n: [answer(104, n, bytes(300_000))]),
    "status cut": (sftp_packets.READDIR, lambda n: [answer(sftp_packets.STATUS, n, b"\0")]),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_answers_match_questions_or_end_the_connection(
    hostile: Serve, tmp_path: Path, case: str
) -> None:
    """An error that says so, nothing kept, and no later call over that connection."""
    server = hostile(Sick(*NONSENSE[case]))
    host = server.host()

    def both() -> None:
        host.get("f", tmp_path / "f")
        host.get("d", tmp_path / "d")

    for _ in range(2):
        with pytest.raises(HostAnswerError):
            both()
    assert server.connections == 2
    assert not [name for name in names(tmp_path) if "part" in name]


def test_a_login_shell_that_talks_is_said_to_be_none(hostile: Serve) -> None:
    """What is no SFTP from the start is not kept either."""

    class Talks(Files):
        def subsystem(self, session: Session) -> None:
            session.out(b"Welcome to web1!\n" * 1000)
            session.wait()

    with pytest.raises(FileTransferError, match="is not SFTP; a start-up file"):
        hostile(Talks({})).host().get("f", io.BytesIO())


class Endless(Files):
    """Lists names without end, and counts them."""

    said = 0

    def __init__(self, name: Any) -> None:
        super().__init__({b"d": folder()})
        self._name = name

    def pieces(self, path: bytes) -> Iterator[bytes]:
        """Yield answers."""
        while True:
            yield struct.pack(">I", 100) + b"".join(
                entry(self._name(self.said + i), folder() if self.said else file(b""))
                for i in range(100)
            )
            self.said += 100


@pytest.mark.parametrize("name", [lambda n: b"same", lambda n: b".", lambda n: b"%d" % n])
def test_a_listing_without_end_comes_to_one(
    hostile: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any
) -> None:
    """Names over names, the same over and over, or none at all."""
    monkeypatch.setattr(download, "MOST_NAMES", 400)
    monkeypatch.setattr(download, "LISTED_AT_ONCE", 10_000)
    endless = Endless(name)
    with pytest.raises(HostAnswerError, match=r"more than 400 names|twice"):
        hostile(endless).host().get("d", tmp_path / "d")
    assert endless.said < 50_000


def test_a_listing_is_copied_piece_by_piece(
    hostile: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it lists is not all kept until its end: files are copied before."""
    monkeypatch.setattr(download, "LISTED_AT_ONCE", 2000)
    behaviour = Files({b"d": folder(*((b"%d" % n, file(b"x")) for n in range(300)))})
    behaviour.piece = 30
    assert hostile(behaviour).host().get("d", tmp_path / "d").files == 300
    kinds = [kind for kind, _ in behaviour.asked]
    first_file = kinds.index(sftp_packets.OPEN)
    assert kinds[:first_file].count(sftp_packets.READDIR) < 5
    assert len(names(tmp_path / "d")) == 300


def test_directories_in_each_other_without_end_come_to_one(hostile: Serve, tmp_path: Path) -> None:
    """As deep as a path can be, no deeper."""

    class Deep(Files):
        def pieces(self, path: bytes) -> Iterator[bytes]:
            yield struct.pack(">I", 1) + entry(b"d" * 200, folder())

        def find(self, path: bytes, kind: int = 0) -> Node | None:
            return folder()

    with pytest.raises(HostAnswerError, match="4096"):
        hostile(Deep({})).host().get("d", tmp_path / "d")


def test_a_long_answer_is_read_in_one_pass() -> None:
    """Each entry is read where it stands: none copies what comes after it."""

    class Counting(bytes):
        copied = 0

        def __getitem__(self, where: Any) -> Any:
            part = super().__getitem__(where)
            Counting.copied += len(part)
            return part

    one = entry(b"x", file(b""))
    body = Counting(struct.pack(">I", 5000) + one * 5000)
    assert len(list(Reader(body).entries())) == 5000
    assert Counting.copied <= 2 * 5000


def test_a_pipe_that_is_called_a_file_costs_the_timeout(hostile: Serve, tmp_path: Path) -> None:
    """A host that does not answer keeps no call beyond its time, and leaves no part here."""

    class Silent(Files):
        def answers(self, session: Session, kind: int, *rest: Any) -> Iterable[bytes]:
            return [] if kind == sftp_packets.OPEN else super().answers(session, kind, *rest)

    with pytest.raises(TaskTimeoutError):
        hostile(Silent({b"f": file()})).host().get("f", tmp_path / "f", timeout=0.5)
    assert names(tmp_path) == []


def test_a_server_that_does_not_begin_is_given_up(
    hostile: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the time to connect, or a minute, however it dribbles."""
    monkeypatch.setattr(files, "LEAST_SILENCE_S", 0.5)

    class Dribbles(Files):
        def subsystem(self, session: Session) -> None:
            session.out(struct.pack(">IBI", 50_000, sftp_packets.VERSION, 3))
            while session.transport.is_active() and not session.server.over.wait(0.05):
                session.out(b"x")

    with pytest.raises(px.errors.ConnectionLostError, match="no answer"):
        hostile(Dribbles({})).host(connect_timeout=0.5).get("f", io.BytesIO())


def test_a_server_that_is_silent_is_given_up(
    hostile: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a timeout too, and however alive the rest of the host is."""
    monkeypatch.setattr(files, "LEAST_SILENCE_S", 0.5)
    monkeypatch.setattr(files, "SILENCES", 0.01)

    class Silent(Files):
        def answers(self, session: Session, kind: int, *rest: Any) -> Iterable[bytes]:
            return [] if kind == sftp_packets.READ else super().answers(session, kind, *rest)

    host = hostile(Silent({b"f": file()})).host(keepalive=0.1)
    with pytest.raises(px.errors.ConnectionLostError, match="no answer for"):
        host.get("f", tmp_path / "f")
    assert names(tmp_path) == []


def test_others_here_cannot_lead_out_of_the_target(hostile: Serve, tmp_path: Path) -> None:
    """A directory that becomes a link while it is filled is not followed."""
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()

    class Slow(Files):
        def answers(
            self, session: Session, kind: int, number: int, what: bytes, *rest: Any
        ) -> Iterable[bytes]:
            if kind == sftp_packets.OPENDIR and what.endswith(b"/s"):
                (target / "d" / "s").rename(target / "elsewhere")
                (target / "d" / "s").symlink_to(outside)
            return super().answers(session, kind, number, what, *rest)

    host = hostile(Slow({b"d": folder((b"s", folder((b"x", file()))))})).host()
    with pytest.raises(FileTransferError, match="target/d/s: "):
        host.get("d", target)
    assert names(outside) == []


def test_the_part_is_never_more_open_than_the_end(hostile: Serve, tmp_path: Path) -> None:
    """Whatever it becomes, nobody else can read it while it grows."""
    seen: list[int] = []

    class Looks(Files):
        def read(self, path: bytes, offset: int, size: int) -> bytes:
            seen.extend(stat.S_IMODE(part.stat().st_mode) for part in tmp_path.glob("**/.*.part"))
            return super().read(path, offset, size)

    large = b"x" * 1_000_000
    tree = {b"f": file(large, 0o644), b"d": folder((b"g", file(large, mode=0o666)))}
    host = hostile(Looks(tree)).host()
    for preserve in (False, True):
        host.get("f", tmp_path / "f", preserve=preserve)
        host.get("d", tmp_path / "d", preserve=preserve)
    assert set(seen) == {0o600}


def test_a_put_that_is_not_answered_ends(
    hostile: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within its time and what the host is given to remove what was begun."""
    monkeypatch.setattr(upload, "CLEANING_S", 0.2)

    class Stops(Files):
        stopped = False

        def answers(self, session: Session, kind: int, *rest: Any) -> Iterable[bytes]:
            self.stopped = self.stopped or kind == sftp_packets.WRITE
            return [] if self.stopped else super().answers(session, kind, *rest)

    (tmp_path / "f").write_bytes(b"x" * 100)
    with pytest.raises(TaskTimeoutError):
        hostile(Stops({})).host().put(tmp_path / "f", "f", timeout=0.5)
