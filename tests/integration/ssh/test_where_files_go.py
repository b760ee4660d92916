"""Where `put` and `get` put things, with what modes, and what they say about it."""

from __future__ import annotations

import io
import os
import pickle
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

import parallel_exec as px
from parallel_exec.environments.ssh import sftp_packets
from parallel_exec.environments.ssh.border import common
from parallel_exec.environments.ssh.folder import Folder
from parallel_exec.errors import ConfigError, ConnectError, FileTransferError, HostAnswerError
from tests.integration.ssh.hostile import Honest, Serve, Session
from tests.integration.ssh.hostile_sftp import Files, file, link, status
from tests.integration.ssh.server import ROOT, Server, run, wait_until


@pytest.fixture
def own_umask() -> Iterator[None]:
    """One that few have."""
    before = os.umask(0o026)
    yield
    os.umask(before)


def names(place: Path) -> list[str]:
    """Return the paths below a folder."""
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


@pytest.fixture
def there(sshd: Server) -> Iterator[Path]:
    """An empty folder of the account's, `there` to it."""
    place = sshd.account.home / "there"
    host = sshd.backend()
    run(host, "rm -rf there && mkdir there").check()
    yield place
    run(host, "chmod -R u+rwX there; rm -rf there").check()


# What is copied, where to, what there is then. `f` is a file, `d` a directory with `x` in it.
PLACES = [
    ("f", "new", "new", ["new"]),
    ("f", "new/", "new/f", ["new", "new/f"]),
    ("f", "a/b/new", "a/b/new", ["a", "a/b", "a/b/new"]),
    ("f", "a/b/", "a/b/f", ["a", "a/b", "a/b/f"]),
    ("f", "old", "old", ["old"]),
    ("f", "in", "in/f", ["in", "in/f"]),
    ("f", "in/", "in/f", ["in", "in/f"]),
    ("f", "in/.", "in/./f", ["in", "in/f"]),
    ("f", "link", "link/f", ["in", "in/f", "link"]),
    ("d", "new", "new", ["new", "new/x"]),
    ("d", "new/", "new/d", ["new", "new/d", "new/d/x"]),
    ("d", "a/b/new", "a/b/new", ["a", "a/b", "a/b/new", "a/b/new/x"]),
    ("d", "in", "in/d", ["in", "in/d", "in/d/x"]),
    ("d", "in/", "in/d", ["in", "in/d", "in/d/x"]),
    ("d/", "new", "new", ["new", "new/x"]),
    ("d/", "new/", "new", ["new", "new/x"]),
    ("d/", "a/b", "a/b", ["a", "a/b", "a/b/x"]),
    ("d/", "in", "in", ["in", "in/x"]),
    ("d/", "in/", "in", ["in", "in/x"]),
    ("d/.", "in", "in", ["in", "in/x"]),
    ("d/../d/", "in", "in", ["in", "in/x"]),
]


def _prepare(place: Path) -> None:
    (place / "f").write_text("f")
    (place / "d").mkdir()
    (place / "d" / "x").write_text("x")


def _furniture(target: str) -> str:
    """Return what makes all that a target needs."""
    shell = {"old": "echo old > old", "in": "mkdir in", "link": "mkdir in; ln -s in link"}
    return shell.get(target.split("/")[0], "true")


def test_what_was_asked_for_decides_where_a_put_goes(
    sshd: Server, there: Path, tmp_path: Path
) -> None:
    """By the two paths and by what is at the target; missing directories are made."""
    _prepare(tmp_path)
    host = sshd.backend()
    for source, target, written, found in PLACES:
        run(host, f"rm -rf there; mkdir there; cd there; {_furniture(target)}").check()
        done = host.put(f"{tmp_path}/{source}", f"there/{target}")
        assert (done.target, names(there)) == (f"there/{written}", found), (source, target)


