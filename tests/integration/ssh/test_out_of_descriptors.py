"""More hosts than descriptors: idle connections give way, others wait, nobody fails for it.

In programs of their own, which may have few descriptors.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.integration.ssh.server import Server

FEW = 64  # descriptors
HOSTS = 90

BEGIN = """
import os, resource, socket, sys, threading
import parallel_exec as px
resource.setrlimit(resource.RLIMIT_NOFILE, ({few}, {few}))

def host(number, **options):
    # Another pool of connections for each.
    return px.SSH({destination!r}, passphrase=str(number), **{{**{options!r}, **options}})

def free():
    '''How many descriptors are left.'''
    return {few} - len(os.listdir("/proc/self/fd")) + 1
"""


def program(server: Server, text: str) -> str:
    """Run a program that has few descriptors; return what it printed."""
    begin = BEGIN.format(few=FEW, destination=server.destination, options=server.options)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", begin + text],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_idle_connections_give_way(sshd: Server) -> None:
    """Many more hosts than descriptors, a few at a time; some are left for other things."""
    said = program(
        sshd,
        f"""
with px.Group([]) as nobody:
    hosts = [host(n) for n in range({HOSTS})]
    outcomes = px.all_settled([each.command("echo hi") for each in hosts], concurrency=4)
    print([str(each.reason) for each in outcomes if not each.ok], free() >= 8)
    # The one that was used last is still there.
    kept = sum(bool(each._pool._connections) for each in hosts)
    print(0 < kept < {FEW}, bool(hosts[-1]._pool._connections))
    for each in hosts:
        each.close()
""",
    )
    assert said == "[] True\nTrue True\n"


def test_connecting_waits_for_room(sshd: Server) -> None:
    """All hosts at once, each with a command that keeps its connection for a while."""
    said = program(
        sshd,
        f"""
hosts = [host(n) for n in range({HOSTS})]
outcomes = px.all_settled([each.command("sleep 0.3") for each in hosts], concurrency=None)
print([str(each.reason) for each in outcomes if not each.ok])
for each in hosts:
    each.close()
""",
    )
    assert said == "[]\n"


def test_nothing_to_wait_for(sshd: Server) -> None:
    """Where nothing of ours holds a descriptor, the error is that of the system, at once."""
    said = program(
        sshd,
        """
px.run("true")
alone = host(1)
alone.run("true")
alone.close()
lonely = host(2)
held = []
try:
    while True:
        held.append(os.dup(0))
except OSError:
    pass
try:
    lonely.run("true")
except px.errors.ConnectError as error:
    print(error)
""",
    )
    assert "Too many open files" in said


def test_waiting_for_room_can_be_stopped(sshd: Server) -> None:
    """What waits is told to the limit, ends with its timeout, and has not run."""
    said = program(
        sshd,
        """
first = host(0)
busy = first.submit("sleep 1000; true", kill_after=0)
while not first._pool or not first._pool._connections:
    busy.done()
held = []
try:
    while True:
        held.append(os.dup(0))
except OSError:
    pass
limit = px.AIMDController(initial=2, max_limit=2)
(outcome,) = px.all_settled([host(1).command("true", timeout=0.5)], concurrency=limit)
print(type(outcome.reason).__name__, limit.statistics().strained > 0)
for fd in held:
    os.close(fd)
busy.cancel()
first.close()
""",
    )
    assert said == "CommandTimeoutError True\n"


def test_input_waits_for_descriptors(sshd: Server) -> None:
    """A pipe that is read ahead needs some: while another connection may end, they are waited
    for; else the command has not started.
    """
    said = program(
        sshd,
        """
first, second = host(0), host(1)
first.run("true")
read, write = os.pipe()
os.write(write, b"hello")
os.close(write)
file = open(read, "rb")
held = []
try:
    while True:
        held.append(os.dup(0))
except OSError:
    pass
try:
    first.run("cat", input=file)
except px.errors.CommandStartError as error:
    print("did not start" in str(error), error.errno)
for fd in held:
    os.close(fd)
busy = second.submit("sleep 1000; true", kill_after=0)
while not second._pool or not second._pool._connections:
    busy.done()
held.clear()
try:
    while True:
        held.append(os.dup(0))
except OSError:
    pass
limit = px.AIMDController(initial=2, max_limit=2)
outcomes = []
task = first.command("cat", input=file)
thread = threading.Thread(target=lambda: outcomes.extend(px.all_settled([task], concurrency=limit)))
thread.start()
while not limit.statistics().strained and not outcomes:
    pass
for fd in held:
    os.close(fd)
thread.join()
print(outcomes[0].value.stdout)
file.close()
busy.cancel()
first.close()
second.close()
""",
    )
    assert said == "True 24\nb'hello'\n"


def test_commands_of_this_machine_have_idle_connections_give_way(sshd: Server) -> None:
    """They need descriptors as well, and what nobody uses must not keep them."""
    said = program(
        sshd,
        """
hosts = [host(n) for n in range(8)]
for each in hosts:
    each.run("true")
px.run("true")
held = []
try:
    while True:
        held.append(os.dup(0))
except OSError:
    pass
print(px.run("echo here").text().strip())
for fd in held:
    os.close(fd)
for each in hosts:
    each.close()
""",
    )
    assert said == "here\n"


@pytest.mark.parametrize("hosts", [1, 12])
def test_hosts_behind_a_jump_host_need_no_descriptor(sshd: Server, hosts: int) -> None:
    """They go over its connection: they do not wait where there is none left."""
    said = program(
        sshd,
        f"""
jump = host("jump")
jump.run("true")
first = host(0, jump=jump)
first.run("true")
held = []
try:
    while True:
        held.append(os.dup(0))
except OSError:
    pass
behind = [host(n + 1, jump=jump) for n in range({hosts})]
outcomes = px.all_settled([each.command("echo hi") for each in behind])
print([str(each.reason) for each in outcomes if not each.ok])
for fd in held:
    os.close(fd)
for each in [*behind, first, jump]:
    each.close()
""",
    )
    assert said == "[]\n"
