"""One command on many hosts."""

from __future__ import annotations

import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec import reactor
from parallel_exec.api.hosts import READERS
from parallel_exec.errors import ConnectError, ExecutorClosedError
from parallel_exec.testing import FakeEnvironment, FakeReply


def group() -> px.Group:
    """Four web servers, of which one differs, and a database that is down."""
    members = [FakeEnvironment({"uptime": "up"}, name=f"web{n}") for n in (1, 2, 3)]
    members.append(FakeEnvironment({"uptime": "down"}, name="web4"))
    members.append(FakeEnvironment({"uptime": ConnectError("no route")}, name="db"))
    return px.Group(members)


def test_outcomes_are_found_by_place_and_by_host() -> None:
    """The order is that of the members; a host's name finds its outcome."""
    outcomes = group().run("uptime")
    assert [outcome.ok for outcome in outcomes] == [True, True, True, True, False]
    assert outcomes["web4"].result().text() == "down"
    assert outcomes["web4"] is outcomes[3]
    assert isinstance(outcomes["db"].reason, ConnectError)
    assert "web9" not in outcomes  # type: ignore[comparison-overlap]


def test_failed_hosts_are_a_group_to_try_again() -> None:
    """`failed` has those whose outcome is not fulfilled."""
    assert [member.name for member in group().run("uptime").failed] == ["db"]


def test_equal_outputs_are_grouped_with_folded_names() -> None:
    """The output that most hosts gave comes first."""
    assert group().run("uptime").outputs() == [("web[1-3]", b"up"), ("web4", b"down")]


def test_the_report_has_each_answer_once_and_what_differs_from_the_first() -> None:
    """Nearly equal outputs are a difference, others stand in full, errors stand together."""
    usual = "a\nb\nc\nd\n"
    answers: list[tuple[str, FakeReply | str | BaseException]] = [
        *((f"web{n}", usual) for n in (1, 2, 3)),
        ("web4", "a\nB\nc\nd\n"),
        ("web5", FakeReply(stdout=usual, exit_code=3)),
        ("db1", "quite another\n"),
        *((f"old{n}", ConnectError(f"old{n}: no route")) for n in (1, 2)),
    ]
    members = px.Group(FakeEnvironment({"x": reply}, name=name) for name, reply in answers)
    assert members.run("x", check=False).report() == (
        "web[1-3] (3 hosts):\na\nb\nc\nd\n\n"
        "web4, unlike web[1-3]:\n--- web[1-3]\n+++ web4\n@@ -1,4 +1,4 @@\n a\n-b\n+B\n c\n d\n\n"
        "web5 exited with 3: the same as web[1-3]\n\n"
        "db1:\nquite another\n\n"
        "old[1-2] (2 hosts) rejected: ConnectError: {host}: no route\n"
    )


def test_the_report_of_nothing_is_empty() -> None:
    """No host, no answer."""
    assert px.Group([]).run("x").report() == ""


def test_a_command_may_differ_by_host() -> None:
    """A mapping and a function both give each host its own."""
    members = group()
    members.run({member.name: f"echo {member.name}" for member in members})
    members.run(lambda member: ["id", member.name])
    assert members["web2"].commands == ["echo web2", "id web2"]


def test_a_mapping_without_a_host_is_refused_before_anything_starts() -> None:
    """The error names the host."""
    members = group()
    with pytest.raises(px.errors.ConfigError, match="web2"):
        members.run({"web1": "uptime"})
    assert members["web1"].commands == []


def test_options_of_commands_and_of_many_both_apply() -> None:
    """`check` is the command's, `max_failures` the run's."""
    members = px.Group([FakeEnvironment({"x": FakeReply(exit_code=1)}, name=n) for n in "abc"])
    assert members.run("x", check=False).ok
    outcomes = members.run("x", max_failures=0, concurrency=1)
    assert [outcome.status for outcome in outcomes] == ["rejected", "skipped", "skipped"]


def test_members_are_closed_at_the_same_time() -> None:
    """One that takes long to close does not hold up the others."""
    together = threading.Barrier(3)

    class Slow(FakeEnvironment):
        def close(self) -> None:
            together.wait(30)
            super().close()

    px.Group([Slow({}, name=name) for name in "abc"]).close()
    assert not together.broken


