"""The shortcut in the data: how well a rule that reads only the text tells chosen from rejected.

A pairwise logistic regression: the features of the chosen answer minus those of the rejected one, no intercept, tested
on prompts that it was not trained on. Where it is right, a model can learn the preference without ever looking.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

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


Differ: TypeAlias = Callable[[Sequence[TextPair]], Any]
"""Returns the features of pairs, chosen minus rejected: a sparse matrix with one row per pair."""


def measure_shortcut(pairs: Sequence[TextPair], *, resamples: int, seed: int = 0) -> dict[str, Any]:
    """Returns what text-only rules achieve on pairs, for JSON; `scores` holds each pair's held-out score.

    Raises ImportError without scikit-learn.
    """
    from mmdpo.diagnosis.dependence import LEAST_GROUPS  # imports torch, which those who only count words do without

    groups, grouped_by = _group(pairs)
    count = len(set(groups))
    too_few = f"{count} distinct groups ({grouped_by}): too few"
    if count < FOLDS:
        note = f"{too_few} to train on some and test on others, which needs {FOLDS}"
        return {"rules": {}, "features": [], "notes": [note], "grouped_by": grouped_by, "scores": []}
    has_intervals = count >= LEAST_GROUPS
    scores = {rule: _cross_validate(pairs, groups, rule, seed) for rule in RULES}
    return {
        "rules": _summarise_rules(pairs, groups, scores, resamples if has_intervals else 0),
        "features": _find_features(pairs),
        "notes": [] if has_intervals else [f"{too_few} for intervals, which need {LEAST_GROUPS}"],
        "grouped_by": grouped_by,
        "scores": scores["text"].tolist(),
    }


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
    folds = _sklearn("model_selection").GroupKFold(FOLDS, shuffle=True, random_state=seed)
    scores = np.zeros(len(pairs))
    for train, test in folds.split(pairs, groups=groups):
        learnt = [pairs[place] for place in train]
        _, differ = _learn_features(learnt, rule)
        scores[test] = differ([pairs[place] for place in test]) @ _fit(differ(learnt))
    return scores


def _fit(differences: Any) -> NDArray[np.float64]:
    """Returns the weight of each feature."""
    from scipy import sparse

    model = _sklearn("linear_model").LogisticRegression(C=1.0, fit_intercept=False, max_iter=2000)
    # Each pair stands in both orders, so that neither answer is first.
    labels = np.repeat([1, 0], differences.shape[0])
    weights: NDArray[np.float64] = model.fit(sparse.vstack([differences, -differences]), labels).coef_[0]
    return weights


def _learn_features(pairs: Sequence[TextPair], rule: str) -> tuple[list[str], Differ]:
    """Returns the names of a rule's features and what computes them; vocabulary and scales come from these pairs."""
    from scipy import sparse

    def clip(text: str) -> str:
        return " ".join(TOKEN.findall(text)[:FIRST_WORDS]) if rule == "first_words" else text

    length = ["words"], _count_differences(pairs, [TOKEN])
    if rule == "length":
        return length
    answers = [clip(text) for pair in pairs for text in (pair.chosen, pair.rejected)]
    options = dict(token_pattern=TOKEN.pattern, lowercase=True, binary=True, max_features=MOST_FEATURES)
    least = min(LEAST_PAIRS, len(answers))
    vectorizer = _sklearn("feature_extraction.text").CountVectorizer(ngram_range=(1, 2), min_df=least, **options)
    try:
        vectorizer.fit(answers)
    except ValueError:  # no word is in two answers
        return length
    patterns = [TOKEN, *(re.compile(pattern, re.IGNORECASE) for pattern in STYLE_WORDS.values())]
    styles = _count_differences(pairs, patterns) if rule == "text" else None

    def differ(some: Sequence[TextPair]) -> Any:
        chosen, rejected = ([clip(getattr(pair, side)) for pair in some] for side in ("chosen", "rejected"))
        words = (vectorizer.transform(chosen) - vectorizer.transform(rejected)).astype(np.float64)
        return words.tocsr() if styles is None else sparse.hstack([styles(some), words]).tocsr()

    words = [f"“{name}”" for name in vectorizer.get_feature_names_out()]
    return words if styles is None else ["words", *STYLE_WORDS, *words], differ


def _count_differences(pairs: Sequence[TextPair], patterns: Sequence[re.Pattern[str]]) -> Differ:
    """Returns what compares log-counts of what matches, each scaled to a spread of 1 over these pairs."""
    from scipy import sparse

    what = tuple(patterns)

    def differ(some: Sequence[TextPair]) -> NDArray[np.float64]:
        counts = [[_count(text, what) for text in (pair.chosen, pair.rejected)] for pair in some]
        return np.array([chosen - rejected for chosen, rejected in counts], dtype=np.float64)

    spread = differ(pairs).std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    return lambda some: sparse.csr_matrix(differ(some) / scale)


@lru_cache(maxsize=40_000)  # each text is counted in every fold
def _count(text: str, patterns: tuple[re.Pattern[str], ...]) -> NDArray[np.float64]:
    return np.log1p([len(pattern.findall(text)) for pattern in patterns])


def _summarise_rules(
    pairs: Sequence[TextPair], groups: Sequence[str], scores: Mapping[str, NDArray[np.float64]], resamples: int
) -> dict[str, Any]:
    right = {rule: np.where(values == 0, 0.5, values > 0).tolist() for rule, values in scores.items()}
    counts = [
        (pair.id, group, {"n": 1.0, **{rule: float(values[place]) for rule, values in right.items()}})
        for place, (pair, group) in enumerate(zip(pairs, groups, strict=True))
    ]
    from mmdpo.diagnosis.dependence import estimate, ratio

    found = estimate(counts, {ratio(rule, rule): label for rule, label in RULES.items()}, resamples)
    renamed = {"label": "label", "accuracy": "value", "low": "low", "high": "high", "n": "n"}
    return {rule: {name: of[key] for name, key in renamed.items()} for rule, of in found.items()}


def _find_features(pairs: Sequence[TextPair]) -> list[dict[str, Any]]:
    """Returns what moves scores most, trained on all pairs: by weight, and by how often answers differ in it.

    Features that go together in every pair are one. Its `weight` is that of all of them, above 0 where they speak for
    an answer; `more_in_chosen` counts the pairs whose chosen answer has more of it.
    """
    names, differ = _learn_features(pairs, "text")
    differences = differ(pairs)
    weights, columns = _fit(differences), differences.tocsc()
    alike: dict[bytes, list[int]] = {}
    for place in range(columns.shape[1]):
        inside = slice(columns.indptr[place], columns.indptr[place + 1])
        key = columns.indices[inside].tobytes() + np.sign(columns.data[inside]).tobytes()
        alike.setdefault(key, []).append(place)
    force = abs(weights) * np.asarray(abs(columns).sum(axis=0)).ravel()
    strongest = sorted(alike.values(), key=lambda places: -sum(force[places]))[:SHOWN_FEATURES]
    return [
        {
            "names": [names[place] for place in places],
            "weight": float(weights[places].sum()),
            "more_in_chosen": int((columns[:, places[0]].data > 0).sum()),
            "more_in_rejected": int((columns[:, places[0]].data < 0).sum()),
        }
        for places in strongest
    ]


def _sklearn(module: str) -> Any:
    try:
        return import_module(f"sklearn.{module}")
    except ImportError as error:
        raise ImportError("diagnose --data_only needs scikit-learn: pip install 'mmdpo[diagnose]'") from error
