"""Output and input at any size, live and captured, byte for byte."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.environments.local import backend
from parallel_exec.environments.output import BACKLOG
from parallel_exec.errors import CommandTimeoutError, OutputLimitError
from tests.integration.processes import PATIENCE_S, Nap, eventually, lines_of, python

PY = [sys.executable, "-I", "-S", "-c"]


def writer(code: str) -> list[str]:
    """Return a command that runs Python code with both streams as raw files."""
    return [*PY, f"import os, sys, time\nout, err = sys.stdout.buffer, sys.stderr.buffer\n{code}"]


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 5_000_000])
@pytest.mark.parametrize("streams", ["out", "err", "out err", "err out"])
def test_streams_of_any_size(size: int, streams: str) -> None:
    """Whatever comes on either stream, one after the other, is captured whole."""
    names = streams.split()
    code = "\n".join(f"{name}.write(b'{name[0]}' * {size}); {name}.flush()" for name in names)
    result = px.run(writer(code))
    assert result.stdout == (b"o" * size if "out" in names else b"")
    assert result.stderr == (b"e" * size if "err" in names else b"")


def test_both_streams_at_once() -> None:
    """Two streams that are written in turn, in pieces of any size, do not block each other."""
    code = (
        "import random\nrandom.seed(1)\n"
        "for n in range(400):\n"
        "    os.write(1, b'o' * random.randint(1, 30000))\n"
        "    os.write(2, b'e' * random.randint(1, 30000))"
    )
    sizes = random.Random(1)
    expected = [[sizes.randint(1, 30000) for _ in range(2)] for _ in range(400)]
    result = px.run(writer(code))
    assert len(result.stdout) == sum(out for out, _ in expected)
    assert len(result.stderr) == sum(err for _, err in expected)


def test_random_bytes_are_exact() -> None:
    """Bytes without any pattern come back as they were, through a file and a pipe."""
    data = random.Random(7).randbytes(3_000_000)
    assert px.run("cat", input=data).stdout == data
    assert px.run("cat >&2", input=io.BytesIO(data)).stderr == data


def test_closed_streams_are_no_trouble() -> None:
    """A command that closes its output early goes on, and its end is seen."""
    result = px.run("echo before; exec >&- 2>&-; sleep 0.2; exit 3", check=False)
    assert (result.stdout, result.exit_code) == (b"before\n", 3)


def test_what_is_written_at_the_very_end_is_there() -> None:
    """The last bytes before an exit or a signal are not lost."""
    tasks = [px.Command(f"printf {n}; kill -KILL $$", check=False) for n in range(100)]
    for number, result in enumerate(px.all(tasks)):
        assert (result.stdout, result.signal) == (str(number).encode(), "SIGKILL")


# Live lines


def test_lines_are_whole_at_chunk_borders() -> None:
    r"""Lines are the same however they are cut, "\r\n" and characters of several bytes too."""
    text = "".join(f"line {n} é€😀{'x' * (n % 50)}\r\n" for n in range(300))
    data = text.encode()
    pieces = [1, 2, 3, 5, 7, 4096, 65536, 1000]
    code = (
        f"data = sys.stdin.buffer.read()\nat = n = 0\nsizes = {pieces}\n"
        "while at < len(data):\n"
        "    size = sizes[n % len(sizes)]\n"
        "    out.write(data[at:at + size]); out.flush(); at += size; n += 1"
    )
    lines: list[str] = []
    px.run(writer(code), input=data, on_stdout=lines.append)
    assert lines == text.split("\r\n")[:-1]


def test_unfinished_line_is_handed_over_at_1_mib() -> None:
    """A line without an end comes in pieces of a MiB while the command goes on."""
    pieces: list[int] = []
    arrived = threading.Event()

    def callback(line: str) -> None:
        pieces.append(len(line))
        arrived.set()

    class Go:
        """An input that ends when the first piece has arrived."""

        def read(self, size: int) -> bytes:
            assert arrived.wait(PATIENCE_S)
            return b""

    code = "out.write(b'x' * (1 << 20)); out.flush(); sys.stdin.read(); out.write(b'y' * 99)"
    result = px.run(writer(code), input=Go(), on_stdout=callback)
    assert pieces == [1 << 20, 99]
    assert len(result.stdout) == (1 << 20) + 99


def test_slow_callback_slows_the_command_and_loses_nothing(tmp_path: Path) -> None:
    """A command waits for callbacks that have fallen behind; then all of it comes."""
    gate, lines = threading.Event(), 0
    told = tmp_path / "told"

    def callback(line: str) -> None:
        nonlocal lines
        gate.wait(PATIENCE_S)
        lines += 1

    code = (
        "line = b'x' * 999 + b'\\n'\n"
        "for n in range(20):\n"
        "    for _ in range(1000): out.write(line)\n"
        f"    out.flush(); open({str(told)!r}, 'a').write('%d\\n' % n)"
    )
    future = px.submit(writer(code), on_stdout=callback, capture=False)
    lines_of(told)  # of 20 MB it has written one
    with pytest.raises(TimeoutError):
        future.result(0.3)
    assert len(lines_of(told)) < 5
    gate.set()
    assert future.result(PATIENCE_S).ok
    assert lines == 20_000


def test_callbacks_of_one_command_hold_up_no_other() -> None:
    """While a callback blocks, other commands run, print and end."""
    gate, entered = threading.Event(), threading.Event()

    def callback(line: str) -> None:
        entered.set()
        gate.wait(PATIENCE_S)

    held = px.submit("echo held", on_stdout=callback)
    assert entered.wait(PATIENCE_S)
    lines: list[str] = []
    px.all([px.Command("echo other", on_stdout=lines.append)] * 5)
    assert lines == ["other"] * 5
    assert not held.done()
    gate.set()
    assert held.result(PATIENCE_S).ok


def test_callback_may_run_commands() -> None:
    """A callback may call the library itself."""
    answers: list[str] = []

    def callback(line: str) -> None:
        answers.append(px.run(["echo", line * 2]).text())

    px.run("echo ab; echo cd", on_stdout=callback)
    assert answers == ["abab\n", "cdcd\n"]


def test_raising_callbacks_are_logged_each(caplog: pytest.LogCaptureFixture) -> None:
    """A callback that raises is called again, and the result is whole."""

    def callback(line: str) -> None:
        raise LookupError(line)

    result = px.run("echo a; echo b >&2", on_stdout=callback, on_stderr=callback)
    assert (result.stdout, result.stderr) == (b"a\n", b"b\n")
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["a", "b"]


def test_lines_before_a_timeout_are_handed_over(nap: Nap) -> None:
    """Lines, and a line without an end, that came before the end are seen."""
    lines: list[str] = []
    with pytest.raises(CommandTimeoutError):
        px.run(f"echo whole; printf part; exec {nap}", timeout=1, on_stdout=lines.append)
    assert lines == ["whole", "part"]


def test_much_output_live_and_uncaptured_is_not_kept(tmp_path: Path) -> None:
    """A stream that is not captured takes no memory that grows with it."""
    code = """
    import resource
    px.run("true")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = 0
    def callback(line):
        global count
        count += 1
    px.run("yes xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx | head -c 200000000", capture=False,
           on_stdout=callback)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(count, (after - before) < 64 * 1024 * (1024 if sys.platform == "darwin" else 1))
    """
    with python(tmp_path, code) as script:
        assert script.line() == "5000000 True"


# Limits


@pytest.mark.parametrize("limit", [1, 65_535, 65_536, 65_537, 1_000_000])
def test_output_limit_is_exact(limit: int) -> None:
    """As much as allowed is kept, and not a byte more."""
    with pytest.raises(OutputLimitError) as caught:
        px.run("yes", max_output_bytes=limit)
    assert caught.value.result.stdout == (b"y\n" * limit)[:limit]
    assert caught.value.result.truncated


def test_output_limit_ends_the_whole_tree(nap: Nap) -> None:
    """Who prints too much is ended with all that it has started."""
    with pytest.raises(OutputLimitError):
        px.run(f"{nap} & yes", max_output_bytes=1000)
    assert nap.sleepers() == []


def test_output_limit_of_one_who_ignores_term() -> None:
    """A command that goes on printing after TERM is killed, and is not read for ever."""
    with pytest.raises(OutputLimitError) as caught:
        px.run("trap '' TERM; while :; do echo x; done", max_output_bytes=10, kill_after=0.2)
    assert caught.value.result.stdout == b"x\n" * 5


def test_output_within_the_limit_that_ends_is_fine() -> None:
    """The limit is looked at for what was printed just before the exit, too."""
    assert px.run("printf 12345", max_output_bytes=5).ok
    for _ in range(20):
        with pytest.raises(OutputLimitError) as caught:
            px.run("printf 123456", max_output_bytes=5)
        assert caught.value.result.stdout == b"12345"


def test_lines_end_at_the_limit() -> None:
    """Callbacks see what is kept, and no more."""
    lines: list[str] = []
    with pytest.raises(OutputLimitError):
        px.run("yes abc", max_output_bytes=10, on_stdout=lines.append)
    assert lines == ["abc", "abc", "ab"]


# Input


@pytest.mark.parametrize(
    "make",
    [
        bytes,
        bytearray,
        memoryview,
        io.BytesIO,
        lambda data: io.BufferedReader(io.BytesIO(data)),
        lambda data: io.StringIO(data.decode("latin-1")),
    ],
    ids=["bytes", "bytearray", "memoryview", "BytesIO", "BufferedReader", "StringIO"],
)
def test_input_of_every_kind(make: Callable[[bytes], Any]) -> None:
    """Whatever holds the input, every byte of it arrives."""
    data = bytes(range(128)) * 20_000
    assert px.run("cat", input=make(data)).stdout == data


def test_input_from_an_open_file(tmp_path: Path) -> None:
    """A file is read from where it stands, unbuffered or not, and stays open."""
    path = tmp_path / "data"
    path.write_bytes(b"head" + b"x" * 500_000)
    for buffering in (-1, 0):
        with path.open("rb", buffering) as file:
            assert file.read(4) == b"head"
            assert px.run("wc -c", input=file).json() == 500_000
            assert not file.closed
            assert file.read() == b""


def test_input_from_another_command_s_pipe() -> None:
    """The output of a process of the user's own may be the input of a command."""
    with subprocess.Popen(["echo", "from a pipe"], stdout=subprocess.PIPE) as process:
        assert px.run("cat", input=process.stdout).text() == "from a pipe\n"


