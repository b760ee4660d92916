"""Files to a host and from it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import resource
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, cast

import pytest

import parallel_exec as px
from parallel_exec.environments.ssh import copying
from parallel_exec.environments.ssh.sftp import Sftp
from parallel_exec.errors import (
    ConfigError,
    ConnectionLostError,
    FileTransferError,
    TaskCancelledError,
    TaskTimeoutError,
)
from tests.integration.ssh.server import ROOT, Cut, Server, run, wait_until


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with files, an empty folder, a link and an odd name."""
    folder = tmp_path / "tree"
    (folder / "sub" / "empty").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"a" * 10)
    (folder / "sub" / "odd ' \n ü").write_bytes(b"odd")
    (folder / "none").write_bytes(b"")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o750)
    os.utime(folder / "run.sh", (1_000_000_000, 1_100_000_000))
    (folder / "link").symlink_to("a.txt")
    os.utime(folder / "sub", (1_000_000, 1_000_000))
    return folder


def names(folder: Path) -> list[str]:
    """Return the paths below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_large_file_there_and_back(sshd: Server, tmp_path: Path) -> None:
    """Byte for byte, with progress up to the total; no temporary file stays."""
    source = tmp_path / "large"
    source.write_bytes(os.urandom(7_654_321))
    seen: list[tuple[int, int | None]] = []
    backend = sshd.backend()
    done = backend.put(source, "large", progress=lambda n, total: seen.append((n, total)))
    assert (done.files, done.bytes) == (1, 7_654_321)
    assert seen[-1] == (7_654_321, 7_654_321)
    assert seen == sorted(seen)
    backend.get("large", tmp_path / "back")
    assert _digest(tmp_path / "back") == _digest(source)
    assert names(tmp_path) == ["back", "large"]
    assert [name for name in os.listdir(sshd.account.home) if "part" in name] == []


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_directory_there_and_back(sshd: Server, tree: Path, tmp_path: Path) -> None:
    """Everything in it; modes and times on request."""
    backend = sshd.backend()
    assert backend.put(tree, "tree-1", preserve=True).files == 4
    backend.get("tree-1", tmp_path / "back", preserve=True)
    back = tmp_path / "back"
    assert names(back) == names(tree)
    assert os.readlink(back / "link") == "a.txt"
    assert (back / "run.sh").stat().st_mode & 0o777 == 0o750
    assert (back / "run.sh").stat().st_mtime == 1_100_000_000
    assert (back / "sub").stat().st_mtime == 1_000_000
    assert backend.put(tree, "tree-1").files == 4  # over itself


def test_file_objects(sshd: Server) -> None:
    """What cannot be rewound too."""
    backend = sshd.backend()
    backend.put(io.BytesIO(b"from memory"), "object")
    target = io.BytesIO()
    backend.get("object", target)
    assert target.getvalue() == b"from memory"


def test_file_whose_size_is_a_lie(sshd: Server) -> None:
    """/proc says 0."""
    target = io.BytesIO()
    sshd.backend().get("/proc/self/status", target)
    assert b"sftp" in target.getvalue() or b"sshd" in target.getvalue()


def test_into_a_directory_and_by_host(sshd: Server, tree: Path, tmp_path: Path) -> None:
    """A file keeps its name there; a template has the host's name in it."""
    backend = sshd.backend()
    run(backend, "mkdir -p into")
    backend.put(tree / "a.txt", "into")
    backend.get("into/a.txt", tmp_path / "{host}" / "got")
    assert (tmp_path / "127.0.0.1" / "got").read_bytes() == b"a" * 10


def test_what_is_replaced_keeps_its_mode(sshd: Server, tree: Path) -> None:
    """A secret file does not become readable by being written anew."""
    backend = sshd.backend()
    run(backend, "touch private; chmod 600 private")
    backend.put(tree / "a.txt", "private")
    assert run(backend, "stat -c %a private; cat private").text() == "600\n" + "a" * 10


def test_missing_and_forbidden_files(sshd: Server, tree: Path, tmp_path: Path) -> None:
    """Each error names host, path and reason; nothing is left."""
    backend = sshd.backend()
    with pytest.raises(FileTransferError, match="no-such: no such file"):
        backend.get("no-such", tmp_path / "x")
    with pytest.raises(FileTransferError, match=r"missing"):
        backend.put(tmp_path / "missing", "x")
    if ROOT:
        with pytest.raises(FileTransferError, match="permission denied"):
            backend.put(tree / "a.txt", "/etc/px-not-allowed")
    assert not (tmp_path / "x").exists()