def test_what_was_asked_for_decides_where_a_get_goes(
    sshd: Server, there: Path, tmp_path: Path
) -> None:
    """As for `put`."""
    host = sshd.backend()
    run(host, "cd there && echo f > f && mkdir d && echo x > d/x").check()
    for number, (source, target, written, found) in enumerate(PLACES):
        here = tmp_path / f"{number}"
        here.mkdir()
        subprocess.run(["sh", "-c", _furniture(target)], cwd=here, check=True)
        done = host.get(f"there/{source}", f"{here}/{target}")
        assert (done.target, names(here)) == (f"{here}/{written}", found), (source, target)


def test_a_path_at_home(sshd: Server, there: Path, tmp_path: Path) -> None:
    """With and without the tilde; what was written is named as the target was."""
    _prepare(tmp_path)
    host = sshd.backend()
    assert host.put(tmp_path / "f", "~/there/").target == "~/there/f"
    assert host.put(tmp_path / "f", "there").target == "there/f"
    assert host.put(io.BytesIO(b"x"), "there/g").target == "there/g"
    assert host.get("~/there/f", tmp_path / "d").target == str(tmp_path / "d" / "f")
    assert names(there) == ["f", "g"]


def test_a_directory_without_a_name_of_its_own_is_its_content(
    sshd: Server, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`.` and `..` have none to keep."""
    _prepare(tmp_path)
    host = sshd.backend()
    monkeypatch.chdir(tmp_path / "d")
    host.put(".", "there")
    host.put("..", "there/up")
    assert names(there) == ["up", "up/d", "up/d/x", "up/f", "x"]
    host.get("there/.", "back")
    assert names(tmp_path / "d" / "back") == names(there)
    assert host.get("there/x", "y").target == "y"


def test_a_file_object_needs_the_name_of_a_file(sshd: Server, there: Path) -> None:
    """It has none of its own that a directory could take."""
    host = sshd.backend()
    with pytest.raises(ConfigError, match="target must be a file's path"):
        host.put(io.BytesIO(b"x"), "there/")
    with pytest.raises(FileTransferError, match="there: a directory is in the way"):
        host.put(io.BytesIO(b"x"), "there")
    with pytest.raises(FileTransferError, match="there: a directory, and a file object"):
        host.get("there", io.BytesIO())
    assert names(there) == []


BAD = ["a\0b", "\udc00\ud800", b"x", 3, None]


def test_paths_that_cannot_be_are_refused_before_anything_starts() -> None:
    """The parameter is named, for either end."""
    path: Any
    for path in BAD:
        host = px.SSH("host.invalid", config=False)
        with pytest.raises(ConfigError, match="source must be"):
            host.put(path, "x")
        with pytest.raises(ConfigError, match="target must be"):
            host.put(io.BytesIO(), path)
        with pytest.raises(ConfigError, match="source must be"):
            host.get(path, io.BytesIO())
        with pytest.raises(ConfigError, match="target must be"):
            host.get("x", path)
        with pytest.raises(ConfigError, match="target must be"):
            host.get("x", "")


# {host}


def test_the_name_of_the_host_in_a_target(sshd: Server, there: Path, tmp_path: Path) -> None:
    """Here and there; of a group by the name of the member."""
    _prepare(tmp_path)
    host = sshd.backend()
    assert host.put(tmp_path / "f", "there/{host}.txt").target == "there/127.0.0.1.txt"
    assert host.get("there/127.0.0.1.txt", tmp_path / "{host}" / "{host}").target == str(
        tmp_path / "127.0.0.1" / "127.0.0.1"
    )
    with px.Group([px.SSH(sshd.destination, **sshd.options)]) as group:
        group.put(tmp_path / "f", "there/of-{host}").raise_for_failures()
    assert names(there) == ["127.0.0.1.txt", f"of-{sshd.destination}"]


WAYS_OUT = [
    *((name, "{host}") for name in ("..", ".", "../x", "a/../../x", "/", "x/y")),
    *(("..", target) for target in ("{host}/x", "a/{host}", "a/{host}/", "./{host}/{host}")),
    *((".", target) for target in ("{host}{host}", "{host}./x", "a/.{host}")),
]


def test_no_name_of_a_host_is_a_way_out(
    sshd: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused, before anything starts, for either end."""
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "config"
    config.write_text(f"Host *\n HostName 127.0.0.1\n Port {sshd.port}\n")
    for name, target in WAYS_OUT:
        host = px.SSH(name, config=str(config))
        group = px.Group([host])
        for call, source in (
            *((host.get, "/etc/hostname"), (host.put, config)),
            *((group.get, "config"), (group.put, "config")),
        ):
            with pytest.raises(ConfigError, match=r"target has {host}"):
                call(source, target)
    assert names(tmp_path) == ["config"]


# Modes

MODES = [0o600, 0o640, 0o644, 0o666, 0o700, 0o755, 0o400, 0o777]
DIRECTORY_MODES = [0o700, 0o755, 0o500, 0o711, 0o777]


@pytest.mark.usefixtures("own_umask")
def test_modes_from_a_host(sshd: Server, there: Path, tmp_path: Path) -> None:
    """That of the source, less the umask; with preserve that of the source."""
    host = sshd.backend()
    for mode in MODES:
        run(host, f"cd there; echo x > f{mode:o}; chmod {mode:o} f{mode:o}").check()
    for mode in DIRECTORY_MODES:
        run(
            host, f"cd there; mkdir d{mode:o}; echo > d{mode:o}/z; chmod {mode:o} d{mode:o}"
        ).check()
    run(host, "chmod 700 there").check()
    host.get("there", tmp_path / "plain")
    host.get("there", tmp_path / "kept", preserve=True)
    for name, mode in [
        *((f"f{mode:o}", mode) for mode in MODES),
        *((f"d{mode:o}", mode) for mode in DIRECTORY_MODES),
    ]:
        assert _modes(tmp_path / "plain" / name) == [mode & ~0o026], name
        assert _modes(tmp_path / "kept" / name) == [mode], name
    assert _modes(tmp_path / "plain", tmp_path / "kept") == [0o700] * 2
    host.get("there/f600", tmp_path / "one")
    assert _modes(tmp_path / "one") == [0o600]


def _modes(*paths: Path) -> list[int]:
    return [stat.S_IMODE(path.lstat().st_mode) for path in paths]


def test_modes_to_a_host(sshd: Server, there: Path, tmp_path: Path) -> None:
    """That of the source, less the host's umask; with preserve that of the source."""
    host = sshd.backend()
    umask = int(run(host, "umask").text(), 8)
    tree = tmp_path / "tree"
    tree.mkdir(mode=0o700)
    for mode in MODES:
        (tree / f"f{mode:o}").write_text("x")
        (tree / f"f{mode:o}").chmod(mode)
    for mode in DIRECTORY_MODES:
        (tree / f"d{mode:o}").mkdir()
        (tree / f"d{mode:o}" / "z").write_text("x")
        (tree / f"d{mode:o}").chmod(mode)
    host.put(tree, "there/plain")
    host.put(tree, "there/kept", preserve=True)
    for name, mode in [
        *((f"f{mode:o}", mode) for mode in MODES),
        *((f"d{mode:o}", mode) for mode in DIRECTORY_MODES),
    ]:
        assert _modes(there / "plain" / name) == [mode & ~umask], name
        assert _modes(there / "kept" / name) == [mode], name
    assert _modes(there / "plain", there / "kept") == [0o700] * 2
    host.put(tree / "f600", "there/one")
    assert _modes(there / "one") == [0o600]


def test_no_set_id_bit_goes_to_a_host(sshd: Server, there: Path, tmp_path: Path) -> None:
    """Nor stays on a file that is replaced."""
    host = sshd.backend()
    (tmp_path / "f").write_text("x")
    (tmp_path / "f").chmod(0o4755)
    host.put(tmp_path / "f", "there/a", preserve=True)
    run(host, "cd there; touch b; chmod 4711 b").check()
    host.put(tmp_path / "f", "there/b")
    assert _modes(there / "a", there / "b") == [0o755, 0o711]


@pytest.mark.usefixtures("own_umask")
def test_what_is_replaced_here_keeps_its_mode(sshd: Server, there: Path, tmp_path: Path) -> None:
    """A private file does not become readable; what a link leads to gives it nothing."""
    host = sshd.backend()
    run(host, "echo x > there/f; chmod 644 there/f").check()
    (tmp_path / "private").write_text("old")
    (tmp_path / "private").chmod(0o600)
    (tmp_path / "link").symlink_to("open")
    (tmp_path / "open").write_text("old")
    (tmp_path / "open").chmod(0o4777)
    for name in ("private", "link"):
        host.get("there/f", tmp_path / name)
    assert _modes(tmp_path / "private", tmp_path / "link") == [0o600, 0o640]
    assert (tmp_path / "open").read_text() == "old"


# Links, and what is in the way


def test_a_link_on_the_host_is_written_through(sshd: Server, there: Path, tmp_path: Path) -> None:
    """The file that it leads to is replaced at once, in its own directory; the link stays."""
    (tmp_path / "f").write_text("new")
    host = sshd.backend()
    run(
        host,
        "cd there; mkdir v1 links; echo old > v1/f; chmod 640 v1/f; ln -s v1 current;"
        " ln -s ../current/f links/rel; ln -s $PWD/links/rel links/abs; ln -s gone/f dangling;"
        " ln v1/f other-name",
    ).check()
    for name, written in (
        ("links/rel", "there/links/../current/f"),
        ("links/abs", str(there / "links" / ".." / "current" / "f")),
        ("current/f", "there/current/f"),
    ):
        (there / "v1" / "f").write_text("old")
        done = host.put(tmp_path / "f", f"there/{name}")
        assert done.target == written
        assert (there / "v1" / "f").read_text() == "new"
        assert (there / "v1" / "f").stat().st_mode & 0o777 == 0o640
    assert (there / "other-name").read_text() == "old"  # renamed over, never written into
    assert (there / "links" / "rel").is_symlink()
    assert (there / "links" / "abs").is_symlink()
    assert host.put(tmp_path / "f", "there/dangling").target == "there/gone/f"
    assert (there / "dangling").is_symlink()
    assert (there / "gone" / "f").read_text() == "new"
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "rel").write_text("of a tree")
    host.put(f"{tree}/", "there/links")
    assert (there / "v1" / "f").read_text() == "of a tree"


