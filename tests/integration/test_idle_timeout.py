"""`idle_timeout` on this machine: what is silence, and what is not."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.environments.local.spawn import WAYS
from parallel_exec.errors import CommandIdleError, ConfigError


def test_output_that_waits_for_a_slow_callback_is_no_silence() -> None:
    """The library does not read on, so the command may not be blamed for being silent."""
    slow = threading.Event()
    lines: list[str] = []

    def look(line: str) -> None:
        lines.append(line)
        if len(lines) == 1:
            slow.wait(1)  # nobody sets it

    text = "x" * 99_999
    script = f"for n in $(seq 60); do printf %s\\\\n {text}; done"
    result = px.run(script, on_stdout=look, idle_timeout=0.3, capture=False)
    assert result.ok
    assert len(lines) == 60


def test_an_option_of_before_names_its_successor() -> None:
    """What kept an idle connection of SSH says what it is called now."""
    options: Any = {"idle_timeout": 60}
    with pytest.raises(ConfigError, match="keep_idle="):
        px.SSH("host.invalid", **options)
    with pytest.raises(ConfigError, match="keep_idle="):
        px.hosts("host[1-2].invalid", **options)


@pytest.mark.parametrize("value", [0, -1, float("nan"), True, "5"])
def test_bad_values_are_refused(value: Any) -> None:
    """What is no number of seconds is refused before anything starts."""
    with pytest.raises(ConfigError, match="idle_timeout"):
        px.Command("true", idle_timeout=value)


def test_first_of_two_limits_counts() -> None:
    """With both limits the one that is reached first ends it, and the error is that one's."""
    with pytest.raises(CommandIdleError):
        px.run("sleep 100000", timeout=60, idle_timeout=0.2)
    with pytest.raises(px.errors.CommandTimeoutError) as caught:
        px.run("while :; do echo; sleep 0.01; done", timeout=0.3, idle_timeout=60)
    assert not isinstance(caught.value, CommandIdleError)


def test_others_of_a_run_go_on() -> None:
    """In a run of many the silent one has failed, and nothing else."""
    tasks = [px.Command("sleep 100000", idle_timeout=0.2), px.Command("echo", idle_timeout=60)]
    outcomes = px.all_settled(tasks)
    assert [outcome.status for outcome in outcomes] == ["rejected", "fulfilled"]
    assert isinstance(outcomes[0].reason, CommandIdleError)


@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_start_sees_silence(way: str) -> None:
    """Whichever way a command is started, silence ends it."""
    code = """
import parallel_exec as px
try:
    px.run("echo seen; exec sleep 100000", idle_timeout=0.3)
except px.errors.CommandIdleError as error:
    print(error.result.text(), end="")
"""
    assert px.run([sys.executable, "-c", code], env={"PARALLEL_EXEC_START": way}).text() == "seen\n"
