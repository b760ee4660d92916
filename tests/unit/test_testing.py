"""The fakes that users test with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.errors import ConnectError
from parallel_exec.testing import FakeClock, FakeEnvironment, FakeReply


def test_replies_are_found_by_the_words_of_the_command() -> None:
    """Text is stdout, a number a status, an error an error; what is not listed is not found."""
    web = FakeEnvironment({"uptime": "up", "reboot": 3, "ping": ConnectError("no route")})
    assert web.run("uptime", label="shown").text() == "up"
    assert web.run("reboot", check=False).exit_code == 3
    with pytest.raises(ConnectError, match="no route"):
        web.run("ping")
    assert web.run(["other", "words"], check=False).exit_code == 127
    assert web.commands == ["uptime", "reboot", "ping", "other words"]


def test_a_slow_reply_can_be_ended() -> None:
    """A timeout ends it as it would end a command."""
    slow = FakeEnvironment({"work": FakeReply(delay_s=3600)})
    with pytest.raises(px.errors.CommandTimeoutError) as caught:
        slow.run("work", timeout=0.01)
    assert caught.value.result.signal == "SIGTERM"


def test_a_slow_reply_prints_nothing_meanwhile() -> None:
    """A command that must not be silent for so long is ended."""
    fake = FakeEnvironment({"work": FakeReply(stdout="done", delay_s=0.05)})
    with pytest.raises(px.errors.CommandIdleError) as caught:
        fake.run("work", idle_timeout=0.01)
    assert (caught.value.result.stopped, caught.value.result.stdout) == ("idle", b"")
    assert fake.run("work", idle_timeout=60).text() == "done"


def test_output_goes_where_the_command_sends_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Files, merging and the program's own streams are as with commands that run."""
    fake = FakeEnvironment({"work": FakeReply(stdout="o", stderr="e")})
    result = fake.run("work", stdout=tmp_path / "out")
    assert ((tmp_path / "out").read_text(), result.stdout, result.stderr) == ("o", b"", b"e")
    assert fake.run("work", stderr="stdout").stdout == b"oe"
    assert fake.run("work", stdout="inherit").stderr == b"e"
    assert capfd.readouterr().out == "o"
    with pytest.raises(px.errors.ConfigError, match="none"):
        fake.run("work", stdout=tmp_path / "none" / "out")


def test_an_environment_that_raises_fails_its_task_and_hangs_nobody() -> None:
    """The rule is never to raise from `start`; who breaks it harms its own task alone."""

    def broken(command: px.Command) -> str:
        raise ZeroDivisionError(str(command))

    outcomes = px.all_settled([FakeEnvironment(broken).command("x"), "echo fine"])
    assert [outcome.ok for outcome in outcomes] == [False, True]
    assert isinstance(outcomes[0].reason, ZeroDivisionError)


def test_an_environment_that_raises_from_end_harms_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What was to be ended after it is ended all the same."""

    class Stubborn(FakeEnvironment):
        def start(self, command: px.Command, ticket: Any) -> Any:
            execution = super().start(command, ticket)
            execution.end = ends_not  # type: ignore[method-assign]
            return execution

    def ends_not(reason: object) -> None:
        raise ZeroDivisionError(reason)

    bad = Stubborn({"work": FakeReply(delay_s=0.2)})
    slow = FakeEnvironment({"work": FakeReply(delay_s=3)})
    outcomes = px.all_settled([bad.command("work"), slow.command("work"), "false"], max_failures=0)
    assert [outcome.status for outcome in outcomes] == ["fulfilled", "cancelled", "rejected"]
    assert "ZeroDivisionError" in caplog.text


def test_closing_ends_what_runs_and_refuses_what_comes() -> None:
    """As with every environment."""
    with FakeEnvironment({"work": FakeReply(delay_s=3600)}) as slow:
        future = slow.submit("work")
        px.run("true")  # the command was started before this one
    with pytest.raises(px.errors.TaskCancelledError):
        future.result()
    with pytest.raises(px.errors.ExecutorClosedError):
        slow.run("work")


def test_a_fake_clock_makes_calls_at_their_own_time() -> None:
    """In order of time, then of arrival; a cancelled one is not made."""
    clock, seen = FakeClock(), []
    for name, when in (("late", 2.0), ("early", 1.0), ("never", 1.5), ("too late", 9.0)):
        timer = clock.call_at(when, lambda name=name: seen.append((name, clock.now())))
        if name == "never":
            timer.cancel()
    clock.advance(3)
    assert seen == [("early", 1.0), ("late", 2.0)]
    assert clock.now() == 3


def test_far_away_times_hang_nothing() -> None:
    """A timeout of years is as good as none."""
    assert px.run("true", timeout=1e10).ok
    assert px.all_settled(["true"], deadline=1e11).ok
