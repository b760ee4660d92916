"""What was captured goes when its result goes, and waits for no garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import parallel_exec as px
from parallel_exec.values.result import Result
from tests.integration.ssh.server import Server

LABEL = "of this test"  # threads of earlier tests may still be letting go of theirs


@contextmanager
def no_results_left() -> Iterator[None]:
    """Fail if the garbage collector finds results that nobody else has freed."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
        gc.collect()
        results = [item for item in gc.garbage if isinstance(item, Result)]
        assert not [result for result in results if result.command.label == LABEL]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def one(environment: px.Environment) -> None:
    """Run one command."""
    assert environment.run("echo ok", label=LABEL).stdout == b"ok\n"


def many(environment: px.Environment) -> None:
    """Run several at once."""
    outcomes = px.all_settled([environment.command("echo ok; exit 3", label=LABEL)] * 4)
    assert len(outcomes.rejected) == 4


@pytest.mark.parametrize("run", [one, many])
def test_results_over_ssh(sshd: Server, run: Callable[[px.Environment], None]) -> None:
    """Also a command that failed, whose error has a traceback."""
    with px.SSH(
        sshd.destination,
        identity_file=str(sshd.key),
        known_hosts=str(sshd.known_hosts),
        config=False,
    ) as host:
        host.run("true")
        with no_results_left():
            run(host)


@pytest.mark.parametrize("run", [one, many])
def test_results_of_this_machine(run: Callable[[px.Environment], None]) -> None:
    """The engine's part."""
    with px.Local() as here:
        here.run("true")
        with no_results_left():
            run(here)