def test_members_are_closed_when_no_thread_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the end of the interpreter."""
    closed = []

    class Closing(FakeEnvironment):
        def close(self) -> None:
            closed.append(self.name)

    def refuse(*args: object) -> None:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    px.Group([Closing({}, name=name) for name in "abc"]).close()
    assert closed == ["a", "b", "c"]


def test_two_members_of_one_name_are_refused() -> None:
    """A name must find one host."""
    with pytest.raises(px.errors.ConfigError, match="'a'"):
        px.Group([FakeEnvironment(name="a"), FakeEnvironment(name="a")])


def test_hosts_are_parsed_into_a_group() -> None:
    """Ranges, exclusion and options reach the members; nothing connects."""
    members = px.hosts("ann@web[01-03]:2222,db", exclude="web02", config=False)
    assert [member.name for member in members] == ["ann@web01:2222", "ann@web03:2222", "db"]
    with pytest.raises(px.errors.ConfigError, match="target"):
        members.get("/etc/motd", "motd")


def test_hosts_come_from_files_too(tmp_path: Path) -> None:
    """A line's options go over those for all; exclusion holds for both."""
    path = tmp_path / "hosts"
    path.write_text(
        "# the shop\nweb[1-3] user=ann  connect_timeout=2.5\n"
        "db1 port=2222 sudo=yes sudo_password='correct horse' max_sessions=3 # main\n"
    )
    members = px.hosts("extra", file=path, exclude="web2", sudo="joe", config=False)
    assert [member.name for member in members] == ["extra", "ann@web1", "ann@web3", "db1:2222"]
    assert "sudo='joe'" in repr(members["ann@web1"])
    assert "connect_timeout=2.5" in repr(members["ann@web1"])
    database = repr(members["db1:2222"])
    assert "sudo=True" in database
    assert "max_sessions=3" in database
    assert "horse" not in database
    assert [member.name for member in px.hosts(file=[path, str(path)])] == [
        "ann@web1",
        "ann@web2",
        "ann@web3",
        "db1:2222",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("web pasword=hunter2", "pasword of web .* is not an option"),
        ("web max_sessions=hunter2", "max_sessions of web"),
        ("web agent=hunter2", "agent of web"),
        ("web max_sessions=0", "max_sessions"),
    ],
)
def test_what_a_file_says_wrongly_is_refused_without_its_value(
    tmp_path: Path, line: str, message: str
) -> None:
    """The option and the host are named; the value may be a secret in the wrong place."""
    path = tmp_path / "hosts"
    path.write_text(line)
    with pytest.raises(px.errors.ConfigError, match=message) as caught:
        px.hosts(file=path)
    assert "hunter2" not in str(caught.value)


def test_a_host_that_is_named_twice_with_other_options_is_refused(tmp_path: Path) -> None:
    """Which of them should hold?"""
    path = tmp_path / "hosts"
    path.write_text("web1 sudo=yes\n")
    with pytest.raises(px.errors.ConfigError, match="web1 was named before, with other options"):
        px.hosts("web1", file=path)


def test_every_option_of_a_host_can_stand_in_a_file() -> None:
    """None is forgotten."""
    options = {
        name
        for name, parameter in inspect.signature(px.SSH).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    # `prompt` is a function; user and port are parts of the name there.
    assert set(READERS) == options - {"prompt", "user", "port"}


def test_closing_hosts_that_were_never_used_costs_nothing_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No thread, and one look at the service thread for all of them; they are closed."""
    group = px.hosts("web[0001-2000]", config=False)
    posts: list[object] = []
    started: list[threading.Thread] = []
    service = reactor.get()
    post, start = service.post, threading.Thread.start

    def note_post(*call: Any) -> None:
        posts.append(call)
        post(*call)

    def note_start(thread: threading.Thread) -> None:
        started.append(thread)
        start(thread)

    monkeypatch.setattr(service, "post", note_post)
    monkeypatch.setattr(threading.Thread, "start", note_start)
    group.close()
    group.close()
    monkeypatch.undo()
    assert len(posts) == 2
    assert not started
    with pytest.raises(ExecutorClosedError):
        group[0].run("true")
