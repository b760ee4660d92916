"""How many handshakes may be under way."""

from __future__ import annotations

import threading

from parallel_exec.environments.ssh.gate import Gate


def enter(gate: Gate, timeout: float | None = None) -> int:
    """Enter; fail if it takes too long."""
    entry = gate.enter(timeout)
    assert entry is not None
    return entry


def test_a_round_of_refusals_halves_once() -> None:
    """The others of the same round tell nothing new."""
    gate = Gate(100)
    entries = [enter(gate) for _ in range(40)]
    for entry in entries[:20]:
        gate.leave(entry, refused=True)
    assert gate.limit == 20
    for entry in entries[20:]:
        gate.leave(entry)
    assert 20 < gate.limit < 22


def test_it_goes_down_to_one() -> None:
    """A server that takes one at a time gets one at a time."""
    gate = Gate(8)
    for _ in range(10):
        gate.leave(enter(gate), refused=True)
    assert gate.limit == 1


def test_without_refusals_it_stays() -> None:
    """Nothing is learned from success at the first limit."""
    gate = Gate(3)
    for _ in range(10):
        gate.leave(enter(gate))
    assert gate.limit == 3


def test_places_go_to_those_who_wait_in_order() -> None:
    """And who waits too long gets none."""
    gate = Gate(1)
    first = enter(gate)
    assert gate.enter(timeout=0.0) is None
    entered: list[str] = []

    def wait(name: str) -> None:
        entry = enter(gate, 10)
        entered.append(name)
        gate.leave(entry)

    threads = []
    for name in "ab":
        threads.append(threading.Thread(target=wait, args=(name,)))
        threads[-1].start()
        while len(gate._waiting) < len(threads):
            pass
    gate.leave(first)
    for thread in threads:
        thread.join()
    assert entered == ["a", "b"]
