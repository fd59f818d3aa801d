"""Items that count together: the questions about one figure, one question about several images, a pair.

Each group is counted at its first item, so that sums, resamples and paired differences are those of all other counts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mmdpo.benchmarks.definitions import BenchmarkItem, ItemScore


@dataclass(frozen=True)
class Grouping:
    """One way to put items together: `key` says which group an item belongs to, None for none."""

    name: str
    key: Callable[[BenchmarkItem], Hashable | None]


def add_counts(score: ItemScore, counts: Mapping[str, float]) -> ItemScore:
    """Returns a score with more counts."""
    return replace(score, counts={**score.counts, **counts})


def count_groups(
    items: Iterable[BenchmarkItem],
    scores: Mapping[str, ItemScore],
    groupings: Sequence[Grouping],
    is_right: Callable[[ItemScore], bool | None],
) -> dict[str, ItemScore]:
    """Returns the scores with the counts of groups: `NAME/n`, `NAME/all_right`, `NAME/none_right`, `NAME/share_right`.

    A group with an item that has no answer, or of which `is_right` says None, is left out.
    """
    items, counted = list(items), dict(scores)
    right = {item_id: is_right(score) for item_id, score in scores.items()}
    for grouping in groupings:
        groups: dict[Hashable, list[str]] = {}
        for item in items:
            key = grouping.key(item)
            if key is not None:
                groups.setdefault(key, []).append(item.id)
        for members in groups.values():
            found = [right.get(item_id) for item_id in members]
            if None not in found:
                share = sum(map(bool, found)) / len(found)
                counts = {"n": 1.0, "all_right": share == 1, "none_right": share == 0, "share_right": share}
                named = {f"{grouping.name}/{name}": float(count) for name, count in counts.items()}
                counted[members[0]] = add_counts(counted[members[0]], named)
    return counted
