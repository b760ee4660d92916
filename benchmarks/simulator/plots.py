"""Limit against time for every scenario, drawn as SVG, and the page that shows them.

The drawings are made without a library: they are three lines and two axes, and what makes
them is then as deterministic as what they show.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

from benchmarks.simulator.engine import Run
from benchmarks.simulator.rules import DEFAULT
from benchmarks.simulator.scenarios import SCENARIOS, Scenario

__all__ = ["DIRECTORY", "PLOTTED", "draw", "file_name", "write"]

DIRECTORY = Path(__file__).parents[2] / "docs" / "_static"

PLOTTED = (DEFAULT, "Cubic", "Netflix AIMD")

# Readable on white and on black.
COLOURS = {DEFAULT: "#2a7fd4", "Cubic": "#2f9e5b", "Netflix AIMD": "#d9822b"}
GREY = "#8a8a8a"

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 26, 30
EVERY = 2  # ticks of the simulation


def write(runs: Mapping[tuple[str, str], Run]) -> None:
    """Draw all scenarios into docs/_static.

    Args:
        runs: By scenario and rule.
    """
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for scenario in SCENARIOS:
        shown = {rule: runs[scenario.name, rule] for rule in PLOTTED}
        (DIRECTORY / file_name(scenario)).write_text(draw(scenario, shown))


def file_name(scenario: Scenario) -> str:
    """Return the name of a scenario's drawing."""
    return f"limit-{re.sub('[^a-z0-9]+', '-', scenario.name.lower()).strip('-')}.svg"


def draw(scenario: Scenario, runs: Mapping[str, Run]) -> str:
    """Return the drawing of one scenario.

    Args:
        scenario: What was run.
        runs: What came of it, by rule. Of several clients only the default rule's are drawn.
    """
    clients = len(scenario.round_trips_s)
    if clients > 1:
        runs = {DEFAULT: runs[DEFAULT]}
    highest = max(
        [max(limits[50:]) for run in runs.values() for limits in run.limits]
        + [scenario.capacity / clients]
    )
    top = _round_up(min(1.1 * highest, 2.2 * scenario.capacity / clients))

    def x(time: float) -> float:
        return LEFT + time / scenario.horizon_s * (WIDTH - LEFT - RIGHT)

    def y(limit: float) -> float:
        return TOP + (1 - min(limit, top) / top) * (HEIGHT - TOP - BOTTOM)

    def line(times: list[float], limits: list[float], colour: str, extra: str = "") -> str:
        points = " ".join(
            f"{x(time):.0f},{y(limit):.0f}" for time, limit in zip(times, limits, strict=True)
        )
        return (
            f'<polyline points="{points}" fill="none" stroke="{colour}" '
            f'stroke-width="1.3" stroke-linejoin="round"{extra}/>'
        )

    def label(left: float, height: float, words: str, colour: str, anchor: str) -> str:
        return (
            f'<text x="{left:.0f}" y="{height:.0f}" fill="{colour}" '
            f'text-anchor="{anchor}">{words}</text>'
        )

    def parts() -> Iterator[str]:
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="12" role="img">'
        )
        yield f"<title>Limit against time: {scenario.name}</title>"
        for part in range(5):
            limit = top * part / 4
            yield (
                f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(limit):.0f}" y2="{y(limit):.0f}" '
                f'stroke="{GREY}" stroke-opacity="0.3"/>'
            )
            yield label(LEFT - 6, y(limit) + 4, f"{limit:g}", GREY, "end")
        for time in range(0, round(scenario.horizon_s) + 1, 10):
            yield label(x(time), HEIGHT - BOTTOM + 16, f"{time}", GREY, "middle")
        yield label(WIDTH - RIGHT, HEIGHT - 2, "seconds", GREY, "end")
        capacities = [0.0, *(at for at, _ in scenario.changes), scenario.horizon_s]
        steps = [
            (time, scenario.capacity_at(start) / clients)
            for start, end in pairwise(capacities)
            for time in (start, end)
        ]
        yield line(
            [time for time, _ in steps],
            [capacity for _, capacity in steps],
            GREY,
            ' stroke-dasharray="5 4"',
        )
        for rule, run in reversed(list(runs.items())):
            for limits in run.limits:
                extra = ' stroke-opacity="0.55"' if clients > 1 else ""
                yield line(
                    [0.0, *run.times[::EVERY]],
                    [float(scenario.initial), *limits[::EVERY]],
                    COLOURS[rule],
                    extra,
                )
        for number, rule in enumerate(runs):
            yield label(LEFT + 110 * number, 14, rule, COLOURS[rule], "start")
        words = "capacity" if clients == 1 else "capacity / controllers"
        yield label(LEFT + 110 * len(runs), 14, words, GREY, "start")
        yield "</svg>"

    return "\n".join(parts()) + "\n"


def _round_up(limit: float) -> float:
    """Return the next limit of which a quarter is a whole number."""
    return float(-(-limit // 20) * 20)
