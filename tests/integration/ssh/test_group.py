"""The public face of SSH hosts, on a real server."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

import parallel_exec as px
from tests.integration.ssh.server import Server, running
from tests.integration.ssh.test_ending import mark


def group(sshd: Server, count: int) -> px.Group:
    """Return hosts that are all the same server."""
    names = f"{sshd.account.user}@127.0.0.[1-{count}]:{sshd.port}"
    return px.hosts(names, **sshd.options)


def test_a_host_runs_commands_like_any_environment(sshd: Server) -> None:
    """`run`, `command` and `submit` are those of every environment."""
    with px.SSH(sshd.destination, **sshd.options) as host:
        assert host.run("echo one").text() == "one\n"
        first, second = px.all([host.command("echo two"), "echo three"])
        assert (first.text(), second.text()) == ("two\n", "three\n")
        assert host.submit(["echo", "four"]).result().environment == host.name


def test_a_group_runs_on_every_host_and_copies_files(make_sshd: Any, tmp_path: Path) -> None:
    """Two servers stand for hosts; each answers for itself, and its file is kept apart."""
    servers = [make_sshd(), make_sshd()]
    members = [px.SSH(server.destination, **server.options) for server in servers]
    with px.Group(members) as both:
        outcomes = both.run("echo $SSH_CONNECTION | cut -d' ' -f4")
        outcomes.raise_for_failures()
        for server in servers:
            assert outcomes[server.destination].value.text().strip() == str(server.port)
        both.get("/etc/hostname", tmp_path / "{host}" / "hostname").raise_for_failures()
        kept = {path.parent.name for path in tmp_path.rglob("hostname")}
        assert len(kept) == len(servers)


@pytest.fixture
def everywhere(make_sshd: Any) -> Server:
    """A server on all of 127.0.0.0/8."""
    made: Server = make_sshd(listen="0.0.0.0")
    return made


def test_limits_hold_over_all_hosts(everywhere: Server) -> None:
    """No more commands are on their way than the limit allows, whatever their hosts."""
    folder = everywhere.account.home / "slots"
    script = f"mkdir -p {folder}; touch {folder}/$$; ls {folder} | wc -l; rm {folder}/$$"
    with group(everywhere, 12) as hosts:
        seen = [int(r.text()) for r in hosts.run(script, concurrency=3).values()]
        limit = px.AllOf(
            px.ConcurrencyLimiter(2), px.PerHost(lambda host: px.ConcurrencyLimiter(1))
        )
        seen_too = [int(r.text()) for r in hosts.run(script, concurrency=limit).values()]
    assert len(seen) == len(seen_too) == 12
    assert max(seen) <= 3
    assert max(seen_too) <= 2


def test_deadline_and_cancel_end_what_runs_on_the_hosts(everywhere: Server) -> None:
    """The far sides' process tables show nothing afterwards; each outcome says what it was."""
    word = mark()
    with group(everywhere, 5) as hosts:
        outcomes = hosts.run(f"sleep {word}; true", deadline=1.0, concurrency=3)
        assert [outcome.status for outcome in outcomes] == ["cancelled"] * 3 + ["skipped"] * 2
        assert running(f"sleep {word}") == []
        token = px.CancelToken()
        outcomes = hosts.run(
            f"echo up; sleep {word}; true",
            on_stdout=lambda host, line: token.cancel(),
            cancel=token,
        )
        assert not outcomes.fulfilled
        assert running(f"sleep {word}") == []
        assert hosts.run("echo still").ok


def test_a_failure_budget_stops_the_rest(everywhere: Server) -> None:
    """At the failure beyond it; what failed can be tried again."""
    with group(everywhere, 10) as hosts:
        outcomes = hosts.run("exit 1", max_failures="20%", concurrency=1)
        assert len(outcomes.rejected) == 3
        assert len(outcomes.skipped) == 7
        assert outcomes.failed.run("exit 0").ok


def test_retries_progress_and_events_are_those_of_every_run(everywhere: Server) -> None:
    """Each host is tried again for itself, and listeners hear of it."""
    events: list[px.Event] = []
    lines = io.StringIO()
    with group(everywhere, 3) as hosts:
        outcomes = hosts.run(
            lambda host: px.sh("echo x >> {}; test $(wc -l < {}) -ge 2", host.name, host.name),
            retry=px.Retry(3, wait=0, on=px.errors.CommandFailedError),
            progress=px.ParallelProgress(3, file=lines),
            on_event=events.append,
        )
    assert [outcome.attempts for outcome in outcomes] == [2, 2, 2]
    assert sum(isinstance(event, px.TaskRetrying) for event in events) == 3
    assert "3/3" in lines.getvalue()


def test_functions_waves_and_live_lines_on_real_hosts(
    everywhere: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files go in waves, functions do what they like with a host, lines come with names."""
    source = tmp_path / "file"
    source.write_text("content")
    with group(everywhere, 4) as hosts:
        names = [host.name for host in hosts]
        assert hosts.put(source, "to-{host}", waves=[1, "100%"]).ok

        def read(host: Any) -> str:
            return str(host.run(["cat", f"to-{host.name}"]).text())

        assert hosts.map(read, waves=["50%"]).values() == ["content"] * 4
        outcomes = hosts.run(f"test {{host}} != {names[1]}", waves=[1])
        assert [outcome.status for outcome in outcomes] == [
            "fulfilled", "rejected", "skipped", "skipped",
        ]  # fmt: skip
        with pytest.raises(px.errors.RunFailedError, match=f"3 of 4 hosts failed: {names[1]}"):
            outcomes.raise_for_failures()
        hosts.run("echo here; echo there >&2", live=True)
        assert hosts.run("echo {host} is up").report().endswith("(4 hosts):\n{host} is up\n")
    printed = capsys.readouterr()
    assert sorted(printed.out.splitlines()) == sorted(f"{name}: here" for name in names)
    assert sorted(printed.err.splitlines()) == sorted(f"{name}: there" for name in names)


def test_secrets_stay_secret_on_every_host(everywhere: Server) -> None:
    """In commands, in errors, in reports."""
    secret = px.Secret("hunter2")
    with group(everywhere, 2) as hosts:
        outcomes = hosts.run(px.sh("test {} = $W && exit 4", secret),
                             env={"W": secret})  # fmt: skip
    assert "hunter2" not in f"{outcomes.report()} {outcomes} {outcomes[0]} {hosts!r}"
    assert all("exited with 4" in str(outcome.reason) for outcome in outcomes)
