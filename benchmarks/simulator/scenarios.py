"""What the rules are put through: services, work, and what changes when."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from benchmarks.simulator.services import Knee, Places, Service, TokenBucket

__all__ = ["SCENARIOS", "Scenario", "find"]

CAPACITY = 200.0
LIGHT_PER_S = 20.0
SPIKE_S = 3.0

MakeService = Callable[[float], Service]


@dataclass(frozen=True)
class Durations:
    """How long tasks take on an idle service.

    Attributes:
        least_s: The shortest.
        most_s: The longest.
        even_in_logarithm: Whether every order of magnitude is as frequent as another, and
            not every second as frequent as another.
        short_from: From when on they take a tenth, for `SPIKE_S`; None: never.
    """

    least_s: float = 0.05
    most_s: float = 0.15
    even_in_logarithm: bool = False
    short_from: float | None = None

    def draw(self, rng: random.Random, now: float) -> float:
        """Return the duration of a task that is started now."""
        if self.even_in_logarithm:
            return self.least_s * math.exp(rng.random() * math.log(self.most_s / self.least_s))
        return rng.uniform(self.least_s, self.most_s) * self._factor(now)

    def mean_s(self, now: float) -> float:
        """Return the mean of what `draw` returns."""
        width = self.most_s - self.least_s
        if self.even_in_logarithm:
            return width / math.log(self.most_s / self.least_s)
        return (self.least_s + width / 2) * self._factor(now)

    @property
    def variation(self) -> float:
        """The standard deviation as a share of the mean, where it is the same all the time."""
        least, most = self.least_s, self.most_s
        mean = Durations(least, most, self.even_in_logarithm).mean_s(0.0)
        if self.even_in_logarithm:
            square = (most**2 - least**2) / 2 / math.log(most / least)
        else:
            square = (most**3 - least**3) / 3 / (most - least)
        return math.sqrt(square - mean**2) / mean

    def _factor(self, now: float) -> float:
        short = self.short_from is not None and 0.0 <= now - self.short_from < SPIKE_S
        return 0.1 if short else 1.0


@dataclass(frozen=True)
class Scenario:
    """One thing that may happen to a limit.

    Attributes:
        name: What tables call it, and the seed.
        kind: "steady": nothing changes; "changing": the service or the work does; "shared":
            what the others leave does; "reported": rules are not judged.
        capacity: What the service holds at first.
        service: Makes the service from its capacity.
        durations: How long tasks take.
        failures: The share of tasks that fail for reasons of their own.
        round_trips_s: The way to the service and back, one a client.
        changes: When the capacity becomes what.
        light_until: Until then few tasks come, one by one; then all at once come as many
            as the service can do in the time that is left, and a few more.
        initial: The limit that rules start from.
        minimum: Their lowest limit.
        maximum: Their highest limit: the default of Netflix's Vegas and of Envoy.
        latency: Whether rules that can tell overload by latency are asked to.
        horizon_s: How long it lasts.
    """

    name: str
    kind: str
    capacity: float = CAPACITY
    service: MakeService = Places
    durations: Durations = Durations()
    failures: float = 0.0
    round_trips_s: tuple[float, ...] = (0.0,)
    changes: tuple[tuple[float, float], ...] = ()
    light_until: float = 0.0
    initial: int = 5
    minimum: int = 1
    maximum: int = 1000
    latency: bool = False
    horizon_s: float = 60.0

    def capacity_at(self, now: float) -> float:
        """Return what the service holds now."""
        capacity = self.capacity
        for at, changed in self.changes:
            if at <= now:
                capacity = changed
        return capacity

    @property
    def turns(self) -> tuple[float, ...]:
        """When the capacity or the durations change."""
        short = self.durations.short_from
        spike = () if short is None else (short, short + SPIKE_S)
        return (*(at for at, _ in self.changes), *spike)

    def doable(self, since: float) -> float:
        """Return how many tasks the service can do from `since` on, if it is never idle."""
        step = 0.1
        steps = round((self.horizon_s - since) / step)
        return sum(
            self.capacity_at(now) / self.durations.mean_s(now) * step
            for now in (since + (number + 0.5) * step for number in range(steps))
        )

    @property
    def ideal_per_s(self) -> float:
        """What a service gives that is full whenever there is work for it."""
        light = self.light_until * LIGHT_PER_S
        return (light + self.doable(self.light_until)) * (1.0 - self.failures) / self.horizon_s

    def work(self, rng: random.Random) -> Iterator[tuple[float, int]]:
        """Yield when how many tasks come."""
        now = rng.expovariate(LIGHT_PER_S)
        while now < self.light_until:
            yield now, 1
            now += rng.expovariate(LIGHT_PER_S)
        tasks = self.doable(self.light_until)
        # Three standard deviations more: luck with the durations must not end it early.
        tasks += 3.0 * math.sqrt(tasks) * self.durations.variation
        yield self.light_until, round(tasks)


def _knee(capacity: float) -> Service:
    return Knee(capacity, waste=0.25)


def _token_bucket(capacity: float) -> Service:
    return TokenBucket(rate_per_s=1000.0, burst=100.0, capacity=capacity)


STEADY = Scenario("steady", "steady")

SCENARIOS: tuple[Scenario, ...] = (
    STEADY,
    replace(STEADY, name="from 1", initial=1),
    replace(STEADY, name="from far too high", initial=1000),
    replace(
        STEADY,
        name="capacity halved, then back",
        kind="changing",
        changes=((20.0, CAPACITY / 2), (40.0, CAPACITY)),
    ),
    replace(
        STEADY, name="spike of short tasks", kind="changing", durations=Durations(short_from=20.0)
    ),
    replace(STEADY, name="latency knee", service=_knee, latency=True),
    replace(STEADY, name="token bucket", kind="reported", capacity=100.0, service=_token_bucket),
    replace(STEADY, name="0.1 % unrelated failures", failures=0.001),
    replace(STEADY, name="1 % unrelated failures", failures=0.01),
    replace(STEADY, name="10 % unrelated failures", failures=0.1),
    replace(STEADY, name="little work, then a burst", kind="changing", light_until=30.0),
    replace(
        STEADY,
        name="durations over three orders",
        durations=Durations(0.01, 10.0, even_in_logarithm=True),
    ),
    replace(STEADY, name="2 controllers", kind="shared", round_trips_s=(0.01, 0.1)),
    replace(
        STEADY,
        name="10 controllers",
        kind="shared",
        round_trips_s=tuple(number / 100 for number in range(1, 11)),
    ),
)


def find(name: str) -> Scenario:
    """Return the scenario with this name."""
    return next(scenario for scenario in SCENARIOS if scenario.name == name)
