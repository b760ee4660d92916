"""A disk that has no room, here or there."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest

from parallel_exec.errors import FileTransferError
from tests.integration.ssh.server import ROOT, run

needs_mounts = pytest.mark.skipif(
    not ROOT or shutil.which("unshare") is None,
    reason="needs root and unshare, to mount a small disk where only the server sees it",
)
SMALL = 'mount -t tmpfs -o size={size},nr_inodes={inodes},mode=1777 small "$0" && exec "$@"'


@needs_mounts
@pytest.mark.parametrize("lacks", ["room", "inodes"])
def test_put_to_a_full_disk_says_so(make_sshd, who, tmp_path: Path, lacks: str) -> None:  # type: ignore[no-untyped-def]
    """Files and trees, into the directory or as a name in it; what was there stays as it was."""
    folder = who.home / f"small-{lacks}"
    folder.mkdir()
    size, inodes = ("256k", 100) if lacks == "room" else ("4m", 3)
    script = SMALL.format(size=size, inodes=inodes)
    server = make_sshd(enter=["unshare", "-m", "sh", "-c", script, str(folder)])
    host = server.backend()
    host.put(io.BytesIO(b"old"), f"{folder}/file")
    run(host, f"cd {folder}; test {lacks} = inodes && : >other")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "big").write_bytes(bytes(500_000))
    told = r"small-.*: Failure: the disk there is full$"
    for source, target in (
        (io.BytesIO(bytes(500_000)), f"{folder}/file"),
        (str(tree / "big"), str(folder)),
        (str(tree), f"{folder}/tree"),
    ):
        with pytest.raises(FileTransferError, match=told):
            host.put(source, target)
    assert run(host, f"cat {folder}/file").stdout == b"old"
