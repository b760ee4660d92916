"""SSH: ours, by users' calls, beside parallel-ssh, pdsh, ClusterShell, OpenSSH and bare paramiko.

Needs root (for an account with a clean login shell) and OpenSSH's server and client; what
else is not there is reported as skipped. Every side runs in a fresh process.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import fresh
from benchmarks.harness import OURS, Bar, Comparison, Figures, Side
from benchmarks.ssh import bare, ours, rivals
from benchmarks.ssh.place import Place, delay, large_file, place, silent, with_known_lines
from tests.integration.ssh import server as servers
from tests.integration.ssh.server import Server

BARE = "bare Transport"
PSSH = "parallel-ssh"
PDSH = "pdsh"
CLUSTERSHELL = "ClusterShell"
CLIENT = "OpenSSH client"
TO_NULL = "OpenSSH client, output thrown away"
SFTP = "sftp"

IDENTICAL = f"of {BARE}'s rate, which runs the identical line"

FANOUT = 64  # how many at once, for tools that start a process for each host


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Yield the comparisons, with servers that run meanwhile."""
    if servers.find("sshd") is None or not servers.ROOT:
        return
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        base.chmod(0o755)
        who = stack.enter_context(servers.account(base))

        def serve(max_startups: str = "1000:30:1000") -> Server:
            return stack.enter_context(
                servers.openssh(base / "sshd", who, listen="0.0.0.0", max_startups=max_startups)
            )

        sshd = serve()
        near = place(sshd)
        yield _cold(near, sshd, 100 if quick else 200)
        yield from _warm(near, 200 if quick else 1000)
        size = 100_000_000 if quick else 500_000_000
        yield Comparison(
            f"{size // 1_000_000} MB of output, captured",
            (
                _side(OURS, ours.output, near, size),
                _side(CLIENT, rivals.client_output, near, size, True),
                _side(TO_NULL, rivals.client_output, near, size, False),
            ),
            (Bar(f"of {CLIENT}'s rate", "mb_per_s", CLIENT, at_least=1.5),),
        )
        yield from _files(near, base, size)
        yield from _far(stack, sshd, 60 if quick else 100, 200_000_000)
        silent_port = stack.enter_context(silent())
        yield Comparison(
            "20 hosts beside 30 that accept and stay silent",
            (
                _side(OURS, ours.beside_silent, near, 20, 30, silent_port),
                _side(PSSH, rivals.pssh_beside_silent, near, 20, 30, silent_port),
            ),
            (Bar("s until the good ones' outcomes are there", "good_s", at_most=1),),
            rounds=3,
        )
        bastion = place(serve())
        yield Comparison(
            "50 hosts behind one bastion, and without it",
            (
                _side(OURS, ours.cold, near, 50, bastion),
                _side("direct", ours.cold, near, 50),
                _side(PSSH, rivals.pssh_cold, near, 50, bastion),
            ),
            (
                Bar("of the time without it", "wall_s", "direct", at_most=1.3),
                Bar("connections to the bastion", "to_bastion", at_most=1),
            ),
        )
        hosts = 50 if quick else 200
        limited = place(serve("10:30:100"))
        yield Comparison(
            f"{hosts} cold hosts at MaxStartups 10:30:100, and with the limit lifted",
            (_side(OURS, ours.cold, limited, hosts), _side("lifted", ours.cold, near, hosts)),
            (Bar("of the time without the limit", "wall_s", "lifted", at_most=1.3),),
        )
        idlers = 100 if quick else 500
        yield Comparison(
            f"{idlers} idle connections",
            (_side(OURS, ours.idle, near, idlers), _side(BARE, bare.idle, near, idlers)),
            (
                Bar("% of a core", "cpu_percent", at_most=1),
                Bar(f"of {BARE}'s memory", "kb_each", BARE, at_most=1.2),
            ),
            rounds=3,
        )


