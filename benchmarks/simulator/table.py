"""All rules by all scenarios, as text: what is committed, and compared with what runs now."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.simulator.engine import Run, simulate
from benchmarks.simulator.oracle import best_static
from benchmarks.simulator.rules import DEFAULT, OURS, RIVALS, RULES
from benchmarks.simulator.scenarios import SCENARIOS, Scenario, find

__all__ = ["GOLDEN", "Bar", "Cell", "Oracle", "judge", "known_best", "measure", "oracle", "text"]

GOLDEN = Path(__file__).with_name("golden.txt")

REACHED = 0.9
"""The share of the capacity that counts as having reached it."""


@dataclass(frozen=True, slots=True)
class Oracle:
    """The best fixed limit of a scenario."""

    scenario: str
    limit: int
    goodput_per_s: float


@dataclass(frozen=True, slots=True)
class Cell:
    """What one rule did in one scenario.

    Attributes:
        scenario: Its name.
        rule: Its name.
        goodput_per_s: Tasks that succeeded, a second.
        of_best: The same as a share of the best fixed limit's.
        of_ideal: The same as a share of what a service gives that is always full.
        refused: Refusals among the attempts that are judged.
        refused_in_all: Refusals among all attempts.
        lost: Tasks refused when the retry budget was spent.
        reach_s: Seconds until 90 % of the capacity was used.
        recovery_s: The same after each change of capacity or durations.
        jain: Jain's index over the clients' limits.
    """

    scenario: str
    rule: str
    goodput_per_s: float
    of_best: float
    of_ideal: float
    refused: float
    refused_in_all: float
    lost: int
    reach_s: float
    recovery_s: tuple[float, ...]
    jain: float

    def row(self) -> str:
        """Return the cell as a line of the table."""
        recovery = " ".join(_seconds(seconds) for seconds in self.recovery_s) or "-"
        jain = f"{self.jain:.3f}" if len(find(self.scenario).round_trips_s) > 1 else "-"
        return (
            f"{self.rule:28}{self.goodput_per_s:9.1f}{self.of_best:8.3f}{self.of_ideal:8.3f}"
            f"{self.refused:9.2%}{self.refused_in_all:9.2%}{self.lost:8d}"
            f"{_seconds(self.reach_s):>8}{recovery:>12}{jain:>7}"
        )


@dataclass(frozen=True, slots=True)
class Bar:
    """What the default rule must reach, and what it did."""

    what: str
    value: float
    wanted: float
    at_least: bool = True

    @property
    def ok(self) -> bool:
        """Whether it did."""
        return self.value >= self.wanted if self.at_least else self.value <= self.wanted

    def row(self) -> str:
        """Return the bar as a line of text."""
        sign = ">=" if self.at_least else "<="
        state = "ok" if self.ok else "MISSED"
        return f"{state:8}{self.value:8.4f} {sign} {self.wanted:<7g} {self.what}"


HEADER = (
    f"{'rule':28}{'goodput':>9}{'of best':>8}{'of ideal':>9}{'refused':>8}{'in all':>9}"
    f"{'lost':>8}{'reach s':>8}{'recovery s':>12}{'Jain':>7}"
)


def oracle(scenario: Scenario) -> Oracle:
    """Search the best fixed limit."""
    limit, goodput_per_s = best_static(scenario)
    return Oracle(scenario.name, limit, goodput_per_s)


def measure(scenario: Scenario, rule: str, best_per_s: float) -> tuple[Cell, Run]:
    """Run a rule through a scenario."""
    run = simulate(scenario, lambda number: RULES[rule](scenario))
    cell = Cell(
        scenario=scenario.name,
        rule=rule,
        goodput_per_s=run.goodput_per_s,
        of_best=run.goodput_per_s / best_per_s,
        of_ideal=run.goodput_per_s / scenario.ideal_per_s,
        refused=run.refused_share,
        refused_in_all=run.refused_share_of_all,
        lost=sum(client.lost for client in run.clients),
        reach_s=run.seconds_to(REACHED, scenario.light_until),
        recovery_s=tuple(run.seconds_to(REACHED, at) for at in scenario.turns),
        jain=run.jain(),
    )
    return cell, run


def judge(cells: Sequence[Cell]) -> list[Bar]:
    """Return what the default rule must reach, over the scenarios that `cells` are about."""
    kinds = {scenario.name: scenario.kind for scenario in SCENARIOS}
    by = {(cell.rule, cell.scenario): cell for cell in cells}
    names = [scenario.name for scenario in SCENARIOS if (DEFAULT, scenario.name) in by]
    judged = [by[DEFAULT, name] for name in names if kinds[name] != "reported"]

    def of_kind(kind: str) -> list[Cell]:
        return [cell for cell in judged if kinds[cell.scenario] == kind]

    steady, changing, shared = of_kind("steady"), of_kind("changing"), of_kind("shared")
    answer = [
        Bar("of the best fixed limit, steady: the least", _least(steady, "of_best"), 0.95),
        Bar("of the best fixed limit, changing: the least", _least(changing, "of_best"), 0.90),
        Bar("of the ideal, changing: the least", _least(changing, "of_ideal"), 0.90),
        Bar("of the best fixed limit, shared: the least", _least(shared, "of_best"), 0.90),
        Bar("refused: the most", max(cell.refused for cell in judged), 0.01, at_least=False),
        Bar("s to 90 % of capacity: the most", max(cell.reach_s for cell in judged), 3.0, False),
        Bar(
            "s to recover: the most",
            max(seconds for cell in judged for seconds in cell.recovery_s),
            5.0,
            at_least=False,
        ),
        Bar("Jain's index, shared: the least", _least(shared, "jain"), 0.97),
    ]
    if any((rule, name) not in by for rule in (*OURS, *RIVALS) for name in names):
        return answer
    best_shipped = [max(by[rule, cell.scenario].of_best for rule in OURS) for cell in steady]
    answer.append(
        Bar("of the best fixed limit, steady: the least of the best rule", min(best_shipped), 0.97)
    )
    means = {
        rule: statistics.mean(by[rule, name].of_best for name in names)
        for rule in (DEFAULT, *RIVALS)
    }
    answer += [
        Bar(f"ahead of {rule} in the mean of all scenarios", means[DEFAULT] - means[rule], 0.0)
        for rule in RIVALS
    ]
    margins = [
        cell.of_best - max(by[rule, cell.scenario].of_best for rule in RIVALS) for cell in judged
    ]
    answer.append(Bar("ahead of the best rival in any scenario: the least", min(margins), -0.02))
    return answer


def text(oracles: Mapping[str, Oracle], cells: Sequence[Cell]) -> str:
    """Return the whole table."""
    lines = ["Made by `python -m benchmarks.simulator --write`; see its --help.", ""]
    for scenario in SCENARIOS:
        lines.append(title(oracles[scenario.name]))
        lines.append(HEADER)
        lines += [cell.row() for cell in cells if cell.scenario == scenario.name]
        lines.append("")
    lines += ["Goodput as a share of the best fixed limit's (N-: Netflix's, /s: windowed)", ""]
    rules = list(RULES)
    names = [rule.replace("Netflix ", "N-").replace(", windowed", "/s") for rule in rules]
    lines.append(f"{'':29}" + "".join(f"{name.replace(' gradient', ''):>12}" for name in names))
    by = {(cell.rule, cell.scenario): cell for cell in cells}
    for scenario in SCENARIOS:
        figures = "".join(f"{by[rule, scenario.name].of_best:12.3f}" for rule in rules)
        lines.append(f"{scenario.name:29}{figures}")
    means = [
        statistics.mean(by[rule, scenario.name].of_best for scenario in SCENARIOS) for rule in rules
    ]
    lines.append(f"{'mean':29}" + "".join(f"{mean:12.3f}" for mean in means))
    lines += ["", f"What {DEFAULT}, the default rule, must reach", ""]
    lines += [bar.row() for bar in judge(cells)]
    return "\n".join(lines) + "\n"


def title(found: Oracle) -> str:
    """Return the line above a scenario's rows."""
    kind = find(found.scenario).kind
    return (
        f"{found.scenario} ({kind}): best fixed limit {found.limit}, "
        f"{found.goodput_per_s!r} tasks/s"
    )


def known_best() -> Mapping[str, float]:
    """Return each scenario's best goodput, as the golden file has it."""
    answer = {}
    for line in GOLDEN.read_text().splitlines():
        name, found, rest = line.partition("): best fixed limit ")
        if found:
            answer[name.rpartition(" (")[0]] = float(rest.split()[1])
    return answer


def _least(cells: Sequence[Cell], figure: str) -> float:
    return min((getattr(cell, figure) for cell in cells), default=math.nan)


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f}" if math.isfinite(seconds) else "never"
