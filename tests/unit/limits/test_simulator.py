"""The simulator: what it counts, and that rules do in it what they did when last looked at."""

from __future__ import annotations

import pytest

from benchmarks.simulator import plots, table
from benchmarks.simulator.engine import simulate
from benchmarks.simulator.rules import DEFAULT, RULES, Static
from benchmarks.simulator.scenarios import SCENARIOS, find
from benchmarks.simulator.services import Knee, Places, TokenBucket

# The default rule in all scenarios, all rules in one that takes a fraction of a second, and
# the other good one where something happens. The whole table is compared by
# `python -m benchmarks.simulator`.
CHEAP = "durations over three orders"
CELLS = [
    *((scenario.name, DEFAULT) for scenario in SCENARIOS),
    *((CHEAP, rule) for rule in RULES if rule != DEFAULT),
    *((scenario, "Cubic") for scenario in ("capacity halved, then back", "latency knee")),
]


@pytest.mark.parametrize(("scenario", "rule"), CELLS)
def test_rules_do_what_the_golden_file_says(scenario: str, rule: str) -> None:
    """A change of behaviour shows: make the file anew if it was meant."""
    best = table.known_best()[scenario]
    cell, _ = table.measure(find(scenario), rule, best)
    section = table.GOLDEN.read_text().partition(f"\n{scenario} (")[2].partition("\n\n")[0]
    assert cell.row() in section.splitlines()


def test_the_best_fixed_limit_is_what_the_golden_file_says() -> None:
    """The oracle is found anew."""
    found = table.oracle(find(CHEAP))
    assert table.title(found) in table.GOLDEN.read_text()


def test_the_golden_file_misses_no_bar() -> None:
    """What the default rule must reach, it reached."""
    verdicts = table.GOLDEN.read_text().partition("must reach\n\n")[2].splitlines()
    assert verdicts
    assert [line for line in verdicts if not line.startswith("ok ")] == []


def test_every_scenario_is_drawn() -> None:
    """The documentation has a plot of each."""
    for scenario in SCENARIOS:
        assert (plots.DIRECTORY / plots.file_name(scenario)).exists()


def test_drawings_do_not_change_by_themselves() -> None:
    """What is committed is what would be drawn now."""
    runs = {rule: table.measure(find(CHEAP), rule, 1.0)[1] for rule in plots.PLOTTED}
    drawn = (plots.DIRECTORY / plots.file_name(find(CHEAP))).read_text()
    assert plots.draw(find(CHEAP), runs) == drawn


def test_tasks_are_neither_lost_nor_made() -> None:
    """Every attempt succeeds, fails for reasons of its own, is refused, or runs at the end."""
    scenario = find("10 % unrelated failures")
    run = simulate(scenario, lambda number: RULES["Netflix AIMD"](scenario))
    (client,) = run.clients
    ended = client.successes + client.failed + client.refused
    assert client.attempts == ended + client.in_flight
    assert client.failed / (client.successes + client.failed) == pytest.approx(0.1, abs=0.01)


def test_a_limit_at_the_capacity_keeps_the_service_full() -> None:
    """And nothing is refused."""
    run = simulate(find(CHEAP), lambda number: Static(200))
    assert sum(run.busy[100:]) / len(run.busy[100:]) > 199
    assert run.refused_share_of_all == 0.0


def test_a_limit_above_the_capacity_loses_tasks() -> None:
    """The retries that the budget allows are spent, and the work is gone."""
    run = simulate(find(CHEAP), lambda number: Static(400))
    (client,) = run.clients
    assert client.lost > 1000


def test_places_refuse_when_they_are_taken() -> None:
    """Those served go on to their end when there come to be fewer."""
    service = Places(2)
    assert [service.admit(0.0, 1.0, name) for name in "abc"] == [True, True, False]
    service.change(0.5, 1)
    assert (service.next_at, service.complete()) == (1.0, "a")
    assert not service.admit(1.0, 1.0, "d")
    service.complete()
    assert service.admit(1.0, 1.0, "e")


def test_a_knee_slows_everything_down() -> None:
    """Twice the load past the knee: half the speed, and what the waste takes besides."""
    for waste, ends in ((0.0, 2.0), (0.5, 3.0)):
        service = Knee(1, waste)
        assert service.admit(0.0, 1.0, "a")
        assert service.admit(0.0, 1.0, "b")
        assert service.next_at == pytest.approx(ends)


def test_a_knee_does_not_lose_work_when_it_moves() -> None:
    """Half done at full speed, the rest at half speed."""
    service = Knee(2, 0.0)
    service.admit(0.0, 1.0, "a")
    service.admit(0.0, 1.0, "b")
    service.change(0.5, 1)
    assert service.next_at == pytest.approx(1.5)


def test_a_token_bucket_counts_a_rate() -> None:
    """A burst, then one for every token that comes in."""
    service = TokenBucket(rate_per_s=10.0, burst=2.0, capacity=1.0)
    assert [service.admit(0.0, 5.0, name) for name in "abc"] == [True, True, False]
    assert [service.admit(0.1, 5.0, name) for name in "de"] == [True, False]
    assert service.busy == 3
