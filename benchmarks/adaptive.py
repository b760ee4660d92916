"""An adaptive limit at work: it starts far too high, and is compared with the best fixed one.

The SSH part needs root (for an account with a clean login shell) and OpenSSH's server.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import parallel_exec as px
from benchmarks.harness import OURS, Bar, Comparison, Figures, Side
from parallel_exec.environments.ssh import pool
from parallel_exec.environments.ssh.gate import Gate
from parallel_exec.errors import CommandFailedError, ConnectError
from tests.integration.ssh import server as servers
from tests.integration.ssh.server import Server

BEST = "the best fixed limit"
START = 100
ROOM = 8  # commands that the local resource holds
FULL = 75  # what a command exits with when there is no room (EX_TEMPFAIL)


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Yield one comparison with local commands, and one with logins by SSH."""
    count = 80 if quick else 200
    yield Comparison(
        f"{count} local commands, of which {ROOM} find room at once, from a limit of {START}",
        (
            Side(OURS, functools.partial(local, count)),
            Side(BEST, functools.partial(best_local, count, (6, 8, 10, 12, 16))),
        ),
        (Bar(f"times the time of {BEST}", "wall_s", BEST, at_most=1.3),),
        rounds=3,
    )
    if servers.find("sshd") is None or not servers.ROOT:
        return
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        base.chmod(0o755)
        who = stack.enter_context(servers.account(base))
        sshd = stack.enter_context(
            servers.openssh(base / "sshd", who, max_startups="10:30:100", listen="0.0.0.0")
        )
        yield Comparison(
            f"{count} commands, each by a login of its own, through one sshd at MaxStartups"
            f" 10:30:100, from a limit of {START}",
            (
                Side(OURS, functools.partial(logins, sshd, count)),
                Side(BEST, functools.partial(best_logins, sshd, count, (4, 8, 12, 16, 24, 40))),
            ),
            (Bar(f"times the time of {BEST}", "wall_s", BEST, at_most=1.3),),
            rounds=3,
        )


# Local


def classify(outcome: px.Outcome[Any]) -> Any:
    """A command that found no room has met an overload."""
    return "overload" if _is_full(outcome.reason) else None


def _is_full(error: BaseException | None) -> bool:
    return isinstance(error, CommandFailedError) and error.result.exit_code == FULL


def local(count: int) -> Figures:
    """Run them under an adaptive limit."""
    controller = px.AIMDController(START, 1, 200, classify=classify)
    figures = _timed(lambda folder: _takers(folder, count), concurrency=controller)
    return {**figures, "refused": controller.statistics().overloads, "limit": controller.limit}


def best_local(count: int, limits: Sequence[int]) -> Figures:
    """Run them under each of the fixed limits; return the best."""
    retry = px.Retry(attempts=None, wait=0.01, on=_is_full)
    tried = [
        _timed(lambda folder: _takers(folder, count), concurrency=limit, retry=retry)
        | {"limit": limit}
        for limit in limits
    ]
    return min(tried, key=lambda figures: figures["wall_s"])


def _takers(folder: Path, count: int) -> list[Any]:
    """Return commands that take a share of what is there, or exit at once."""
    places = " ".join(str(number) for number in range(ROOM))
    # With -C a file that is there already cannot be made: whoever makes it has the place.
    script = (
        f"set -C; for n in {places}; do true 2>/dev/null > {folder}/$n &&"
        f" {{ sleep 0.05; rm {folder}/$n; exit 0; }}; done; exit {FULL}"
    )
    return [px.Task(script, safe_to_repeat=True)] * count


def _timed(make: Callable[[Path], list[Any]], **options: Any) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        tasks = make(Path(folder))
        start = time.perf_counter()
        outcomes = px.all_settled(tasks, **options)
        wall = time.perf_counter() - start
    assert outcomes.ok, outcomes
    return {"wall_s": wall}


# SSH


def logins(sshd: Server, count: int) -> Figures:
    """Run commands on hosts that nothing is connected to, under an adaptive limit."""
    controller = px.AIMDController(START, 1, 200)
    figures = _log_in(sshd, count, concurrency=controller)
    return {**figures, "refused": controller.statistics().overloads, "limit": controller.limit}


def best_logins(sshd: Server, count: int, limits: Sequence[int]) -> Figures:
    """Do it under each of the fixed limits; return the best."""
    retry = px.Retry(attempts=None, wait=0.02, on=ConnectError)
    tried = [
        _log_in(sshd, count, concurrency=limit, retry=retry) | {"limit": limit} for limit in limits
    ]
    return min(tried, key=lambda figures: figures["wall_s"])


def _log_in(sshd: Server, count: int, **options: Any) -> Figures:
    """Run a command on each of many hosts, all of them one server."""
    known = sshd.base / "known"
    known.write_text("* " + " ".join((sshd.base / "host.pub").read_text().split()[:2]) + "\n")
    hosts = [
        px.SSH(
            f"{sshd.account.user}@127.0.{n // 250}.{n % 250 + 1}:{sshd.port}",
            identity_file=str(sshd.key),
            known_hosts=str(known),
            config=False,
        )
        for n in range(count)
    ]
    # The environment's own gate before logins, and its retries, would hide the overload.
    ours: Any = pool
    gate_of, tries = ours.gate_of, ours.TRIES
    ours.gate_of, ours.TRIES = lambda endpoint: Gate(10**6), 1
    try:
        start = time.perf_counter()
        outcomes = px.all_settled([host.command("true") for host in hosts], **options)
        wall = time.perf_counter() - start
    finally:
        ours.gate_of, ours.TRIES = gate_of, tries
        px.parallel_for_each(lambda host: host.close(), hosts, concurrency=32)
    assert outcomes.ok, {repr(outcome.reason) for outcome in outcomes.rejected}
    return {"wall_s": wall}
