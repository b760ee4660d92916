"""Nothing new begins while the machine is under pressure."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import parallel_exec as px
from parallel_exec.errors import ConfigError
from parallel_exec.limits import base, pressure
from parallel_exec.limits.machine import Machine
from parallel_exec.testing import FakeClock
from tests.unit.limits.asking import Asker


class Figures:
    """The files of a machine with two processors, which a test changes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "proc" / "self").mkdir(parents=True)
        (root / "sys/fs/cgroup").mkdir(parents=True)
        (root / "proc/self/cgroup").write_text("0::/\n")
        (root / "sys/fs/cgroup/cpu.max").write_text("200000 100000\n")
        self.set(runnable=0, free_mib=1000)

    def set(self, *, runnable: int, free_mib: int) -> None:
        """Change them; the one who reads is runnable besides."""
        (self.root / "proc/loadavg").write_text(f"0 0 0 {runnable + 1}/99 1\n")
        (self.root / "proc/meminfo").write_text(f"MemAvailable: {free_mib * 1024} kB\n")


@pytest.fixture
def figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Figures:
    """What the limit reads."""
    made = Figures(tmp_path)
    monkeypatch.setattr(pressure, "Machine", lambda: Machine(tmp_path))
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    return made


def test_nothing_begins_while_the_load_is_too_high(figures: Figures) -> None:
    """It is the load of now; a tenth of a second later it is looked at again."""
    clock, asker = FakeClock(100.0), Asker()
    limit = px.Pressure(load=0.9, clock=clock)
    figures.set(runnable=3, free_mib=1000)
    for name in "abc":
        asker.ask(name, limit)
    clock.advance(10)
    assert asker.granted == ["a"]
    figures.set(runnable=1, free_mib=1000)
    clock.advance(0.2)
    assert asker.granted == ["a", "b"]  # which counts until the next reading can see it
    clock.advance(0.2)
    assert asker.granted == ["a", "b", "c"]


def test_nothing_begins_while_memory_is_short(figures: Figures) -> None:
    """It goes on by itself when there is memory again."""
    clock, asker = FakeClock(100.0), Asker()
    limit = px.Pressure(memory_free="500M", clock=clock)
    figures.set(runnable=50, free_mib=499)
    for name in "abc":
        asker.ask(name, limit)
    clock.advance(5)
    assert asker.granted == ["a"]
    figures.set(runnable=50, free_mib=500)
    clock.advance(0.2)
    assert asker.granted == ["a", "b", "c"]


def test_one_task_always_runs(figures: Figures) -> None:
    """Whatever the pressure, a run comes to its end."""
    clock, asker = FakeClock(100.0), Asker()
    limit = px.Pressure(load=0.5, memory_free="2T", clock=clock)
    figures.set(runnable=99, free_mib=1)
    first = asker.ask("a", limit)
    asker.ask("b", limit)
    assert asker.granted == ["a"]
    base.tell(base.release(first))
    assert asker.granted == ["a", "b"]


def test_it_composes_with_a_number(figures: Figures) -> None:
    """`AllOf` takes numbers; a run under pressure has all its outcomes."""
    figures.set(runnable=99, free_mib=1000)
    limit = px.AllOf(4, px.Pressure(load=0.1))
    assert px.parallel_map(lambda item: item, range(20), concurrency=limit) == list(range(20))


def test_the_log_says_once_what_is_waited_for(
    figures: Figures, caplog: pytest.LogCaptureFixture
) -> None:
    """One line for as long as the pressure lasts, whoever comes."""
    caplog.set_level(logging.INFO, "parallel_exec")
    clock, asker = FakeClock(100.0), Asker()
    limit = px.Pressure(load=1.0, clock=clock)
    figures.set(runnable=9, free_mib=1000)
    for name in "abcd":
        asker.ask(name, limit)
        clock.advance(1)
    assert caplog.messages == ["tasks wait for a load of at most 1 for each processor"]
    figures.set(runnable=0, free_mib=1000)
    clock.advance(1)
    assert asker.granted == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "needs load= or memory_free="),
        ({"load": 0}, "load must be a finite number above 0, not 0"),
        ({"load": float("nan")}, "load must be"),
        ({"memory_free": "2X"}, "memory_free must be bytes.*'2X'"),
        ({"memory_free": -1}, "memory_free must be a whole number of at least 0, not -1"),
        ({"memory_free": True}, "memory_free must be"),
    ],
)
def test_what_cannot_be_used_is_refused(given: dict[str, Any], said: str) -> None:
    """The error names the parameter and the value."""
    with pytest.raises(ConfigError, match=said):
        px.Pressure(**given)


def test_a_system_without_proc_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that cannot read what it goes by would limit nothing."""
    monkeypatch.setattr(pressure, "Machine", lambda: Machine(tmp_path))
    with pytest.raises(ConfigError, match="/proc/loadavg"):
        px.Pressure(load=1)


@pytest.mark.parametrize(
    ("given", "size"),
    [("512", 512), ("1K", 1024), ("1.5m", 1572864), ("2G", 2147483648), (7, 7)],
)
def test_sizes(given: str | int, size: int, figures: Figures) -> None:
    """Bytes, or a text with a unit of 1024."""
    assert repr(px.Pressure(memory_free=given)) == f"Pressure(memory_free={size})"
