"""What the rules of an adaptive limit have in common: bounds, epochs, growth when reached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from parallel_exec.errors import ConfigError
from parallel_exec.limits.aimd import AIMD, Probing
from parallel_exec.limits.cubic import Cubic
from parallel_exec.limits.epochs import Epochs
from parallel_exec.limits.latency import Latency
from parallel_exec.limits.rule import Rule
from parallel_exec.limits.step import Step
from tests.unit.limits.samples import Driver

RULES: list[Callable[..., Rule]] = [AIMD, Cubic, Step]
EPOCH_RULES: list[Callable[..., Epochs]] = [AIMD, Cubic]


@pytest.mark.parametrize("make", RULES)
def test_defaults_are_five_between_one_and_ten(make: Callable[..., Rule]) -> None:
    """Without arguments a limit starts at 5 and stays between 1 and 10."""
    rule = make()
    assert (rule.limit, rule.reason) == (5.0, "initial")
    driver = Driver(rule)
    for _ in range(100):
        driver.tell("success")
    assert rule.limit == 10.0
    for _ in range(100):
        driver.tell("overload")
    assert rule.limit == 1.0


@pytest.mark.parametrize("make", RULES)
def test_without_a_maximum_it_grows_on(make: Callable[..., Rule]) -> None:
    """None as the highest limit is no limit."""
    rule = make(5, 1, None)
    driver = Driver(rule)
    for _ in range(100):
        driver.tell("success")
    assert rule.limit == 105.0


@pytest.mark.parametrize("make", RULES)
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((0, 1, 10), "initial"),
        ((True, 1, 10), "initial"),
        ((5.0, 1, 10), "initial"),
        ((11, 1, 10), "initial must be between"),
        ((1, 2, 10), "initial must be between"),
        ((5, 0, 10), "min_limit"),
        ((5, 6, 5), "max_limit"),
        ((5, 1, float("nan")), "max_limit"),
    ],
)
def test_bounds_that_cannot_be_are_refused(
    make: Callable[..., Rule], arguments: tuple[Any, ...], named: str
) -> None:
    """Each message names the parameter."""
    with pytest.raises(ConfigError, match=named):
        make(*arguments)


@pytest.mark.parametrize(
    ("make", "constants"),
    [
        (AIMD, {"increase": 0}),
        (AIMD, {"increase": float("nan")}),
        (AIMD, {"decrease": 0}),
        (AIMD, {"decrease": 1}),
        (AIMD, {"decrease": True}),
        (Cubic, {"decrease": 1.5}),
        (Cubic, {"scale": 0}),
        (Cubic, {"tick_s": 0}),
        (Step, {"up": 0}),
        (Step, {"down": -1}),
        (Probing, {"step": 0}),
        (Probing, {"patience": -1}),
        (Probing, {"acceleration": 0.9}),
        (Probing, {"tick_s": 0}),
        (Latency, {"multiple": 1}),
        (Latency, {"samples": 1}),
    ],
)
def test_constants_that_cannot_be_are_refused(
    make: Callable[..., object], constants: dict[str, Any]
) -> None:
    """Each message names the parameter."""
    with pytest.raises(ConfigError, match=next(iter(constants))):
        make(**constants)


@pytest.mark.parametrize("make", RULES)
def test_moved_bounds_take_the_limit_along(make: Callable[..., Rule]) -> None:
    """A limit outside its new bounds goes to the nearer one, and says why."""
    rule = make(50, 1, 100)
    rule.set_bounds(1, 20)
    assert (rule.limit, rule.reason) == (20.0, "bounds")
    rule.set_bounds(30, 40)
    assert rule.limit == 30.0
    rule.set_bounds(1, 100)
    assert rule.limit == 30.0


@pytest.mark.parametrize("make", RULES)
def test_what_says_nothing_changes_nothing(make: Callable[..., Rule]) -> None:
    """A failure that has nothing to do with load neither cuts nor grows."""
    rule = make(50, 1, 100)
    driver = Driver(rule)
    for _ in range(1000):
        driver.tell("neither")
    assert (rule.limit, rule.reason) == (50.0, "initial")


@pytest.mark.parametrize("make", RULES)
def test_a_limit_that_is_not_reached_does_not_grow(make: Callable[..., Rule]) -> None:
    """Successes while nobody waits say that the limit is not needed, not that it is low."""
    rule = make(50, 1, 100)
    driver = Driver(rule)
    for _ in range(1000):
        driver.tell("success", waiting=False)
    assert rule.limit == 50.0


@pytest.mark.parametrize("make", EPOCH_RULES)
def test_a_limit_does_not_run_away_from_a_slow_starter(make: Callable[..., Epochs]) -> None:
    """Tasks wait, but not for the limit: fewer run than half of what it admits."""
    rule = make(5, 1, 1000)
    driver = Driver(rule)
    for _ in range(1000):
        driver.tell("success", in_flight=5)
    assert rule.limit < 12


@pytest.mark.parametrize("make", EPOCH_RULES)
def test_slow_start_doubles_in_every_window(make: Callable[..., Epochs]) -> None:
    """As many successes as the limit admits double it, until the first cut."""
    rule = make(5, 1, 1000)
    driver = Driver(rule)
    limits = []
    for _ in range(5):
        driver.window(capacity=1000)
        limits.append(rule.limit)
    assert limits == [10.0, 20.0, 40.0, 80.0, 160.0]
    assert rule.reason == "slow start"


@pytest.mark.parametrize("make", EPOCH_RULES)
def test_slow_start_can_be_off(make: Callable[..., Epochs]) -> None:
    """Without it the first window adds a place or two."""
    rule = make(50, 1, 1000, slow_start=False)
    driver = Driver(rule)
    for _ in range(50):
        driver.tell("success")
    assert 50 <= rule.limit < 55


@pytest.mark.parametrize("make", EPOCH_RULES)
def test_one_overload_cuts_once(make: Callable[..., Epochs]) -> None:
    """A cut leaves the set share of the limit."""
    rule = make(100, 1, 100, decrease=0.8)
    driver = Driver(rule)
    for _ in range(100):
        driver.tell("success")
    driver.tell("overload")
    assert rule.limit == pytest.approx(80.0)
    assert rule.reason == "cut"


@pytest.mark.parametrize("make", EPOCH_RULES)
def test_what_was_in_flight_at_a_cut_does_not_cut_again(make: Callable[..., Epochs]) -> None:
    """All that were started before a cut may be refused: one cut."""
    rule = make(100, 1, 100)
    driver = Driver(rule)
    for _ in range(100):
        driver.tell("success")
    start = driver.now
    driver.tell("overload", started_at=start, in_flight=100)
    after_one = rule.limit
    for left in range(99, 0, -1):
        driver.tell("overload", started_at=start, in_flight=left)
    assert rule.limit == after_one


@pytest.mark.parametrize("make", EPOCH_RULES)
def test_a_task_started_at_the_instant_of_a_cut_counts_as_in_flight(
    make: Callable[..., Epochs],
) -> None:
    """A clock that stands still, a fake one, does not make one overload many."""
    rule = make(100, 1, 100)
    driver = Driver(rule)
    driver.tell("overload")
    limit = rule.limit
    driver.tell("overload", started_at=driver.now)
    assert rule.limit == limit


@pytest.mark.parametrize("make", EPOCH_RULES)
def test_a_task_started_after_a_cut_cuts_again(make: Callable[..., Epochs]) -> None:
    """The new limit is too high as well."""
    rule = make(100, 1, 100)
    driver = Driver(rule)
    driver.tell("overload")
    limit = rule.limit
    driver.tell("overload")
    assert rule.limit < limit


@pytest.mark.parametrize("make", EPOCH_RULES)
def test_what_was_in_flight_at_a_cut_does_not_grow_the_new_limit(
    make: Callable[..., Epochs],
) -> None:
    """It ran under the old one."""
    rule = make(100, 1, 100)
    driver = Driver(rule)
    start = driver.now
    driver.tell("overload", started_at=start)
    limit = rule.limit
    for _ in range(99):
        driver.tell("success", started_at=start)
    assert rule.limit == limit


@pytest.mark.parametrize("make", EPOCH_RULES)
def test_a_cut_takes_a_place_at_least(make: Callable[..., Epochs]) -> None:
    """A share of a small limit that is less than a place would change nothing."""
    rule = make(5, 1, 10)
    driver = Driver(rule)
    for _ in range(5):
        driver.tell("success")
    assert rule.limit == 10.0
    driver.tell("overload")
    assert rule.limit == 9.0


@pytest.mark.parametrize("make", EPOCH_RULES)
def test_a_limit_that_was_never_proven_is_halved(make: Callable[..., Epochs]) -> None:
    """The first thing that ends is refused: nothing speaks for the limit."""
    rule = make(1000, 1, 1000)
    Driver(rule).tell("overload")
    assert rule.limit == 500.0


@pytest.mark.parametrize("make", EPOCH_RULES)
def test_the_second_cut_goes_to_what_fitted(make: Callable[..., Epochs]) -> None:
    """Of 1000 in flight 800 were refused, so 200 fit; no cut by cut is needed to know it."""
    rule = make(1000, 1, 1000)
    driver = Driver(rule)
    start = driver.now
    for left in range(1000, 200, -1):
        driver.tell("overload", started_at=start, in_flight=left)
    assert rule.limit == 500.0
    driver.tell("overload")
    assert rule.limit == 200.0


@pytest.mark.parametrize("make", EPOCH_RULES)
def test_refusals_of_a_limit_that_was_not_filled_say_little(make: Callable[..., Epochs]) -> None:
    """Two of three refused, at a limit of 100, do not make it 1."""
    rule = make(100, 1, 100)
    driver = Driver(rule)
    for _ in range(100):
        driver.tell("success")
    start = driver.now
    driver.tell("overload", started_at=start, in_flight=3, waiting=False)
    driver.tell("overload", started_at=start, in_flight=2, waiting=False)
    driver.tell("overload", in_flight=1, waiting=False)
    assert rule.limit > 85


@pytest.mark.parametrize("make", EPOCH_RULES)
def test_a_service_that_was_away_is_found_again_by_doubling(make: Callable[..., Epochs]) -> None:
    """Everything in flight was refused: what it holds when it is back, nobody knows."""
    rule = make(100, 1, 100)
    driver = Driver(rule)
    for _ in range(100):
        driver.tell("success")
    for _ in range(20):
        driver.window(capacity=0)
    assert rule.limit == 1.0
    for _ in range(16):
        driver.window(capacity=1000)
    assert rule.limit == 100.0


@pytest.mark.parametrize("make", EPOCH_RULES)
def test_it_finds_a_capacity_and_stays_there(make: Callable[..., Epochs]) -> None:
    """From 5, with 60 places: near 60, hardly anything refused, and no swing."""
    rule = make(5, 1, 1000)
    driver = Driver(rule)
    for _ in range(50):
        driver.window(capacity=60)
    refused, limits = 0, []
    for _ in range(400):
        refused += driver.window(capacity=60)
        limits.append(rule.limit)
    assert min(limits) > 50
    assert max(limits) < 63
    assert refused < 0.01 * 400 * 60


@pytest.mark.parametrize("make", EPOCH_RULES)
def test_it_follows_a_capacity_that_grows(make: Callable[..., Epochs]) -> None:
    """From 60 to 600: what grows by ever more in every window gets there."""
    rule = make(5, 1, 1000)
    driver = Driver(rule)
    for _ in range(50):
        driver.window(capacity=60)
    for _ in range(100):
        driver.window(capacity=600)
    assert rule.limit > 540


def test_aimd_adds_a_place_a_window_below_the_last_cut() -> None:
    """As many successes as the limit admits add one place."""
    rule = AIMD(200, 1, 200, decrease=0.5)
    driver = Driver(rule)
    for _ in range(200):
        driver.tell("success")
    driver.tell("overload")
    assert rule.limit == 100.0
    for _ in range(100):
        driver.tell("success")
    assert rule.limit == pytest.approx(101.0, abs=0.01)
    assert rule.reason == "growth"


def test_aimd_probes_where_it_was_cut_slowly_and_then_faster() -> None:
    """The first second beyond adds a place, a later one many."""
    rule = AIMD(100, 1, None)
    driver = Driver(rule)
    for _ in range(100):
        driver.tell("success")
    driver.tell("overload")
    gained = []
    while rule.reason != "probe":
        driver.window(capacity=10_000)
    for _ in range(4):
        before = rule.limit
        for _ in range(10):
            driver.window(capacity=10_000)
        gained.append(rule.limit - before)
    assert gained == sorted(gained)
    assert gained[0] < 3
    assert gained[-1] > 20


def test_aimd_with_short_tasks_does_not_probe_more_often() -> None:
    """A tick has a shortest length, so tasks of a millisecond do not make it hurry."""
    gained = []
    for latency_s in (0.006, 0.2):
        rule = AIMD(100, 1, 1000)
        driver = Driver(rule)
        for _ in range(200):
            driver.tell("success")
        driver.tell("overload")
        while rule.reason != "probe":
            driver.window(capacity=10_000, latency_s=latency_s)
        before, since = rule.limit, driver.now
        while driver.now < since + 1.0:
            driver.window(capacity=10_000, latency_s=latency_s)
        gained.append(rule.limit - before)
    assert gained[0] == pytest.approx(gained[1], abs=1.0)


def test_cubic_comes_back_fast_and_lingers_where_it_was_cut() -> None:
    """Half the time brings back three quarters of what a cut took, the last third a tenth."""
    rule = Cubic(200, 1, None, decrease=0.7)
    driver = Driver(rule)
    for _ in range(200):
        driver.tell("success")
    level = rule.limit
    driver.tell("overload")
    bottom = rule.limit
    limits = [bottom]
    while limits[-1] < level - 1.5:
        driver.window(capacity=10_000, latency_s=0.2)
        limits.append(rule.limit)
    depth = level - bottom
    assert limits[len(limits) // 2] - bottom > 0.75 * depth
    assert limits[-1] - limits[len(limits) * 2 // 3] < 0.1 * depth


def test_step_is_plus_one_and_minus_one() -> None:
    """Each sample by itself."""
    rule = Step(5, 1, 10)
    driver = Driver(rule)
    driver.tell("success")
    assert (rule.limit, rule.reason) == (6.0, "growth")
    start = driver.now
    for _ in range(3):
        driver.tell("overload", started_at=start)
    assert (rule.limit, rule.reason) == (3.0, "cut")
