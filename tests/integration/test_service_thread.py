"""The thread that starts commands: what it lacks or is late for is no fault."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import parallel_exec as px
from parallel_exec.environments.local import spawn
from tests.integration.processes import Nap, python


def test_an_exit_right_after_the_first_commands_ends_them(nap: Nap, tmp_path: Path) -> None:
    """What they need of threads would be started when the interpreter starts no more."""
    code = f"""
    for _ in range(20):
        px.submit("{nap}")
    start = threading.Thread.start
    def refuse(thread):
        raise RuntimeError("can't create new thread at interpreter shutdown")
    threading.Thread.start = refuse
    """
    with python(tmp_path, code) as script:
        assert script.rest() == "", script.errors()
        assert script.exit_code() == 0
    nap.wait_for_none()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts what is open")
def test_a_watchdog_that_cannot_be_started_keeps_no_descriptor(tmp_path: Path) -> None:
    """Each try gives back what it has opened, or room for all of it would never come."""
    code = """
    import errno, subprocess
    from parallel_exec.environments.local import guard
    popen, opened = guard.subprocess.Popen, []
    def refuse(*words, **options):
        opened.append(len(os.listdir("/proc/self/fd")))
        raise OSError(errno.EMFILE, "Too many open files")
    guard.subprocess.Popen = refuse
    for _ in range(4):
        try:
            px.run(["echo", "late"])
        except px.errors.CommandStartError:
            pass
    guard.subprocess.Popen = popen
    print(px.run(["echo", "late"]).text().strip(), max(opened) - min(opened))
    """
    with python(tmp_path, code) as script:
        assert script.rest() == "late 0\n", script.errors()


@pytest.fixture(params=["extension", "popen"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "popen":
        monkeypatch.setattr(spawn, "fast", None)


@pytest.mark.usefixtures("_way")
def test_a_file_that_is_no_program_does_not_hide_the_next(tmp_path: Path) -> None:
    """Along PATH, the first that can be executed is the one; else the first refusal is told."""
    for name, text in (("text", "echo no program\n"), ("program", "#!/bin/sh\necho right\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tool").write_text(text)
        (tmp_path / name / "tool").chmod(0o755)
    path = f"{tmp_path}/text:{tmp_path}/program"
    assert px.run(["tool"], env={"PATH": path}).text() == "right\n"
    with pytest.raises(px.errors.CommandStartError, match="Exec format error"):
        px.run(["tool"], env={"PATH": f"{tmp_path}/text:/nowhere"})
    with pytest.raises(px.errors.CommandNotFoundError) as caught:
        px.run([f"{tmp_path}/text/tool/tool"])
    assert isinstance(caught.value.__cause__, NotADirectoryError)


@pytest.mark.skipif(spawn.fast is None, reason="`Popen` does not: there is no extension here")
def test_a_signal_is_left_to_the_main_thread(tmp_path: Path) -> None:
    """Handled in one that starts commands, it would not wake the main thread: a Ctrl-C lost.

    A third of them, when that thread is slow to wake, as here, unless what is pending is sent on
    to it; a signal that comes in the moment after that look can still be.
    """
    code = """
    from parallel_exec.environments.local import spawn
    variables = spawn.Variables([b"PATH=/usr/bin:/bin"])
    null = os.open(os.devnull, os.O_RDWR)
    arrived, bell, lost, over = threading.Event(), threading.Semaphore(0), [], []
    def as_usual():
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    def launch():
        as_usual()
        while not over:
            pid = spawn.spawn(["true"], variables, b"A=1", None, null, null, null)
            os.waitpid(pid, 0)
    def send():
        as_usual()
        for number in range(40):
            time.sleep(0.002 + number / 10000)
            arrived.clear()
            os.kill(os.getpid(), signal.SIGUSR1)
            if not arrived.wait(5):
                lost.append(number)
                bell.release()
                arrived.wait()
            if len(lost) == 5:
                break
        over.append(True)
        bell.release()
    signal.signal(signal.SIGUSR1, lambda *_: arrived.set())
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    for function in (launch, launch, send):
        threading.Thread(target=function).start()
    while not over:
        bell.acquire()
    print(len(lost))
    """
    with python(tmp_path, code) as script:
        assert int(script.rest()) < 5, script.errors()


def test_an_exit_that_is_looked_for_in_vain_has_one_timer(tmp_path: Path) -> None:
    """However often: a descriptor of another may come to life in a forked child again and again."""
    code = """
    from parallel_exec.environments.local import backend
    lines, done = threading.Semaphore(0), threading.Event()
    future = px.submit("echo runs; read line", input=open(os.pipe()[0], "rb"),
                       on_stdout=lambda line: lines.release())
    lines.acquire()
    (process,) = backend.host().processes
    def look():
        for _ in range(100):
            process._look_for_exit()
        print([timer.call for timer in process.host.reactor._timers].count(process._poll))
        done.set()
    process.host.reactor.post(look)
    done.wait()
    future.cancel()
    """
    with python(tmp_path, code) as script:
        assert script.rest() == "1\n", script.errors()
