"""`stdout` and `stderr` of a command on this machine: what is refused, and each way to start."""

from __future__ import annotations

import errno
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.environments.local.spawn import WAYS
from parallel_exec.errors import CommandNotFoundError, CommandStartError, ConfigError

EACH_WAY = """
import sys
import parallel_exec as px
folder = sys.argv[1]
both = "echo o; echo e >&2"
print(px.run(both, stderr="stdout").text(), flush=True)
px.run(both, stdout=folder + "/out", stderr=folder + "/err")
px.run(both, stdout=folder + "/both", stderr="stdout")
px.run(both, stdout=folder + "/seen", stderr="stdout", max_output_bytes=100)
px.run(both, stdout="inherit", stderr="stdout")
px.run(both, stdout="inherit", stderr="inherit")
"""


@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_start_sends_output_there(way: str, tmp_path: Path) -> None:
    """Whichever way a command is started, its streams go where they are to go."""
    done = subprocess.run(
        [sys.executable, "-c", EACH_WAY, str(tmp_path)],
        env={**os.environ, "PARALLEL_EXEC_START": way},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("o\ne\n\no\ne\no\n", "e\n")
    files = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert files == {"out": "o\n", "err": "e\n", "both": "o\ne\n", "seen": "o\ne\n"}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"stdout": 1}, "stdout must be .*not 1"),
    ({"stdout": subprocess.PIPE}, "stdout must be None .captured."),
    ({"stderr": True}, "stderr must be"),
    ({"stdout": b"bytes"}, "stdout must be"),
    ({"stdout": ""}, "stdout must be a path"),
    ({"stdout": "a\0b"}, "stdout must be a path without NUL"),
    ({"stdout": "stdout"}, r"\./stdout"),
    ({"stdout": "stderr"}, r"\./stderr"),
    ({"stderr": "stderr"}, r"\./stderr"),
    ({"stdout": "inherit", "on_stdout": print}, "on_stdout="),
    ({"stderr": "inherit", "on_stderr": print}, "on_stderr="),
    ({"stderr": "stdout", "on_stderr": print}, "on_stderr="),
    ({"stdout": "inherit", "stderr": "inherit", "idle_timeout": 1}, "idle_timeout="),
    ({"stdout": "inherit", "stderr": "stdout", "idle_timeout": 1}, "idle_timeout="),
    ({"stdout": "inherit", "stderr": "inherit", "max_output_bytes": 1}, "max_output_bytes="),
    ({"stdout": "x/../same", "stderr": "same"}, "stderr='stdout'"),
]


@pytest.mark.parametrize(("options", "said"), BAD)
def test_what_cannot_be_is_refused(options: dict[str, Any], said: str) -> None:
    """The error names the option and what was given, before there is a command."""
    with pytest.raises(ConfigError, match=said):
        px.Command("true", **options)


def test_files_of_those_names_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path object, or a path with a slash, is a file, whatever its name."""
    monkeypatch.chdir(tmp_path)
    px.run("echo 1", stdout=Path("inherit"), cwd="/")
    px.run("echo 2 >&2", stderr=Path("stdout"), cwd="/")
    px.run("echo 3", stdout="./stderr", cwd="/")
    assert {f.name: f.read_text() for f in tmp_path.iterdir()} == {
        "inherit": "1\n",
        "stdout": "2\n",
        "stderr": "3\n",
    }


def test_named_pipe_without_a_reader_is_refused(tmp_path: Path) -> None:
    """It is an error at once: nothing of the library waits for somebody to come."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CommandStartError, match="pipe' cannot be written") as caught:
        px.run("echo", stdout=tmp_path / "pipe")
    assert caught.value.errno == errno.ENXIO
    assert px.run("echo fine").ok


def test_program_without_a_stream_says_so(tmp_path: Path) -> None:
    """What is inherited must be there."""
    code = (
        "import os; os.close(1)\n"
        "import parallel_exec as px\n"
        "try:\n    px.run('true', stdout='inherit')\n"
        "except px.errors.ConfigError as error:\n    os.write(2, str(error).encode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, check=True, timeout=60
    )
    assert b"stdout='inherit' cannot be written" in done.stderr


def test_command_that_does_not_start_leaves_nothing_open(tmp_path: Path) -> None:
    """Its files are closed, seen or not; the error is that of the command."""
    seen: Any
    for seen in ({}, {"max_output_bytes": 5}):
        with pytest.raises(CommandNotFoundError, match="command not found"):
            px.run(["no-such-program"], stdout=tmp_path / "a", stderr=tmp_path / "b", **seen)
        with pytest.raises(CommandStartError, match="none"):
            px.run("true", stdout=tmp_path / "a", stderr=tmp_path / "none" / "b", **seen)


def test_options_are_everywhere(tmp_path: Path) -> None:
    """All that takes options of a command takes these, and shows them."""
    for function in (px.run, px.submit, px.sh):
        assert {"stdout", "stderr", "idle_timeout"} <= set(inspect.signature(function).parameters)
    names = [tmp_path / name for name in "abc"]
    commands = [px.sh("echo {}", name, stdout=name) for name in names]
    assert [result.stdout for result in px.all(commands)] == [b"", b"", b""]
    assert [name.read_text() for name in names] == [f"{name}\n" for name in names]
    assert px.submit("echo x", stdout=names[0]).result(60).stdout == b""
    assert px.Command("true", stdout=names[0]).replace(stdout=None).stdout is None


def test_one_of_many_that_cannot_write_fails_alone(tmp_path: Path) -> None:
    """Where its file should go is a command's own affair."""
    tasks = [px.Command("echo", stdout=tmp_path / "none" / "x"), px.Command("echo fine")]
    outcomes = px.all_settled(tasks)
    assert [outcome.ok for outcome in outcomes] == [False, True]
    assert isinstance(outcomes[0].reason, ConfigError)


def test_slow_file_slows_the_command_down(tmp_path: Path) -> None:
    """A reader of a named pipe that does not read stops the command, and memory stays small."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(px.errors.CommandTimeoutError) as caught:
            px.run("yes", stdout=tmp_path / "pipe", on_stdout=len, timeout=0.5, kill_after=0.2)
        assert caught.value.result.stdout == b""
    finally:
        os.set_blocking(reader, True)
        while os.read(reader, 1 << 16):
            pass
        os.close(reader)