def test_input_nobody_reads_is_left_alone(nap: Nap) -> None:
    """A command that ends without reading takes nothing from a pipe, and no thread waits
    for the pipe afterwards.
    """
    read, write = os.pipe()
    with os.fdopen(read, "rb") as source, os.fdopen(write, "wb", buffering=0) as sink:
        assert px.run("true", input=source).ok
        sink.write(b"for the next\n")
        assert px.run("head -n 1", input=source).text() == "for the next\n"
        sink.write(b"for us\n")
        assert source.readline() == b"for us\n"


def test_input_from_a_pipe_that_never_ends_does_not_hold_up_a_timeout(nap: Nap) -> None:
    """A command that waits for input is ended by its timeout, and so is the wait."""
    read, write = os.pipe()
    with (
        os.fdopen(read, "rb") as source,
        os.fdopen(write, "wb"),
        pytest.raises(CommandTimeoutError),
    ):
        px.run("cat", input=source, timeout=0.3)


def test_terminal_input_does_not_keep_the_program_from_exiting(tmp_path: Path) -> None:
    """A program whose standard input stays open exits cleanly after a command had it."""
    code = """
    read, write = os.pipe()
    os.dup2(read, 0)
    px.run("true", input=sys.stdin.buffer)
    print("done")
    """
    with python(tmp_path, code) as script:
        assert script.line() == "done"
        assert script.exit_code() == 0
        assert script.errors() == ""