@pytest.mark.skipif(not ROOT, reason="needs root, to mount a small disk")
def test_full_disk_leaves_the_old_file(sshd: Server, tmp_path: Path) -> None:
    """And no part of the new one; nor of many that were on their way together."""
    disk = sshd.account.home / "disk"
    disk.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=777", "px-test", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("may not mount")
    try:
        (disk / "file").write_text("old")
        (tmp_path / "large").write_bytes(b"x" * 5_000_000)
        with pytest.raises(FileTransferError, match="disk/file"):
            sshd.backend().put(tmp_path / "large", disk / "file")
        assert (disk / "file").read_text() == "old"
        assert os.listdir(disk) == ["file"]
        many = tmp_path / "many"
        many.mkdir()
        for number in range(100):
            (many / f"{number}").write_bytes(b"x" * 20_000)
        with pytest.raises(FileTransferError, match="disk/many/"):
            sshd.backend().put(many, disk / "many")
        assert [name for name in os.listdir(disk / "many") if "part" in name] == []
    finally:
        # The session on the far side takes a moment to end.
        umount = ["umount", str(disk)]
        wait_until(
            lambda: subprocess.run(umount, check=False, capture_output=True).returncode == 0,
            "the disk is free",
        )


def test_timeout(sshd: Server) -> None:
    """A transfer that takes too long leaves nothing behind."""

    class Endless(io.RawIOBase):
        def read(self, n: int = -1) -> bytes:
            return b"x" * n

    with pytest.raises(TaskTimeoutError):
        sshd.backend().put(cast(IO[bytes], Endless()), "endless", timeout=0.3)
    left = run(sshd.backend(), "ls -A | grep endless", check=False)
    assert left.text() == ""


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A folder with 300 small files in three folders."""
    folder = tmp_path / "many"
    for number in range(300):
        path = folder / str(number % 3) / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(number))
    return folder


def test_small_files_do_not_wait_for_each_other(
    sshd: Server, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The requests for many are on their way together, over one connection."""
    together: list[int] = []
    flush = Sftp.flush

    def counted(self: Sftp) -> None:
        together.append(len(self._out))
        flush(self)

    monkeypatch.setattr(Sftp, "flush", counted)
    before = sshd.logins()
    backend = sshd.backend()
    assert backend.put(many, "many").files == 300
    assert max(together) >= 64
    together.clear()
    assert backend.get("many", tmp_path / "back").files == 300
    assert max(together) >= 64
    assert names(tmp_path / "back") == names(many)
    assert all((tmp_path / "back" / f"{n % 3}" / f"{n}").read_text() == f"{n}" for n in range(300))
    assert sshd.logins() == before + 1


def test_small_files_that_are_under_way_need_no_descriptor(
    sshd: Server, many: Path, tmp_path: Path
) -> None:
    """However many of them, neither to a host nor from it; nor do their directories."""
    for number in range(60):
        (many / f"{number}.d").mkdir()
        (many / f"{number}.d" / "x").write_text("x")
    held: list[int] = []

    def count(done: int, total: int | None) -> None:
        held.append(len(os.listdir("/proc/self/fd")))

    backend = sshd.backend()
    run(backend, "true")
    before = len(os.listdir("/proc/self/fd"))
    assert backend.put(many, "few-descriptors", progress=count).files == 360
    assert backend.get("few-descriptors", tmp_path / "back", progress=count).files == 360
    assert names(tmp_path / "back") == names(many)
    assert len(held) == 720
    assert max(held) <= before + 6


