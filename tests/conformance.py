"""What every environment must do, whatever it runs commands on.

Derive a class named ``Test...`` from `Conformance` where there is a fixture ``environment``
that gives an open environment. The tests use POSIX commands alone, look at processes with
commands of the environment itself, and keep their files in a folder made there.
"""

from __future__ import annotations

import errno
import io
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.environments.base import Backend, Execution
from parallel_exec.errors import (
    CommandFailedError,
    CommandIdleError,
    CommandNotFoundError,
    CommandStartError,
    CommandTimeoutError,
    ExecutorClosedError,
    OutputLimitError,
    TaskCancelledError,
)

PATIENCE_S = 30.0
EVERY_BYTE = bytes(range(256)) * 5
# It survives TERM: the shell's trap does nothing, and its loop goes on.
STUBBORN = "trap : TERM; echo ready; while :; do sleep 0.05; done"
# It tells its process id and waits to be ended.
PATIENT = "echo $$; exec sleep 100000"


class Recorder:
    """A ticket that remembers what it is told."""

    def __init__(self, *, queued_s: float = 0.25, attempts: int = 2) -> None:
        self.queued_s = queued_s
        self.attempts = attempts
        self.endings: list[px.Result | BaseException] = []
        self.started = threading.Event()
        self.early = False
        self._told = threading.Event()

    def settled(self, ending: px.Result | BaseException) -> None:
        """See `Ticket.settled`."""
        self.endings.append(ending)
        self._told.set()

    def began(self) -> None:
        """See `Ticket.began`."""

    def strained(self, error: BaseException) -> None:
        """See `Ticket.strained`."""

    def ending(self) -> px.Result | BaseException:
        """Wait for the report, then long enough to see another if there were one."""
        assert self._told.wait(PATIENCE_S), "the end was not reported"
        return self.endings[0]

    def result(self) -> px.Result:
        """Wait for the report of a command that ran."""
        ending = self.ending()
        assert isinstance(ending, px.Result), repr(ending)
        return ending


