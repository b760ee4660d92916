"""``python -m benchmarks.simulator``: the whole table, compared with the committed one."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from benchmarks.simulator import plots, table
from benchmarks.simulator.engine import Run
from benchmarks.simulator.rules import DEFAULT, RULES
from benchmarks.simulator.scenarios import SCENARIOS, find


class Job(NamedTuple):
    """One cell of the table."""

    scenario: str
    rule: str
    best_per_s: float


def main(argv: list[str] | None = None) -> int:
    """Return 0 if the table is the committed one."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulator",
        description="Run every rule through every scenario, print the table and compare it with "
        "the committed one: 0 if they are the same. It takes a few minutes.",
    )
    parser.add_argument(
        "--write", action="store_true", help="write the table, and the plots in docs/_static"
    )
    parser.add_argument(
        "--scenario",
        choices=[scenario.name for scenario in SCENARIOS],
        help="this one alone, against the committed best fixed limit",
    )
    parser.add_argument("--rule", choices=list(RULES), help="this one alone, likewise")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    options = parser.parse_args(argv)
    if options.scenario or options.rule:
        return _some(options.scenario, options.rule)

    with ProcessPoolExecutor(options.jobs) as pool:
        oracles = {found.scenario: found for found in pool.map(table.oracle, SCENARIOS)}
        jobs = [
            Job(scenario.name, rule, oracles[scenario.name].goodput_per_s)
            for scenario in SCENARIOS
            for rule in RULES
        ]
        cells = list(pool.map(_cell, jobs))
        made = table.text(oracles, cells)
        print(made)
        if options.write:
            table.GOLDEN.write_text(made)
            plotted = [job for job in jobs if job.rule in plots.PLOTTED]
            runs = dict(
                zip(
                    [(job.scenario, job.rule) for job in plotted],
                    pool.map(_run, plotted),
                    strict=True,
                )
            )
            plots.write(runs)
    committed = table.GOLDEN.read_text() if table.GOLDEN.exists() else ""
    diff = list(
        difflib.unified_diff(
            committed.splitlines(), made.splitlines(), "committed", "now", lineterm="", n=0
        )
    )
    print("\n".join(diff) if diff else "The same as the committed table.")
    return 1 if diff else 0


def _some(scenario: str | None, rule: str | None) -> int:
    best = table.known_best()
    print(table.HEADER)
    cells = []
    for each in SCENARIOS:
        if scenario in (None, each.name):
            print(each.name)
            for name in RULES if rule is None else [rule]:
                cells.append(_cell(Job(each.name, name, best[each.name])))
                print(cells[-1].row(), flush=True)
    if scenario is None and rule == DEFAULT:
        print("\n".join(bar.row() for bar in table.judge(cells)))
    return 0


def _cell(job: Job) -> table.Cell:
    return table.measure(find(job.scenario), job.rule, job.best_per_s)[0]


def _run(job: Job) -> Run:
    return table.measure(find(job.scenario), job.rule, job.best_per_s)[1]


if __name__ == "__main__":
    sys.exit(main())
