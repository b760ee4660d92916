"""The rules that are compared: ours, and the rivals."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.simulator.envoy import EnvoyGradient
from benchmarks.simulator.netflix import Gradient2, NetflixAIMD, Vegas, Windowed
from benchmarks.simulator.scenarios import Scenario
from parallel_exec.limits.aimd import AIMD
from parallel_exec.limits.cubic import Cubic
from parallel_exec.limits.latency import Latency
from parallel_exec.limits.rule import Rule, Sample
from parallel_exec.limits.step import Step

__all__ = ["DEFAULT", "OURS", "RIVALS", "RULES", "Static"]

DEFAULT = "AIMD"
OURS = (DEFAULT, "Cubic")
"""Those shipped to be used; `Step` is shipped to be understood."""

RIVALS = (
    "Netflix AIMD",
    "Netflix AIMD, windowed",
    "Netflix Vegas",
    "Netflix Vegas, windowed",
    "Netflix Gradient2",
    "Netflix Gradient2, windowed",
    "Envoy gradient",
)


class Static:
    """A limit that never moves."""

    def __init__(self, limit: int) -> None:
        self.limit = float(limit)
        self.reason = "initial"

    def update(self, sample: Sample) -> None:
        """Take no notice."""

    def set_bounds(self, minimum: int, maximum: int | None) -> None:
        """Take no notice."""


def _aimd(scenario: Scenario) -> Rule:
    return AIMD(scenario.initial, scenario.minimum, scenario.maximum, latency=_latency(scenario))


def _cubic(scenario: Scenario) -> Rule:
    return Cubic(scenario.initial, scenario.minimum, scenario.maximum, latency=_latency(scenario))


def _latency(scenario: Scenario) -> Latency | None:
    return Latency() if scenario.latency else None


def _plain(
    make: Callable[[int, int, int], Rule],
) -> Callable[[Scenario], Rule]:
    return lambda scenario: make(scenario.initial, scenario.minimum, scenario.maximum)


RULES: dict[str, Callable[[Scenario], Rule]] = {
    DEFAULT: _aimd,
    "Cubic": _cubic,
    "Step": _plain(Step),
    "Netflix AIMD": _plain(NetflixAIMD),
    "Netflix AIMD, windowed": _plain(lambda *bounds: Windowed(NetflixAIMD(*bounds))),
    "Netflix Vegas": _plain(Vegas),
    "Netflix Vegas, windowed": _plain(lambda *bounds: Windowed(Vegas(*bounds))),
    "Netflix Gradient2": _plain(Gradient2),
    "Netflix Gradient2, windowed": _plain(lambda *bounds: Windowed(Gradient2(*bounds))),
    "Envoy gradient": _plain(EnvoyGradient),
}
