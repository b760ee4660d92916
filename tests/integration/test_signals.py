"""Signals: which the service thread leaves to the program, and which commands have."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

import parallel_exec as px
from parallel_exec.environments.local import spawn
from tests.integration.processes import python

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
ways = pytest.mark.parametrize("way", spawn.WAYS)


@ways
def test_a_command_has_no_signal_blocked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """As after a login, whatever the thread blocks that asks for it: TERM reaches it."""
    monkeypatch.setenv(spawn.VARIABLE, way)
    code = """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    error = px.submit(["sleep", "1000"], timeout=0.1, kill_after=1000).exception()
    print(error.result.signal)
    show = px.Command(["grep", "SigBlk", "/proc/self/status"])
    if os.path.exists("/proc/self/status"):
        for result in px.all([show, show, lambda: px.run(show)]):
            assert set(result.text().split()[1]) == {"0"}, result.text()
    print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())) == [signal.SIGUSR1, signal.SIGTERM])
    """
    with python(tmp_path, code) as script:
        assert script.rest().split() == ["SIGTERM", "True"], script.errors()


@linux
@ways
def test_a_main_thread_that_waits_for_a_signal_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The service thread, which was there before, does not take it away."""
    monkeypatch.setenv(spawn.VARIABLE, way)
    code = """
    px.run("true")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    os.kill(os.getpid(), signal.SIGTERM)
    print(signal.sigwait({signal.SIGTERM}) == signal.SIGTERM)
    blocked = {}
    for thread in threading.enumerate():
        with open(f"/proc/self/task/{thread.native_id}/status") as file:
            bits = next(int(line[7:], 16) for line in file if line.startswith("SigBlk"))
        blocked[thread.name] = {n for n in signal.valid_signals() if bits >> n - 1 & 1}
    print(blocked["parallel_exec"] >= {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
    print(signal.SIGSEGV not in blocked["parallel_exec"])
    def mask():
        return signal.pthread_sigmask(signal.SIG_BLOCK, ())
    print(px.all([mask] * 3) == [{signal.SIGTERM}] * 3)
    lines = []
    px.run("echo x", on_stdout=lambda line: lines.append(mask()))
    print(lines == [{signal.SIGTERM}])
    """
    with python(tmp_path, code) as script:
        assert script.rest().split() == ["True"] * 5, script.errors()
        assert script.exit_code() == 0


@linux
def test_the_import_starts_nothing_and_closes_nothing(tmp_path: Path) -> None:
    """No child that a SIGCHLD handler would hear of; the first start sends one for its command."""
    code = """
    import importlib
    heard = []
    signal.signal(signal.SIGCHLD, lambda *_: heard.append(1))
    for name in [name for name in sys.modules if name.startswith("parallel_exec")]:
        del sys.modules[name]
    before = os.listdir("/proc/self/fd")
    import parallel_exec as again
    from parallel_exec.environments.local import spawn
    print(before == os.listdir("/proc/self/fd"), heard)
    spawn.way()
    print(before == os.listdir("/proc/self/fd"), heard)
    """
    with python(tmp_path, code) as script:
        assert script.rest() == "True []\nTrue []\n", script.errors()


@ways
def test_a_way_that_is_named_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """`PARALLEL_EXEC_START` chooses, as far as the system can do what it names."""
    monkeypatch.setenv(spawn.VARIABLE, way)
    code = """
    from parallel_exec.environments.local import spawn
    print(px.run("echo x").text(), end="")
    print(spawn.way())
    """
    with python(tmp_path, code) as script:
        expected = "popen" if spawn.fast is None else way
        assert script.rest() in (f"x\n{expected}\n", "x\npopen\n"), script.errors()


@pytest.mark.parametrize("value", ["", "fork", "Popen", "concurrent "])
def test_a_way_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """By an error that names the variable, its value and what it may be."""
    monkeypatch.setenv(spawn.VARIABLE, value)
    spawn.way.cache_clear()
    try:
        with pytest.raises(px.errors.ConfigError) as caught:
            px.run("true")
    finally:
        spawn.way.cache_clear()
    for word in (spawn.VARIABLE, repr(value), *spawn.WAYS):
        assert word in str(caught.value)


def test_a_program_that_is_still_being_written_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has it open for writing for a moment: that is no failure; for long, it is one."""
    from parallel_exec.environments.local.process import Process

    program = tmp_path / "program"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    failures: list[int | None] = []
    fail = Process._fail_to_start
    with program.open("ab") as file:

        def failing(process: Process, error: OSError) -> None:
            failures.append(error.errno)
            if len(failures) == 3:
                file.close()
            fail(process, error)

        monkeypatch.setattr(Process, "_fail_to_start", failing)
        assert px.run([str(program)]).ok
    assert len(failures) == 3
    other = tmp_path / "other"
    other.write_bytes(program.read_bytes())
    other.chmod(0o755)
    later = tmp_path / "later" / "other"
    later.parent.mkdir()
    later.symlink_to("/bin/true")
    path = f"{tmp_path}:{later.parent}"
    with other.open("ab"), pytest.raises(px.errors.CommandStartError, match="Text file busy"):
        px.run(["other"], env={"PATH": path})  # not another of that name
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
