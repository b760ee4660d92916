"""A user's tests of a program that runs commands on hosts, without any host."""

from __future__ import annotations

from collections.abc import Iterator

import parallel_exec as px
from parallel_exec.testing import FakeEnvironment, FakeReply


def uptime_in_days(host: px.Environment) -> int:
    """Be the code under test."""
    return int(host.run("uptime", timeout=5, retry=px.Retry(attempts=2)).text().split()[1])


def restart(group: px.Group) -> list[str]:
    """Be more of it: restart a service; return the hosts where it failed."""
    outcomes = group.run(["systemctl", "restart", "web"], waves=[1, "100%"])
    return [host for host, outcome in outcomes.by_host().items() if not outcome.ok]


def test_days_are_read() -> None:
    """The second word counts."""
    host = FakeEnvironment({"uptime": "up 3 days"})
    assert uptime_in_days(host) == 3
    assert host.commands == ["uptime"]


def test_a_lost_host_is_tried_again() -> None:
    """The second answer counts."""
    answers: Iterator[str | px.errors.ConnectError] = iter(
        [px.errors.ConnectError("no route"), "up 4 days"]
    )

    def reply(command: px.Command) -> str | px.errors.ConnectError:
        assert str(command) == "uptime"
        return next(answers)

    assert uptime_in_days(FakeEnvironment(reply)) == 4


def test_a_bad_first_host_stops_the_rest() -> None:
    """The first wave is one host."""
    bad = FakeReply(stderr="no such unit", exit_code=5)
    hosts = [
        FakeEnvironment({"systemctl restart web": bad if n == 0 else 0}, name=f"web{n}")
        for n in range(3)
    ]
    assert restart(px.Group(hosts)) == ["web0", "web1", "web2"]
    assert [host.commands for host in hosts[1:]] == [[], []]


if __name__ == "__main__":
    test_days_are_read()
    test_a_lost_host_is_tried_again()
    test_a_bad_first_host_stops_the_rest()
