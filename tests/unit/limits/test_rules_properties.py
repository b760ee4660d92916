"""What holds for the rules of an adaptive limit whatever they are told."""

from __future__ import annotations

import math
from collections.abc import Callable

from hypothesis import given, strategies as st

from parallel_exec.limits.aimd import AIMD
from parallel_exec.limits.cubic import Cubic
from parallel_exec.limits.epochs import Epochs
from parallel_exec.limits.latency import Latency
from parallel_exec.limits.rule import Rule, Sample, Verdict
from parallel_exec.limits.step import Step

VERDICTS: st.SearchStrategy[Verdict] = st.sampled_from(["success", "overload", "neither"])

SAMPLES = st.lists(
    st.tuples(
        VERDICTS,
        st.floats(0.0, 10.0),  # how long the task took
        st.floats(0.0, 1.0),  # how long after the one before it ended
        st.integers(1, 60),
        st.booleans(),
    ),
    max_size=300,
)
BOUNDS = st.tuples(st.integers(1, 50), st.integers(0, 50)).map(lambda b: (b[0], b[0] + b[1]))

MAKE: st.SearchStrategy[Callable[[int, int, int], Rule]] = st.sampled_from(
    [
        AIMD,
        Cubic,
        Step,
        lambda *bounds: AIMD(*bounds, latency=Latency(samples=2)),
        lambda *bounds: Cubic(*bounds, latency=Latency(samples=2)),
    ]
)
MAKE_EPOCHS: st.SearchStrategy[Callable[[int, int, int], Epochs]] = st.sampled_from([AIMD, Cubic])


def samples_of(drawn: list[tuple[Verdict, float, float, int, bool]]) -> list[Sample]:
    """Put what was drawn on one clock."""
    samples, now = [], 1000.0
    for verdict, took_s, later_s, in_flight, waiting in drawn:
        now += later_s
        samples.append(Sample(verdict, now - took_s, now, in_flight, waiting))
    return samples


@given(MAKE, BOUNDS, BOUNDS, SAMPLES, SAMPLES)
def test_the_limit_never_leaves_its_bounds(
    make: Callable[[int, int, int], Rule],
    bounds: tuple[int, int],
    later: tuple[int, int],
    drawn: list[tuple[Verdict, float, float, int, bool]],
    more: list[tuple[Verdict, float, float, int, bool]],
) -> None:
    """Whatever is told, and when the bounds are moved as well."""
    rule = make(bounds[0], *bounds)
    for sample in samples_of(drawn):
        rule.update(sample)
        assert bounds[0] <= rule.limit <= bounds[1]
        assert math.isfinite(rule.limit)
    rule.set_bounds(*later)
    assert later[0] <= rule.limit <= later[1]
    for sample in samples_of(more):
        rule.update(sample)
        assert later[0] <= rule.limit <= later[1]


@given(MAKE, SAMPLES)
def test_the_same_samples_give_the_same_limits(
    make: Callable[[int, int, int], Rule],
    drawn: list[tuple[Verdict, float, float, int, bool]],
) -> None:
    """A rule has no clock and no chance in it."""
    one, other = make(5, 1, 100), make(5, 1, 100)
    for sample in samples_of(drawn):
        one.update(sample)
        other.update(sample)
        assert (one.limit, one.reason) == (other.limit, other.reason)


@given(MAKE_EPOCHS, SAMPLES)
def test_one_cut_an_epoch(
    make: Callable[[int, int, int], Epochs], drawn: list[tuple[Verdict, float, float, int, bool]]
) -> None:
    """After a cut no task that was started before it moves the limit, either way."""
    rule = make(30, 1, 60)
    cut_at = -math.inf
    for sample in samples_of(drawn):
        before = rule.limit
        rule.update(sample)
        if sample.started_at <= cut_at:
            assert rule.limit == before
        elif sample.verdict == "overload":
            assert rule.limit < before or before == 1
            cut_at = sample.ended_at
        else:
            assert rule.limit >= before


@given(MAKE, SAMPLES)
def test_no_growth_while_the_limit_is_not_reached(
    make: Callable[[int, int, int], Rule],
    drawn: list[tuple[Verdict, float, float, int, bool]],
) -> None:
    """If nobody ever waits the limit only falls, or comes back to where it began."""
    rule = make(30, 1, 60)
    for sample in samples_of(drawn):
        rule.update(
            Sample(sample.verdict, sample.started_at, sample.ended_at, sample.in_flight, False)
        )
        assert rule.limit <= 30


@given(MAKE, SAMPLES)
def test_a_success_adds_a_place_at_most(
    make: Callable[[int, int, int], Rule],
    drawn: list[tuple[Verdict, float, float, int, bool]],
) -> None:
    """Nothing grows faster than slow start, except back to where it was."""
    rule = make(30, 1, 1000)
    highest = 30.0
    for sample in samples_of(drawn):
        before = rule.limit
        rule.update(sample)
        assert rule.limit <= max(before + 1.0, highest)
        highest = max(highest, rule.limit)


@given(MAKE, SAMPLES)
def test_what_says_nothing_moves_nothing(
    make: Callable[[int, int, int], Rule],
    drawn: list[tuple[Verdict, float, float, int, bool]],
) -> None:
    """Failures for other reasons, anywhere between, leave every limit as it would be."""
    rule, other = make(30, 1, 60), make(30, 1, 60)
    for sample in samples_of(drawn):
        rule.update(sample)
        if sample.verdict != "neither":
            other.update(sample)
        assert rule.limit == other.limit