def test_links_in_a_circle(sshd: Server, there: Path, tmp_path: Path) -> None:
    """They lead nowhere: an error, and no wait."""
    host = sshd.backend()
    run(host, "cd there; ln -s b a; ln -s a b").check()
    (tmp_path / "f").write_text("new")
    with pytest.raises(FileTransferError, match="there/a: "):
        host.put(tmp_path / "f", "there/a")
    assert names(there) == ["a", "b"]


def test_a_host_with_links_without_end(hostile: Serve, tmp_path: Path) -> None:
    """Each leads to another one: an error."""
    (tmp_path / "f").write_text("new")

    class Links(Files):
        def find(self, path: bytes, kind: int = 0) -> Any:
            return link(path + b"x") if path.startswith(b"f") else None

        def answers(self, session: Session, kind: int, number: int, *rest: Any) -> Any:
            if kind == sftp_packets.STAT:
                return [status(number, sftp_packets.NO_SUCH_FILE)]
            return super().answers(session, kind, number, *rest)

    with pytest.raises(FileTransferError, match="too many links"):
        hostile(Links({})).host().put(tmp_path / "f", "f")


def test_a_link_that_the_host_does_not_follow_is_not_written_through(
    hostile: Serve, tmp_path: Path
) -> None:
    """As in a directory that all may write to, if the link is another user's."""

    class Refuses(Files):
        def answers(self, session: Session, kind: int, number: int, *rest: Any) -> Any:
            if kind == sftp_packets.STAT:
                return [status(number, sftp_packets.PERMISSION_DENIED)]
            return super().answers(session, kind, number, *rest)

    behaviour = Refuses({b"f": link(b"precious")})
    (tmp_path / "f").write_text("new")
    with pytest.raises(FileTransferError, match="f: permission denied"):
        hostile(behaviour).host().put(io.BytesIO(b"new"), "f")
    assert {kind for kind, _ in behaviour.asked} == {sftp_packets.LSTAT, sftp_packets.STAT}


