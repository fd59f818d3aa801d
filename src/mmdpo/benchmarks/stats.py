"""How sure a number is: bootstrap intervals, paired differences, and how many items show a given difference.

What is resampled are images, each with all its items, since answers about one image are not independent; or groups of
items, where a benchmark asks in groups. A metric is a function of summed counts, so all resamples are one matrix
product.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from mmdpo.benchmarks.definitions import Metric, Sums, Values
from mmdpo.benchmarks.reading import EvaluationError

RESAMPLES = 2000
LEVEL, POWER = 0.95, 0.8
LEAST_GROUPS = 10
"""Distinct images, or groups, below which a bootstrap's intervals are too narrow to be trusted."""
_REACH = NormalDist().inv_cdf(0.5 + LEVEL / 2) + NormalDist().inv_cdf(POWER)
"""Standard errors that a difference has to be for that."""


@dataclass(frozen=True)
class CountTable:
    """The counts of scored items."""

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    """What each item is resampled with: its image, or its group."""
    names: tuple[str, ...]
    values: Values
    """(items, count names)"""

    @classmethod
    def build(cls, rows: Sequence[tuple[str, str, Mapping[str, float]]]) -> CountTable:
        """Builds the table of (item id, group, counts); a count that an item lacks is 0."""
        names = sorted({name for _, _, counts in rows for name in counts})
        values = np.array([[counts.get(name, 0.0) for name in names] for _, _, counts in rows], dtype=np.float64)
        ids, groups = tuple(item_id for item_id, _, _ in rows), tuple(group for _, group, _ in rows)
        return cls(ids, groups, tuple(names), values.reshape(len(rows), len(names)))

    def sums(self) -> Sums:
        """Returns every count added up over all items: arrays of one number."""
        return _name_sums(self.names, self.values.sum(axis=0)[:, None])

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
    """Second minus first run on the `n` items that both have scored; no interval where those share one image."""

    name: str
    first: float
    second: float
    difference: float
    interval: Interval | None
    n: int

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


def note_few(groups: Collection[str], what: str) -> list[str]:
    """Returns a note where there are too few groups for intervals, else nothing; `what` names several of them."""
    count = len(set(groups))
    if count >= LEAST_GROUPS:
        return []
    return [f"{count} {what}: too few for intervals to be trusted, which need {LEAST_GROUPS}"]


def bootstrap(
    table: CountTable, metrics: Sequence[Metric], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Returns an interval for each metric that exists in every thinkable resample, by name; none for a single image."""
    sums = resample(table, resamples=resamples, seed=seed)
    if sums is None:
        return {}
    found = {metric.name: find_interval(metric.compute(sums)) for metric in metrics}
    return {name: interval for name, interval in found.items() if interval is not None}


def resample(table: CountTable, *, resamples: int = RESAMPLES, seed: int = 0) -> Sums | None:
    """Returns the sums of every count in each resample of the images; None for a single image."""
    weights, group_of = _draw_weights(table.groups, resamples, seed)
    return None if weights is None else _resampled_sums(table, group_of, weights)


def find_interval(values: Values, level: float = LEVEL) -> Interval | None:
    """Returns the interval of a metric's values in resamples; None where it exists in fewer than two of them."""
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return None
    low, high = np.quantile(values, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(float(low), float(high), float(values.std(ddof=1)))


def paired_differences(
    first: CountTable, second: CountTable, metrics: Sequence[Metric], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Difference]:
    """Compares two runs on the items that both have scored, resampled alike; raises EvaluationError for none."""
    common = frozenset(first.ids) & frozenset(second.ids)
    if not common:
        raise EvaluationError("the two runs have no scored item in common: they are not of one benchmark")
    first, second = first.keep(common), second.keep(common)
    names = sorted(set(first.groups))
    weights, _ = _draw_weights(names, resamples, seed)
    tables, whole = (first, second), (first.sums(), second.sums())
    group_of = [[names.index(group) for group in table.groups] for table in tables]
    drawn = [] if weights is None else [_resampled_sums(*pair, weights) for pair in zip(tables, group_of, strict=True)]
    differences = []
    for metric in metrics:
        if all(exists(metric, sums) for sums in whole):
            one, other = (float(metric.compute(sums)[0]) for sums in whole)
            interval = find_interval(metric.compute(drawn[1]) - metric.compute(drawn[0])) if drawn else None
            n = min(count_items(metric, sums) for sums in whole)
            differences.append(Difference(metric.name, one, other, other - one, interval, n))
    return differences


def items_needed(difference: float, standard_error: float, n: int) -> int:
    """Returns how many items show a true difference at LEVEL with probability POWER.

    `standard_error` is that of the difference (a paired one's own; √2 times a single run's for two models of which
    nothing is known to go together), measured on `n` items; it falls as 1/√n. Raises ValueError for a difference of 0.
    """
    if difference == 0:
        raise ValueError("no number of items shows a difference of 0")
    return max(1, math.ceil(n * (_REACH * standard_error / difference) ** 2))


def visible_difference(standard_error: float) -> float:
    """Returns the smallest true difference that these items show at LEVEL with probability POWER."""
    return _REACH * standard_error


def exists(metric: Metric, sums: Sums) -> bool:
    """Returns whether every part that a metric is taken over has an item."""
    return all(name in sums and float(sums[name].flat[0]) > 0 for name in metric.over)


def count_items(metric: Metric, sums: Sums) -> int:
    """Returns n: how many items a metric is taken over."""
    return int(sum(float(sums[name].flat[0]) for name in metric.over))


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


def _resampled_sums(table: CountTable, group_of: Sequence[int], weights: Values) -> Sums:
    by_group = np.zeros((weights.shape[1], len(table.names)))
    np.add.at(by_group, np.asarray(group_of), table.values)
    return _name_sums(table.names, (weights @ by_group).T)


def _name_sums(names: Sequence[str], sums: Values) -> Sums:
    """Returns count name → its sum in every resample, a row of `sums`; a count that no item has is 0."""
    zeros = np.zeros(sums.shape[1])
    return defaultdict(lambda: zeros, zip(names, sums, strict=True))