@contextlib.contextmanager
def descriptors(more: int) -> Iterator[None]:
    """Let this process have so many more descriptors than it has."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(int(name) for name in os.listdir("/proc/self/fd")) + 1 + more
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_files_wait_for_descriptors(sshd: Server, tmp_path: Path) -> None:
    """Large ones that are under way give theirs back; none of several calls fails."""
    tree = tmp_path / "tree"
    for number in range(80):
        (tree / f"d{number % 8}").mkdir(parents=True, exist_ok=True)
        (tree / f"d{number % 8}" / f"{number}").write_bytes(b"x" * 70_000)
        (tree / f"d{number % 8}" / f"link{number}").symlink_to("x")
    hosts = [sshd.backend(keepalive=30 + number) for number in range(3)]
    for host in hosts:
        run(host, "true")
    with ThreadPoolExecutor(3) as threads, descriptors(24):
        puts = [threads.submit(host.put, tree, f"w{n}") for n, host in enumerate(hosts)]
        assert [put.result(60).files for put in puts] == [80] * 3
        gets = [
            threads.submit(host.get, f"w{n}", tmp_path / f"w{n}", preserve=True)
            for n, host in enumerate(hosts)
        ]
        assert [get.result(60).files for get in gets] == [80] * 3
    assert all(names(tmp_path / f"w{n}") == names(tree) for n in range(3))


@pytest.mark.parametrize("others", [0, 1])
def test_where_nothing_gives_way_a_file_that_cannot_be_opened_is_an_error(
    sshd: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    """At once if no other call could give a descriptor back, else after a while."""
    monkeypatch.setattr(copying, "SHORTAGE_S", 0.3 if others else 1000.0)
    host = sshd.backend()
    run(host, "echo x > no-descriptor").check()
    host.get("no-descriptor", tmp_path / "x")
    slow = Slow()
    token = px.CancelToken()
    threads = ThreadPoolExecutor(1)
    if others:
        other = sshd.backend(keepalive=31)
        busy = threads.submit(other.put, cast(IO[bytes], slow), "slow", cancel=token)
        slow.begun.wait(30)
    held: list[int] = []
    try:
        with descriptors(4):
            with contextlib.suppress(OSError):
                while True:
                    held.append(os.open(os.devnull, os.O_RDONLY))
            with pytest.raises(FileTransferError, match="Too many open files"):
                host.get("no-descriptor", tmp_path / "x", timeout=60)
    finally:
        for fd in held:
            os.close(fd)
        token.cancel()
        if others:
            assert isinstance(busy.exception(30), TaskCancelledError)
        threads.shutdown()


@pytest.fixture
def cut(sshd: Server) -> Iterator[Cut]:
    """A line to the server that can be cut."""
    line = Cut(sshd.port)
    yield line
    line.close()


def through(cut: Cut, sshd: Server, **options: Any) -> px.SSH:
    """Return the server as it is reached by that line."""
    known = sshd.base / f"known-{cut.port}"
    key = sshd.known_hosts.read_text().split(" ", 1)[1]
    known.write_text(f"[127.0.0.1]:{cut.port} {key}")
    return px.SSH(
        f"{sshd.account.user}@127.0.0.1:{cut.port}", **{**sshd.options, "known_hosts": str(known)},
        **options,
    )  # fmt: skip


def parts(sshd: Server) -> list[str]:
    """Return the temporary files in the account's home."""
    return [name for name in os.listdir(sshd.account.home) if name.endswith(".part")]


def test_lost_connection_leaves_no_part_once_the_host_can_be_told(sshd: Server, cut: Cut) -> None:
    """The next transfer to the host removes what could not be removed when the line broke."""

    class Endless(io.RawIOBase):
        given = 0

        def read(self, n: int = -1) -> bytes:
            self.given += n
            if self.given > 50_000_000:
                cut.forget()
            return b"x" * n

    with through(cut, sshd, keepalive=0.2) as host:
        with pytest.raises(ConnectionLostError, match="broke"):
            host.put(cast(IO[bytes], Endless()), "lost")
        assert len(parts(sshd)) == 1
        host.put(io.BytesIO(b"x"), "another")
        assert parts(sshd) == []
        assert not (sshd.account.home / "lost").exists()


def test_lost_connection_leaves_the_old_local_file(sshd: Server, cut: Cut, tmp_path: Path) -> None:
    """And nothing beside it."""
    target = tmp_path / "target"
    target.write_text("old")
    run(sshd.backend(), "head -c 100000000 /dev/zero > large")
    with (
        through(cut, sshd, keepalive=0.2) as host,
        pytest.raises(ConnectionLostError, match="broke"),
    ):
        host.get("large", target, progress=lambda done, total: cut.forget())
    assert target.read_text() == "old"
    assert names(tmp_path) == ["target"]


