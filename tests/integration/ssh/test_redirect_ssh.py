"""`stdout` and `stderr` of commands over SSH: terminals, sudo, groups."""

from __future__ import annotations

from pathlib import Path

import pytest

import parallel_exec as px
from parallel_exec.errors import ConfigError
from parallel_exec.testing import FakeEnvironment
from tests.integration.ssh.server import Server


def test_terminal_has_one_stream(sshd: Server, tmp_path: Path) -> None:
    """With a terminal all output is stdout; stderr's file is there and empty."""
    with px.SSH(sshd.destination, pty=True, **sshd.options) as host:
        host.run("echo o; echo e >&2", stdout=tmp_path / "o", stderr=tmp_path / "e")
        assert host.run("echo o; echo e >&2", stderr="stdout").stdout == b"o\r\ne\r\n"
    assert ((tmp_path / "o").read_bytes(), (tmp_path / "e").read_bytes()) == (b"o\r\ne\r\n", b"")


def test_missing_folder_is_refused_before_a_connection_is_made(tmp_path: Path) -> None:
    """What is wrong here is said without asking the host."""
    with (
        px.SSH("host.invalid", config=False, agent=False) as host,
        pytest.raises(ConfigError, match="none/x' cannot be written"),
    ):
        host.run("true", stdout=tmp_path / "none" / "x")


def test_each_host_of_a_group_has_its_file(tmp_path: Path) -> None:
    """A path has the name of the host in it; one file for all is refused."""
    group = px.Group([FakeEnvironment(lambda command: "out", name=name) for name in ("a", "b")])
    with pytest.raises(ConfigError, match=r"stdout must be a path with \{host\}"):
        group.run("true", stdout=tmp_path / "log")
    with pytest.raises(ConfigError, match="live=True"):
        group.run("true", stdout="inherit", live=True)
    group.run("true", stdout=tmp_path / "{host}.log")
    group.run(px.Command("true", stdout=tmp_path / "{host}.txt"))
    group.run({name: px.Command("true", stdout=tmp_path / f"own-{name}") for name in "ab"})
    names = sorted(file.name for file in tmp_path.iterdir() if file.read_text() == "out")
    assert names == ["a.log", "a.txt", "b.log", "b.txt", "own-a", "own-b"]


def test_lines_of_merged_streams_are_printed_live(
    sshd: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where stderr goes with stdout, its lines are stdout's."""
    with px.SSH(sshd.destination, **sshd.options) as host:
        px.Group([host]).run("echo o; echo e >&2", stderr="stdout", live=True)
    out, err = capfd.readouterr()
    assert [line.rpartition(" ")[2] for line in out.splitlines()] == ["o", "e"]
    assert err == ""