class Lines:
    """A callback for lines, and what it was called with."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._changed = threading.Condition()

    def __call__(self, line: str) -> None:
        with self._changed:
            self._lines.append(line)
            self._changed.notify_all()

    def seen(self) -> list[str]:
        """Return the lines so far."""
        with self._changed:
            return list(self._lines)

    def wait_for(self, count: int) -> list[str]:
        """Wait for so many lines; return all there are."""
        with self._changed:
            enough = self._changed.wait_for(lambda: len(self._lines) >= count, PATIENCE_S)
            assert enough, f"only these lines came: {self._lines}"
            return list(self._lines)


class Conformance:
    """The tests."""

    @pytest.fixture
    def folder(self, environment: px.Environment) -> Iterator[str]:
        """Return a folder of the test's own in the environment."""
        name = environment.run("mktemp -d").text().strip()
        yield name
        environment.run(["rm", "-rf", name])

    @pytest.fixture
    def backend(self, environment: px.Environment) -> Backend:
        """Return the environment as what the engine sees of it."""
        assert isinstance(environment, Backend)
        return environment

    def runs(self, environment: px.Environment, pid: int | str) -> bool:
        """Return whether a process of the environment runs; the dead do not."""
        shown = environment.run(f"ps -o stat= -p {pid}", check=False).text().strip()
        return bool(shown) and not shown.startswith("Z")

    def wait_for_end(self, environment: px.Environment, pid: int | str) -> None:
        """Wait until a process of the environment has ended."""
        eventually(lambda: not self.runs(environment, pid), f"the end of process {pid}")

    # What runs

    def test_list_runs_without_a_shell(self, environment: px.Environment) -> None:
        """Words reach the program as they are, whatever a shell would make of them."""
        words = ["a b", "", "$HOME", "*", "it's", 'say "x"', "-n", "tab\there", "new\nline", "é"]
        result = environment.run(["printf", "[%s]", *words])
        assert result.stdout.decode() == "".join(f"[{word}]" for word in words)

    def test_string_runs_in_a_posix_shell(self, environment: px.Environment) -> None:
        """A string is a script: it has pipes, variables and statements."""
        result = environment.run("x=3; for i in 1 2; do echo $((i * x)); done | sort -r")
        assert result.lines() == ["6", "3"]

    def test_sh_quotes_every_value(self, environment: px.Environment) -> None:
        """A value put into a script by `sh` is one word of it."""
        value = "$(echo no) 'quotes\" ; {} \\"
        assert environment.run(px.sh("printf '%s|' {} end", value)).text() == f"{value}|end|"

    def test_script_of_many_lines(self, environment: px.Environment) -> None:
        """A script may have lines, comments and here-documents."""
        script = "# a comment\ncat <<'END'\n$x\nEND\necho last\n"
        assert environment.run(script).lines() == ["$x", "last"]

    def test_long_command(self, environment: px.Environment) -> None:
        """A command of a hundred thousand characters runs."""
        word = "x" * 100_000
        assert environment.run(["printf", "%s", word]).text() == word

    def test_options_of_a_command_object_hold(self, environment: px.Environment) -> None:
        """A `Command` brings its options along; those given later stand over them."""
        command = px.Command("echo $A; exit 3", env={"A": "1"}, check=False, label="mine")
        assert environment.run(command).exit_code == 3
        result = environment.run(command, env={"A": "2"})
        assert (result.text(), str(result.command)) == ("2\n", "mine")

    # What comes of it

    def test_result_tells_what_happened(self, environment: px.Environment) -> None:
        """Each field of a result has its truth."""
        before = time.time()
        result = environment.run("printf out; printf err >&2", label="two streams")
        assert (result.stdout, result.stderr) == (b"out", b"err")
        assert (result.exit_code, result.signal, result.stopped) == (0, None, None)
        assert (result.ok, result.timed_out, result.truncated) == (True, False, False)
        assert result.environment == environment.name
        assert str(result.command) == "two streams"
        assert before - 1 <= result.started_at <= time.time() + 1
        assert result.duration_s > 0
        assert result.queued_s >= 0
        assert result.attempts == 1

    @pytest.mark.parametrize("status", [1, 2, 126, 127, 128, 137, 143, 255])
    def test_exit_status_is_the_status(self, environment: px.Environment, status: int) -> None:
        """Every status is reported as it is, those that look like a signal's too."""
        result = environment.run(["sh", "-c", f"exit {status}"], check=False)
        assert (result.exit_code, result.signal, result.ok) == (status, None, False)

    @pytest.mark.parametrize("name", ["TERM", "KILL", "HUP", "USR1"])
    def test_signal_is_that_signal(self, environment: px.Environment, name: str) -> None:
        """A command that a signal ended has no exit status, and the signal's name."""
        result = environment.run(f"kill -{name} $$; sleep 5", check=False)
        assert (result.exit_code, result.signal) == (None, f"SIG{name}")
        assert (result.ok, result.stopped) == (False, None)

    def test_check_raises_with_the_result(self, environment: px.Environment) -> None:
        """A status other than 0 raises an error that has the whole result."""
        with pytest.raises(CommandFailedError, match=r"exited with 7.*last words") as caught:
            environment.run("echo partly; echo last words >&2; exit 7")
        assert caught.value.result.exit_code == 7
        assert caught.value.result.stdout == b"partly\n"
        assert caught.value.environment == environment.name

    def test_check_raises_for_a_signal(self, environment: px.Environment) -> None:
        """A signal raises too, and the message names it."""
        with pytest.raises(CommandFailedError, match="SIGKILL") as caught:
            environment.run("echo partly; kill -KILL $$")
        assert caught.value.result.signal == "SIGKILL"
        assert caught.value.result.stdout == b"partly\n"

    # Options

    def test_env_is_merged(self, environment: px.Environment) -> None:
        """Variables are set over those of the environment; the others stay."""
        values = {"PX_A": "it's $HOME\nand é", "PX_B": "", "PX_C": "="}
        result = environment.run('printf "%s|" "$PX_A" "$PX_B" "$PX_C" "${PATH:+path}"', env=values)
        assert result.text() == "it's $HOME\nand é||=|path|"

    def test_env_none_removes(self, environment: px.Environment) -> None:
        """A value of None removes a variable that the environment has."""
        script = 'printf %s "${HOME-none}"'
        assert environment.run(script).text() not in ("", "none")
        assert environment.run(script, env={"HOME": None}).text() == "none"

    def test_env_reaches_a_list_too(self, environment: px.Environment) -> None:
        """A command without a shell gets its variables as well."""
        result = environment.run(["sh", "-c", "echo $PX_A"], env={"PX_A": "seen"})
        assert result.text() == "seen\n"

    def test_cwd_is_where_it_runs(self, environment: px.Environment, folder: str) -> None:
        """A command runs in the directory it was given, whatever its name."""
        there = f"{folder}/it's a $dir"
        environment.run(["mkdir", there])
        assert environment.run("pwd -P", cwd=there).text().endswith("it's a $dir\n")
        assert environment.run(["ls", "-d", "."], cwd=there).text() == ".\n"

    def test_input_bytes_are_exact(self, environment: px.Environment) -> None:
        """Every byte given as input is read, and then the end."""
        assert environment.run(["cat"], input=EVERY_BYTE).stdout == EVERY_BYTE

    def test_input_text_is_encoded(self, environment: px.Environment) -> None:
        """Text as input is encoded as asked."""
        assert environment.run(["cat"], input="é", encoding="latin-1").stdout == b"\xe9"

    def test_input_may_be_empty(self, environment: px.Environment) -> None:
        """Empty input ends at once."""
        assert environment.run("cat; echo end", input=b"").text() == "end\n"

    def test_input_file_is_read_to_its_end(self, environment: px.Environment) -> None:
        """A file as input is read to its end, from where it stands."""
        file = io.BytesIO(b"skipped" + EVERY_BYTE * 200)
        file.seek(7)
        assert environment.run(["cat"], input=file).stdout == EVERY_BYTE * 200

    def test_input_from_a_pipe_is_passed_on_as_it_comes(self, environment: px.Environment) -> None:
        """What a pipe gives reaches the command before the pipe ends."""
        read, write = os.pipe()
        lines = Lines()
        with os.fdopen(read, "rb") as source, os.fdopen(write, "wb", buffering=0) as sink:
            future = environment.submit(["cat"], input=source, on_stdout=lines)
            sink.write(b"first\n")
            assert lines.wait_for(1) == ["first"]
            sink.write(b"second\n")
            sink.close()
            assert future.result(PATIENCE_S).stdout == b"first\nsecond\n"

    def test_without_input_there_is_none(self, environment: px.Environment) -> None:
        """A command that is given no input reads the end at once."""
        assert environment.run("cat; echo end").text() == "end\n"

    def test_input_that_is_not_read_is_no_error(self, environment: px.Environment) -> None:
        """A command may end without reading its input, or stop in the middle."""
        assert environment.run("exit 0", input=b"x" * 3_000_000).ok
        assert environment.run(["head", "-c", "5"], input=b"x" * 3_000_000).text() == "xxxxx"

    def test_much_in_and_much_out_does_not_deadlock(self, environment: px.Environment) -> None:
        """Input is fed while both streams of output are read."""
        data = os.urandom(1 << 21)
        result = environment.run("tee /dev/stderr", input=data)
        assert result.stdout == data
        assert result.stderr == data

    def test_output_is_byte_exact(self, environment: px.Environment) -> None:
        """What is printed on either stream is kept as it is, without an end of line too."""
        octal = "".join(f"\\{byte:03o}" for byte in range(256))
        result = environment.run(f"printf '{octal}'; printf '{octal}' >&2")
        assert result.stdout == result.stderr == bytes(range(256))

    def test_output_limit_ends_it_and_keeps_the_head(self, environment: px.Environment) -> None:
        """One byte too much ends a command; what is within the limit is kept."""
        with pytest.raises(OutputLimitError, match="1000 bytes") as caught:
            environment.run("while :; do echo 123456789; done", max_output_bytes=1000)
        result = caught.value.result
        assert result.stdout == b"123456789\n" * 100
        assert result.truncated
        assert not result.ok

    def test_output_limit_counts_both_streams(self, environment: px.Environment) -> None:
        """The limit is for stdout and stderr together."""
        script = "printf 12345; printf 12345 >&2; sleep 0.2; printf x"
        with pytest.raises(OutputLimitError) as caught:
            environment.run(script, max_output_bytes=10)
        assert (caught.value.result.stdout, caught.value.result.stderr) == (b"12345", b"12345")

    def test_output_as_large_as_the_limit_is_fine(self, environment: px.Environment) -> None:
        """Exactly as many bytes as allowed are no error."""
        assert environment.run("printf 12345; printf 67890 >&2", max_output_bytes=10).ok

    def test_output_limit_holds_whatever_check_says(self, environment: px.Environment) -> None:
        """``check=False`` is about exit statuses, not about limits."""
        with pytest.raises(OutputLimitError):
            environment.run("echo 123456789", max_output_bytes=5, check=False)

    def test_lines_come_while_it_runs(self, environment: px.Environment) -> None:
        """A callback sees a line before the command has ended, and its end of line not."""
        lines = Lines()
        future = environment.submit(["cat"], input=(pipe := Pipe()), on_stdout=lines)
        pipe.send(b"one\ntw")
        assert lines.wait_for(1) == ["one"]
        assert not future.done()
        pipe.send(b"o\r\n\nlast")
        assert lines.wait_for(3) == ["one", "two", ""]
        pipe.end()
        assert future.result(PATIENCE_S).stdout == b"one\ntwo\r\n\nlast"
        assert lines.seen() == ["one", "two", "", "last"]

    def test_each_stream_has_its_callback(self, environment: px.Environment) -> None:
        """Lines of stderr go to their own callback; both are still captured."""
        out, err = Lines(), Lines()
        result = environment.run("echo a; echo b >&2; echo c", on_stdout=out, on_stderr=err)
        assert (out.seen(), err.seen()) == (["a", "c"], ["b"])
        assert (result.stdout, result.stderr) == (b"a\nc\n", b"b\n")

    def test_callbacks_have_been_called_when_it_returns(self, environment: px.Environment) -> None:
        """Every line has been handed over before the result is there."""
        lines = Lines()
        environment.run("i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done", on_stdout=lines)
        assert lines.seen() == [str(number) for number in range(3000)]

    def test_raising_callback_loses_nothing(
        self, environment: px.Environment, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A callback that raises is logged; it is called for the next line all the same."""
        seen = []

        def callback(line: str) -> None:
            seen.append(line)
            raise RuntimeError("the callback's own")

        assert environment.run("echo a; echo b", on_stdout=callback).stdout == b"a\nb\n"
        assert seen == ["a", "b"]
        assert "the callback's own" in caplog.text

    def test_without_capture_nothing_is_kept(self, environment: px.Environment) -> None:
        """``capture=False`` keeps no output, and callbacks see it all the same."""
        lines = Lines()
        result = environment.run("echo a; echo b >&2", capture=False, on_stdout=lines)
        assert (result.stdout, result.stderr) == (b"", b"")
        assert lines.seen() == ["a"]
        assert environment.run("echo a", capture=False).stdout == b""

    def test_without_capture_the_limit_holds(self, environment: px.Environment) -> None:
        """Output that is not kept counts for the limit."""
        with pytest.raises(OutputLimitError):
            environment.run("while :; do echo x; done", capture=False, max_output_bytes=100)

    def test_encoding_is_that_of_lines_and_text(self, environment: px.Environment) -> None:
        """Text is made with the encoding asked for; bytes that do not decode are replaced."""
        lines = Lines()
        script = r"printf 'caf\351\n'"
        result = environment.run(script, encoding="latin-1", on_stdout=lines)
        assert (result.text(), lines.seen()) == ("café\n", ["café"])
        lines = Lines()
        assert environment.run(script, on_stdout=lines).text() == "caf�\n"
        assert lines.seen() == ["caf�"]

    # Where output goes

    def test_output_goes_to_files(self, environment: px.Environment, tmp_path: Path) -> None:
        """A path takes a stream byte for byte, and what stood there before is gone."""
        out, err = tmp_path / "out", tmp_path / "err"
        out.write_text("what was there before, which is longer")
        octal = "".join(f"\\{byte:03o}" for byte in range(256))
        result = environment.run(f"printf '{octal}'; echo e >&2", stdout=out, stderr=str(err))
        assert (out.read_bytes(), err.read_bytes()) == (bytes(range(256)), b"e\n")
        assert (result.stdout, result.stderr, result.ok) == (b"", b"", True)

    def test_streams_go_each_its_way(self, environment: px.Environment, tmp_path: Path) -> None:
        """What is not sent elsewhere is captured, or discarded if it is not to be."""
        script = "echo o; echo e >&2"
        result = environment.run(script, stdout=tmp_path / "1")
        assert (result.stdout, result.stderr) == (b"", b"e\n")
        result = environment.run(script, stderr=tmp_path / "2")
        assert (result.stdout, result.stderr) == (b"o\n", b"")
        result = environment.run(script, stdout=tmp_path / "3", capture=False)
        assert (result.stdout, result.stderr) == (b"", b"")
        assert [(tmp_path / name).read_text() for name in "123"] == ["o\n", "e\n", "o\n"]

    def test_much_output_goes_to_a_file(self, environment: px.Environment, tmp_path: Path) -> None:
        """All of a large output is in the file when the call returns, seen on its way or not."""
        data = os.urandom(3_000_000)
        options: Any
        for number, options in enumerate(({}, {"max_output_bytes": 3_000_000})):
            file = tmp_path / str(number)
            environment.run(["cat"], input=data, stdout=file, **options)
            assert file.read_bytes() == data

    def test_file_grows_as_output_comes(self, environment: px.Environment, tmp_path: Path) -> None:
        """What a command has printed is in the file while it runs."""
        options: Any
        for number, options in enumerate(({}, {"on_stdout": Lines()})):
            file = tmp_path / str(number)
            pipe: Any = Pipe()
            future = environment.submit(["cat"], input=pipe, stdout=file, **options)
            pipe.send(b"first\n")
            eventually(partial(_has, file, b"first\n"), "a line in a file")
            pipe.send(b"second")
            pipe.end()
            assert future.result(PATIENCE_S).ok
            assert file.read_bytes() == b"first\nsecond"

    def test_stderr_is_merged_in_order(self, environment: px.Environment, tmp_path: Path) -> None:
        """Both streams are one, as they were written, wherever that goes."""
        script = "for n in $(seq 300); do echo o$n; echo e$n >&2; done"
        lines = [line for n in range(1, 301) for line in (f"o{n}", f"e{n}")]
        heard = Lines()
        result = environment.run(script, stderr="stdout", on_stdout=heard)
        assert (result.lines(), result.stderr, heard.seen()) == (lines, b"", lines)
        result = environment.run(script, stdout=tmp_path / "both", stderr="stdout")
        assert (result.stdout, result.stderr) == (b"", b"")
        assert (tmp_path / "both").read_text().splitlines() == lines
        with pytest.raises(CommandFailedError, match="last words"):
            environment.run(["sh", "-c", "echo last words >&2; exit 3"], stderr="stdout")

    def test_inherited_streams_are_the_programs_own(
        self, environment: px.Environment, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """What is inherited comes out of this program, each stream at its own place."""
        result = environment.run("echo out; echo err >&2", stdout="inherit", stderr="inherit")
        assert (result.stdout, result.stderr) == (b"", b"")
        assert capfd.readouterr() == ("out\n", "err\n")
        environment.run("echo out; echo err >&2", stdout="inherit", stderr="stdout")
        assert capfd.readouterr() == ("out\nerr\n", "")
        result = environment.run("echo out; echo err >&2", stderr="inherit", max_output_bytes=4)
        assert (result.stdout, capfd.readouterr()) == (b"out\n", ("", "err\n"))

    def test_files_count_for_limits_and_callbacks(
        self, environment: px.Environment, tmp_path: Path
    ) -> None:
        """The lines of a file are heard, its bytes counted, its silence noticed."""
        file = tmp_path / "file"
        lines = Lines()
        environment.run("echo a; echo b", stdout=file, on_stdout=lines)
        assert (file.read_text(), lines.seen()) == ("a\nb\n", ["a", "b"])
        with pytest.raises(OutputLimitError):
            environment.run("while :; do echo 123456789; done", stdout=file, max_output_bytes=100)
        assert file.read_bytes() == b"123456789\n" * 10
        with pytest.raises(CommandIdleError):
            environment.run("echo seen; exec sleep 100000", stdout=file, idle_timeout=0.5)
        assert file.read_text() == "seen\n"

    def test_file_has_what_came_before_a_timeout(
        self, environment: px.Environment, tmp_path: Path
    ) -> None:
        """A command that is ended leaves in the file what it had printed."""
        with pytest.raises(CommandTimeoutError):
            environment.run("echo seen; exec sleep 100000", stdout=tmp_path / "out", timeout=0.5)
        assert (tmp_path / "out").read_text() == "seen\n"

    def test_missing_folder_is_refused_before_anything_starts(
        self, environment: px.Environment, folder: str, tmp_path: Path
    ) -> None:
        """A file that cannot be there is an error that names it, and nothing has run."""
        for name in ("stdout", "stderr"):
            options: Any = {name: tmp_path / "none" / "file"}
            with pytest.raises(CommandStartError, match=rf"{name}='.*none/file' cannot be"):
                environment.run("touch ran", cwd=folder, **options)
        with pytest.raises(CommandStartError, match="directory"):
            environment.run("touch ran", cwd=folder, stdout=tmp_path)
        assert environment.run("ls", cwd=folder).text() == ""

    def test_file_that_takes_no_more_ends_it(self, environment: px.Environment) -> None:
        """What this library writes, and cannot, is an error with the path; the command ends."""
        with pytest.raises(OSError, match="/dev/full") as caught:
            environment.run(
                "while :; do echo x; sleep 0.05; done", stdout="/dev/full", max_output_bytes=1 << 30
            )
        assert caught.value.errno == errno.ENOSPC

    def test_background_children_that_print_to_a_file_get_time(
        self, environment: px.Environment, tmp_path: Path
    ) -> None:
        """Children that are left behind may finish what they print, as where it is captured."""
        script = "(sleep 0.5; echo late) & echo early"
        environment.run(script, stdout=tmp_path / "out", stderr="stdout", kill_after=60)
        assert (tmp_path / "out").read_text() == "early\nlate\n"

    # Endings

    def test_timeout_is_a_timeout(self, environment: px.Environment) -> None:
        """What is over its time is ended; the error says so and has what was captured."""
        with pytest.raises(CommandTimeoutError, match="timed out") as caught:
            environment.run(PATIENT, timeout=1)
        result = caught.value.result
        assert result.timed_out
        assert not result.ok
        assert isinstance(caught.value, TimeoutError)
        self.wait_for_end(environment, result.text().strip())

    def test_timeout_raises_whatever_check_says(self, environment: px.Environment) -> None:
        """``check=False`` is about exit statuses, not about timeouts."""
        with pytest.raises(CommandTimeoutError):
            environment.run("sleep 100000", timeout=0.3, check=False)

    @pytest.mark.parametrize("capture", [True, False])
    def test_silence_ends_it(self, environment: px.Environment, capture: bool) -> None:
        """What prints nothing for its `idle_timeout` is ended; the error has what was printed."""
        lines = Lines()
        with pytest.raises(CommandIdleError, match=r"printed nothing .* for 0\.5 s") as caught:
            environment.run(
                PATIENT, idle_timeout=0.5, capture=capture, on_stdout=lines, check=False
            )
        result = caught.value.result
        assert isinstance(caught.value, CommandTimeoutError)
        assert (result.stopped, result.timed_out, result.ok) == ("idle", True, False)
        (pid,) = lines.seen()
        assert result.text() == (f"{pid}\n" if capture else "")
        self.wait_for_end(environment, pid)

    def test_silence_ends_what_never_printed(self, environment: px.Environment) -> None:
        """Without a byte, and without anybody who wants one, the time counts from the start."""
        with pytest.raises(CommandIdleError):
            environment.run("exec sleep 100000", idle_timeout=0.3, capture=False)

    def test_each_byte_on_either_stream_breaks_the_silence(
        self, environment: px.Environment
    ) -> None:
        """A command may run for longer than its `idle_timeout`, output discarded or not."""
        script = "for n in 1 2 3 4 5; do sleep 0.25; printf .; sleep 0.25; printf . >&2; done"
        assert environment.run(script, idle_timeout=2, capture=False).duration_s > 2
        assert environment.run(script, idle_timeout=2).stdout == b"....."

    def test_silence_of_children_in_the_background_does_not_count(
        self, environment: px.Environment
    ) -> None:
        """A command that has ended by itself is over: it is not ended for being silent."""
        result = environment.run("sleep 1 & echo early", idle_timeout=0.3, kill_after=60)
        assert result.text() == "early\n"
        assert result.ok

    def test_exit_0_on_term_is_still_a_timeout(self, environment: px.Environment) -> None:
        """A command that makes its TERM an exit with 0 has timed out all the same."""
        script = "trap 'echo cleaned up; exit 0' TERM; while :; do sleep 0.05; done"
        with pytest.raises(CommandTimeoutError) as caught:
            environment.run(script, timeout=1, kill_after=60)
        assert caught.value.result.text() == "cleaned up\n"
        assert not caught.value.result.ok

    def test_term_comes_before_kill(self, environment: px.Environment) -> None:
        """A command is asked to end and given `kill_after` before it is made to."""
        script = (
            "trap 'echo cleaning; sleep 0.3; echo clean; exit 5' TERM; echo up;"
            "while :; do sleep 0.05; done"
        )
        with pytest.raises(CommandTimeoutError) as caught:
            environment.run(script, timeout=1, kill_after=60)
        assert caught.value.result.lines() == ["up", "cleaning", "clean"]

    def test_who_ignores_term_is_killed(self, environment: px.Environment) -> None:
        """A command that stays after TERM is killed after `kill_after`."""
        with pytest.raises(CommandTimeoutError) as caught:
            environment.run(f"echo $$; {STUBBORN}", timeout=1, kill_after=0.2)
        result = caught.value.result
        pid, ready = result.lines()
        assert ready == "ready"
        self.wait_for_end(environment, pid)

    def test_kill_after_0_kills_soon(self, environment: px.Environment) -> None:
        """``kill_after=0`` waits for nobody."""
        with pytest.raises(CommandTimeoutError):
            environment.run(STUBBORN, timeout=0.5, kill_after=0)

    def test_whole_group_is_ended(self, environment: px.Environment) -> None:
        """What a command has started is ended with it, in the background too."""
        script = "sleep 100000 & echo $!; (sleep 100000; :) & echo $!; echo $$; wait"
        with pytest.raises(CommandTimeoutError) as caught:
            environment.run(script, timeout=1)
        pids = caught.value.result.lines()
        assert len(pids) == 3
        for pid in pids:
            self.wait_for_end(environment, pid)

    def test_background_children_are_ended_with_it(self, environment: px.Environment) -> None:
        """A command that exits leaves nobody of its session behind."""
        result = environment.run("sleep 100000 > /dev/null 2>&1 & echo $!", kill_after=1)
        assert result.ok
        self.wait_for_end(environment, result.text().strip())

    def test_background_children_that_print_get_time(self, environment: px.Environment) -> None:
        """What background children print within `kill_after` of the exit is captured."""
        result = environment.run("(sleep 0.3; echo late) & echo early", kill_after=60)
        assert result.lines() == ["early", "late"]
        assert result.ok

    def test_background_children_that_stay_are_ended(self, environment: px.Environment) -> None:
        """Background children that hold the output longer than `kill_after` are ended, and
        the command has not failed by that.
        """
        result = environment.run("sleep 100000 & echo $!", kill_after=0.3)
        assert (result.exit_code, result.stopped) == (0, None)
        self.wait_for_end(environment, result.text().strip())

    def test_cancel_is_a_cancel(self, environment: px.Environment) -> None:
        """A token ends a command; the error says so and has what was captured."""
        token, lines = px.CancelToken(), Lines()
        future = environment.submit(PATIENT, cancel=token, on_stdout=lines)
        (pid,) = lines.wait_for(1)
        token.cancel("enough")
        with pytest.raises(TaskCancelledError) as caught:
            future.result(PATIENCE_S)
        assert caught.value.result is not None
        assert caught.value.result.text() == f"{pid}\n"
        self.wait_for_end(environment, pid)

    def test_set_token_starts_nothing(self, environment: px.Environment, folder: str) -> None:
        """A command whose token is set beforehand does not run."""
        token = px.CancelToken()
        token.cancel()
        with pytest.raises(TaskCancelledError):
            environment.run("touch ran", cwd=folder, cancel=token)
        assert environment.run(["ls", folder]).text() == ""

    def test_no_such_program(self, environment: px.Environment) -> None:
        """A program that does not exist is an error that names it; nothing ran."""
        with pytest.raises(CommandNotFoundError) as caught:
            environment.run(["px-no-such-program", "x"])
        assert "px-no-such-program" in str(caught.value)
        assert caught.value.environment == environment.name

    def test_no_such_cwd(self, environment: px.Environment, folder: str) -> None:
        """A directory that does not exist is an error that names it; nothing ran."""
        with pytest.raises(CommandNotFoundError) as caught:
            environment.run(f"touch {folder}/ran", cwd=f"{folder}/nowhere")
        assert f"{folder}/nowhere" in str(caught.value)
        assert environment.run(["ls", folder]).text() == ""

    # Many at once

    def test_submit_does_not_wait(self, environment: px.Environment, folder: str) -> None:
        """`submit` returns while the command runs, and its future has the result."""
        future = environment.submit(f"while ! [ -e {folder}/go ]; do sleep 0.02; done; echo on")
        assert not future.done()
        environment.run(["touch", f"{folder}/go"])
        assert future.result(PATIENCE_S).text() == "on\n"

    def test_commands_run_at_once(self, environment: px.Environment, folder: str) -> None:
        """Commands that wait for each other end: they run at the same time."""
        wait = "while [ $(ls | wc -l) -lt 4 ]; do sleep 0.02; done"
        tasks = [
            environment.command(f"touch {number}; {wait}; echo {number}", cwd=folder, timeout=20)
            for number in range(4)
        ]
        assert [each.text().strip() for each in px.all(tasks)] == ["0", "1", "2", "3"]

    def test_many_commands_each_have_their_own_output(self, environment: px.Environment) -> None:
        """Output is never mixed up between commands."""
        tasks = [
            environment.command(["sh", "-c", f"echo {number}; echo {-number} >&2"])
            for number in range(60)
        ]
        for number, result in enumerate(px.all(tasks, concurrency=8)):
            assert (result.text(), result.stderr) == (f"{number}\n", f"{-number}\n".encode())

    def test_bound_command_runs_here(self, environment: px.Environment) -> None:
        """`command` binds to this environment, with its options."""
        command = environment.command("echo $A", env={"A": "x"}, label="bound")
        result = px.run(command)
        assert (result.environment, result.text()) == (environment.name, "x\n")
        assert str(result.command) == "bound"

    def test_threads_may_share_it(self, environment: px.Environment) -> None:
        """Many threads may run commands in one environment."""
        with ThreadPoolExecutor(6) as threads:
            numbers = range(24)
            results = list(threads.map(lambda n: environment.run(["echo", str(n)]), numbers))
        assert [int(result.text()) for result in results] == list(numbers)

    # Secrets

    def test_secrets_reach_the_command_and_nothing_else(self, environment: px.Environment) -> None:
        """A secret word, variable or input is used; errors and reprs show a mask."""
        secret = px.Secret("hunter2")
        with pytest.raises(CommandFailedError) as caught:
            environment.run(
                px.sh("printf '%s ' {} $WORD; cat; exit 1", secret),
                env={"WORD": secret},
                input=secret,
            )
        assert caught.value.result.stdout == b"hunter2 hunter2 hunter2"
        shown = f"{caught.value} {caught.value!r} {caught.value.result!r}"
        assert "hunter2" not in shown
        assert "***" in shown

    def test_secret_word_is_masked_when_it_cannot_start(self, environment: px.Environment) -> None:
        """The error of a command that does not start masks its secrets, causes included."""
        with pytest.raises(CommandNotFoundError) as caught:
            environment.run(["px-no-such-program", px.Secret("hunter2")])
        error: BaseException | None = caught.value
        while error is not None:
            assert "hunter2" not in f"{error} {error!r}"
            error = error.__cause__ or error.__context__

    # The seam: what the engine relies on

    def test_end_is_reported_once(self, backend: Backend) -> None:
        """A command that ends by itself is reported by one result."""
        ticket = Recorder()
        backend.start(px.Command("echo hi; exit 4", check=False), ticket)
        result = ticket.result()
        assert (result.stdout, result.exit_code, result.stopped) == (b"hi\n", 4, None)
        settle(backend)
        assert ticket.endings == [result]

    def test_result_has_what_the_ticket_knows(self, backend: Backend) -> None:
        """The wait and the number of the try stand in the result."""
        ticket = Recorder(queued_s=1.5, attempts=3)
        backend.start(px.Command("true"), ticket)
        assert (ticket.result().queued_s, ticket.result().attempts) == (1.5, 3)

    def test_start_never_raises(self, backend: Backend) -> None:
        """What cannot be started is reported, once, by its error."""
        ticket = Recorder()
        backend.start(px.Command(["px-no-such-program"]), ticket)
        assert isinstance(ticket.ending(), CommandNotFoundError)
        settle(backend)
        assert len(ticket.endings) == 1

    @pytest.mark.parametrize("reason", ["timeout", "cancel"])
    def test_end_gives_its_reason(self, backend: Backend, reason: Any) -> None:
        """A command that was ended says why; the first reason stands."""
        ticket, lines = Recorder(), Lines()
        execution = backend.start(px.Command(PATIENT, on_stdout=lines), ticket)
        (pid,) = lines.wait_for(1)
        execution.end(reason)
        execution.end("cancel" if reason == "timeout" else "timeout")
        result = ticket.result()
        assert result.stopped == reason
        assert result.text() == f"{pid}\n"
        assert not result.ok

    def test_end_from_many_threads_is_one_end(self, backend: Backend) -> None:
        """Ending a command from many threads at once, twice each, reports it once."""
        ticket, lines = Recorder(), Lines()
        execution = backend.start(px.Command(PATIENT, on_stdout=lines), ticket)
        lines.wait_for(1)
        together = threading.Barrier(6)

        def end() -> None:
            together.wait(PATIENCE_S)
            execution.end("cancel")
            execution.end("timeout")

        with ThreadPoolExecutor(6) as threads:
            for _ in range(6):
                threads.submit(end)
        assert ticket.result().stopped == "cancel"
        settle(backend)
        assert len(ticket.endings) == 1

    def test_end_after_the_end_changes_nothing(self, backend: Backend) -> None:
        """A command that has ended by itself stays so, whatever it is told then."""
        ticket = Recorder()
        execution = backend.start(px.Command("exit 3", check=False), ticket)
        result = ticket.result()
        execution.end("timeout")
        execution.kill()
        settle(backend)
        assert ticket.endings == [result]
        assert (result.exit_code, result.stopped) == (3, None)

    def test_end_right_after_start_is_not_lost(self, backend: Backend) -> None:
        """A command ended before it is fully up ends, and is reported once."""
        for _ in range(5):
            ticket = Recorder()
            backend.start(px.Command("sleep 100000"), ticket).end("cancel")
            ending = ticket.ending()
            if isinstance(ending, px.Result):
                assert ending.stopped == "cancel"
            else:  # it never ran
                assert isinstance(ending, TaskCancelledError)
            settle(backend)
            assert len(ticket.endings) == 1

    def test_kill_waits_for_nobody(self, backend: Backend) -> None:
        """`kill` cuts short a `kill_after` that would last for ever."""
        ticket, lines = Recorder(), Lines()
        command = px.Command(STUBBORN, on_stdout=lines, kill_after=100_000)
        execution = backend.start(command, ticket)
        lines.wait_for(1)
        execution.end("cancel")
        execution.kill()
        assert ticket.result().stopped == "cancel"

    def test_kill_is_for_what_is_ending(self, backend: Backend) -> None:
        """`kill` does nothing to a command that nobody has asked to end."""
        ticket, lines = Recorder(), Lines()
        pipe = Pipe()
        command = px.Command(["cat"], input=pipe, on_stdout=lines)
        execution = backend.start(command, ticket)
        pipe.send(b"up\n")
        lines.wait_for(1)
        execution.kill()
        pipe.send(b"still\n")
        assert lines.wait_for(2) == ["up", "still"]
        pipe.end()
        assert ticket.result().ok

    def test_backend_may_be_told_from_a_callback(self, backend: Backend) -> None:
        """A command may be ended by what it prints."""
        ticket = Recorder()
        executions: list[Execution] = []
        there = threading.Event()

        def callback(line: str) -> None:
            there.wait(PATIENCE_S)
            executions[0].end("cancel")

        command = px.Command(PATIENT, on_stdout=callback)
        executions.append(backend.start(command, ticket))
        there.set()
        assert ticket.result().stopped == "cancel"


class ClosingConformance:
    """The tests that need an environment of their own: the fixture ``make_environment``
    gives a function that makes one.
    """

    def test_close_ends_what_runs(self, make_environment: Callable[[], Any]) -> None:
        """`close` ends the commands of the environment and waits for that."""
        environment = make_environment()
        lines = Lines()
        futures = [environment.submit(PATIENT, on_stdout=lines) for _ in range(2)]
        pids = lines.wait_for(2)
        environment.close()
        for future in futures:
            with pytest.raises(TaskCancelledError) as caught:
                future.result(PATIENCE_S)
            assert caught.value.result is not None
            assert caught.value.result.text().strip() in pids
        with make_environment() as another:
            for pid in pids:
                eventually(partial(_dead, another, pid), f"the end of process {pid}")

    def test_close_is_idempotent(self, make_environment: Callable[[], Any]) -> None:
        """Closing twice, or what was never used, is fine."""
        environment = make_environment()
        environment.close()
        environment.close()

    def test_closed_takes_no_more(self, make_environment: Callable[[], Any]) -> None:
        """A closed environment refuses commands with an error that says so."""
        environment = make_environment()
        environment.run("true")
        environment.close()
        with pytest.raises(ExecutorClosedError):
            environment.run("true")
        ticket = Recorder()
        environment.start(px.Command("true"), ticket)
        assert isinstance(ticket.ending(), ExecutorClosedError)

    def test_with_closes(self, make_environment: Callable[[], Any]) -> None:
        """Leaving ``with`` closes, also by an exception, which comes through."""
        with pytest.raises(KeyError), make_environment() as environment:  # noqa: PT012
            future = environment.submit("sleep 100000")
            raise KeyError
        with pytest.raises(TaskCancelledError):
            future.result(PATIENCE_S)

    def test_close_from_two_threads(self, make_environment: Callable[[], Any]) -> None:
        """Two threads may close at once; both return when all has ended."""
        environment = make_environment()
        future = environment.submit("sleep 100000")
        with ThreadPoolExecutor(2) as threads:
            for done in [threads.submit(environment.close) for _ in range(2)]:
                done.result(PATIENCE_S)
        with pytest.raises(TaskCancelledError):
            future.result(PATIENCE_S)


class Pipe:
    """A readable file that gives what it is sent, as it comes."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._ended = False
        self._changed = threading.Condition()

    def send(self, data: bytes) -> None:
        """Have `data` read."""
        with self._changed:
            self._chunks.append(data)
            self._changed.notify()

    def end(self) -> None:
        """Have the end read."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def read(self, size: int = -1) -> bytes:
        """Wait for something, and return it."""
        with self._changed:
            ready = self._changed.wait_for(lambda: self._chunks or self._ended, PATIENCE_S)
            assert ready, "the pipe was neither fed nor ended"
            return self._chunks.pop(0) if self._chunks else b""


def _dead(environment: px.Environment, pid: str) -> bool:
    """Return whether a process has ended there."""
    state = environment.run(f"ps -o stat= -p {pid}", check=False).text().strip()
    return state[:1] in ("", "Z")


def _has(file: Path, content: bytes) -> bool:
    """Return whether a file is there and has that in it."""
    return file.exists() and file.read_bytes() == content


def eventually(look: Callable[[], object], what: str) -> None:
    """Look until there is something true to see."""
    over = time.monotonic() + PATIENCE_S
    for pause in itertools.chain((0.0, 0.01, 0.02, 0.05), itertools.repeat(0.1)):
        if look():
            return
        assert time.monotonic() < over, f"this did not come about: {what}"
        time.sleep(pause)


def settle(backend: Backend) -> None:
    """Return when whatever the backend had under way has been reported: a command that was
    started later has ended.
    """
    ticket = Recorder()
    backend.start(px.Command("true"), ticket)
    ticket.ending()