def test_pipes_on_a_host_are_not_replaced(sshd: Server, there: Path, tmp_path: Path) -> None:
    """Nor devices: that of root would be `/dev/null`."""
    host = sshd.backend()
    run(host, "mkfifo there/p").check()
    (tmp_path / "p").write_text("new")
    for source, target in ((f"{tmp_path}/p", "there/p"), (f"{tmp_path}/", "there")):
        with pytest.raises(FileTransferError, match="there/p: neither a file nor a directory"):
            host.put(source, target)
    assert stat.S_ISFIFO((there / "p").stat().st_mode)


def test_pipes_here_are_not_replaced(sshd: Server, there: Path, tmp_path: Path) -> None:
    """By a file or by a link."""
    host = sshd.backend()
    run(host, "cd there; echo x > p; mkdir d; ln -s p d/q").check()
    for name, source in (("p", "there/p"), ("q", "there/d/")):
        os.mkfifo(tmp_path / name)
        with pytest.raises(FileTransferError, match=f"/{name}: neither a file nor a directory"):
            host.get(source, tmp_path)
    assert all(stat.S_ISFIFO((tmp_path / name).lstat().st_mode) for name in ("p", "q"))
    assert names(tmp_path) == ["p", "q"]


def test_a_pipe_of_a_host_is_refused_at_once(sshd: Server, there: Path, tmp_path: Path) -> None:
    """Nobody waits for its other end, here or there; what is around it in a directory comes."""
    host = sshd.backend()
    run(host, "cd there; mkfifo p; echo x > f; ln -s p q").check()
    for name in ("p", "q"):
        with pytest.raises(FileTransferError, match="neither a file nor a directory"):
            host.get(f"there/{name}", tmp_path / "p")
    assert host.get("there/", tmp_path / "d").files == 1
    assert names(tmp_path) == ["d", "d/f", "d/q"]


