"""How sure a number is: bootstrap intervals, paired differences, and how many items show a given difference.

What is resampled are images, each with all its items, since answers about one image are not independent. A metric is a
function of summed counts, so all resamples are one matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from mmdpo.benchmarks.definitions import Metric, Sums, Values
from mmdpo.benchmarks.reading import EvaluationError

RESAMPLES = 2000
LEVEL = 0.95


class SummedCounts(dict[str, Values]):
    """Count name → sums; a count that no item has is 0."""

    def __init__(self, names: Sequence[str], sums: Values) -> None:
        """Takes the names and, one per row of `sums`, what each adds up to in every resample."""
        super().__init__(zip(names, sums, strict=True))
        self._zeros: Values = np.zeros(sums.shape[1])

    def __missing__(self, name: str) -> Values:
        return self._zeros


@dataclass(frozen=True)
class CountTable:
    """The counts of scored items."""

    ids: tuple[str, ...]
    """Item ids, one per row of `values`."""
    groups: tuple[str, ...]
    """What each item is resampled with: its image."""
    names: tuple[str, ...]
    """Count names, one per column of `values`."""
    values: Values

    @classmethod
    def build(cls, rows: Sequence[tuple[str, str, Mapping[str, float]]]) -> CountTable:
        """Builds the table of (item id, group, counts); a count that an item lacks is 0."""
        names = sorted({name for _, _, counts in rows for name in counts})
        column = {name: index for index, name in enumerate(names)}
        values = np.zeros((len(rows), len(names)))
        for index, (_, _, counts) in enumerate(rows):
            for name, count in counts.items():
                values[index, column[name]] = count
        return cls(tuple(row[0] for row in rows), tuple(row[1] for row in rows), tuple(names), values)

    def sums(self) -> SummedCounts:
        """Returns every count added up over all items: arrays of one number."""
        return SummedCounts(self.names, self.values.sum(axis=0)[:, None])

    def keep(self, ids: frozenset[str]) -> CountTable:
        """Returns the rows of these items."""
        kept = [index for index, item_id in enumerate(self.ids) if item_id in ids]
        ids_kept, groups = (tuple(column[index] for index in kept) for column in (self.ids, self.groups))
        return CountTable(ids_kept, groups, self.names, self.values[kept])


@dataclass(frozen=True)
class Interval:
    """A percentile bootstrap interval, in the unit of its metric."""

    low: float
    high: float
    standard_error: float


@dataclass(frozen=True)
class Difference:
    """One metric of two runs on the same items: second minus first."""

    name: str
    first: float
    second: float
    difference: float
    interval: Interval | None
    """None where the items share one image, so that nothing can be resampled."""
    n: int
    """Items that both runs have scored."""

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval leaves no room for no difference."""
        return self.interval is not None and (self.interval.low > 0 or self.interval.high < 0)


def check_bootstrap(resamples: int, seed: int) -> None:
    """Raises ValueError for options that no bootstrap can be made by."""
    if resamples < 100:
        raise ValueError(f"--resamples is {resamples}; an interval needs 100 at least")
    if seed < 0:
        raise ValueError(f"--seed is {seed}; it is 0 or more")


def bootstrap(
    table: CountTable, metrics: Sequence[Metric], *, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> dict[str, Interval]:
    """Returns an interval for each metric that exists in every thinkable resample, by name; none for a single image."""
    weights, group_of = _draw_weights(table.groups, resamples, seed)
    if weights is None:
        return {}
    sums = _resampled_sums(table, group_of, weights)
    found = {metric.name: _interval(metric.compute(sums), level) for metric in metrics}
    return {name: interval for name, interval in found.items() if interval is not None}


def paired_differences(
    first: CountTable,
    second: CountTable,
    metrics: Sequence[Metric],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> list[Difference]:
    """Compares two runs on the items that both have scored, with the same resamples for both.

    Raises `EvaluationError` if they share no item.
    """
    common = frozenset(first.ids) & frozenset(second.ids)
    if not common:
        raise EvaluationError("the two runs have no scored item in common: they are not of one benchmark")
    first, second = first.keep(common), second.keep(common)
    names = sorted(set(first.groups))
    weights, _ = _draw_weights(names, resamples, seed)
    differences = []
    whole = [first.sums(), second.sums()]
    drawn = [
        None if weights is None else _resampled_sums(table, [names.index(group) for group in table.groups], weights)
        for table in (first, second)
    ]
    for metric in metrics:
        if not all(exists(metric, sums) for sums in whole):
            continue
        values = [float(metric.compute(sums)[0]) for sums in whole]
        interval = None
        if drawn[0] is not None and drawn[1] is not None:
            interval = _interval(metric.compute(drawn[1]) - metric.compute(drawn[0]), level)
        n = min(count_items(metric, sums) for sums in whole)
        differences.append(Difference(metric.name, values[0], values[1], values[1] - values[0], interval, n))
    return differences


def items_needed(difference: float, standard_error: float, n: int, *, power: float = 0.8, level: float = LEVEL) -> int:
    """Returns how many items show a true difference at `level` with probability `power`.

    `standard_error` is that of the difference (a paired one's own; √2 times a single run's for two models of which
    nothing is known to go together), measured on `n` items; it falls as 1/√n. Raises ValueError for a difference of 0.
    """
    if difference == 0:
        raise ValueError("no number of items shows a difference of 0")
    return max(1, math.ceil(n * (_reach(power, level) * standard_error / difference) ** 2))


def visible_difference(standard_error: float, *, power: float = 0.8, level: float = LEVEL) -> float:
    """Returns the smallest true difference that these items show at `level` with probability `power`."""
    return _reach(power, level) * standard_error


def exists(metric: Metric, sums: Sums) -> bool:
    """Returns whether every part that a metric is taken over has an item."""
    return all(name in sums and float(sums[name].flat[0]) > 0 for name in metric.over)


def count_items(metric: Metric, sums: Sums) -> int:
    """Returns n: how many items a metric is taken over."""
    return int(sum(float(sums[name].flat[0]) for name in metric.over))


def _reach(power: float, level: float) -> float:
    return NormalDist().inv_cdf(0.5 + level / 2) + NormalDist().inv_cdf(power)


def _draw_weights(groups: Sequence[str], resamples: int, seed: int) -> tuple[Values | None, list[int]]:
    """Draws how often each group stands in each resample: (resamples, groups), and the group of each item."""
    index = {name: number for number, name in enumerate(sorted(set(groups)))}
    group_of = [index[name] for name in groups]
    if len(index) < 2:
        return None, group_of
    drawn: NDArray[np.int64] = np.random.default_rng(seed).integers(len(index), size=(resamples, len(index)))
    offsets = np.arange(resamples)[:, None] * len(index)
    counts = np.bincount((drawn + offsets).ravel(), minlength=resamples * len(index))
    return counts.reshape(resamples, len(index)).astype(np.float64), group_of


def _resampled_sums(table: CountTable, group_of: Sequence[int], weights: Values) -> SummedCounts:
    by_group = np.zeros((weights.shape[1], len(table.names)))
    np.add.at(by_group, np.asarray(group_of), table.values)
    return SummedCounts(table.names, (weights @ by_group).T)


def _interval(values: Values, level: float) -> Interval | None:
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return None
    low, high = np.quantile(values, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(float(low), float(high), float(values.std(ddof=1)))