@pytest.mark.parametrize("kind", [LookupError, BrokenPipeError, SystemExit])
def test_input_that_raises_ends_the_command(nap: Nap, kind: type[BaseException]) -> None:
    """The error of an input file comes through; the command is ended, since half an input
    is not the input.
    """

    class File:
        def __init__(self) -> None:
            self.chunks = [b"half"]

        def read(self, size: int) -> bytes:
            if self.chunks:
                return self.chunks.pop()
            raise kind("of the file")

    with pytest.raises(kind, match="of the file"):
        px.run(f"cat; exec {nap}", input=File())
    assert nap.sleepers() == []
    (outcome,) = px.all_settled([px.Command("cat > /dev/null", input=File())])
    assert outcome.status == "rejected"
    assert isinstance(outcome.reason, kind)


def test_input_that_gives_no_bytes_is_an_error() -> None:
    """A file that gives something else ends the command with an error that says so."""

    class File:
        def read(self, size: int) -> Any:
            return 5

    with pytest.raises(TypeError):
        px.run("cat", input=File())


def test_input_for_many_at_once() -> None:
    """Many commands are fed at once, each its own."""
    data = [random.Random(number).randbytes(200_000) for number in range(30)]
    tasks = [px.Command("cat", input=each) for each in data]
    tasks += [px.Command("cat", input=io.BytesIO(each)) for each in data]
    assert [result.stdout for result in px.all(tasks, concurrency=None)] == data * 2


def test_no_descriptor_reaches_a_command() -> None:
    """A command inherits its three streams and nothing else."""
    read, write = os.pipe()
    os.set_inheritable(write, True)
    try:
        tasks = ["ls /dev/fd | grep -v '^[012]$' | wc -l"] * 8
        counts = {int(result.text()) for result in px.all(tasks)}
        assert counts <= {0, 1}  # the one that `ls` has open to look
    finally:
        os.close(read)
        os.close(write)


