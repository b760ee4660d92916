"""What people use now: parallel-ssh, pdsh, ClusterShell, OpenSSH's client.

They verify no host keys. Each function runs in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import Figures, UnavailableError
from benchmarks.ssh.place import Place
from tests.integration.ssh.server import find

TIMEOUT_S = 10  # what parallel-ssh is told to wait for a host that says nothing


# parallel-ssh


def _pssh() -> Any:
    """Return the module, imported before the time runs."""
    try:
        import pssh.clients
        import pssh.config
    except ImportError:
        raise UnavailableError("needs parallel-ssh: pip install parallel-ssh") from None
    return pssh


def _parallel_ssh(place: Place, addresses: list[str], **options: Any) -> Any:
    return _pssh().clients.ParallelSSHClient(
        addresses,
        user=place.user,
        port=place.port,
        pkey=place.key,
        allow_agent=False,
        identity_auth=False,
        pool_size=len(addresses),
        **options,
    )


def _said(client: Any) -> list[list[str]]:
    outputs = client.run_command("echo ok")
    client.join(outputs)
    return [list(output.stdout) for output in outputs]


def pssh_cold(where: list[Any], hosts: int, bastion: list[Any] | None = None) -> Figures:
    """Run one command on each of many hosts."""
    place = Place(*where)
    options: dict[str, Any] = {}
    if bastion is not None:
        jump = Place(*bastion)
        options = {
            "proxy_host": "127.0.0.1",
            "proxy_port": jump.port,
            "proxy_user": jump.user,
            "proxy_pkey": jump.key,
        }
    _pssh()
    start, cpu = time.perf_counter(), time.process_time()
    said = _said(_parallel_ssh(place, place.addresses(hosts), **options))
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert said == [["ok"]] * hosts
    return {"hosts_per_s": hosts / wall, "wall_s": wall, "cpu_ms_each": cpu / hosts * 1000}


def pssh_warm(where: list[Any], commands: int, connections: int) -> Figures:
    """Run many commands, round after round; its connections run one at a time."""
    place = Place(*where)
    client = _parallel_ssh(place, place.addresses(connections))
    _said(client)
    rounds = commands // connections
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(rounds):
        assert _said(client) == [["ok"]] * connections
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    commands = rounds * connections
    return {"commands_per_s": commands / wall, "cpu_ms_each": cpu / commands * 1000}


def pssh_beside_silent(where: list[Any], good: int, silent: int, silent_port: int) -> Figures:
    """Wait for the outcomes of the good ones among hosts that never answer."""
    place = Place(*where)
    host_config = _pssh().config.HostConfig
    ports = [silent_port] * silent + [place.port] * good
    start = time.perf_counter()
    client = _parallel_ssh(
        place,
        [*place.addresses(silent), *place.addresses(good)],
        host_config=[host_config(port=port) for port in ports],
        timeout=TIMEOUT_S,
        num_retries=1,
    )
    outputs = client.run_command("echo ok", stop_on_errors=False)
    said = [list(output.stdout) for output in outputs if output.stdout is not None]
    wall = time.perf_counter() - start
    assert said == [["ok"]] * good
    return {"good_s": wall}


# Tools that start OpenSSH's client for each host


def _ssh_options(place: Place, flag: str = "-p") -> list[str]:
    return [
        *("-F", "none", "-i", place.key, flag, str(place.port), "-o", "LogLevel=ERROR"),
        *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
    ]


def pdsh_cold(where: list[Any], hosts: int, fanout: int) -> Figures:
    """Run one command on each of many hosts by ``pdsh``."""
    place = Place(*where)
    if find("pdsh") is None:
        raise UnavailableError("needs pdsh: apt-get install pdsh")
    if "ssh" not in _modules_of_pdsh():
        raise UnavailableError("needs pdsh's module for ssh")
    argv = ["pdsh", "-N", "-R", "ssh", "-f", str(fanout), "-l", place.user]
    variables = {**os.environ, "PDSH_SSH_ARGS_APPEND": " ".join(_ssh_options(place))}
    start = time.perf_counter()
    done = subprocess.run(
        [*argv, "-w", ",".join(place.addresses(hosts)), "echo ok"],
        env=variables,
        capture_output=True,
        check=True,
    )
    wall = time.perf_counter() - start
    assert done.stdout == b"ok\n" * hosts, done.stderr
    return {"hosts_per_s": hosts / wall, "wall_s": wall}


def _modules_of_pdsh() -> str:
    done = subprocess.run(["pdsh", "-V"], capture_output=True, text=True, check=False)
    return next((line for line in done.stdout.splitlines() if line.startswith("rcmd")), "")


def clustershell_cold(where: list[Any], hosts: int, fanout: int) -> Figures:
    """Run one command on each of many hosts by ClusterShell's library."""
    try:
        from ClusterShell.NodeSet import NodeSet
        from ClusterShell.Task import task_self
    except ImportError:
        raise UnavailableError("needs ClusterShell: pip install ClusterShell") from None
    place = Place(*where)
    start = time.perf_counter()
    task = task_self()
    task.set_info("fanout", fanout)
    task.set_info("ssh_user", place.user)
    task.set_info("ssh_options", " ".join(_ssh_options(place)))
    task.run("echo ok", nodes=NodeSet.fromlist(place.addresses(hosts)))
    said = [(bytes(text), len(list(nodes))) for text, nodes in task.iter_buffers()]
    wall = time.perf_counter() - start
    assert said == [(b"ok", hosts)]
    return {"hosts_per_s": hosts / wall, "wall_s": wall}


# OpenSSH's client


def client_output(where: list[Any], size: int, captured: bool) -> Figures:
    """Have ``ssh`` print much, the connection included; it is captured, or thrown away."""
    place = Place(*where)
    _need("ssh")
    start = time.perf_counter()
    done = subprocess.run(
        ["ssh", *_ssh_options(place), f"{place.user}@127.0.0.1", f"head -c {size} /dev/zero"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if captured else subprocess.DEVNULL,
        check=True,
    )
    wall = time.perf_counter() - start
    assert not captured or len(done.stdout) == size
    return {"mb_per_s": size / wall / 1e6}


def client_put(where: list[Any], size: int, source: str) -> Figures:
    """Copy a large file there by ``sftp``."""
    return _sftp(Place(*where), size, f"put {source} put")


def client_get(where: list[Any], size: int, source: str) -> Figures:
    """Copy a large file from there by ``sftp``."""
    return _sftp(Place(*where), size, f"get {source} {Path(source).with_name('got')}")


def _sftp(place: Place, size: int, order: str) -> Figures:
    _need("sftp")
    start = time.perf_counter()
    subprocess.run(
        ["sftp", "-b", "-", *_ssh_options(place, "-P"), f"{place.user}@127.0.0.1"],
        input=order.encode() + b"\n",
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return {"mb_per_s": size / (time.perf_counter() - start) / 1e6}


def _need(program: str) -> None:
    if find(program) is None:
        raise UnavailableError(f"needs {program}: apt-get install openssh-client")
