"""One command on many hosts."""

from __future__ import annotations

import pytest

import parallel_exec as px
from parallel_exec.errors import ConnectError
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
    assert outcomes["web4"].value.text() == "down"
    assert outcomes["web4"] is outcomes[3]
    assert isinstance(outcomes["db"].reason, ConnectError)
    assert "web9" not in outcomes  # type: ignore[comparison-overlap]


def test_failed_hosts_are_a_group_to_try_again() -> None:
    """`failed` has those whose outcome is not fulfilled."""
    assert [member.name for member in group().run("uptime").failed] == ["db"]


def test_equal_outputs_are_grouped_with_folded_names() -> None:
    """The output that most hosts gave comes first."""
    assert group().run("uptime").outputs() == [("web[1-3]", b"up"), ("web4", b"down")]


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
