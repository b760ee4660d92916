"""The options of a command, on a real server."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import threading

import pytest

from parallel_exec.errors import CommandNotFoundError, ConfigError, HostError
from parallel_exec.values.command import Command, sh
from parallel_exec.values.secret import MASK, Secret
from tests.integration.ssh.server import Server, account, run, running


def test_output_and_status_come_back(sshd: Server) -> None:
    """stdout, stderr and the exit status are three things."""
    result = run(sshd.backend(), "echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.exit_code) == (b"out\n", b"err\n", 3)
    assert result.signal is None
    assert result.stopped is None


@pytest.mark.parametrize(
    "word",
    [
        "",
        "a b",
        "it's",
        '"',
        "$HOME",
        "`id`",
        "\\",
        "\\n",
        "!x",
        "a\nb",
        "*",
        "ü",
        "-n",
        "#",
        "&;|",
    ],
)
def test_words_arrive_as_they_are(sshd: Server, word: str) -> None:
    """No shell on the way changes a word."""
    result = run(sshd.backend(), ["printf", "<%s>", word])
    assert result.text() == f"<{word}>"


def test_env_is_set_and_removed(sshd: Server) -> None:
    """A value may have any characters; None removes a variable."""
    env = {"A": "x\ny 'z' $HOME \\", "LOGNAME": None}
    result = run(sshd.backend(), 'printf %s "$A"; echo "<${LOGNAME-gone}>"', env=env)
    assert result.text() == "x\ny 'z' $HOME \\<gone>\n"


def test_no_variable_is_the_orders_own(sshd: Server) -> None:
    """Those with which a command is started take no name from it, and no line feed."""
    env = {"N": "1\n2", "PX": "3"}
    script = 'printf "%s|" "$N" "$PX" "$#" \'a\nb\''
    assert run(sshd.backend(), script, env=env).text() == "1\n2|3|0|a\nb|"
    words = ["sh", "-c", 'printf "%s|" "$N" "$PX" "$@"', "sh", "a\nb"]
    assert run(sshd.backend(), words, env=env).text() == "1\n2|3|a\nb|"


def test_env_that_the_shell_refuses_is_an_error(sshd: Server) -> None:
    """The command did not run, so it has no exit status; what the shell said is told."""
    for value, shown in (("no number", "no number"), (Secret("no number"), MASK)):
        with pytest.raises(HostError, match="did not start echo ran") as caught:
            run(sshd.backend(), "echo ran", env={"OPTIND": value})
        assert str(caught.value).endswith(f": {shown}")


def test_env_with_a_name_no_shell_takes_is_an_error(sshd: Server) -> None:
    """It is not passed over."""
    with pytest.raises(ConfigError, match="a-b"):
        run(sshd.backend(), "true", env={"a-b": "1"})


def test_secrets_are_in_no_command_line(sshd: Server) -> None:
    """Not in the shell's, not in sshd's: only a program that gets one as a word shows it."""
    secret = "s3cr3t-in-the-script"
    command = sh("test {} = x; test -n {}; sleep 0.0; ps -A -o args=", "x", Secret(secret))
    result = run(sshd.backend(), command, env={"TOKEN": Secret("s3cr3t-in-env")})
    assert "ps -A" in result.text()
    assert secret not in result.text()
    assert "s3cr3t-in-env" not in result.text()


def test_cwd_is_entered(sshd: Server) -> None:
    """An absolute path, a path from home, and home."""
    backend = sshd.backend()
    (sshd.account.home / "sub dir").mkdir(exist_ok=True)
    assert run(backend, "pwd", cwd="/").text() == "/\n"
    assert run(backend, "pwd", cwd="sub dir").text() == f"{sshd.account.home}/sub dir\n"
    assert run(backend, "pwd", cwd="~/sub dir").text() == f"{sshd.account.home}/sub dir\n"


def test_missing_cwd_is_an_error_and_nothing_runs(sshd: Server) -> None:
    """The command does not run somewhere else instead."""
    witness = sshd.base / "witness"
    with pytest.raises(CommandNotFoundError, match="/no/such"):
        run(sshd.backend(), f"touch {witness}", cwd="/no/such")
    assert not witness.exists()


def test_missing_program_is_an_error(sshd: Server) -> None:
    """As on this machine."""
    with pytest.raises(CommandNotFoundError, match="no such program"):
        run(sshd.backend(), ["no-such-program"])


def test_input_is_read_and_its_absence_too(sshd: Server) -> None:
    """Bytes, a secret, a file object, a pipe; without input there is an end at once."""
    backend = sshd.backend()
    assert run(backend, "cat", input=b"a\0b").stdout == b"a\0b"
    assert run(backend, "cat", input=Secret("pw")).stdout == b"pw"
    assert run(backend, "cat", input=io.BytesIO(b"x" * 1_000_000)).stdout == b"x" * 1_000_000
    assert run(backend, "cat").stdout == b""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as file:
        os.write(write, b"piped")
        os.close(write)
        assert run(backend, "cat", input=file).stdout == b"piped"


def test_command_that_reads_no_input_ends(sshd: Server) -> None:
    """A million bytes that nobody wants hold nothing up."""
    assert run(sshd.backend(), "exit 4", input=b"x" * 5_000_000).exit_code == 4


def test_long_orders(sshd: Server) -> None:
    """A script of a megabyte."""
    script = "x=" + "y" * 1_000_000 + "\nprintf %s ${#x}"
    assert run(sshd.backend(), script).text() == "1000000"


def test_signal_is_that_signal(sshd: Server) -> None:
    """Neither an exit status of 137 nor none."""
    result = run(sshd.backend(), "kill -KILL $$", check=False)
    assert (result.exit_code, result.signal, result.stopped) == (None, "SIGKILL", None)


def test_lines_are_live(sshd: Server) -> None:
    """A line is handed over while the command runs; the output is still captured."""
    lines: list[str] = []
    seen = threading.Event()

    def on_stdout(line: str) -> None:
        lines.append(line)
        seen.set()

    marker = sshd.account.home / "go-on"
    marker.unlink(missing_ok=True)

    def go_on() -> None:
        seen.wait(10)
        marker.touch()

    thread = threading.Thread(target=go_on)
    thread.start()
    result = run(
        sshd.backend(),
        f"echo one; while ! test -e {marker}; do sleep 0.01; done; printf 'two\\r\\nthree'",
        on_stdout=on_stdout,
    )
    thread.join()
    assert lines == ["one", "two", "three"]
    assert result.stdout == b"one\ntwo\r\nthree"


def test_raising_callback_loses_nothing(sshd: Server, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged."""

    def on_stderr(line: str) -> None:
        raise ValueError(line)

    result = run(sshd.backend(), "echo e >&2; echo o", on_stderr=on_stderr)
    assert result.stderr == b"e\n"
    assert "a callback for output raised" in caplog.text


