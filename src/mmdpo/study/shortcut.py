"""The shortcut in the data: how well a rule that reads only the text tells chosen from rejected.

A pairwise logistic regression: the features of the chosen answer minus those of the rejected one, no intercept, tested
on prompts that it was not trained on. Where it is right, a model can learn the preference without ever looking.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmdpo.benchmarks.records import Metric, divide
from mmdpo.benchmarks.stats import CountTable, bootstrap
from mmdpo.study.dependence import LEAST_IMAGES as LEAST_GROUPS

FOLDS = 5
MOST_FEATURES = 20_000
LEAST_PAIRS = 2
"""A word or pair of words counts if so many answers have it."""
SHOWN_FEATURES = 15
TOKEN = re.compile(r"\w+|[^\w\s]")
FIRST_WORDS = 3
STYLE_WORDS: Mapping[str, str] = {
    "hedging words": r"\b(may|might|maybe|perhaps|possibly|likely|appears?|seems?|could|probably)\b",
    "polite words": r"\b(sure|please|certainly|sorry|hope|help|happy|glad|welcome|thanks?)\b",
    "first person": r"\b(i|i'm|my|we|our)\b",
    "list items": r"(?m)^\s*([-*•]|\d+[.)])\s",
    "numbers": r"\d+",
    "commas": ",",
    "exclamation marks": "!",
    "question marks": r"\?",
    "line breaks": "\n",
}
"""Counts of style: name → what is counted."""

RULES: Mapping[str, str] = {
    "text": "length, style and words together",
    "length": "length alone",
    "first_words": f"the first {FIRST_WORDS} words alone",
}


@dataclass(frozen=True)
class TextPair:
    """A pair without its image."""

    id: str
    prompt: str
    image: str
    """Name of the image, to know which pairs share one."""
    chosen: str
    rejected: str


def measure_shortcut(pairs: Sequence[TextPair], *, resamples: int, seed: int = 0) -> dict[str, Any]:
    """Returns what text-only rules achieve on pairs, for JSON; `scores` holds each pair's held-out score.

    Raises ImportError without scikit-learn.
    """
    groups, grouped_by = _group(pairs)
    count = len(set(groups))
    notes = []
    if count < FOLDS:
        notes.append(
            f"{count} distinct groups ({grouped_by}): too few to train on some and test on others, which needs {FOLDS}"
        )
        return {"rules": {}, "features": [], "notes": notes, "grouped_by": grouped_by, "scores": []}
    scores = {rule: _cross_validate(pairs, groups, rule, seed) for rule in RULES}
    if count < LEAST_GROUPS:
        notes.append(f"{count} distinct groups ({grouped_by}): too few for intervals, which need {LEAST_GROUPS}")
    return {
        "rules": _summarise(pairs, groups, scores, resamples if count >= LEAST_GROUPS else 0),
        "features": [asdict(feature) for feature in _find_features(pairs)],
        "notes": notes,
        "grouped_by": grouped_by,
        "scores": scores["text"].tolist(),
    }


@dataclass(frozen=True)
class Feature:
    """What decides: a feature, with those that go with it in every pair."""

    names: tuple[str, ...]
    weight: float
    """Of all of them; above 0 where they speak for an answer."""
    more_in_chosen: int
    """Pairs whose chosen answer has more of it."""
    more_in_rejected: int


@dataclass(frozen=True)
class _Features:
    """Pairwise features: chosen minus rejected."""

    names: list[str]
    differences: Any
    """Sparse, one row per pair."""


def _group(pairs: Sequence[TextPair]) -> tuple[list[str], str]:
    """Returns what pairs are kept together by, so that no prompt stands on both sides of a split.

    Where one question is asked of most images ("describe it"), a prompt is the question and its image.
    """
    most = Counter(pair.prompt for pair in pairs).most_common(1)[0][1]
    if most <= len(pairs) / FOLDS:
        return [pair.prompt for pair in pairs], "prompt"
    return [f"{pair.prompt}\x1f{pair.image}" for pair in pairs], "prompt and image"


def _cross_validate(pairs: Sequence[TextPair], groups: Sequence[str], rule: str, seed: int) -> NDArray[np.float64]:
    """Returns the score of every pair by a classifier that has not seen its group; above 0 is right."""
    group_kfold = _sklearn("model_selection").GroupKFold(FOLDS, shuffle=True, random_state=seed)
    scores = np.zeros(len(pairs))
    for train, test in group_kfold.split(pairs, groups=groups):
        build = _fit_features([pairs[i] for i in train], rule)
        learnt = build([pairs[i] for i in train])
        weights = _fit(learnt)
        scores[test] = build([pairs[i] for i in test]).differences @ weights
    return scores


def _fit(features: _Features) -> NDArray[np.float64]:
    from scipy import sparse

    model = _sklearn("linear_model").LogisticRegression(C=1.0, fit_intercept=False, max_iter=2000)
    # Each pair stands in both orders, so that neither answer is first.
    both = sparse.vstack([features.differences, -features.differences])
    labels = np.repeat([1, 0], features.differences.shape[0])
    weights: NDArray[np.float64] = model.fit(both, labels).coef_[0]
    return weights


def _fit_features(pairs: Sequence[TextPair], rule: str) -> Callable[[Sequence[TextPair]], _Features]:
    """Returns a function from pairs to features; vocabulary and scales come from these pairs."""
    if rule == "length":
        return _numeric(pairs, {"words": _count_words})
    options = dict(token_pattern=TOKEN.pattern, lowercase=True, binary=True, max_features=MOST_FEATURES)
    clip: Callable[[str], str] = _first_words if rule == "first_words" else str
    vectorizer = _sklearn("feature_extraction.text").CountVectorizer(ngram_range=(1, 2), **options)
    answers = [clip(text) for pair in pairs for text in (pair.chosen, pair.rejected)]
    vectorizer.set_params(min_df=min(LEAST_PAIRS, len(answers)))
    try:
        vectorizer.fit(answers)
    except ValueError:  # no word is in two answers
        return _numeric(pairs, {"words": _count_words})
    words = [f"“{name}”" for name in vectorizer.get_feature_names_out()]
    styles = _numeric(pairs, _style_counts()) if rule == "text" else None

    def build(some: Sequence[TextPair]) -> _Features:
        from scipy import sparse

        chosen, rejected = ([clip(getattr(p, side)) for p in some] for side in ("chosen", "rejected"))
        differences = (vectorizer.transform(chosen) - vectorizer.transform(rejected)).astype(np.float64)
        if styles is None:
            return _Features(words, differences.tocsr())
        counted = styles(some)
        return _Features([*counted.names, *words], sparse.hstack([counted.differences, differences]).tocsr())

    return build


def _numeric(
    pairs: Sequence[TextPair], counts: Mapping[str, Callable[[str], int]]
) -> Callable[[Sequence[TextPair]], _Features]:
    from scipy import sparse

    def differ(some: Sequence[TextPair]) -> NDArray[np.float64]:
        rows = [[np.log1p(count(p.chosen)) - np.log1p(count(p.rejected)) for count in counts.values()] for p in some]
        return np.array(rows, dtype=np.float64)

    spread = differ(pairs).std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    return lambda some: _Features(list(counts), sparse.csr_matrix(differ(some) / scale))


def _style_counts() -> dict[str, Callable[[str], int]]:
    def counter(pattern: str) -> Callable[[str], int]:
        compiled = re.compile(pattern, re.IGNORECASE)
        return lambda text: len(compiled.findall(text))

    return {"words": _count_words, **{name: counter(pattern) for name, pattern in STYLE_WORDS.items()}}


def _count_words(text: str) -> int:
    return len(TOKEN.findall(text))


def _first_words(text: str) -> str:
    return " ".join(TOKEN.findall(text)[:FIRST_WORDS])


def _summarise(
    pairs: Sequence[TextPair], groups: Sequence[str], scores: Mapping[str, NDArray[np.float64]], resamples: int
) -> dict[str, Any]:
    right = {rule: np.where(values == 0, 0.5, values > 0) for rule, values in scores.items()}
    rows = [
        (pair.id, group, {"n": 1.0, **{rule: float(values[place]) for rule, values in right.items()}})
        for place, (pair, group) in enumerate(zip(pairs, groups, strict=True))
    ]
    table = CountTable.build(rows)
    metrics = [_accuracy(rule) for rule in RULES]
    intervals = bootstrap(table, metrics, resamples=resamples) if resamples else {}
    sums = table.sums()
    found = {}
    for metric in metrics:
        interval = intervals.get(metric.name)
        found[metric.name] = {
            "label": RULES[metric.name],
            "accuracy": float(metric.compute(sums)[0]),
            "low": None if interval is None else interval.low,
            "high": None if interval is None else interval.high,
            "n": len(pairs),
        }
    return found


def _accuracy(rule: str) -> Metric:
    return Metric(rule, lambda sums: 100 * divide(sums[rule], sums["n"]), ("n",), "neither", "%", 1)


def _find_features(pairs: Sequence[TextPair]) -> list[Feature]:
    """Returns what moves scores most, trained on all pairs: by weight, and by how often answers differ in it."""
    features = _fit_features(pairs, "text")(pairs)
    weights = _fit(features)
    columns = features.differences.tocsc()
    alike: dict[bytes, list[int]] = {}
    for place in range(columns.shape[1]):
        inside = slice(columns.indptr[place], columns.indptr[place + 1])
        key = columns.indices[inside].tobytes() + np.sign(columns.data[inside]).tobytes()
        alike.setdefault(key, []).append(place)
    found = []
    for places in alike.values():
        values = columns[:, places[0]].data
        more, less = int((values > 0).sum()), int((values < 0).sum())
        force = sum(abs(weights[i]) * abs(columns[:, i].data).sum() for i in places)
        names = tuple(features.names[i] for i in places)
        found.append((force, Feature(names, float(weights[places].sum()), more, less)))
    found.sort(key=lambda entry: -entry[0])
    return [feature for _, feature in found[:SHOWN_FEATURES]]


def _sklearn(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"sklearn.{module}")
    except ImportError as error:
        raise ImportError("diagnose --data_only needs scikit-learn: pip install 'mmdpo[diagnose]'") from error
