"""What goes wrong out there, and what is said of it."""

from __future__ import annotations

import io
import os
import queue
import shutil
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.environments.base import Stop
from parallel_exec.errors import (
    AuthenticationError,
    ConfigError,
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    HostKeyError,
)
from tests.integration.ssh.server import (
    Cut,
    Server,
    end,
    free_port,
    listener,
    run,
    running,
    wait_until,
)
from tests.integration.ssh.test_ending import mark


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, theirs included."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parent = int(Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == pid:
                found += [int(name), *children(int(name))]
    return found


@pytest.mark.parametrize("command", ["script", "words", "long-script", "sudo"])
def test_sshd_killed_under_a_command(make_sshd, command) -> None:  # type: ignore[no-untyped-def]
    """The command is lost: its fate is unknown, which is no success. What is left of it is
    ended over another connection.
    """
    server = make_sshd()
    options = {}
    if command == "sudo":
        if server.account.password is None or shutil.which("sudo") is None:
            pytest.skip("needs sudo, and root to make an account that may use it")
        options = {"sudo": True, "sudo_password": server.account.password}
    backend = server.backend(**options)
    word = mark()
    given: str | list[str] = f"echo begun; sleep {word}; true"
    if command == "words":
        given = ["sh", "-c", f"echo begun; exec sleep {word}"]
    elif command == "long-script":
        given += f" # {'!' * 100_000}"  # type: ignore[operator]
    results = []
    thread = threading.Thread(target=lambda: results.append(run(backend, given)))
    thread.start()
    wait_until(lambda: running(f"sleep {word}"), "it runs")
    for pid in children(server.process.pid):
        if "sshd" in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(pid, signal.SIGKILL)
    thread.join(10)
    assert results[0].stopped == "lost"
    assert results[0].stdout == b"begun\n"
    assert results[0].exit_code is None
    wait_until(lambda: not running(f"sleep {word}"), "what is left of it has ended")
    assert run(backend, "echo again").text() == "again\n"


def test_what_a_broken_connection_left_is_ended_before_the_end(make_sshd) -> None:  # type: ignore[no-untyped-def]
    """`close` gives it a moment, and others' processes are never taken for it."""
    server = make_sshd()
    backend = server.backend()
    word, other = mark(), mark()
    lost = backend.submit(f"sleep {word}; true")
    kept = server.backend(keepalive=20).submit(f"sleep {other}; true")
    wait_until(lambda: running(f"sleep {word}") and running(f"sleep {other}"), "they run")
    assert backend._pool is not None
    backend._pool._connections[0].transport.sock.shutdown(2)
    with pytest.raises(ConnectionLostError):
        lost.result(30)
    backend.close()
    assert not running(f"sleep {word}")
    assert running(f"sleep {other}")
    assert not kept.done()


def test_network_cut_without_a_word(sshd: Server) -> None:
    """Noticed by unanswered questions; what ran is lost."""
    cut = Cut(sshd.port)
    word = mark()
    try:
        backend = _through(cut, sshd, keepalive=0.2)
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        future = backend.submit(f"echo begun; sleep {word}", on_stdout=lines.put)
        assert lines.get(timeout=30) == "begun"
        cut.cut()
        with pytest.raises(ConnectionLostError) as lost:
            future.result(30)
        assert lost.value.result is not None
        assert lost.value.result.stdout == b"begun\n"
        assert running(f"sleep {word}")
    finally:
        cut.close()
        end(f"sleep {word}")


def test_network_cut_under_much_input(sshd: Server) -> None:
    """A thread that is stuck in writing holds up no end, its own nor that of the others."""
    cut = Cut(sshd.port)
    backend = _through(cut, sshd, connect_timeout=1.0, keepalive=0)
    run(backend, "true")
    assert backend._pool is not None
    transport = backend._pool._connections[0].transport
    # Less room on the way than the windows of eight commands.
    transport.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    cut._sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    word = mark()
    command = f"cat >/dev/null; : {word}"
    stops = [Stop() for _ in range(8)]
    with open("/dev/zero", "rb") as endless, ThreadPoolExecutor(8) as threads:
        try:
            results = [
                threads.submit(run, backend, command, input=endless, stop=stop, kill_after=0)
                for stop in stops
            ]
            wait_until(lambda: len(running(word)) == 8, "they run")
            cut.cut()
            looks: list[bool] = []

            def stuck() -> bool:
                looks.append(not transport.clear_to_send_lock.locked())
                return len(looks) >= 50 and not any(looks[-50:])

            wait_until(stuck, "one of them is stuck")
            for stop in stops:
                stop.end("timeout")
            assert {result.result(30).stopped for result in results} <= {"timeout", "lost"}
        finally:
            backend.close()
            cut.close()


def test_connection_that_a_router_forgot(sshd: Server) -> None:
    """Nothing answers on it any more, yet the host is there: the next command connects anew."""
    cut = Cut(sshd.port)
    backend = _through(cut, sshd, connect_timeout=1.0)
    try:
        run(backend, "true")
        cut.forget()
        assert run(backend, "echo back").text() == "back\n"
        cut.forget()
        backend.put(io.BytesIO(b"x"), "after-forgetting")
        cut.forget()
        cut.cut()
        with pytest.raises(ConnectTimeoutError):
            run(backend, "true")
    finally:
        backend.close()
        cut.close()


def _through(cut: Cut, server: Server, **options: Any) -> px.SSH:
    """Return the server as it is reached through `cut`, and trusted there."""
    known = server.base / f"known-{cut.port}"
    line = server.known_hosts.read_text().split(" ", 1)[1]
    known.write_text(f"[127.0.0.1]:{cut.port} {line}")
    destination = f"{server.account.user}@127.0.0.1:{cut.port}"
    return server.backend(destination, known_hosts=str(known), **options)


