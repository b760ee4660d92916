"""A few hosts first, the others when that went well."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

import parallel_exec as px
from parallel_exec.api.waves import _ends
from parallel_exec.errors import ConfigError, TaskCancelledError
from parallel_exec.testing import FakeEnvironment, FakeReply


def group(count: int, *broken: str, delay_s: float = 0.0) -> px.Group:
    """Return hosts ``h1`` to ``h<count>``; the broken ones fail."""
    names = [f"h{n}" for n in range(1, count + 1)]
    return px.Group(
        FakeEnvironment({"x": FakeReply(exit_code=int(name in broken), delay_s=delay_s)}, name=name)
        for name in names
    )


def statuses(outcomes: px.HostOutcomes) -> str:
    """Return the first letters: fulfilled, rejected, cancelled, skipped."""
    return "".join(outcome.status[0] for outcome in outcomes)


class Log:
    """Who began and ended, in order."""

    def __init__(self) -> None:
        self.alive: set[int] = set()
        self.together: list[set[int]] = []

    def __call__(self, event: px.Event) -> None:
        if isinstance(event, px.TaskStarted):
            self.alive.add(event.index)
            self.together.append(set(self.alive))
        elif isinstance(event, px.TaskFinished):
            self.alive.discard(event.outcome.index)


@pytest.mark.parametrize(
    ("sizes", "total", "ends"),
    [
        ([1, "10%", "100%"], 20, [1, 3, 20]),
        ([1], 3, [1, 2, 3]),  # the last repeats
        ([2, "50%"], 7, [2, 6, 7]),
        (["10%"], 5, [1, 2, 3, 4, 5]),  # rounded up
        (["12.5%", "100%"], 9, [2, 9]),
        (["29%", "100%"], 100, [29, 100]),  # exactly, as floats are not
        ([5], 3, [3]),
        ([1, 1], 0, []),
    ],
)
def test_the_sizes_of_waves(sizes: Sequence[int | str], total: int, ends: list[int]) -> None:
    """Numbers of hosts and shares of all."""
    assert _ends(sizes, total) == ends


@pytest.mark.parametrize(
    "waves",
    ["10%", 5, [], [0], [-1], [True], [1.5], ["10"], ["0%"], ["101%"], ["x%"], [None], {1: 2}],
)
def test_what_is_no_waves_is_refused_before_anything_starts(waves: Any) -> None:
    """The error shows it."""
    hosts: Any = group(2)
    with pytest.raises(ConfigError, match="waves must be"):
        hosts.run("x", waves=waves)
    with pytest.raises(ConfigError, match="waves must be"):
        hosts.map(lambda host: 1, waves=waves)
    assert [host.commands for host in hosts] == [[], []]


def test_a_wave_begins_when_the_one_before_has_succeeded() -> None:
    """Never earlier; all hosts have run in the end, in one run with their own places."""
    log = Log()
    outcomes = group(10).run("x", waves=[1, "20%", "100%"], on_event=log)
    assert statuses(outcomes) == "f" * 10
    waves = [{0}, {1, 2}, set(range(3, 10))]
    assert all(any(each <= wave for wave in waves) for each in log.together)
    assert [outcome.index for outcome in outcomes] == list(range(10))


def test_a_failed_wave_leaves_the_rest_skipped_by_name() -> None:
    """The error of each says which wave failed, and because of whom."""
    hosts = group(6, "h2")
    outcomes = hosts.run("x", waves=[1, 2, "100%"])
    assert statuses(outcomes) == "frfsss"
    assert [host.name for host in outcomes.failed] == ["h2", "h4", "h5", "h6"]
    assert isinstance(outcomes["h4"].reason, TaskCancelledError)
    assert "wave 2 of 3 failed: h2" in str(outcomes["h4"].reason)
    assert hosts["h4"].commands == []


def test_what_runs_in_a_failed_wave_is_let_finish_and_nothing_more_begins() -> None:
    """Those of the wave that wait for their turn are skipped, too."""
    failed = threading.Event()
    began: list[str] = []

    def work(host: Any) -> str:
        began.append(host.name)
        if host.name == "h1":
            failed.wait(30)
            raise ValueError("first")
        failed.set()
        gate.wait(30)
        return "finished"

    gate = threading.Event()

    def after(outcome: px.Outcome[Any]) -> None:
        if outcome.status == "rejected":
            gate.set()  # only now may the other one go on

    outcomes = group(5).map(work, waves=[4, 1], concurrency=2, on_outcome=after)
    assert statuses(outcomes) == "rfsss"
    assert outcomes["h2"].value == "finished"
    assert sorted(began) == ["h1", "h2"]


def test_max_failures_counts_in_each_wave() -> None:
    """A number, or a share of the wave."""
    outcomes = group(6, "h1", "h4").run("x", waves=[2], max_failures=1)
    assert statuses(outcomes) == "rffrff"
    outcomes = group(6, "h3", "h4").run("x", waves=[2, 4], max_failures="25%", concurrency=1)
    assert statuses(outcomes) == "ffrrss"
    outcomes = group(6, "h1").run("x", waves=[2, 4], max_failures="25%")
    assert statuses(outcomes)[0] == "r"  # a quarter of two is none
    assert statuses(outcomes)[2:] == "ssss"


def test_a_function_that_fails_for_a_host_fails_in_its_wave() -> None:
    """Although it is called before: the waves before it are not harmed."""

    def command(host: Any) -> list[str]:
        if host.name == "h3":
            raise ValueError("no role")
        return ["x"]

    log = Log()
    outcomes = group(5).run(command, waves=[1], on_event=log)
    assert statuses(outcomes) == "ffrss"
    assert "wave 3 of 5 failed: h3" in str(outcomes["h4"].reason)
    assert statuses(group(5).run(command, waves=[2, 2], max_failures=1)) == "ffrff"


def test_a_function_that_cannot_be_ended_keeps_no_wave() -> None:
    """It is left behind with its outcome, and that is a failure."""
    release = threading.Event()
    try:
        outcomes = group(3).map(
            lambda host: release.wait(30), waves=[1], timeout=0.1, kill_after=0.1
        )
        assert statuses(outcomes) == "rss"
        assert outcomes[0].abandoned
    finally:
        release.set()


def test_tries_of_one_host_belong_to_its_wave() -> None:
    """Neither does another try begin the next wave, nor is it kept waiting behind it."""
    tries: list[str] = []

    def work(host: Any) -> None:
        tries.append(host.name)
        if tries.count(host.name) < 3:
            raise ValueError("again")

    outcomes = group(4).map(work, waves=[1], retry=px.Retry(3, wait=0, on=ValueError))
    assert outcomes.ok
    assert tries == [f"h{n}" for n in (1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4)]


def test_a_cancel_and_a_deadline_end_it_as_ever() -> None:
    """The given token stays the user's own."""
    token = px.CancelToken()
    hosts = group(4, delay_s=30)
    outcomes = hosts.run("x", waves=[1], cancel=token, on_event=lambda event: token.cancel("stop"))
    assert statuses(outcomes) in ("csss", "ssss")
    assert token.cancelled
    untouched = px.CancelToken()
    assert statuses(group(2, "h1").run("x", waves=[1], cancel=untouched)) == "rs"
    assert not untouched.cancelled
    assert statuses(hosts.run("x", waves=[1], deadline=0.1)) == "csss"
    with pytest.raises(ConfigError, match="cancel"):
        hosts.run("x", waves=[1], cancel=5)  # type: ignore[arg-type]