def test_too_much_output_ends_the_command(sshd: Server) -> None:
    """What is within the limit is kept."""
    result = run(sshd.backend(), "exec yes px-limit", max_output_bytes=1000)
    assert result.truncated
    assert len(result.stdout) == 1000
    assert running("yes px-limit") == []


def test_a_gigabyte_flows_both_ways_at_once(sshd: Server) -> None:
    """1 GB in and 1 GB out: no deadlock, no byte lost, and memory does not grow with it."""
    size = 1_000_000_000
    line = b"a" * 9_999 + b"\n"
    chunk = line * 25
    came = 0
    most = 0

    class Endless(io.RawIOBase):
        left = size

        def read(self, n: int = -1) -> bytes:
            n = min(n, self.left, len(chunk))
            self.left -= n
            return chunk[:n] if n < len(chunk) else chunk

    def on_stdout(line: str) -> None:
        nonlocal came, most
        came += len(line) + 1
        if came % 10_000_000 == 0:
            most = max(most, _memory())

    before = _memory()
    result = run(sshd.backend(), "cat", input=Endless(), capture=False, on_stdout=on_stdout)
    assert (result.exit_code, result.stopped) == (0, None)
    assert came == size
    assert most - before < 80_000_000


def _memory() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_login_shell_that_prints_junk(make_sshd, base) -> None:  # type: ignore[no-untyped-def]
    """What it prints is not the command's output."""
    shell = base / "junk-shell"
    shell.write_text('#!/bin/sh\necho junk; echo more junk >&2; printf x; exec /bin/sh "$@"\n')
    shell.chmod(0o755)
    with account(base, str(shell)) as talker:
        if talker.password is None:
            pytest.skip("needs root, to make an account with such a shell")
        server = make_sshd(who=talker)
        result = run(server.backend(), "echo out; echo err >&2")
        assert (result.stdout, result.stderr) == (b"out\n", b"err\n")


def test_login_shell_that_does_not_run_it(make_sshd, base) -> None:  # type: ignore[no-untyped-def]
    """Nothing ran, and the error has what it said."""
    shell = base / "no-shell"
    shell.write_text("#!/bin/sh\necho This account is closed.; exit 1\n")
    shell.chmod(0o755)
    with account(base, str(shell)) as closed:
        if closed.password is None:
            pytest.skip("needs root, to make an account with such a shell")
        with pytest.raises(HostError, match="This account is closed"):
            run(make_sshd(who=closed).backend(), "true")


@pytest.mark.parametrize("shell", ["/bin/bash", "/bin/csh", "/usr/bin/fish", "/bin/zsh"])
def test_login_shells(make_sshd, base, shell) -> None:  # type: ignore[no-untyped-def]
    """Every shell hands the words on unchanged."""
    if not os.path.exists(shell):
        pytest.skip(f"needs {shell}")
    with account(base, shell) as user:
        if user.password is None:
            pytest.skip("needs root, to make an account with such a shell")
        backend = make_sshd(who=user).backend()
        for word in ("it's", "a!b", "back\\slash", "two\nlines", "$x `y`"):
            assert run(backend, ["printf", "%s", word]).text() == word
            assert run(backend, ["printf", "%s", word], env={"A": word}).text() == word


def test_a_backend_pickles_and_hides_its_secrets(sshd: Server) -> None:
    """The copy runs commands over connections of its own."""
    backend = sshd.backend(password="hunter2", sudo_password="hunter3", passphrase="hunter4")
    copy = pickle.loads(pickle.dumps(backend))
    try:
        assert "hunter" not in repr(backend) + repr(backend.settings) + repr(copy)
        assert run(copy, "echo copied").text() == "copied\n"
    finally:
        copy.close()


def test_file_that_cannot_be_read_is_no_silent_end(sshd: Server) -> None:
    """A command whose input broke off has not succeeded."""

    class Broken(io.RawIOBase):
        def read(self, n: int = -1) -> bytes:
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        run(sshd.backend(), "cat; echo done", input=Broken())


def test_command_is_a_command(sshd: Server) -> None:
    """`Command` objects and their results belong together."""
    command = Command.of(["true"], label="nothing")
    assert run(sshd.backend(), command).command == command
    assert subprocess.run(["true"], check=True).returncode == 0
