"""Ending commands, seen in the far side's process table."""

from __future__ import annotations

import secrets
import subprocess
import sys
import threading
import time

import pytest

from parallel_exec.environments.base import Stop
from tests.integration.ssh.server import Server, run, running, wait_until


def mark() -> str:
    """Return a number of seconds to sleep that no other test sleeps."""
    return f"{secrets.randbelow(10**6) + 10**6}.{secrets.randbelow(10**6) + 10**6}"


@pytest.mark.parametrize("pty", [False, True])
def test_timeout_ends_the_process_tree(sshd: Server, pty: bool) -> None:
    """Children and grandchildren, in the background too."""
    word = mark()
    script = f"(sleep {word} & sh -c 'sleep {word}; true') & echo out; sleep {word}; true"
    result = run(sshd.backend(pty=pty), script, stop_after=0.5)
    assert result.timed_out
    assert result.lines() == ["out"]
    assert result.duration_s < 4
    assert running(f"sleep {word}") == []


@pytest.mark.parametrize("pty", [False, True])
def test_what_ignores_term_is_killed(sshd: Server, pty: bool) -> None:
    """After `kill_after`."""
    word = mark()
    script = f"trap '' TERM HUP; sleep {word} & sleep {word}; sleep {word}"
    result = run(sshd.backend(pty=pty), script, stop_after=0.5, kill_after=0.5)
    assert result.timed_out
    assert 0.9 < result.duration_s < 5
    assert running(f"sleep {word}") == []


def test_what_has_left_the_session_is_found_by_its_parent(sshd: Server) -> None:
    """A descendant in a session of its own is ended too."""
    word = mark()
    result = run(sshd.backend(), f"setsid sleep {word} & wait", stop_after=0.5)
    assert result.timed_out
    assert running(f"sleep {word}") == []


def test_kill_does_not_wait(sshd: Server) -> None:
    """`Stop.kill` cuts `kill_after` short."""
    word = mark()
    stop = Stop()
    timers = [threading.Timer(0.3, stop.end, ["cancel"]), threading.Timer(0.8, stop.kill)]
    for timer in timers:
        timer.start()
    script = f"trap '' TERM; sleep {word}; sleep {word}"
    result = run(sshd.backend(), script, stop=stop, kill_after=60.0)
    assert result.stopped == "cancel"
    assert result.duration_s < 10
    assert running(f"sleep {word}") == []
    for timer in timers:
        timer.join()


def test_other_commands_of_the_connection_are_unharmed(sshd: Server) -> None:
    """One is ended, its neighbours go on over the same connection."""
    backend = sshd.backend()
    word = mark()
    results = []
    neighbour = threading.Thread(
        target=lambda: results.append(run(backend, "sleep 1.2; echo fine"))
    )
    before = sshd.logins()
    neighbour.start()
    assert run(backend, f"sleep {word}", stop_after=0.4).timed_out
    neighbour.join()
    assert results[0].text() == "fine\n"
    assert run(backend, "echo again").text() == "again\n"
    assert sshd.logins() == before + 1


@pytest.mark.parametrize("max_sessions", [1, 2])
def test_a_kill_without_a_channel_to_spare(make_sshd, max_sessions) -> None:  # type: ignore[no-untyped-def]
    """Over a connection made for it."""
    server = make_sshd(max_sessions=max_sessions)
    backend = server.backend()
    word = mark()
    results = []
    threads = [
        threading.Thread(
            target=lambda: results.append(run(backend, f"sleep {word}", stop_after=1.0))
        )
        for _ in range(max_sessions)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.timed_out for result in results] == [True] * max_sessions
    assert running(f"sleep {word}") == []


def test_a_connection_for_a_kill_is_not_idle(make_sshd) -> None:  # type: ignore[no-untyped-def]
    """However long the command takes to end, and nothing is said meanwhile."""
    backend = make_sshd(max_sessions=1).backend(keepalive=0.2, keep_idle=0.1)
    word = mark()
    script = f"trap '' TERM; sleep {word}; sleep {word}"
    assert run(backend, script, stop_after=0.5, kill_after=2.0).timed_out
    assert running(f"sleep {word}") == []


def test_stop_before_it_began_runs_nothing(sshd: Server) -> None:
    """A result that says so."""
    witness = sshd.base / "never"
    stop = Stop()
    stop.end("cancel")
    result = run(sshd.backend(), f"touch {witness}", stop=stop)
    assert result.stopped == "cancel"
    assert not witness.exists()


def test_children_that_hold_the_pipes_get_kill_after(sshd: Server) -> None:
    """The command has ended; what it left behind is read for a while and then ended."""
    word = mark()
    result = run(
        sshd.backend(), f"(sleep 0.2; echo late) & sleep {word} & echo early", kill_after=1.0
    )
    assert result.lines() == ["early", "late"]
    assert (result.exit_code, result.stopped) == (0, None)
    assert 0.9 < result.duration_s < 5
    assert running(f"sleep {word}") == []


def test_close_ends_what_runs(sshd: Server) -> None:
    """And waits for it."""
    word = mark()
    backend = sshd.backend()
    results = []
    thread = threading.Thread(target=lambda: results.append(run(backend, f"sleep {word}")))
    thread.start()
    wait_until(lambda: running(f"sleep {word}"), "it runs")
    backend.close()
    thread.join(5)
    assert results[0].stopped == "cancel"
    assert running(f"sleep {word}") == []


def test_a_callback_that_hangs_does_not_hold_up_the_end(sshd: Server) -> None:
    """The result of a stopped command comes without the lines it still has."""
    hang = threading.Event()
    began = time.monotonic()
    try:
        result = run(
            sshd.backend(),
            "echo x; exec sleep 60",
            stop_after=0.5,
            kill_after=0.5,
            capture=False,
            on_stdout=lambda line: hang.wait(30),
        )
    finally:
        hang.set()
    assert result.timed_out
    assert time.monotonic() - began < 10


def test_end_of_the_program_ends_what_runs(sshd: Server) -> None:
    """What was submitted and never waited for does not outlive the program."""
    word = mark()
    script = (
        "import threading, parallel_exec as px\n"
        "up = threading.Event()\n"
        f"host = px.SSH({sshd.destination!r}, **{sshd.options!r})\n"
        f"host.submit('echo up; sleep {word}; true', on_stdout=lambda line: up.set())\n"
        "assert up.wait(30)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert running(f"sleep {word}") == []
