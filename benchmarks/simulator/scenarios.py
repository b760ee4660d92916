"""What the rules are put through: services, work, and what changes when."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from benchmarks.simulator.services import Knee, Places, Service, TokenBucket

__all__ = ["SCENARIOS", "Scenario"]

CAPACITY = 200
ENDLESS = float("inf")

Durations = Callable[[random.Random, float], float]
Work = Callable[[random.Random], Iterator[tuple[float, float]]]


def around_100_ms(rng: random.Random, now: float) -> float:
    """100 ms, half more or less, whatever the time."""
    return rng.uniform(0.05, 0.15)


def three_orders(rng: random.Random, now: float) -> float:
    """10 ms to 10 s, every order of magnitude as often as another."""
    return math.exp(rng.uniform(math.log(0.01), math.log(10.0)))


def short_for_a_while(rng: random.Random, now: float) -> float:
    """A tenth of the usual for three seconds."""
    return rng.uniform(0.05, 0.15) * (0.1 if 20.0 <= now < 23.0 else 1.0)


def endless(rng: random.Random) -> Iterator[tuple[float, float]]:
    """More work than can be done, from the start."""
    yield 0.0, ENDLESS


def little_then_endless(rng: random.Random) -> Iterator[tuple[float, float]]:
    """Twenty tasks a second for half a minute, one at a time, then more than can be done."""
    now = rng.expovariate(20.0)
    while now < 30.0:
        yield now, 1.0
        now += rng.expovariate(20.0)
    yield 30.0, ENDLESS


@dataclass(frozen=True)
class Scenario:
    """One thing that may happen to a limit.

    Attributes:
        name: What tables call it, and the seed.
        kind: "steady": nothing changes, "changing", or "reported": the rules are not judged.
        service: Makes the service.
        work: Yields when how many tasks come, for each client.
        duration: Draws a task's duration on an idle service.
        failures: The share of tasks that fail for reasons of their own.
        round_trips_s: The way to the service and back, one a client.
        changes: When the capacity becomes what.
        initial: The limit that rules start from.
        latency: Whether rules that can tell overload by latency are asked to.
        reach_since: When there is first work enough to reach the capacity.
        horizon_s: How long it lasts.
    """

    name: str
    kind: str
    service: Callable[[], Service] = lambda: Places(CAPACITY)
    work: Work = endless
    duration: Durations = around_100_ms
    failures: float = 0.0
    round_trips_s: tuple[float, ...] = (0.0,)
    changes: tuple[tuple[float, float], ...] = ()
    initial: int = 5
    minimum: int = 1
    maximum: int = 2000
    latency: bool = False
    reach_since: float = 0.0
    horizon_s: float = 60.0


STEADY = Scenario("steady", "steady")

SCENARIOS: tuple[Scenario, ...] = (
    STEADY,
    replace(STEADY, name="from 1", initial=1),
    replace(STEADY, name="from far too high", initial=2000),
    replace(
        STEADY,
        name="capacity halved, then back",
        kind="changing",
        changes=((20.0, CAPACITY / 2), (40.0, CAPACITY)),
    ),
    replace(STEADY, name="spike of short tasks", kind="changing", duration=short_for_a_while),
    replace(STEADY, name="latency knee", service=lambda: Knee(CAPACITY, 0.25), latency=True),
    replace(
        STEADY,
        name="token bucket",
        kind="reported",
        service=lambda: TokenBucket(1000.0, 100.0, 100.0),
    ),
    replace(STEADY, name="0.1 % unrelated failures", failures=0.001),
    replace(STEADY, name="1 % unrelated failures", failures=0.01),
    replace(STEADY, name="10 % unrelated failures", failures=0.1),
    replace(
        STEADY,
        name="little work, then a burst",
        kind="changing",
        work=little_then_endless,
        reach_since=30.0,
    ),
    replace(STEADY, name="durations over three orders", duration=three_orders),
    replace(STEADY, name="2 controllers", round_trips_s=(0.01, 0.1)),
    replace(STEADY, name="10 controllers", round_trips_s=tuple(0.01 * n for n in range(1, 11))),
)