def test_names_are_exact_on_both_sides(sshd: Server, there: Path, tmp_path: Path) -> None:
    """Line feeds, escapes, and bytes that are no text, to a host and back."""
    odd = os.fsdecode(b"a\nb\x1b[2J\xff\\n ")
    (tmp_path / "d" / odd).mkdir(parents=True)
    (tmp_path / "d" / odd / odd).write_text("x")
    (tmp_path / "d" / "link").symlink_to(odd)
    host = sshd.backend()
    assert host.put(tmp_path / "d" / odd / odd, "there").target == f"there/{odd}"
    host.put(tmp_path / "d", "there/d")
    host.get("there/d/", tmp_path / "back")
    assert names(tmp_path / "back") == names(tmp_path / "d")
    assert os.readlink(tmp_path / "back" / "link") == odd
    assert host.get(f"there/{odd}", tmp_path / "one").source == f"there/{odd}"
    with pytest.raises(FileTransferError) as raised:
        host.put(tmp_path / "d" / odd / "none", "there")
    assert str(raised.value).isprintable()
    os.mkfifo(tmp_path / f"p{odd}")
    with pytest.raises(FileTransferError) as raised:
        host.put(tmp_path / f"p{odd}", "there")
    assert str(raised.value).isprintable()


def test_a_local_file_that_becomes_a_link_is_not_sent(
    sshd: Server, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user who may write in a directory that is put chooses nothing outside of it."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "f").write_text("mine")
    tree = tmp_path / "tree"
    (tree / "s").mkdir(parents=True)
    (tree / "s" / "f").write_text("x")
    (tree / "f").write_text("x")
    honest = Folder.entries

    def entries(self: Folder) -> list[tuple[bytes, int]]:
        found = honest(self)
        if self.parent is None:
            (tree / "f").unlink()
            (tree / "f").symlink_to(secret / "f")
        else:
            (tree / "s").rename(tree / "t")
            (tree / "s").symlink_to(secret)
        return found

    monkeypatch.setattr(Folder, "entries", entries)
    for _ in range(2):
        with pytest.raises(FileTransferError, match="tree/f: "):
            sshd.backend().put(f"{tree}/", "there")
        (tree / "f").unlink()
        (tree / "f").write_text("x")
    assert "mine" not in [path.read_text() for path in there.rglob("*") if path.is_file()]


@pytest.mark.skipif(not ROOT, reason="needs root, to mount a small disk")
def test_a_full_disk_here_leaves_the_old_file(sshd: Server, there: Path, tmp_path: Path) -> None:
    """And one there, through a link, too."""
    disk = there / "disk"
    run(sshd.backend(), "mkdir there/disk; head -c 5000000 /dev/zero > there/large").check()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=777", "px-test", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("may not mount")
    try:
        (disk / "file").write_text("old")
        (there / "link").symlink_to("disk/file")
        with pytest.raises(FileTransferError, match="disk/file: No space left"):
            sshd.backend().get("there/large", disk / "file")
        (tmp_path / "large").write_bytes(b"x" * 5_000_000)
        with pytest.raises(FileTransferError, match="disk/file: "):
            sshd.backend().put(tmp_path / "large", "there/link")
        assert (disk / "file").read_text() == "old"
        assert os.listdir(disk) == ["file"]
    finally:
        wait_until(
            lambda: (
                subprocess.run(["umount", str(disk)], check=False, capture_output=True).returncode
                == 0
            ),
            "the disk is free",
        )


def test_a_new_file_that_cannot_be_renamed(hostile: Serve, tmp_path: Path) -> None:
    """The error is the first one: there was nothing to put aside."""

    class Old(Files):
        extensions = ()

        def answers(self, session: Session, kind: int, number: int, what: bytes, *rest: Any) -> Any:
            if kind == sftp_packets.RENAME:
                return [status(number, 2 if what == b"f" else 3)]
            return super().answers(session, kind, number, what, *rest)

    (tmp_path / "f").write_text("new")
    with pytest.raises(FileTransferError, match="f: permission denied"):
        hostile(Old({})).host().put(tmp_path / "f", "f")


def test_a_server_that_cannot_rename_over_a_file(hostile: Serve, tmp_path: Path) -> None:
    """The old file is put aside, and comes back if the new one cannot take its place."""
    renamed: list[bytes] = []

    class Old(Files):
        extensions = ()

        def answers(
            self, session: Session, kind: int, number: int, what: bytes, reader: Any, *rest: Any
        ) -> Any:
            if kind == sftp_packets.RENAME:
                to = reader.string()
                renamed.append(to)
                if to == b"f" and len(renamed) < 4:
                    return [status(number, 4)]
            return super().answers(session, kind, number, what, reader, *rest)

    behaviour = Old({b"f": file(b"old")})
    (tmp_path / "f").write_text("new")
    with pytest.raises(FileTransferError):
        hostile(behaviour).host().put(tmp_path / "f", "f")
    assert [to == b"f" for to in renamed] == [True, False, True, True]
    removed = [what for kind, what in behaviour.asked if kind == sftp_packets.REMOVE]
    assert b"f" not in removed


def test_errors_name_their_host(hostile: Serve) -> None:
    """Also where no session can be opened, and after pickling."""

    class Refuses(Honest):
        def prepare(self, transport: Any) -> None:
            transport._handler_table[common.MSG_CHANNEL_OPEN] = lambda m: transport.close()

    host = hostile(Refuses()).host()
    with pytest.raises(ConnectError) as raised:
        host.get("f", io.BytesIO())
    assert raised.value.environment == host.name
    error = pickle.loads(pickle.dumps(HostAnswerError("odd", environment="web1")))
    assert (str(error), error.environment) == ("odd", "web1")
    assert isinstance(cast(object, error), FileTransferError)