def test_sudo_is_not_passed_over(sshd: Server, tree: Path, tmp_path: Path) -> None:
    """Files do not go through it, and that is said before anything is done."""
    host = sshd.backend(sudo="root")
    with pytest.raises(ConfigError, match="sudo='root'"):
        host.put(tree, "x")
    with pytest.raises(ConfigError, match="sudo='root'"):
        host.get("/etc/hostname", tmp_path / "x")


class Slow(io.RawIOBase):
    """A file that never ends; `begun` is set when it is read."""

    def __init__(self) -> None:
        self.begun = threading.Event()

    def read(self, n: int = -1) -> bytes:
        """Give some."""
        self.begun.set()
        return b"x" * min(n, 1000)


def test_cancel_ends_a_transfer(sshd: Server) -> None:
    """Its own token does, and that of the task it is called in."""
    token, slow = px.CancelToken(), Slow()
    host = sshd.backend()
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(host.put, cast(IO[bytes], slow), "cancelled", cancel=token)
        slow.begun.wait(30)
        token.cancel()
        with pytest.raises(TaskCancelledError):
            future.result(30)
    (outcome,) = px.Group([host]).put(cast(IO[bytes], Slow()), "late", timeout=0.5)
    assert isinstance(outcome.reason, TaskTimeoutError)
    assert not outcome.abandoned
    with pytest.raises(ConfigError, match="cancel"):
        host.put(io.BytesIO(), "x", cancel=cast(px.CancelToken, "now"))
    assert parts(sshd) == []
    assert not (sshd.account.home / "cancelled").exists()


def test_group_copies_with_progress(make_sshd: Any, tree: Path, tmp_path: Path) -> None:
    """Every host's bytes are told by its name; the values say what was copied."""
    servers = [make_sshd(), make_sshd()]
    seen: dict[str, list[tuple[int, int | None]]] = {}
    with px.Group([px.SSH(s.destination, **s.options) for s in servers]) as group:
        there = group.put(
            f"{tree}/",
            "tree-g",
            on_progress=lambda *said: seen.setdefault(said[0], []).append(said[1:]),
        )
        there.raise_for_failures()
        assert [copied.files for copied in there.values()] == [4, 4]
        assert {name: told[-1] for name, told in seen.items()} == {
            host.name: (23, 23) for host in group
        }
        back = group.get("tree-g/", tmp_path / "back" / "{host}")
        back.raise_for_failures()
        for host in group:
            assert names(tmp_path / "back" / host.name) == names(tree)
        with pytest.raises(ConfigError, match="source"):
            group.put(io.BytesIO(b"x"), "x")


def test_what_is_no_file_is_refused(sshd: Server, tmp_path: Path) -> None:
    """Nobody may ever write to a pipe, and no timeout ends the wait for that."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    errors: list[BaseException] = []

    def put() -> None:
        try:
            sshd.backend().put(pipe, "pipe")
        except FileTransferError as error:
            errors.append(error)

    thread = threading.Thread(target=put)
    thread.start()
    thread.join(5)
    if thread.is_alive():
        pipe.open("wb").close()
        thread.join()
    assert [str(error) for error in errors] == [f"{pipe} is neither a file nor a directory"]


def test_a_directory_is_in_the_way(sshd: Server, tmp_path: Path) -> None:
    """Of a file or a link: the error names it, and nothing else is left beside it."""
    backend = sshd.backend()
    for there, make in (("way-file", "echo x > way-file/a"), ("way-link", "ln -s x way-link/a")):
        run(backend, f"rm -rf {there}; mkdir {there}; {make}").check()
        local = tmp_path / there
        (local / "a" / "below").mkdir(parents=True)
        with pytest.raises(FileTransferError, match=rf"{local}/a: Is a directory"):
            backend.get(f"{there}/", local)
        assert names(local) == ["a", "a/below"]


def test_server_that_answers_nonsense(make_sshd) -> None:  # type: ignore[no-untyped-def]
    """An error of the library, whatever was said."""
    script = r"printf '\0\0\0\5\2\0\0\0\3\0\0\0\11\151\0\0\0\1\0\0\0\1'; exec cat >/dev/null"
    server = make_sshd(extra=["ForceCommand /bin/sh nonsense"])
    (server.account.home / "nonsense").write_text(script + "\n")
    with pytest.raises(FileTransferError, match="an answer that cannot be read"):
        server.backend().get("file", io.BytesIO())