def test_banner_that_never_comes(sshd: Server) -> None:
    """A timeout of the connection, and others are unharmed."""
    with listener(answer=False) as port:
        silent = sshd.backend(f"x@127.0.0.1:{port}", connect_timeout=1)
        with ThreadPoolExecutor(2) as threads:
            waiting = threads.submit(run, silent, "true")
            assert run(sshd.backend(), "echo fine").text() == "fine\n"
            with pytest.raises(ConnectTimeoutError, match="no banner"):
                waiting.result(5)


def test_server_that_accepts_and_closes(sshd: Server) -> None:
    """Tried again, since nothing ran, but not for ever."""
    with listener(answer=True) as port:
        backend = sshd.backend(f"x@127.0.0.1:{port}", connect_timeout=1)
        began = time.monotonic()
        with pytest.raises(ConnectError, match="closed the connection before its banner"):
            run(backend, "true")
        assert time.monotonic() - began < 3


def test_nobody_listens(sshd: Server) -> None:
    """At once."""
    with pytest.raises(ConnectError, match="refused"):
        run(sshd.backend(f"x@127.0.0.1:{free_port()}"), "true")


def test_name_that_does_not_resolve(sshd: Server) -> None:
    """The error names it."""
    with pytest.raises(ConnectError, match=r"no-such-host\.invalid does not resolve"):
        run(sshd.backend("x@no-such-host.invalid"), "true")


def test_one_failure_tells_everyone_who_waits(sshd: Server) -> None:
    """Ten threads at a dead host: one attempt, ten errors of their own."""
    with listener(answer=False) as port:
        backend = sshd.backend(f"x@127.0.0.1:{port}", connect_timeout=1)

        def attempt(_: int) -> BaseException:
            with pytest.raises(ConnectTimeoutError) as caught:
                run(backend, "true")
            return caught.value

        began = time.monotonic()
        with ThreadPoolExecutor(10) as threads:
            errors = list(threads.map(attempt, range(10)))
        assert len({id(error) for error in errors}) == 10
        assert time.monotonic() - began < 3


def test_login_refused(sshd: Server, tmp_path: Path) -> None:
    """The error says what was tried."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True
    )
    with pytest.raises(AuthenticationError, match="other"):
        run(sshd.backend(identity_file=str(tmp_path / "other"), agent=False), "true")


def test_configured_file_that_is_missing(sshd: Server) -> None:
    """Not passed over."""
    with pytest.raises(ConfigError, match="cannot be read"):
        run(sshd.backend(config="/no/such/config"), "true")


def test_changed_key_is_refused_always(sshd: Server, tmp_path: Path) -> None:
    """Also with `accept_new`; the error has the line and both fingerprints."""
    known = tmp_path / "known_hosts"
    other = (sshd.key.with_suffix(".pub")).read_text()
    known.write_text(f"# a comment\n[127.0.0.1]:{sshd.port} {other}")
    for accept_new in (False, True):
        backend = sshd.backend(known_hosts=str(known), accept_new=accept_new)
        with pytest.raises(HostKeyError, match=rf"has changed.*SHA256:.*{known}:2.*SHA256:"):
            run(backend, "true")


def test_unknown_key_is_refused_and_a_new_one_added_on_request(
    sshd: Server, tmp_path: Path
) -> None:
    """By ten threads of ten backends it is added once."""
    known = tmp_path / "folder" / "known_hosts"
    with pytest.raises(HostKeyError, match=r"unknown: SHA256:"):
        run(sshd.backend(known_hosts=str(known)), "true")
    assert not known.exists()
    backends = [
        sshd.backend(known_hosts=str(known), accept_new=True, passphrase=f"{n}") for n in range(10)
    ]
    with ThreadPoolExecutor(10) as threads:
        assert all(r.ok for r in threads.map(lambda backend: run(backend, "true"), backends))
    assert len(known.read_text().splitlines()) == 1
    assert known.stat().st_mode & 0o777 == 0o600
    assert run(sshd.backend(known_hosts=str(known)), "echo known").text() == "known\n"


def test_revoked_keys_are_refused(sshd: Server, tmp_path: Path) -> None:
    """By a mark in known_hosts, and by the configuration's list, whatever else says."""
    key = " ".join((sshd.base / "host.pub").read_text().split()[:2])
    known, config = tmp_path / "known_hosts", tmp_path / "config"
    known.write_text(sshd.known_hosts.read_text() + f"@revoked * {key}\n")
    with pytest.raises(HostKeyError, match=rf"revoked by {known}:2: SHA256:"):
        run(sshd.backend(known_hosts=str(known), accept_new=True), "true")
    (tmp_path / "revoked").write_text(key + "\n")
    config.write_text(f"RevokedHostKeys {tmp_path}/revoked\n")
    with pytest.raises(HostKeyError, match=rf"revoked by {tmp_path}/revoked:1: SHA256:"):
        run(sshd.backend(config=config, accept_new=True), "true")


def test_certificate_authority_is_not_passed_over(sshd: Server, tmp_path: Path) -> None:
    """It makes no host known, and the error says that it is there."""
    known = tmp_path / "known_hosts"
    key = " ".join((sshd.base / "host.pub").read_text().split()[:2])
    known.write_text(f"@cert-authority * {key}\n")
    with pytest.raises(HostKeyError, match=rf"no certificate by the @cert-authority of {known}:1"):
        run(sshd.backend(known_hosts=str(known)), "true")
