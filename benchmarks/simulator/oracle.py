"""The best limit that does not move, found by trying."""

from __future__ import annotations

from benchmarks.simulator.engine import simulate
from benchmarks.simulator.rules import Static
from benchmarks.simulator.scenarios import Scenario

__all__ = ["best_static"]


def best_static(scenario: Scenario) -> tuple[int, float]:
    """Return the best fixed limit, the same for all clients, and its goodput.

    First limits far apart are tried, then ever closer ones around the best. That finds the
    best if goodput rises to one peak and falls behind it, which it does in all scenarios.
    """
    known: dict[int, float] = {}

    def goodput(limit: int) -> float:
        if limit not in known:
            known[limit] = simulate(scenario, lambda number: Static(limit)).goodput_per_s
        return known[limit]

    share = scenario.capacity / len(scenario.round_trips_s)
    best = max((max(1, round(share * part / 8)) for part in range(4, 15, 2)), key=goodput)
    step = max(1, round(share / 8))
    while True:
        best = max((max(1, best - step), best, best + step), key=goodput)
        if step == 1:
            # To the top of the last slope, one by one.
            if best == max((max(1, best - 1), best, best + 1), key=goodput):
                return best, known[best]
        else:
            step = max(1, step // 2)
