"""Runs clients, each under a rule, against one service, on a virtual clock.

Discrete events: time jumps from one to the next and nobody sleeps. Everything random
comes from one generator seeded by the scenario, so a run gives the same figures always.

A client works as the library does. Tasks wait in a queue, the same for all clients; a place that
falls free is handed on `HAND_OVER_S` later; every attempt that ends gives its rule one
sample. A refused attempt did not run: its task goes back to the queue if the retry budget
has something left, and is lost if not. The queue is as long as what the service can do in
the time, so a client that hammers a full service has nothing left to do when there is room.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from parallel_exec.limits.rule import Rule, Sample, Verdict

if TYPE_CHECKING:
    from benchmarks.simulator.scenarios import Scenario

__all__ = ["Client", "Run", "simulate"]

HAND_OVER_S = 50e-6
"""From a place falling free to its next task holding it: what waking a thread takes."""

REFUSAL_S = 0.005
"""From an attempt reaching the service to its refusal leaving it."""

TICK_S = 0.1
"""How often limits and load are noted down."""

RETRY_SHARE = 0.2
RETRY_RESERVE = 2
"""A success allows this many retries; up to so many times the highest limit that there has
been can be saved up, and are there from the start. The defaults of `AIMDController`."""


@dataclass(slots=True)
class Attempt:
    """One try of one task."""

    client: Client
    started_at: float
    in_flight: int  # with it
    work_s: float
    fails: bool
    judged: bool


@dataclass(slots=True)
class Client:
    """One controller's side: a rule, places, a budget, and the figures."""

    rule: Rule
    round_trip_s: float
    counts_at_start: bool
    highest: int = 0
    budget: float = 0.0
    in_flight: int = 0
    waited: bool = False
    handing: bool = False
    successes: int = 0
    failed: int = 0
    attempts: int = 0
    refused: int = 0
    lost: int = 0
    first_refusal_at: float | None = None
    judged_attempts: int = 0
    judged_refused: int = 0


@dataclass(slots=True)
class Run:
    """What came of one run.

    Attributes:
        scenario: What was run.
        clients: Their figures.
        times: The ends of the ticks.
        limits: Each client's limit then, a list a client.
        busy: The mean number in service over each tick.
        capacities: The capacity at the end of each tick.
    """

    scenario: Scenario
    clients: list[Client]
    times: list[float] = field(default_factory=list)
    limits: list[list[float]] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    capacities: list[float] = field(default_factory=list)

    @property
    def goodput_per_s(self) -> float:
        """Tasks that succeeded, a second."""
        return sum(client.successes for client in self.clients) / self.scenario.horizon_s

    @property
    def refused_share(self) -> float:
        """Refusals among the attempts that are judged.

        Not judged: what a client had in flight at its first refusal, and what was started
        while the service still held what it had when its capacity was cut.
        """
        attempts = sum(client.judged_attempts for client in self.clients)
        return sum(client.judged_refused for client in self.clients) / max(1, attempts)

    @property
    def refused_share_of_all(self) -> float:
        """Refusals among all attempts."""
        attempts = sum(client.attempts for client in self.clients)
        return sum(client.refused for client in self.clients) / max(1, attempts)

    def seconds_to(self, share: float, since: float, over_ticks: int = 5) -> float:
        """Return how long after `since` the service first held `share` of its capacity.

        Held means: on the mean over `over_ticks` ticks, all of them after `since`. The
        answer is infinite if it never did.
        """
        first = next((i for i, time in enumerate(self.times) if time > since + 1e-9), None)
        if first is None:
            return float("inf")
        for last in range(first + over_ticks, len(self.times) + 1):
            held = sum(self.busy[last - over_ticks : last]) / over_ticks
            if held >= share * self.capacities[last - 1]:
                return self.times[last - 1] - since
        return float("inf")

    def jain(self, since: float = 10.0) -> float:
        """Return Jain's index of the clients' mean limits after `since`: 1 is equal shares.

        R. Jain, D. Chiu, W. Hawe: A Quantitative Measure of Fairness and Discrimination
        for Resource Allocation in Shared Computer Systems, DEC-TR-301, 1984.
        """
        means = []
        for limits in self.limits:
            late = [limit for time, limit in zip(self.times, limits, strict=True) if time > since]
            means.append(sum(late) / len(late))
        return sum(means) ** 2 / (len(means) * sum(mean * mean for mean in means))


def simulate(scenario: Scenario, make_rule: Callable[[int], Rule]) -> Run:
    """Run `scenario` and return the figures.

    Args:
        scenario: The service, the work and what changes when.
        make_rule: Makes the rule of the client with the number given.
    """
    return _Engine(scenario, make_rule).run()


_HAND_OVER, _ARRIVE, _REFUSED, _SERVED, _WORK, _CHANGE = range(6)


def _client(rule: Rule, round_trip_s: float) -> Client:
    # Rules from elsewhere may want to know how many were in flight when an attempt began.
    return Client(rule, round_trip_s, getattr(rule, "counts_at_start", False))


