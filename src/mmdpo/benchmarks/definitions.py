"""The records of an evaluation: items, what an answer scored, metrics as functions of summed counts, and tools.

Every metric of every benchmark here is a function of counts added up over items. So an item's score is its counts, a
metric is computed from their sums, and a bootstrap resample is the same function on other sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Values: TypeAlias = NDArray[np.float64]
Sums: TypeAlias = Mapping[str, Values]
"""Count name → its sum in every resample; all arrays of one shape."""
Better: TypeAlias = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class BenchmarkItem:
    """One question of a benchmark, word for word as the official code asks it, and what its answer is held against.

    `part` is a split or a dimension, `image` a path below the folder of pictures, empty for a question without one.
    Items of one image are resampled together, unless `group` names what they go together by.
    """

    id: str
    part: str
    prompt: str
    image: str
    truth: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""

    @property
    def cluster(self) -> str:
        """What it is resampled with."""
        return self.group or self.image


class BenchmarkItems(dict[str, BenchmarkItem]):
    """A benchmark's items by id, in the official order."""

    @classmethod
    def build(cls, items: Iterable[BenchmarkItem]) -> BenchmarkItems:
        """Puts items under their ids."""
        return cls((item.id, item) for item in items)

    @cached_property
    def parts(self) -> Mapping[str, Sequence[BenchmarkItem]]:
        """The items of each part, in order."""
        found: dict[str, list[BenchmarkItem]] = {}
        for item in self.values():
            found.setdefault(item.part, []).append(item)
        return found

    @cached_property
    def groups(self) -> Mapping[str, Sequence[BenchmarkItem]]:
        """The items of each group, in order."""
        found: dict[str, list[BenchmarkItem]] = {}
        for item in self.values():
            found.setdefault(item.group, []).append(item)
        return found


@dataclass(frozen=True)
class ItemScore:
    """What one answer scored: counts, which metrics sum over items, and why (words flagged, how it was read).

    `traps` is how often each of the benchmark's `TRAPS` was hit, `unscored` why some score is missing, if one is.
    """

    counts: Mapping[str, float]
    reason: Mapping[str, Any]
    traps: Mapping[str, int] = field(default_factory=dict)
    unscored: str = ""


@dataclass(frozen=True)
class Metric:
    """A number that the benchmark reports."""

    name: str
    compute: Callable[[Sums], Values]
    """Sums → the unrounded value in the official unit; NaN where the official rule divides by zero."""
    over: tuple[str, ...]
    """Counts that each item adds 1 to: their sum is n, and each of them must be above zero for the metric to exist."""
    better: Better
    unit: str
    digits: int | None
    """Decimals that the official scorer prints; None means all of them."""
    official: Callable[[Sums], float] | None = None
    """The printed value, where the official code rounds on the way; else `compute`, rounded to `digits`."""


@dataclass(frozen=True)
class PromptSuffix:
    """What somebody adds to a benchmark's questions so that answers are short, and who does, with file and commit."""

    text: str
    source: str


@dataclass(frozen=True)
class Peer:
    """Another evaluation harness: what it would print for the same answers."""

    source: str
    """Its name, and the file and commit that its rule was learnt from."""
    metrics: tuple[Metric, ...]
    """Named `benchmark/harness/…`, in its own words; they are functions of the counts of `count`."""
    count: Callable[[BenchmarkItem, str, ItemScore], Mapping[str, float]]
    """Item, answer, its official score → the counts that the harness adds, none of which the official rule has."""


class Named(Protocol):
    """Whatever the numbers of a result depend on: its name, with a version where it has one, is written there."""

    @property
    def name(self) -> str:
        """Which it is."""
        ...


class Judge(Named, Protocol):
    """A language model that reads answers, or its recorded replies."""

    def reply(self, item: BenchmarkItem, answer: str) -> str | None:
        """Returns the raw reply for an answer, or None where there is none to be had: the item is then unscored."""
        ...


@runtime_checkable
class AskingJudge(Judge, Protocol):
    """A judge whose replies have to be waited for: it is told beforehand what it will be asked."""

    def ask_all(self, asked: Sequence[tuple[BenchmarkItem, str]]) -> None:
        """Gets the replies to these answers, many at once, so that `reply` finds them; then `name` is final."""
        ...


class Linguistics(Named, Protocol):
    """A language tool. Case is kept."""

    def lemmas(self, text: str) -> list[str]:
        """Returns every token of `text` as its noun lemma, in order, punctuation included."""
        ...

    def nouns(self, text: str) -> list[str]:
        """Returns the lemmas of the tokens that are nouns in their sentence, in order."""
        ...

    def noun_runs(self, text: str) -> list[str]:
        """Returns each unbroken run of nouns as its lemmas joined by a space."""
        ...


class Similarity(Named, Protocol):
    """Says whether two words are similar enough to count as one."""

    def similar(self, first: str, second: str) -> bool:
        """Returns whether the similarity of two words is above the threshold; a word is similar to itself."""
        ...


@dataclass(frozen=True)
class Tools:
    """What scorers may use, made on first use; `used` records what produced the numbers, and goes into the result."""

    make_linguistics: Callable[[], Linguistics]
    make_similarity: Callable[[], Similarity]
    judge: Judge | None = None
    used: dict[str, str] = field(default_factory=dict)

    @cached_property
    def linguistics(self) -> Linguistics:
        """The language tool; raises what its maker raises."""
        made = self.make_linguistics()
        self.used["linguistics"] = made.name
        return made

    @cached_property
    def similarity(self) -> Similarity:
        """The word similarity; raises what its maker raises."""
        made = self.make_similarity()
        self.used["similarity"] = made.name
        return made


def divide(part: Values, whole: Values) -> Values:
    """Returns part / whole, NaN where whole is 0."""
    return np.divide(part, whole, out=np.full_like(np.asarray(part, dtype=np.float64), np.nan), where=whole != 0)


def ratio_metric(
    name: str,
    part: str,
    whole: str,
    *,
    scopes: Sequence[str] = ("",),
    over: str = "",
    factor: float = 100,
    better: Better = "higher",
    unit: str = "%",
    digits: int | None = None,
) -> Metric:
    """Returns the metric factor · part / whole, two counts that are added up over the scopes their names begin with.

    `over` is the count that says how many items it is taken over: `whole` unless given.
    """

    def compute(sums: Sums) -> Values:
        added = (np.sum([sums[f"{scope}{count}"] for scope in scopes], axis=0) for count in (part, whole))
        return factor * divide(*added)

    return Metric(name, compute, tuple(f"{scope}{over or whole}" for scope in scopes), better, unit, digits)
