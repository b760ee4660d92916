"""A directory and what is below it, by descriptors."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from parallel_exec.environments.ssh.folder import Folder, Part, umask


@pytest.fixture(params=[0o000, 0o022, 0o137])
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    """A umask."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_the_umask_is_known(mask: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the system says, and where it does not, by setting it; it stays as it was."""
    assert umask() == mask
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"Name:\tpython\n")
    assert umask() == mask
    assert umask() == mask


def test_deep_directories_need_no_deep_stack(tmp_path: Path) -> None:
    """Nor do they keep descriptors; a path longer than the system takes is no matter."""
    before = os.listdir("/dev/fd")
    with Folder.top(os.fsencode(tmp_path)) as top:
        folder = top
        for _ in range(1500):
            folder = folder.below(b"four")
            assert folder.make(0o700)
        part = Part(folder, b"file")
        part.write(b"x" * 100_000)
        part.finish(0o600, None, keep=True)
        assert folder.status(b"file").st_size == 100_000
        assert folder.entries() == [(b"file", stat.S_IFREG)]
    subprocess.run(["rm", "-rf", str(tmp_path / "four")], check=True)
    assert len(os.listdir("/dev/fd")) == len(before)


def test_what_is_below_a_link_is_not_reached(tmp_path: Path) -> None:
    """By no step, however deep it is."""
    (tmp_path / "top" / "a").mkdir(parents=True)
    (tmp_path / "out" / "b").mkdir(parents=True)
    (tmp_path / "top" / "a" / "link").symlink_to(tmp_path / "out")
    with Folder.top(os.fsencode(tmp_path / "top")) as top:
        below = top.below(b"a").below(b"link").below(b"b")
        for step in (
            lambda: Part(below, b"x").finish(0o600, None, keep=True),
            lambda: below.link(b"x", b"y"),
            lambda: below.below(b"x").make(0o700),
            below.entries,
            below.status,
        ):
            with pytest.raises(OSError, match=r"[Dd]irectory|symbolic") as raised:
                step()
            assert os.fsencode(raised.value.filename).startswith(os.fsencode(tmp_path / "top"))
    assert os.listdir(tmp_path / "out" / "b") == []


@pytest.mark.parametrize("what", ["file", "pipe"])
def test_what_is_no_directory_is_not_made_one(tmp_path: Path, what: str) -> None:
    """A link gives way, nothing else does."""
    place = tmp_path / "x"
    if what == "file":
        place.write_text("old")
    else:
        os.mkfifo(place)
    with Folder.top(os.fsencode(tmp_path)) as top, pytest.raises(NotADirectoryError):
        top.below(b"x").make(0o700)
    place.unlink()
    place.symlink_to("/")
    with Folder.top(os.fsencode(tmp_path)) as top:
        assert top.below(b"x").make(0o700)
        assert not top.below(b"x").make(0o700)
    assert not place.is_symlink()


def test_a_file_of_somebody_elses_is_no_reason_to_be_more_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may write to the directory could have put it there."""
    place = tmp_path / "x"
    for others, mode in ((False, 0o666), (True, 0o600)):
        place.write_text("old")
        place.chmod(0o666)
        if others:
            monkeypatch.setattr(os, "geteuid", lambda: place.stat().st_uid + 1)
        with Folder.top(os.fsencode(tmp_path)) as top:
            Part(top, b"x").finish(0o600, None, keep=True)
        assert place.stat().st_mode & 0o777 == mode


def test_a_file_system_without_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file is private there; if modes are to be kept, that is an error."""

    def refuse(fd: int, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchmod", refuse)
    with Folder.top(os.fsencode(tmp_path)) as top:
        Part(top, b"x").finish(0o644, None, keep=True)
        part = Part(top, b"y")
        with pytest.raises(PermissionError):
            part.finish(0o644, None, keep=False)
        part.discard()
    assert os.listdir(tmp_path) == ["x"]
