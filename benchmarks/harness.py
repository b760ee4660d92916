"""Compares sides in one run: interleaved rounds, medians, ratios of paired rounds, bars.

The machine's mood changes from minute to minute, so a figure means little and a ratio of
two figures taken one after the other means much. Every round measures every side once,
odd rounds in reverse order; a bar looks at the median over the rounds of ours / theirs.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

__all__ = ["OURS", "Bar", "Comparison", "Figures", "Report", "Side", "UnavailableError", "save"]

OURS = "parallel_exec"
RESULTS = Path(__file__).parent / "results"

Figures = dict[str, float]
"""What one side measured in one round. Names carry the unit: ``wall_s``, ``rate_per_s``."""


class UnavailableError(Exception):
    """A side cannot be measured on this machine; the message says why."""


@dataclass(frozen=True)
class Side:
    """One of those compared.

    Args:
        name: What tables call it; bars refer to it.
        measure: Does the work once, checks what came of it and returns the figures.
            It may raise `UnavailableError`: the side and its bars are skipped then.
    """

    name: str
    measure: Callable[[], Figures]


@dataclass(frozen=True)
class Bar:
    """What our side must reach in one figure.

    Args:
        what: Says it in words.
        figure: The figure it is about.
        rival: The side to compare with: the bar is on ours / theirs. None: the bar is on
            our figure itself.
        at_least: The lowest value that passes.
        at_most: The highest value that passes.
    """

    what: str
    figure: str
    rival: str | None = None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def wanted(self) -> str:
        """The condition, as tables show it."""
        times = "x" if self.rival is not None else ""
        if self.at_least is not None:
            return f">= {self.at_least:.3g}{times}"
        return f"<= {self.at_most:.3g}{times}"

    def passes(self, value: float) -> bool:
        """Return whether `value` is good enough."""
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )

    def value(self, rounds: Iterable[Mapping[str, Figures]]) -> float | None:
        """Return the median over `rounds`, or None if a side is missing in all of them."""
        values = []
        for measured in rounds:
            ours = measured.get(OURS)
            theirs = measured.get(self.rival) if self.rival is not None else None
            if ours is None or (self.rival is not None and theirs is None):
                continue
            values.append(ours[self.figure] / (theirs[self.figure] if theirs is not None else 1))
        return statistics.median(values) if values else None


@dataclass(frozen=True)
class Comparison:
    """Sides that do the same work, and what ours must reach."""

    title: str
    sides: tuple[Side, ...]
    bars: tuple[Bar, ...] = ()
    rounds: int = 5

    def run(self, rounds: int | None = None) -> Report:
        """Measure everything.

        Args:
            rounds: How many rounds, instead of the comparison's own number.
        """
        before = load()
        measured: list[dict[str, Figures]] = []
        skipped: dict[str, str] = {}
        for number in range(rounds or self.rounds):
            figures: dict[str, Figures] = {}
            for side in self.sides if number % 2 == 0 else self.sides[::-1]:
                if side.name in skipped:
                    continue
                try:
                    figures[side.name] = side.measure()
                except UnavailableError as error:
                    skipped[side.name] = str(error)
            measured.append(figures)
        where = {**machine(), "load_before": before, "load_after": load()}
        return Report(self, measured, skipped, where)


@dataclass(frozen=True)
class Report:
    """What a comparison came to.

    Attributes:
        comparison: What was compared.
        rounds: For each round the figures of each side.
        skipped: Why a side is missing, by its name.
        machine: Where it was measured.
    """

    comparison: Comparison
    rounds: list[dict[str, Figures]]
    skipped: dict[str, str]
    machine: dict[str, Any] = field(repr=False)

    def medians(self) -> dict[str, Figures]:
        """Return for each side the median of each of its figures."""
        medians: dict[str, Figures] = {}
        for side in self.comparison.sides:
            measured = [figures[side.name] for figures in self.rounds if side.name in figures]
            if measured:
                medians[side.name] = {
                    name: statistics.median(figures[name] for figures in measured)
                    for name in measured[0]
                }
        return medians

    @property
    def ok(self) -> bool:
        """Whether no bar was missed."""
        return all(passed is not False for _, _, passed in self._judged())

    def _judged(self) -> list[tuple[Bar, float | None, bool | None]]:
        judged = []
        for bar in self.comparison.bars:
            value = bar.value(self.rounds)
            judged.append((bar, value, None if value is None else bar.passes(value)))
        return judged

    def print(self, file: TextIO | None = None) -> None:
        """Print the medians of every side, then the bars."""
        medians = self.medians()
        names = list(dict.fromkeys(name for figures in medians.values() for name in figures))
        rows = [
            [side, *(_shown(figures[name]) if name in figures else "" for name in names)]
            for side, figures in medians.items()
        ]
        count = len(self.rounds)
        print(f"\n{self.comparison.title}", file=file)
        _table([[f"median of {count}" if count > 1 else "once", *names], *rows], file)
        for side, reason in self.skipped.items():
            print(f"  {side}: skipped, {reason}", file=file)
        words = {True: "PASS", False: "MISS", None: "skipped"}
        bars = [
            [bar.what, "-" if value is None else _shown(value), bar.wanted, words[passed]]
            for bar, value, passed in self._judged()
        ]
        if bars:
            _table([["bar", "reached", "wanted", ""], *bars], file)

    def as_json(self) -> dict[str, Any]:
        """Return everything, to be saved."""
        return {
            "title": self.comparison.title,
            "machine": self.machine,
            "medians": _rounded(self.medians()),
            "bars": [
                {
                    "what": bar.what,
                    "reached": _rounded(value),
                    "wanted": bar.wanted,
                    "passed": passed,
                }
                for bar, value, passed in self._judged()
            ],
            "skipped": self.skipped,
            "rounds": _rounded(self.rounds),
        }


def save(name: str, reports: list[Report], *, quick: bool) -> Path:
    """Write the reports of the benchmark `name` under ``results/``; return the file."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}{'-quick' if quick else ''}.json"
    text = json.dumps([report.as_json() for report in reports], indent=1)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def machine() -> dict[str, Any]:
    """Return what figures depend on besides the code."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "cores": cores,
        "processor": _processor(),
        "kernel": f"{platform.system()} {platform.release()}",
    }


def load() -> float:
    """Return the system's load: how many processes wanted to run in the last minute."""
    return round(os.getloadavg()[0], 2)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _rounded(value: Any) -> Any:
    """Return `value` with its floats at five digits: more would be noise in a diff."""
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _shown(value: float) -> str:
    """Return `value` with three digits that matter."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value else "0"


def _table(rows: list[list[str]], file: TextIO | None) -> None:
    """Print `rows`, the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  " + "   ".join(cells).rstrip(), file=file or sys.stdout, flush=True)
