"""Shares and means of what was counted, with bootstrap intervals over groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmdpo.benchmarks.definitions import Metric, divide
from mmdpo.benchmarks.stats import LEAST_GROUPS, CountTable, bootstrap, count_items


def ratio(name: str, part: str, whole: str = "n", *, over: str = "n", unit: str = "%", scale: float = 100.0) -> Metric:
    """Returns the metric scale · Σ part / Σ whole of counts, as `benchmarks.stats` resamples it.

    `over` is the count of what it is taken over.
    """
    return Metric(name, lambda sums: scale * divide(sums[part], sums[whole]), (over,), "neither", unit, 3)


def estimate(
    counts: Sequence[tuple[str, str, Mapping[str, float]]],
    labelled: Mapping[Metric, str],
    resamples: int,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Returns each metric of (id, group, counts) for JSON; one over fewer than LEAST_GROUPS groups has no interval."""
    table = CountTable.build(counts)
    over = {metric: {group for _, group, of in counts if of.get(metric.over[0])} for metric in labelled}
    many = [metric for metric, groups in over.items() if len(groups) >= LEAST_GROUPS]
    found = bootstrap(table, many, resamples=resamples, seed=seed) if many else {}
    return {
        metric.name: {
            "label": label,
            "unit": metric.unit,
            "value": float(metric.compute(table.sums())[0]),
            "low": found[metric.name].low if metric.name in found else None,
            "high": found[metric.name].high if metric.name in found else None,
            "n": count_items(metric, table.sums()),
        }
        for metric, label in labelled.items()
    }
