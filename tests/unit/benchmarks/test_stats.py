"""Intervals mean what they say, follow images, and pair what can be paired."""

import math

import numpy as np
import pytest

from mmdpo.benchmarks.definitions import Metric, divide
from mmdpo.benchmarks.reading import EvaluationError
from mmdpo.benchmarks.stats import CountTable, bootstrap, items_needed, paired_differences, visible_difference

RATE = Metric("b/rate", lambda sums: divide(sums["hit"], sums["n"]), ("n",), "higher", "share", None)
NEVER = Metric("b/never", lambda sums: divide(sums["hit"], sums["missing"]), ("missing",), "higher", "share", None)


def table(hits, groups=None):
    groups = groups or [f"image {number}" for number in range(len(hits))]
    rows = [
        (str(number), group, {"n": 1, "hit": float(hit)})
        for number, (hit, group) in enumerate(zip(hits, groups, strict=True))
    ]
    return CountTable.build(rows)


def draw(rate, count, seed):
    return np.random.default_rng(seed).random(count) < rate


def test_the_standard_error_is_that_of_a_share():
    interval = bootstrap(table(draw(0.3, 900, 1)), [RATE], resamples=4000)["b/rate"]
    assert interval.standard_error == pytest.approx(math.sqrt(0.3 * 0.7 / 900), rel=0.06)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * interval.standard_error, rel=0.06)


def test_intervals_hold_the_truth_nineteen_times_out_of_twenty():
    held = 0
    for seed in range(300):
        interval = bootstrap(table(draw(0.4, 150, seed)), [RATE], resamples=300, seed=seed)["b/rate"]
        held += interval.low <= 0.4 <= interval.high
    assert 0.91 < held / 300 < 0.98


def test_items_of_one_image_count_as_one():
    """Ten questions with one answer each per image tell no more than one question does."""
    hits = draw(0.5, 100, 2)
    alone = bootstrap(table(hits), [RATE])["b/rate"]
    groups = [f"image {number}" for number in range(100) for _ in range(10)]
    together = bootstrap(table(np.repeat(hits, 10), groups), [RATE])["b/rate"]
    assert together.standard_error == pytest.approx(alone.standard_error, rel=0.05)
    assert bootstrap(table(np.repeat(hits, 10)), [RATE])["b/rate"].standard_error < alone.standard_error / 2.5


def test_all_items_of_an_image_are_counted():
    """One right and one wrong answer per image: half of them are right in every resample."""
    interval = bootstrap(table([True, False] * 20, [f"image {number // 2}" for number in range(40)]), [RATE])["b/rate"]
    assert (interval.low, interval.high, interval.standard_error) == (0.5, 0.5, 0)


def test_the_seed_alone_decides():
    hits = table(draw(0.5, 60, 3))
    assert bootstrap(hits, [RATE], seed=5) == bootstrap(hits, [RATE], seed=5)
    assert bootstrap(hits, [RATE], seed=5) != bootstrap(hits, [RATE], seed=6)


def test_one_image_has_no_interval():
    assert bootstrap(table([True, False], ["one", "one"]), [RATE]) == {}
    (difference,) = paired_differences(
        table([True, False], ["one"] * 2), table([True, True], ["one"] * 2), [RATE, NEVER]
    )
    assert (difference.difference, difference.interval, difference.excludes_zero) == (0.5, None, False)


def test_a_pair_of_runs_is_told_apart_where_two_intervals_overlap():
    """The second run mends 20 of 400 items and breaks none."""
    first = draw(0.5, 400, 4)
    second = first.copy()
    second[np.flatnonzero(~first)[:20]] = True
    (same,) = paired_differences(table(first), table(first), [RATE])
    assert (same.difference, same.interval.low, same.interval.high, same.excludes_zero) == (0, 0, 0, False)
    (found,) = paired_differences(table(first), table(second), [RATE])
    assert found.difference == pytest.approx(0.05)
    assert found.excludes_zero
    assert 0 < found.interval.low < 0.05 < found.interval.high
    assert found.interval.standard_error == pytest.approx(math.sqrt(0.05 * 0.95 / 400), rel=0.08)
    intervals = [bootstrap(table(hits), [RATE])["b/rate"] for hits in (first, second)]
    assert intervals[0].high > intervals[1].low


def test_only_items_that_both_runs_have_are_compared():
    hits = draw(0.5, 50, 5)
    both = table(hits)
    (found,) = paired_differences(both, both.keep(frozenset(both.ids[:30])), [RATE])
    assert (found.n, found.difference) == (30, 0)
    assert found.first == hits[:30].mean()
    stranger = CountTable.build([("other", "x", {"n": 1.0, "hit": 1.0})])
    with pytest.raises(EvaluationError, match="no scored item in common"):
        paired_differences(both, stranger, [RATE])


def test_items_needed_and_visible_difference_are_two_sides_of_one_sum():
    error = math.sqrt(0.5 * 0.5 / 96)
    assert items_needed(visible_difference(error), error, 96) in (96, 97)
    assert items_needed(0.05, math.sqrt(2) * error, 96) == pytest.approx(1565, abs=8)  # the textbook's two proportions
    assert items_needed(-0.1, error, 96) == items_needed(0.1, error, 96)
    with pytest.raises(ValueError, match="difference of 0"):
        items_needed(0.0, error, 96)
