"""Our side, by the calls that a user makes. Each function runs in a process of its own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import parallel_exec as px
from benchmarks import fresh
from benchmarks.harness import Figures
from benchmarks.ssh.idling import Idling
from benchmarks.ssh.place import Place


def _options(place: Place) -> dict[str, Any]:
    return {"identity_file": place.key, "known_hosts": place.known, "config": False}


def _host(place: Place, address: str = "127.0.0.1") -> px.SSH:
    return px.SSH(f"{place.user}@{address}:{place.port}", **_options(place))


def cold(where: list[Any], hosts: int, bastion: list[Any] | None = None) -> Figures:
    """Run one command on each of many hosts that nothing is connected to."""
    place = Place(*where)
    options = _options(place)
    logins = 0
    if bastion is not None:
        jump = Place(*bastion)
        options["known_hosts"] = [place.known, jump.known]
        options["jump"] = f"{jump.user}@127.0.0.1:{jump.port}"
        logins = jump.logins()
    start, cpu = time.perf_counter(), time.process_time()
    group = px.hosts(place.node_set(hosts), **options)
    outcomes = group.run("echo ok", concurrency=hosts)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    outcomes.raise_for_failures()
    assert [result.stdout for result in outcomes.values()] == [b"ok\n"] * hosts
    figures = {"hosts_per_s": hosts / wall, "wall_s": wall, "cpu_ms_each": cpu / hosts * 1000}
    if bastion is not None:
        figures["to_bastion"] = Place(*bastion).logins() - logins
    group.close()
    return figures


def warm(where: list[Any], commands: int, connections: int) -> Figures:
    """Run many commands over connections that stand, ten at a time."""
    place = Place(*where)
    group = px.Group(_host(place, address) for address in place.addresses(connections))
    group.run("echo ok").raise_for_failures()
    tasks = [group[n % connections].command("echo ok") for n in range(commands)]
    start, cpu = time.perf_counter(), time.process_time()
    results = px.all(tasks, concurrency=max(10, connections))
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert [result.stdout for result in results] == [b"ok\n"] * commands
    group.close()
    return {"commands_per_s": commands / wall, "cpu_ms_each": cpu / commands * 1000}


def output(where: list[Any], size: int) -> Figures:
    """Capture much output of one command, the connection included."""
    start, cpu = time.perf_counter(), time.process_time()
    with _host(Place(*where)) as host:
        got = host.run(f"head -c {size} /dev/zero").stdout
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert len(got) == size
    return {"mb_per_s": size / wall / 1e6, "cpu_s": cpu}


def put(where: list[Any], size: int, source: str) -> Figures:
    """Copy a large file there, the connection included."""
    start = time.perf_counter()
    with _host(Place(*where)) as host:
        host.put(source, "put")
        return {"mb_per_s": size / (time.perf_counter() - start) / 1e6}


def get(where: list[Any], size: int, source: str) -> Figures:
    """Copy a large file from there, the connection included."""
    start = time.perf_counter()
    with _host(Place(*where)) as host:
        host.get(source, Path(source).with_name("got"))
        return {"mb_per_s": size / (time.perf_counter() - start) / 1e6}


def beside_silent(where: list[Any], good: int, silent: int, silent_port: int) -> Figures:
    """Wait for the outcomes of the good ones among hosts that never answer."""
    place = Place(*where)
    start = time.perf_counter()
    group = px.hosts(
        place._replace(port=silent_port).node_set(silent),
        place.node_set(good),
        **_options(place),
    )
    came = 0
    with px.as_completed([host.command("echo ok") for host in group], concurrency=50) as outcomes:
        for outcome in outcomes:
            assert outcome.value.stdout == b"ok\n"
            came += 1
            if came == good:
                wall = time.perf_counter() - start
                break
    group.close()
    return {"good_s": wall}


def idle(where: list[Any], count: int) -> Figures:
    """Hold many connections, and look what that costs."""
    place = Place(*where)
    fresh.open_files(count * 4 + 100)
    with _host(place, "127.0.100.1") as host:  # so that all is imported
        host.run("true")
    group = px.hosts(place.node_set(count), **_options(place))
    with Idling(count) as idling:
        group.run("true", concurrency=16).raise_for_failures()
    group.close()
    return idling.figures