def test_waves_hold_beside_other_limits() -> None:
    """The narrower one counts; nobody waits for ever."""
    for concurrency in (1, 2, None, px.RateLimiter(100, per=0.1), px.ConcurrencyLimiter(1)):
        log = Log()
        outcomes = group(7).run("x", waves=[3], concurrency=concurrency, on_event=log)
        assert outcomes.ok
        assert max(map(len, log.together)) <= (concurrency if isinstance(concurrency, int) else 3)


def test_no_hosts_no_waves() -> None:
    """An empty group runs nothing, and that went well."""
    assert px.Group([]).run("x", waves=[1]).ok


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 12),
    st.lists(
        st.one_of(st.integers(1, 5), st.integers(1, 100).map("{}%".format)), min_size=1, max_size=4
    ),
    st.sets(st.integers(1, 12)),
    st.integers(0, 3),
    st.integers(1, 4),
)
def test_whatever_fails_no_wave_begins_too_early(
    count: int, sizes: list[int | str], broken: set[int], tolerated: int, concurrency: int
) -> None:
    """By property: waves before the last one that began have no more failures than allowed,
    what follows it is skipped, and every host has its outcome.
    """
    log = Log()
    outcomes = group(count, *(f"h{n}" for n in broken)).run(
        "x", waves=sizes, max_failures=tolerated, concurrency=concurrency, on_event=log
    )
    ends = _ends(sizes, count)
    letters = statuses(outcomes)
    over = False
    for start, end in zip([0, *ends], ends, strict=False):
        wave = letters[start:end]
        assert set(wave) <= ({"s"} if over else {"f", "r", "s"})
        assert over or wave.count("r") > tolerated or "s" not in wave
        over = over or wave.count("r") > tolerated
        for each in log.together:
            assert not (min(each) < start <= max(each) < end), "two waves at once"
