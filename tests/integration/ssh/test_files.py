"""Files to a host and from it."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
from pathlib import Path
from typing import IO, cast

import pytest

from parallel_exec.errors import FileTransferError, TaskTimeoutError
from tests.integration.ssh.server import ROOT, Server, run, wait_until


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
    """And no part of the new one."""
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
