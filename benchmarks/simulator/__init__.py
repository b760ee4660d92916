"""Adaptive limits on a virtual clock: our rules, rivals, and the best limit that never moves.

``python -m benchmarks.simulator`` runs every rule through every scenario and compares the
table with the committed one, ``golden.txt``. Nothing here sleeps or looks at a clock, so the
same code gives the same table.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.harness import OURS, Bar, Comparison, Figures, Side

__all__ = ["comparisons"]


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Yield the default rule in all scenarios, against the golden file's best fixed limits."""
    yield Comparison(
        "The default rule of an adaptive limit, simulated",
        (Side(OURS, _default),),
        (
            Bar("of the best fixed limit, steady", "steady", at_least=0.95),
            Bar("of the best fixed limit, changing", "changing", at_least=0.90),
            Bar("of the best fixed limit, shared", "shared", at_least=0.90),
            Bar("share refused", "refused", at_most=0.01),
            Bar("s to 90 % of the capacity", "reach_s", at_most=3.0),
            Bar("s to recover", "recovery_s", at_most=5.0),
            Bar("Jain's index", "jain", at_least=0.97),
        ),
        rounds=1,
    )


def _default() -> Figures:
    from benchmarks.simulator import table
    from benchmarks.simulator.rules import DEFAULT
    from benchmarks.simulator.scenarios import SCENARIOS

    best = table.known_best()
    figures = {"steady": 1.0, "changing": 1.0, "shared": 1.0, "jain": 1.0}
    figures |= {"refused": 0.0, "reach_s": 0.0, "recovery_s": 0.0}
    for scenario in SCENARIOS:
        if scenario.kind == "reported":
            continue
        cell, _ = table.measure(scenario, DEFAULT, best[scenario.name])
        figures[scenario.kind] = min(figures[scenario.kind], cell.of_best)
        figures["jain"] = min(figures["jain"], cell.jain)
        figures["refused"] = max(figures["refused"], cell.refused)
        figures["reach_s"] = max(figures["reach_s"], cell.reach_s)
        figures["recovery_s"] = max(figures["recovery_s"], *cell.recovery_s, 0.0)
    return figures
