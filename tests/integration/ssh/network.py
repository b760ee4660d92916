"""Hosts with a network of their own, that can be cut, and addresses where nobody is."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from tests.integration.ssh.server import ROOT

NOBODY = "02:00:00:00:00:01"  # a hardware address that nobody has: what is sent there is dropped


@dataclass(frozen=True)
class Network:
    """A network namespace behind a cable, and the addresses beyond it.

    Those up to 127 are all hosts of the namespace; those from 200 on are dead: packets to
    them are dropped without a word. This machine has 254.
    """

    name: str
    near: str  # this machine's end of the cable
    far: str  # the namespace's
    prefix: str

    def address(self, number: int) -> str:
        """Return the address with a number."""
        return f"{self.prefix}.{number}"

    @property
    def enter(self) -> Sequence[str]:
        """Return what to put before a command so that it runs in there."""
        return ("ip", "netns", "exec", self.name)

    def cut(self) -> None:
        """Drop every packet, both ways; nobody is told."""
        self._neighbours(NOBODY, NOBODY)

    def mend(self) -> None:
        """Let packets through again."""
        self._neighbours(self._hardware_address(self.far, inside=True), self._hardware_address())

    def _neighbours(self, far: str, near: str) -> None:
        """Have this machine send to one hardware address, the namespace to another."""
        self._neighbour_of(range(1, 128), far)
        here = self.address(254)
        self._ip("neigh", "replace", here, "lladdr", near, "dev", self.far, inside=True)

    def _neighbour_of(self, numbers: Iterable[int], lladdr: str) -> None:
        lines = [
            f"neigh replace {self.address(number)} lladdr {lladdr} dev {self.near}\n"
            for number in numbers
        ]
        subprocess.run(["ip", "-batch", "-"], input="".join(lines), text=True, check=True)

    def _hardware_address(self, device: str = "", *, inside: bool = False) -> str:
        shown = self._ip("-brief", "link", "show", device or self.near, inside=inside)
        return shown.split()[2]

    def _ip(self, *words: str, inside: bool = False) -> str:
        where = ["-n", self.name] if inside else []
        done = subprocess.run(["ip", *where, *words], check=True, capture_output=True, text=True)
        return done.stdout

    def make(self) -> None:
        """Make it; the namespace is there already."""
        self._ip(*("link", "add", self.near, "type", "veth", "peer"), self.far, "netns", self.name)
        self._ip("addr", "add", self.address(254) + "/24", "dev", self.near)
        self._ip("link", "set", self.near, "up")
        self._ip("link", "set", "lo", "up", inside=True)
        self._ip("addr", "add", self.address(1) + "/24", "dev", self.far, inside=True)
        self._ip("link", "set", self.far, "up", inside=True)
        # Every address up to 127 is one of the namespace's own.
        self._ip("route", "add", "local", self.address(0) + "/25", "dev", "lo", inside=True)
        self._neighbour_of(range(200, 250), NOBODY)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """Make a network for a while. Where that is not allowed, the test is skipped."""
    if not ROOT or shutil.which("ip") is None:
        pytest.skip("needs root and ip, to make a network: apt-get install iproute2")
    word = secrets.token_hex(4)
    # A range that is set aside for tests of networks (RFC 2544).
    made = Network(f"px{word}", f"pxn{word}", f"pxf{word}", f"198.18.{secrets.randbelow(254) + 1}")
    begun = subprocess.run(
        ["ip", "netns", "add", made.name], capture_output=True, text=True, check=False
    )
    if begun.returncode != 0:
        pytest.skip(f"may not make a network namespace: {begun.stderr.strip()}")
    try:
        made.make()
        yield made
    finally:
        # Whoever is still in there would never hear that the connection is gone.
        inside = subprocess.run(
            ["ip", "netns", "pids", made.name], capture_output=True, text=True, check=True
        )
        for pid in map(int, inside.stdout.split()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # The cable's other end goes with it, but not at once.
        subprocess.run(["ip", "link", "del", made.near], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", made.name], check=True)
