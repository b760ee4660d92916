"""A user's program: updates a fleet of hosts in waves."""

from __future__ import annotations

import sys
from pathlib import Path

import parallel_exec as px


def show(host: str, line: str) -> None:
    """Show a line of a host's output."""
    sys.stdout.write(f"{host}: {line}\n")


def kernel(host: px.SSH) -> tuple[str, int]:
    """Return what a host runs, and on how many processors."""
    return host.run("uname -r").text().strip(), int(host.run(["nproc"]).text())


def update(names: str, package: Path) -> px.HostOutcomes[px.Result]:
    """Copy a package to hosts and install it, first on one, then on all."""
    with px.hosts(names, exclude="web07", user="deploy", accept_new=True, sudo=True) as fleet:
        copied = fleet.put(package, "/tmp/{host}.deb", concurrency=8, timeout=60)
        copied.raise_for_failures()
        for outcome in copied.fulfilled:
            sys.stdout.write(f"{outcome.value.files} files, {outcome.value.bytes} bytes\n")
        installed = fleet.run(
            "dpkg -i /tmp/{host}.deb",
            waves=[1, "10%", "100%"],
            max_failures=1,
            on_stdout=show,
            timeout=300,
            env={"DEBIAN_FRONTEND": "noninteractive"},
        )
        if not installed.ok:
            installed = installed.failed.run("apt-get -f install", timeout=300)
        return installed


def survey(names: str) -> dict[str, str]:
    """Return what runs where."""
    with px.hosts(names, connect_timeout=5) as fleet:
        found = fleet.map(kernel, concurrency=32, retry=px.Retry(attempts=2, wait=1))
        busiest = max(found.fulfilled, key=lambda outcome: outcome.value[1])
        sys.stdout.write(f"{busiest.value[0]} has the most processors\n")
        if "db1" in found.by_host():
            release, processors = found["db1"].result()
            sys.stdout.write(f"{release.upper()}, {processors + 1}\n")
        return {host: outcome.result()[0] for host, outcome in found.by_host().items()}


if __name__ == "__main__":
    sys.stdout.write(update(sys.argv[1], Path(sys.argv[2])).report())