def test_standard_streams_of_the_program_may_be_closed(tmp_path: Path) -> None:
    """A program without standard streams, whose pipes get the numbers 0 to 2, works."""
    out = tmp_path / "out"
    code = f"""
    for fd in (0, 1, 2):
        os.close(fd)
    results = px.all([px.Command("cat; echo $0 err >&2", input=b"in")] * 20)
    with open({str(out)!r}, "w") as file:
        print({{(r.stdout, r.stderr) for r in results}}, file=file)
    os._exit(0)
    """
    with python(tmp_path, code) as script:
        script.exit_code()
        assert out.read_text() == "{(b'in', b'/bin/sh err\\n')}\n"


def test_a_limit_that_is_passed_while_reading_pauses(tmp_path: Path) -> None:
    """What is read only at the end counts as well."""

    def commands() -> list[Any]:
        return list(backend.host().processes)

    def slow(_: str) -> None:
        if not go_on.exists():
            eventually(lambda: commands()[0]._output._backlog == size, "all of the first part")
            go_on.touch()
        eventually(lambda: all(process._over for process in commands()), "the command's end")

    size = BACKLOG + 1  # reading pauses when all of it has been read, and not before
    go_on = tmp_path / "go on"
    wait = f"while ! [ -e '{go_on}' ]; do sleep 0.01; done"
    script = f"(yes {99 * 'y'} | head -c {size}; {wait}; head -c 4000 /dev/zero) &"
    with pytest.raises(OutputLimitError) as caught:
        px.run(script, on_stdout=slow, max_output_bytes=size + 1000)
    assert caught.value.result is not None
    assert len(caught.value.result.stdout) == size + 1000


@pytest.mark.skipif(sys.platform != "linux", reason="memory is not limited elsewhere")
def test_output_that_does_not_fit_into_memory_is_an_error(tmp_path: Path) -> None:
    """The command is ended, and the next one runs."""
    code = """
    import resource
    px.run("true")
    resource.setrlimit(resource.RLIMIT_AS, (500 << 20, 500 << 20))
    try:
        px.run("head -c 700000000 /dev/zero; sleep 1000")
    except MemoryError as error:
        print("MemoryError")
    print(px.run("echo next").text())
    """
    with python(tmp_path, code) as script:
        assert script.rest() == "MemoryError\nnext\n\n", script.errors()


def test_a_pipe_that_somebody_else_has_closed_harms_no_other_command(tmp_path: Path) -> None:
    """The commands after it have their output read."""
    code = """
    from parallel_exec.environments.local import backend
    backend.YOUNG_S = 0.2
    px.run("true")
    future = px.submit("sleep 1000")
    while not any(p.live for p in backend.host().processes):
        time.sleep(0.01)
    (process,) = backend.host().processes
    os.dup2(os.open(os.devnull, os.O_RDONLY), process._stdout)
    results = px.all(["head -c 1000000 /dev/zero"] * 4, timeout=20)
    print([len(result.stdout) for result in results])
    future.cancel()
    """
    with python(tmp_path, code) as script:
        assert script.rest() == f"{[1_000_000] * 4}\n", script.errors()


def test_an_input_that_somebody_else_has_closed_keeps_nobody_waiting(tmp_path: Path) -> None:
    """The command ends as it would have."""
    code = """
    from parallel_exec.environments.local import backend
    go_on = "while ! [ -e go ]; do sleep 0.01; done; echo done"
    future = px.submit(go_on, input=bytes(10_000_000))
    while not any(p.live for p in backend.host().processes):
        time.sleep(0.01)
    (process,) = backend.host().processes
    os.close(process._input)
    open("go", "w").close()
    print(future.result(20).text())
    """
    with python(tmp_path, code) as script:
        assert script.rest() == "done\n\n", script.errors()


@pytest.mark.parametrize("kind", ["bytes", "file"])
def test_a_program_that_reads_no_input_does_not_end_one_with_sigpipe_at_its_default(
    tmp_path: Path, kind: str
) -> None:
    """As many programs of the command line have it: a write would end them."""
    given = "io.BytesIO(data)" if kind == "file" else "data"
    code = f"""
    import io
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    data = b"x" * 300000
    for _ in range(3):
        px.run("exec <&-; sleep 0.1", input={given})
    print("alive", signal.getsignal(signal.SIGPIPE) is signal.SIG_DFL)
    """
    with python(tmp_path, code) as script:
        assert script.rest() == "alive True\n", script.errors()