class _Engine:
    def __init__(self, scenario: Scenario, make_rule: Callable[[int], Rule]) -> None:
        self.scenario = scenario
        self.random = random.Random(scenario.name)
        self.service = scenario.service(scenario.capacity)
        self.clients = [
            _client(make_rule(number), round_trip_s)
            for number, round_trip_s in enumerate(scenario.round_trips_s)
        ]
        self.waiting = 0
        self.events: list[tuple[float, int, int, object]] = []
        self.count = 0
        # Attempts in service when the capacity was last cut, and not done since: while
        # there are some, refusals are nobody's fault.
        self.surplus_since = -1.0
        self.surplus = 0

    def at(self, time: float, kind: int, what: object) -> None:
        self.count += 1
        heapq.heappush(self.events, (time, self.count, kind, what))

    def run(self) -> Run:
        scenario, service, events = self.scenario, self.service, self.events
        run = Run(scenario, self.clients, limits=[[] for _ in self.clients])
        for time, tasks in scenario.work(self.random):
            self.at(time, _WORK, tasks)
        for time, capacity in scenario.changes:
            self.at(time, _CHANGE, capacity)
        now, tick_at, area = 0.0, TICK_S, 0.0
        while True:
            event_at = events[0][0] if events else float("inf")
            then = min(event_at, service.next_at)
            while then >= tick_at:
                area += service.busy * (tick_at - now)
                now = tick_at
                self.note(run, now, area)
                area = 0.0
                if now >= scenario.horizon_s - TICK_S / 2:
                    return run
                tick_at = (len(run.times) + 1) * TICK_S
            area += service.busy * (then - now)
            now = then
            if service.next_at <= event_at:
                self.served(now, service.complete())
            else:
                _, _, kind, what = heapq.heappop(events)
                self.handle(now, kind, what)

    def note(self, run: Run, now: float, area: float) -> None:
        run.times.append(now)
        run.busy.append(area / TICK_S)
        run.capacities.append(self.service.capacity)
        for limits, client in zip(run.limits, self.clients, strict=True):
            limits.append(client.rule.limit)

    def handle(self, now: float, kind: int, what: object) -> None:
        if kind == _HAND_OVER:
            assert isinstance(what, Client)
            what.handing = False
            self.start(now, what)
        elif kind == _ARRIVE:
            assert isinstance(what, Attempt)
            self.arrive(now, what)
        elif kind == _REFUSED:
            assert isinstance(what, Attempt)
            self.ended(now, what, "overload")
        elif kind == _SERVED:
            assert isinstance(what, Attempt)
            self.ended(now, what, "neither" if what.fails else "success")
        elif kind == _WORK:
            assert isinstance(what, int)
            self.waiting += what
            for client in self.clients:
                self.start(now, client)
        else:
            assert isinstance(what, float | int)
            if what < self.service.capacity:
                self.surplus_since, self.surplus = now, self.service.busy
            self.service.change(now, what)

    def start(self, now: float, client: Client) -> None:
        """Start what waits, as far as the limit allows."""
        limit = int(client.rule.limit)
        if limit > client.highest:
            client.budget += RETRY_RESERVE * (limit - client.highest)
            client.highest = limit
        while self.waiting and client.in_flight < limit:
            self.waiting -= 1
            client.in_flight += 1
            client.attempts += 1
            work_s = self.scenario.durations.draw(self.random, now)
            fails = self.scenario.failures > 0 and self.random.random() < self.scenario.failures
            judged = client.first_refusal_at is not None and not self.surplus
            attempt = Attempt(client, now, client.in_flight, work_s, fails, judged)
            if client.round_trip_s:
                self.at(now + client.round_trip_s / 2, _ARRIVE, attempt)
            else:
                self.arrive(now, attempt)
        client.waited = client.waited or self.waiting > 0

    def arrive(self, now: float, attempt: Attempt) -> None:
        if not self.service.admit(now, attempt.work_s, attempt):
            self.at(now + REFUSAL_S + attempt.client.round_trip_s / 2, _REFUSED, attempt)

    def served(self, now: float, attempt: Attempt) -> None:
        if self.surplus and attempt.started_at <= self.surplus_since:
            self.surplus -= 1
        if attempt.client.round_trip_s:
            self.at(now + attempt.client.round_trip_s / 2, _SERVED, attempt)
        else:
            self.ended(now, attempt, "neither" if attempt.fails else "success")

    def ended(self, now: float, attempt: Attempt, verdict: Verdict) -> None:
        client = attempt.client
        in_flight = attempt.in_flight if client.counts_at_start else client.in_flight
        client.rule.update(Sample(verdict, attempt.started_at, now, in_flight, client.waited))
        client.in_flight -= 1
        client.waited = self.waiting > 0
        if verdict == "success":
            client.successes += 1
            client.budget = min(RETRY_RESERVE * client.highest, client.budget + RETRY_SHARE)
        elif verdict == "overload":
            self.refused(now, client)
        else:
            client.failed += 1
        if attempt.judged:
            client.judged_attempts += 1
            client.judged_refused += verdict == "overload"
        if not client.handing:
            client.handing = True
            self.at(now + HAND_OVER_S, _HAND_OVER, client)

    def refused(self, now: float, client: Client) -> None:
        client.refused += 1
        if client.first_refusal_at is None:
            client.first_refusal_at = now
        if client.budget >= 1.0:
            client.budget -= 1.0
            self.waiting += 1
        else:
            client.lost += 1