def _side(name: str, function: Callable[..., Figures], *args: Any) -> Side:
    return Side(name, functools.partial(fresh.run, function, *args))


def _cold(near: Place, sshd: Server, hosts: int) -> Comparison:
    plain = with_known_lines(near, sshd, hashed=False)
    hashed = with_known_lines(near, sshd, hashed=True)
    return Comparison(
        f"{hosts} cold hosts, verified against 10,000 plain lines; the others verify nothing",
        (
            _side(OURS, ours.cold, plain, hosts),
            _side("hashed lines", ours.cold, hashed, hosts),
            _side(BARE, bare.cold, near, hosts),
            _side(PSSH, rivals.pssh_cold, near, hosts),
            _side(PDSH, rivals.pdsh_cold, near, hosts, FANOUT),
            _side(CLUSTERSHELL, rivals.clustershell_cold, near, hosts, FANOUT),
        ),
        (
            Bar(f"of {BARE}'s rate", "hosts_per_s", BARE, at_least=0.9),
            Bar(f"times {PSSH}'s rate", "hosts_per_s", PSSH, at_least=1),
            Bar(f"times {PDSH}'s rate", "hosts_per_s", PDSH, at_least=3),
            Bar(f"times {CLUSTERSHELL}'s rate", "hosts_per_s", CLUSTERSHELL, at_least=3),
        ),
    )


def _warm(near: Place, commands: int) -> Iterator[Comparison]:
    yield Comparison(
        f"{commands} commands over one warm connection, ten at a time",
        (
            _side(OURS, ours.warm, near, commands, 1),
            _side(BARE, bare.warm, near, commands, 1),
        ),
        (Bar(IDENTICAL, "commands_per_s", BARE, at_least=0.9),),
    )
    for connections in (10, 50):
        yield Comparison(
            f"{commands} commands over {connections} warm connections",
            (
                _side(OURS, ours.warm, near, commands, connections),
                _side(BARE, bare.warm, near, commands, connections),
                _side(PSSH, rivals.pssh_warm, near, commands, connections),
            ),
            (
                Bar(f"times {PSSH}'s rate", "commands_per_s", PSSH, at_least=2),
                Bar(IDENTICAL, "commands_per_s", BARE, at_least=0.9),
            ),
        )


def _files(near: Place, base: Path, size: int) -> Iterator[Comparison]:
    source = large_file(base, size)
    for name, mine, theirs in (
        ("put", ours.put, rivals.client_put),
        ("get", ours.get, rivals.client_get),
    ):
        yield Comparison(
            f"{size // 1_000_000} MB by {name}",
            (_side(OURS, mine, near, size, source), _side(SFTP, theirs, near, size, source)),
            (Bar(f"of {SFTP}'s rate", "mb_per_s", SFTP, at_least=0.8),),
            rounds=3,
        )


def _far(stack: ExitStack, sshd: Server, hosts: int, size: int) -> Iterator[Comparison]:
    far = place(sshd, port=stack.enter_context(delay(sshd.port, 0.075)))
    yield Comparison(
        f"{hosts} cold hosts, 150 ms of round trip",
        (
            _side(OURS, ours.cold, far, hosts),
            _side(BARE, bare.cold, far, hosts),
            _side(PSSH, rivals.pssh_cold, far, hosts),
        ),
        (
            Bar(f"of {BARE}'s time", "wall_s", BARE, at_most=1.15),
            Bar(f"times {PSSH}'s rate", "hosts_per_s", PSSH, at_least=10),
        ),
        rounds=3,
    )
    far = place(sshd, port=stack.enter_context(delay(sshd.port, 0.025)))
    yield Comparison(
        f"{size // 1_000_000} MB of output, 50 ms of round trip",
        (
            _side(OURS, ours.output, far, size),
            _side(CLIENT, rivals.client_output, far, size, True),
        ),
        (Bar(f"of {CLIENT}'s rate", "mb_per_s", CLIENT, at_least=3),),
        rounds=3,
    )
